"""The run folder, its identity and provenance, and the statistics over its records."""
