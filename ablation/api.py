"""The Python API: run a study, and read what came out as tables.

As for `ablate`, the project is the working directory: `experiments/`, `runs/` and `reports/` are
its folders. The examples run in a folder in which `ablate init` has written its files.

Imports stand inside the functions, so that `import ablation` stays light.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from ablation.analysis.results import Results
    from ablation.study.running import RunResult


def run_study(
    grid: Path | str,
    *,
    experiment: str | None = None,
    overrides: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    alias: str | None = None,
    storage: str | None = None,
    until_decided: bool = False,
    **options: Any,
) -> RunResult:
    """Run the missing trials of a study, track them, write the report; as `ablate run`.

    >>> result = run_study("own-function", seeds=2, jobs=1, offline=True)  # doctest: +ELLIPSIS
    warning: 2 of 5 planned seeds are counted: p-values and verdicts hold with all planned seeds
    reference--s0...
    report: reports/own-function/report.md
    look further: ...
    >>> result.n_trained, result.failed
    (8, {})

    Args:
        grid: path of a grid file, or its name in experiments/
        experiment: takes the place of the grid's
        overrides: settings for all arms and baselines, each as `key=value`
        seeds: their number, or a list of them
        alias: keeps the study under another name
        storage: URL of a team's database for Optuna's ledger
        until_decided: add seeds to the arms of claims that are not decided yet
        options: fields of `ablation.study.running.RunOptions`, such as `jobs`

    Raises:
        InputError: the input is wrong; all problems are named, and nothing was run
        DiskFull: no trial fails by it; the same call continues
    """
    from ablation.study.opening import open_study
    from ablation.study.running import RunOptions, run

    if storage is not None:
        from ablation.tracking.ledger import storage_url

        storage = storage_url(storage)
    # as text, in which NumPy's integers are Python's
    chosen = f"[{', '.join(map(str, seeds))}]" if isinstance(seeds, Iterable) else seeds
    text = None if chosen is None else str(chosen)
    planned = open_study(
        Path(grid),
        experiment,
        overrides,
        text,
        alias,
        storage,
        until_decided=until_decided,
    )
    return run(planned, RunOptions(**options))


class Study:
    """A study by its grid: run it, and read what came out.

    >>> study = Study("own-function")
    >>> study.run(seeds=2, jobs=1, offline=True).n_trained  # doctest: +ELLIPSIS
    warning: 2 of 5 planned seeds are counted...
    nothing to train: all 8 trials of own-function are there already...
    0
    >>> len(study.results()), study.effects()["verdict"].nunique() > 0
    (8, True)

    Args: see `run_study`.
    """

    def __init__(
        self,
        grid: Path | str,
        *,
        experiment: str | None = None,
        overrides: Sequence[str] = (),
        alias: str | None = None,
    ):
        self.grid, self.experiment, self.overrides = grid, experiment, tuple(overrides)
        self.alias = alias

    @property
    def name(self) -> str:
        """Of its folders in `runs/` and `reports/`. Raises InputError if the grid is wrong."""
        from ablation.study.opening import open_study

        asked = (self.experiment, self.overrides, None, self.alias)
        return open_study(Path(self.grid), *asked, may_be_absent=True).name

    def run(
        self,
        *,
        seeds: int | Sequence[int] | None = None,
        storage: str | None = None,
        **options: Any,
    ) -> RunResult:
        """Run what is missing, and write the report: see `run_study`."""
        return run_study(
            self.grid,
            experiment=self.experiment,
            overrides=self.overrides,
            seeds=seeds,
            alias=self.alias,
            storage=storage,
            **options,
        )

    def results(self) -> pd.DataFrame:
        """Its trials, a row each: see `load_results`."""
        return load_results(self.name)

    def effects(self) -> pd.DataFrame:
        """Its effects, a row per comparison and metric: see `effects`."""
        return effects(self.name)


def load_results(study: str) -> pd.DataFrame:
    """The trials of a study in `runs/`, a row each, failures included; as results.csv.

    >>> trials = load_results("own-function")
    >>> trials.groupby("arm")["accuracy"].count().to_dict()
    {'averaging': 2, 'reference': 2, 'scaling': 2, 'scaling+averaging': 2}

    Raises:
        InputError: there is no such study
    """
    return _results(study).trials


def effects(study: str) -> pd.DataFrame:
    """The effects of a study in `runs/`: a row per comparison and metric; as effects.csv.

    >>> found = effects("own-function")
    >>> found["effect"][:2].to_list()
    ['scaling: off -> on', 'averaging: off -> on']
    >>> found.columns.to_list()
    ['effect', 'metric', 'estimate', 'low', 'high', 'p', 'p_holm', 'n_seeds', 'verdict', 'warning']

    Raises:
        InputError: there is no such study
    """
    from ablation.analysis.effects import judge
    from ablation.analysis.results import EFFECT_COLUMNS, OVER, with_warning

    results = _results(study)
    return with_warning(judge(results)[[*EFFECT_COLUMNS, OVER]], results)


def _results(study: str) -> Results:
    from ablation.analysis.results import load
    from ablation.errors import InputError, Problem, nearest
    from ablation.storage.project import ProjectPaths
    from ablation.storage.runs import studies

    known = studies(Path("runs"))
    if study not in known:
        hint = nearest(study, known) if known else "there is none yet"
        raise InputError([Problem("runs", study, f"no such study; {hint}")])
    return load(ProjectPaths().runs(study))
