"""Every YAML file in `experiments/` is sound, and says how to run it."""

from pathlib import Path

import pytest

from ablation.errors import InputError
from ablation.grid import experiment_settings, load_study
from ablation.published import published
from ablation.reading import read_yaml
from ablation.subjects import load_subject

FOLDER = Path(__file__).parent.parent.parent / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
GRIDS = [path for path in FILES if "factors" in read_yaml(path)]
EXPERIMENTS = [path for path in FILES if "settings" in read_yaml(path) and path not in GRIDS]
MISSING_INPUTS = {"settings.data.path", "settings.encoder.checkpoint"}  # files that only some machines have


def only_missing_inputs(error: InputError) -> bool:
    return {problem.key for problem in error.problems} <= MISSING_INPUTS


def test_there_are_grids_experiments_and_published_numbers():
    assert FOLDER / "fixes.yaml" in GRIDS
    assert {FOLDER / "digits-lt.yaml", FOLDER / "cifar10-lt-if100.yaml"} <= set(EXPERIMENTS)
    assert set(FILES) - set(GRIDS) - set(EXPERIMENTS) == {FOLDER / "published.yaml"}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.name)
def test_a_shipped_grid_loads(path):
    load_study(path, None, [], None, load_subject)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_a_shipped_experiment_loads(path, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    try:
        assert experiment_settings(path, [], load_subject("core"))
    except InputError as error:
        assert only_missing_inputs(error), error
        pytest.skip(f"its data are not here: {error}")


@pytest.mark.parametrize("path", GRIDS + EXPERIMENTS, ids=lambda path: path.name)
def test_a_shipped_file_opens_with_the_command_that_runs_it(path):
    first = path.read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith("# ablate run --grid experiments/")
    assert path.stem in first


def test_published_numbers_are_ldmlrs():
    numbers = {entry["method"]: entry["top1"] for entry in published(FOLDER / "published.yaml", "cifar10-lt-if100")}
    assert numbers["CE + LDMLR"] == 76.26
    assert published(FOLDER / "published.yaml", "digits-lt") == []
