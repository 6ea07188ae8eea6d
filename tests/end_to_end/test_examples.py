"""The examples as users run them, in an empty folder by the command that `ablate init` prints; the notebook of docs/."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
NEEDS_EXTRAS = {"lightning"}
# example -> an arm that is better than another by far, and what all arms reach
EXPECTED = {
    "own-function": ("averaging", "reference", 90),
    "pytorch-script": ("optimizer=adam", "reference", 75),
    "own-images": ("ldmlr", "joint", 25),
    "lightning": ("batch_norm", "reference", 85),
}
EXAMPLES = [
    pytest.param(path.name, marks=pytest.mark.extras if path.name in NEEDS_EXTRAS else pytest.mark.long)
    for path in sorted((ROOT / "examples").iterdir())
]  # fmt: skip


@pytest.fixture
def shell(tmp_path):
    """Runs a line of a shell in an empty folder, where `ablate`, `python` and `pip` are those of this environment."""
    programs, project = tmp_path / "bin", tmp_path / "project"
    programs.mkdir()
    project.mkdir()
    for name, arguments in (("ablate", "-P -m ablation"), ("python", ""), ("pip", "-m pip -q")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {
        name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"
    } | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def run(line: str, expect: int = 0) -> str:
        done = subprocess.run(
            line, shell=True, cwd=project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.project = project
    return run


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_to_its_report_by_the_command_that_init_prints(example, shell):
    if example in NEEDS_EXTRAS:
        pytest.importorskip(example)
    _, _, command = shell(f"ablate init --example {example}").partition("now type\n\n")
    said = shell(command.strip())
    report = Path("reports", example, "report.md")
    assert f"report: {report}" in said and (shell.project / report).is_file()
    trials = pd.read_csv(shell.project / report.with_name("results.csv"))
    assert set(trials["state"]) == {"COMPLETE"}
    better, worse, least = EXPECTED[example]
    values = trials.set_index("arm")[metric_of(shell.project, example)]
    means = values.groupby(level=0).mean()
    assert means[better] > means[worse] + 1 and values.between(least, 100).all(), means
    # a second time, there is nothing left to do
    assert "nothing to train" in shell(command.strip())


def metric_of(project: Path, example: str) -> str:
    grid = yaml.safe_load((project / "experiments" / f"{example}.yaml").read_text())
    return grid["metric"]["name"]


@pytest.mark.extras
def test_a_lightning_trial_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(tmp_path):
    pytest.importorskip("lightning")
    train = loaded(ROOT / "examples" / "lightning" / "training.py").train
    config = {"epochs": 3, "batch_size": 64, "lr": 0.1, "schedule": "one-cycle", "batch_norm": True}
    whole, rest, checkpoints = {}, {}, {}

    def report_whole(epoch, metrics, checkpoint):
        whole[epoch] = {name: float(value) for name, value in metrics.items()}
        checkpoints[epoch] = checkpoint.read_bytes()

    def report_rest(epoch, metrics, checkpoint):
        rest[epoch] = {name: float(value) for name, value in metrics.items()}

    assert train(config, 3, report_whole) == {}
    kept = tmp_path / "checkpoint.ckpt"
    kept.write_bytes(checkpoints[1])
    # other random numbers than then
    torch.manual_seed(7)
    train(config, 3, report_rest, kept)
    assert set(whole) == {1, 2, 3} and set(whole[1]) >= {"accuracy", "train_loss"}
    assert rest == {epoch: whole[epoch] for epoch in (2, 3)}
    # one that was broken off after its last epoch has nothing left to train, and no error
    kept.write_bytes(checkpoints[3])
    assert train(config, 3, report_rest, kept) == {}


@pytest.mark.extras
def test_the_notebook_gives_the_outputs_that_are_committed(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    page = loaded(ROOT / "docs" / "notebook.py")
    committed = nbformat.read(page.PAGE, as_version=4)
    now = page.executed(tmp_path)
    for shown, new in zip(committed.cells, now.cells, strict=True):
        assert texts(new) == texts(shown), f"python docs/notebook.py; {shown.source}"
    assert str(tmp_path) not in nbformat.writes(now)
    assert "weights+shifts--s4: accuracy" in nbformat.writes(committed)


def texts(cell) -> list[str]:
    """The text of a cell's outputs; of tables and figures, their plain form."""
    return [
        output.get("text") or output["data"]["text/plain"] for output in cell.get("outputs", [])
    ]


def loaded(path: Path):
    """A module that is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
