"""Optuna's samplers and pruners over each arm; seeds until the answer is decided."""
