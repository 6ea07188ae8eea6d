"""A study: opened from its files, run, and its progress shown."""
