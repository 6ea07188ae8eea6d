"""A trial: its chain run from the last checkpoint, and its inputs looked at beforehand."""
