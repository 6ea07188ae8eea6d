"""Every YAML file in `experiments/` is sound, and says how to run it."""

import re
from pathlib import Path

import pytest

from ablation.errors import InputError
from ablation.grid.file import published
from ablation.grid.load import experiment_settings, load_study
from ablation.grid.sources import read_sources
from ablation.grid.strict_yaml import read_yaml
from ablation.planning.plan import build_plan
from ablation.storage.cache import DiskStore
from ablation.storage.runs import RunFolder
from ablation.subject.loading import load_subject

FOLDER = Path(__file__).parents[3] / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
GRIDS = [path for path in FILES if "factors" in read_yaml(path)]
# one of each kind; all the others are planned where the long tests run
IN_EVERY_RUN = {"fixes.yaml", "fixes-tuned.yaml", "cifar10-frozen.yaml"}
EXPERIMENTS = [path for path in FILES if "settings" in read_yaml(path) and path not in GRIDS]


@pytest.fixture(autouse=True)
def nothing_beside(tmp_path, monkeypatch):
    """A machine without any data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABLATE_DATA", raising=False)


def test_there_are_grids_experiments_and_published_numbers():
    assert {FOLDER / name for name in IN_EVERY_RUN} <= set(GRIDS)
    assert {FOLDER / "digits-lt.yaml", FOLDER / "cifar10-lt-if100.yaml"} <= set(EXPERIMENTS)
    assert set(FILES) - set(GRIDS) - set(EXPERIMENTS) == {
        FOLDER / "published.yaml",
        FOLDER / "sources.yaml",
    }


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.name in IN_EVERY_RUN else pytest.mark.long)
        for path in GRIDS
    ],
    ids=lambda path: path.name,
)
def test_a_shipped_grid_can_be_planned_without_its_data_and_says_what_brings_them(path):
    study = load_study(path, None, [], None, load_subject, may_be_absent=True)
    plan = build_plan(study, DiskStore(Path("cache")), RunFolder(Path("runs")))
    assert len(plan.trials) == len(study.variants) * len(study.grid.seeds)
    assert all("; `ablate data get cifar10" in problem.message for problem in study.absent)
    if study.absent:
        with pytest.raises(InputError, match="ablate data get"):
            load_study(path, None, [], None, load_subject)
    else:
        assert study.experiment.name == "digits-lt"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_a_shipped_experiment_lacks_nothing_but_files_that_can_be_brought(path):
    try:
        assert experiment_settings(path, [], load_subject("core"))
    except InputError as error:
        assert all(
            re.search("`ablate data get cifar100?-lt-if100` brings it$", problem.message)
            for problem in error.problems
        ), error


@pytest.mark.parametrize("path", GRIDS + EXPERIMENTS, ids=lambda path: path.name)
def test_a_shipped_file_opens_with_the_command_that_runs_it(path):
    first = path.read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith("# ablate run --grid experiments/")
    assert path.stem in first


def test_the_sources_are_sound_and_bring_what_the_experiments_name():
    sources = read_sources(FOLDER / "sources.yaml")
    assert {"cifar10-lt-if100", "cifar100-lt-if100", "cifar10-lt-if10", "cifar100-lt-if10"} == set(
        sources
    )
    brought = {file.path for source in sources.values() for file in source.files}
    assert {
        "data/cifar10-lt-if100.tar.gz",
        "pretrained/resnet32_cifar10_lt001.checkpoint",
    } <= brought


def test_published_numbers_are_ldmlrs():
    numbers = {
        entry["method"]: entry["top1"]
        for entry in published(FOLDER / "published.yaml", "cifar10-lt-if100")
    }
    assert numbers["CE + LDMLR"] == 76.26
    assert published(FOLDER / "published.yaml", "digits-lt") == []
