"""Optuna's samplers and pruners over each arm of a study.

Enter at `tuning.Tuning`, which decides which trials the searches of a study need next and which
settings they have found. `sampling.ArmSearch` asks Optuna for the trials of one arm.
"""
