"""What shells complete."""

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from fabricate import FACTORS, study

from ablation.cli.main import main


def completed(*words: str) -> list[str]:
    """What the last of the words is completed to."""
    *before, last = words
    found = ShellComplete(main, {}, "ablate", "_ABLATE_COMPLETE").get_completions(before, last)
    return [item.value if item.type == "plain" else f"({item.type})" for item in found]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    for name in ("fixes", "warmups"):
        text = f"study: {name}\nexperiment: digits\n"
        (tmp_path / "experiments" / f"{name}.yaml").write_text(text)
    (tmp_path / "experiments" / "digits.yaml").write_text("settings: {epochs: 2}\n")
    study(tmp_path / "runs" / "fixes", factors={"lr_split": FACTORS["lr_split"]}, seeds=[0])
    (tmp_path / "runs" / "fixes.search").mkdir()
    (tmp_path / "runs" / "fixes.search" / "study.json").write_text(json.dumps({}))
    report = tmp_path / "docs" / "results" / "committed"
    report.mkdir(parents=True)
    (report / "results.csv").write_text("trial,arm,seed\na--s0,a,0\nb--s0,b,0\n")
    return tmp_path


def test_grids_experiments_studies_and_arms_are_completed(project):
    assert completed("run", "--grid", "") == completed("plan", "--grid", "") == ["fixes", "warmups"]
    assert completed("run", "--grid", "w") == ["warmups"]
    assert completed("run", "--experiment", "") == completed("data", "describe", "") == ["digits"]
    for command in ("status", "report", "sync", "doctor"):
        assert completed(command, "") == ["fixes"]
    assert completed("table", "") == completed("compare", "") == ["fixes", "committed"]
    assert completed("compare", "fixes:l") == [
        "fixes:lr_split",
        "fixes:ldmlr",
        "fixes:ldmlr-no-generation",
    ]
    assert completed("compare", "fixes:ce", "committed:") == ["committed:a", "committed:b"]


def test_paths_are_left_to_the_shell(project):
    assert (
        completed("run", "--grid", "experiments/f") == completed("run", "--grid", "x") == ["(file)"]
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_for_a_shell_makes_click_print_its_script(shell):
    said = CliRunner().invoke(main, ["completion", shell])
    variable = f"_ABLATE_COMPLETE={shell}_source"
    assert said.exit_code == 0 and f"{variable} ablate" in said.stdout.splitlines()[1]
    script = CliRunner().invoke(
        main, [], prog_name="ablate", env={"_ABLATE_COMPLETE": f"{shell}_source"}
    )
    assert script.exit_code == 0 and f"_ABLATE_COMPLETE={shell}_complete" in script.stdout
