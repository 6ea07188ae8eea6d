"""The Python API: its examples run as they stand, and importing it is cheap."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

import ablation
from ablation import api
from ablation.cli.main import write_starter
from ablation.errors import InputError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project in the working directory, as `ablate init` leaves it."""
    write_starter(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "training", raising=False)
    yield tmp_path
    sys.modules.pop("training", None)


def test_the_examples_of_the_api_run_as_they_stand(project, monkeypatch):
    # Drawing takes longer than all else.
    monkeypatch.setattr("ablation.reporting.figures.draw", lambda *_: [])
    runner = doctest.DocTestRunner()
    # In the order of the page: later examples read what the first has run.
    for example in sorted(doctest.DocTestFinder().find(api), key=lambda found: found.lineno or 0):
        runner.run(example)
    assert runner.summarize(verbose=False) == doctest.TestResults(0, 10)


def test_a_study_that_is_not_there_is_named(project):
    for read in (ablation.load_results, ablation.effects):
        with pytest.raises(InputError, match="runs: own: no such study; there is none yet"):
            read("own")


def test_seeds_may_be_numpy_integers(monkeypatch):
    monkeypatch.setattr("ablation.study.opening.open_study", lambda *given, **_: given[3])
    monkeypatch.setattr("ablation.study.running.run", lambda seeds, _: seeds)
    given = {"[0, 1]": np.arange(2), "3": np.int64(3), "5": 5, "[0, 2]": (0, 2)}
    assert [ablation.run_study("own", seeds=seeds) for seeds in given.values()] == list(given)


def test_importing_the_api_loads_nothing_heavy():
    code = "import sys, ablation; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "ablation" in loaded.split()
    assert not set(loaded.split()) & {
        "torch",
        "mlflow",
        "optuna",
        "pandas",
        "numpy",
        "yaml",
        "rich",
    }
