"""What a terminal shows while a study runs."""
