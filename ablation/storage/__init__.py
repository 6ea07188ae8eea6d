"""A project's files: cache, run folders, locks, SQLite."""
