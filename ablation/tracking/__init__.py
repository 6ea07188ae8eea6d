"""Copies of a study's files for other tools: Optuna's ledger, and MLflow."""
