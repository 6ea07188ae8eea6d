"""A trial: its chain run from the last checkpoint, and its inputs looked at beforehand.

Enter at `run.advance`. `checkpoints.last_checkpoints` finds where it goes on, `inputs.faults` and
`inspection.verify` look at the data before.
"""
