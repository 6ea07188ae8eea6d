"""A tracker that counts what it changes in MLflow."""

from dataclasses import dataclass

from ablation.tracking import mlflow_sync


@dataclass
class Synced:
    """What an import changed in MLflow; all zero if it had everything."""

    # runs of trials
    n_created: int = 0
    # runs of trials deleted because they held something else than the files
    n_replaced: int = 0
    # metric values of trials
    n_points: int = 0
    # runs of trials that got their final status
    n_ended: int = 0


class Tracker(mlflow_sync.Tracker):
    def sync(self, *arguments, **named) -> Synced:
        self.synced = Synced()
        super().sync(*arguments, **named)
        return self.synced

    def _sync_trial(self, trial, columns):
        before = self.runs.get(trial.name)
        had_ended = before is not None and before.has_ended
        super()._sync_trial(trial, columns)
        after = self.runs.get(trial.name)
        is_same = after is before
        self.synced.n_created += after is not None and not is_same
        self.synced.n_replaced += before is not None and not is_same
        self.synced.n_ended += after is not None and after.has_ended > (is_same and had_ended)

    def _log(self, run, points=(), *rest, **named):
        super()._log(run, points, *rest, **named)
        self.synced.n_points += len(points) * ("trial" in run.tags)
