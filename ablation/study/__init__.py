"""A study: opened from its files, run, and shown as it stands."""
