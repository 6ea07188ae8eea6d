"""Run a plan: the executor, worker processes, and their supervision."""
