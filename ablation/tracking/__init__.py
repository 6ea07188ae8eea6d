"""Copies of a study's results for other tools: Optuna's database, and MLflow.

Enter at `delivery.Delivery`, which keeps both up to date while a study runs. `ledger.update_ledger`
writes to Optuna. `mlflow_sync.Tracker` writes to MLflow what `mlflow_content.trial_contents` makes
of the files; `mlflow_store.find_runs` reads what MLflow has; `mlflow_places` is what needs no
import of MLflow. `mlflow_ui.serve` is `ablate ui`.
"""
