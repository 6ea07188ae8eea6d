"""Strategy A and its baselines: data, networks, losses, trainers. Never imports the harness.

Enter at `subject.StrategyA`, through which the harness uses it.
"""
