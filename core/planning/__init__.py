"""What a trial computes: its chain of epochs and their keys, before anything runs. No torch."""
