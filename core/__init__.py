"""Strategy A and its baselines: data, networks, losses, routing, trainers. Never imports the harness."""
