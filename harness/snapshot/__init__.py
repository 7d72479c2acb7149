"""A session saved to a folder and opened again in another process."""
