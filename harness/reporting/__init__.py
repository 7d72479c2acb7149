"""The report of an experiment: run folders -> one JSON (data) -> tables (text) and a folder that opens from disk (page)."""
