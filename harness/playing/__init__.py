"""A page in the browser that walks through a world model and shows what its memory does."""
