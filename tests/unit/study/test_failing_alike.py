"""A study whose trials all fail alike stops and says so; what it says of trials that fail is short."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ablation.cli.main import main

GRID = """
study: own
experiment: e
metric: {name: value, goal: maximize}
seeds: 3
factors:
  rate: {slow: {rate: 1}, fast: {rate: 2}}
  size: {small: {size: 1}, large: {size: 2}}
"""
# of 4 trials, of which 3 have all levels and two seeds
SMALL = GRID.replace("seeds: 3", "seeds: 2").replace(
    "  size: {small: {size: 1}, large: {size: 2}}\n", ""
)


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ablation.study.opening.provenance", dict)
    monkeypatch.setattr("ablation.reporting.figures.draw", lambda *_: [])
    Path("g.yaml").write_text(GRID)
    Path("e.yaml").write_text(
        json.dumps(
            {
                "subject": {"command": f"{sys.executable} train.py {{rate}} {{size}} {{seed}}"},
                "settings": {"rate": 1, "size": 1},
            }
        )
    )


def script(text: str) -> None:
    count = "import sys\nopen('calls', 'a').write('x')\nrate, size, seed = sys.argv[1:]\n"
    Path("train.py").write_text(count + text)


def run(*options: str, jobs: int = 1) -> tuple[list[str], int]:
    """What `ablate run` printed, and its exit code; calls of the script are counted anew."""
    Path("calls").write_text("")
    done = CliRunner().invoke(
        main, ["run", "--grid", "g.yaml", "--offline", "--jobs", f"{jobs}", *options]
    )
    return done.output.splitlines(), done.exit_code


def n_calls() -> int:
    return len(Path("calls").read_text())


REFUSES = "sys.exit(f'error: unrecognized arguments: --learning-rate {rate}')\n"
MISNAMED = "print(f'acc={rate} loss={size}')\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (REFUSES, "CommandFailed: exit code 1: error: unrecognized arguments: --learning-rate 1"),
        pytest.param(
            MISNAMED,
            "MissingMetric: the last record does not hold the metric 'value'; it holds acc",
            marks=pytest.mark.long,
        ),
    ],
    ids=["flag", "metric"],
)
def test_it_stops_once_failures_cover_all_levels_and_two_seeds_and_goes_on_once_mended(text, why):
    script(text)
    said, code = run()
    assert code == 1 and n_calls() == 5
    failed = [line for line in said if "FAILED" in line]
    names = "reference--s0, rate=fast--s0"
    assert len(failed) == 2 and failed[0].startswith(f"FAILED reference--s0: {why}")
    assert failed[1].startswith(f"FAILED 5 trials alike: {names}, ")
    assert f"; the first: {why}" in failed[1]
    assert all(line.count("stdout.log") == 1 for line in failed)
    assert said[-2:] == [
        "stopped: all 5 trials that have ended failed alike, and so would the other 7, which were "
        "not run",
        "once the cause is mended, the same command runs them, and with --retry-failed those that "
        "failed, too; --keep-going runs them as they are",
    ]
    assert not Path("reports/own/report.md").exists()
    # the script was mended, which makes all trials new
    script("print(f'value={rate}')\n")
    said, code = run()
    assert code == 0 and n_calls() == 12 and Path("reports/own/report.md").is_file()


def test_on_request_all_are_run_and_the_failures_are_one_line_and_no_report():
    Path("g.yaml").write_text(SMALL)
    script(REFUSES)
    said, code = run("--keep-going")
    assert code == 1 and n_calls() == 4
    assert sum("FAILED" in line for line in said) == 2
    assert sum("FAILED 4 trials alike: reference--s0, " in line for line in said) == 1
    assert said[-1] == "no trial is complete: there is nothing to report yet"
    assert not Path("reports/own/report.md").exists()
    # those of before, too
    said, _ = run()
    assert n_calls() == 0 and sum("FAILED" in line for line in said) == 1


@pytest.mark.long
def test_what_was_mended_elsewhere_is_run_by_the_same_command_and_the_rest_on_request():
    Path("g.yaml").write_text(SMALL)
    script("import os\nif os.path.exists('mended'): print(f'value={rate}')\nelse: sys.exit('no')\n")
    run()
    Path("mended").touch()
    _, code = run()
    assert code == 1 and n_calls() == 1
    assert run("--retry-failed")[1] == 0 and n_calls() == 3


@pytest.mark.parametrize(
    "healthy",
    [
        "seed != '0'",
        *(
            pytest.param(one, marks=pytest.mark.long)
            for one in ("rate == '2'", "size == '2'", "(rate, size, seed) == ('1', '1', '0')")
        ),
    ],
)
def test_a_study_goes_on_of_which_an_arm_or_one_trial_can_run(healthy):
    script(f"if {healthy}: print('value=1')\nelse: sys.exit('the loss is no number')\n")
    _, code = run()
    assert code == 1 and n_calls() == 12 and Path("reports/own/report.md").is_file()


HEALTHY_AND_SLOW = """
import pathlib, time
if (rate, size, seed) == ('1', '1', '0'):
    while len(list(pathlib.Path('runs/own').glob('*/outcome.json'))) < 4:
        time.sleep(0.01)
    time.sleep(0.3)
    pathlib.Path('seen').write_text(open('calls').read())
    print('value=1')
else:
    sys.exit('no')
"""


@pytest.mark.long
def test_what_is_in_hand_is_waited_for_and_the_study_goes_on_if_it_runs():
    script(HEALTHY_AND_SLOW)
    _, code = run(jobs=2)
    # the first and four that fail, which have all levels and two seeds: no more is begun meanwhile
    assert len(Path("seen").read_text()) == 5
    assert code == 1 and n_calls() == 12 and Path("reports/own/report.md").is_file()


@pytest.mark.long
def test_a_report_that_is_of_before_is_said_to_be():
    Path("g.yaml").write_text(SMALL)
    script("print('value=1')\n")
    run()
    script(REFUSES)
    said, _ = run()
    assert n_calls() == 3
    assert said[-1] == "reports/own/report.md is of before: `ablate report own` writes it again"
    said, _ = run("--keep-going")
    assert n_calls() == 1
    assert said[-1] == "reports/own/report.md is of before: `ablate report own` writes it again"
