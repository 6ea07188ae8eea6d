"""Strategy A and its baselines: data, networks, losses, trainers. Never imports the harness."""
