"""The report is written where anything has changed, and only there."""

import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ablation.cli.main import main
from ablation.reporting import figures, report
from ablation.study import closing, running
from ablation.study.closing import Closing
from ablation.study.live import output
from ablation.study.opening import open_study
from ablation.study.views import describe_status

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow


@pytest.fixture
def run(toy, monkeypatch, capsys):
    """`ablate run --offline`; returns what it printed and how many reports it wrote."""
    monkeypatch.setattr(figures, "draw", lambda *arguments: [])
    written, write = [], report.write_report
    monkeypatch.setattr(report, "write_report", lambda *args: written.append(1) or write(*args))

    def run(seeds=None):
        written.clear()
        toy.work_here(monkeypatch)
        running.run(
            open_study(toy.root / "grid.yaml", seeds=seeds),
            running.RunOptions(jobs=2, offline=True),
        )
        return capsys.readouterr().out.splitlines(), len(written)

    return run


def test_a_report_of_the_same_results_is_not_written_again_and_the_same_is_said(toy, run):
    first, n_first = run()
    again, n_again = run()
    assert (n_first, n_again) == (1, 0) and first == again
    assert first[0] == "nothing to train: all 8 trials of toy are there already"
    assert 1 < len(first[1:-2]) <= 3
    assert first[-2:] == [
        "report: reports/toy/report.md",
        "look further: `ablate sync toy`, then `ablate ui` (every run, in MLflow); "
        "`ablate report toy --html` (the report as one page)",
    ]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda toy: (toy.places.report("toy") / "report.md").unlink(), marks=pytest.mark.long
        ),
        lambda toy: (toy.places.report("toy") / "results.csv").write_text("damaged"),
        lambda toy: (toy.root / ".ablate" / "reported" / "toy.json").write_text("{"),
        pytest.param(
            lambda toy: (toy.root / ".ablate" / "reported" / "toy.json").unlink(),
            marks=pytest.mark.long,
        ),
        lambda toy: toy.edit("[0, 1]", "[0, 1, 2]"),
        pytest.param(lambda toy: toy.edit("[0, 1]", "[0]"), marks=pytest.mark.long),
    ],
)
def test_it_is_written_again_if_a_file_or_a_result_is_another(toy, run, change):
    run()
    change(toy)
    assert run()[1] == 1
    assert run()[1] == 0


def test_it_is_written_again_by_other_code_and_other_libraries(toy, run, monkeypatch):
    run()
    monkeypatch.setattr(closing, "version", lambda name: "another")
    assert run()[1] == 1


def test_to_see_that_nothing_has_changed_needs_no_heavy_library(toy, run):
    run()
    assert Closing(toy.places, "toy").known() is not None
    code = (
        "import sys\n"
        "from ablation.storage.project import ProjectPaths\n"
        "from ablation.study import running\n"
        "assert running.Closing(ProjectPaths(), 'toy').known() is not None\n"
        "print({'pandas', 'matplotlib', 'mlflow', 'scipy', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True).strip() == "set()"


def test_the_command_keeps_a_report_that_is_of_the_files(toy, run, monkeypatch):
    run()
    monkeypatch.chdir(toy.root)
    path, written = toy.places.report("toy") / "report.md", []
    write = Closing.write
    monkeypatch.setattr(
        Closing, "write", lambda self, *given: written.append(given) or write(self, *given)
    )

    def report(*options):
        written.clear()
        done = CliRunner().invoke(main, ["report", "toy", *options], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout.strip(), len(written)

    assert report() == ("reports/toy/report.md", 0)
    assert report("--html") == ("reports/toy/report.html", 1)
    assert report("--html") == ("reports/toy/report.html", 0)
    path.write_text("by hand")
    assert report() == ("reports/toy/report.md", 1) and path.read_text() != "by hand"
    (spec, *_) = toy.folder.manifest().trials
    toy.folder.append_record(spec.trial, {"phase": "x", "epoch": 99, "metrics": {}, "seconds": 0.0})
    assert report()[1] == 1


def test_figures_are_drawn_again_only_for_other_results_or_other_files(toy, run, monkeypatch):
    drawings = []

    def draw(study, effects, destination):
        drawings.append(1)
        destination.mkdir(exist_ok=True)
        (destination / "accuracy.png").write_bytes(b"drawn")
        return ["accuracy"]

    monkeypatch.setattr(figures, "draw", draw)
    closing = Closing(toy.places, "toy")
    assert closing.write() == closing.write(changed="code changed") and len(drawings) == 1
    assert "![" in closing.path.read_text() and closing.known() is None
    assert closing.known("code changed") is not None and closing.known("data changed") is None
    closing.write()
    assert len(drawings) == 1 and closing.known() is not None
    (closing.path.parent / "figures" / "accuracy.png").write_bytes(b"damaged")
    assert closing.known() is None
    closing.write()
    assert len(drawings) == 2
    toy.edit("[0, 1]", "[0, 1, 2]")
    run()
    assert len(drawings) == 3


def test_results_of_more_seeds_than_are_asked_for_are_said_to_be_there(toy, run, capsys):
    of_all, _ = run("4")
    n_arms = len({spec.arm for spec in toy.folder.manifest().trials})
    told = f"{2 * n_arms} more trials (seeds 2, 3) are there; --seeds 4 includes them"
    assert told not in of_all
    said, _ = run()
    assert said.count(told) == 1 and said.index(told) == len(said) - 3
    describe_status("toy", toy.places, output())
    assert told in capsys.readouterr().out.splitlines()
    assert toy.folder.manifest().seeds == [0, 1]


def test_other_seeds_are_named_one_by_one_where_no_number_stands_for_them(toy, run):
    run("0,1,7")
    first, *others = (spec for spec in toy.folder.manifest().trials if spec.seed == 7)
    shutil.rmtree(toy.folder.trial_path(first.trial))
    told = f"{len(others)} more trials (seed 7) are there; --seeds 0,1,7 includes them"
    assert told in run()[0]


def test_a_report_is_not_kept_while_whose_writing_results_came(toy, run, monkeypatch):
    run()
    written = report.write_report

    def late(*arguments):
        found = written(*arguments)
        path = next(toy.folder.path.glob("*/metrics.jsonl"))
        path.write_bytes(path.read_bytes() + b"\n")
        return found

    closing = Closing(toy.places, "toy")
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_report", late)
        closing.write()
    assert closing.known() is None
    closing.write()
    assert closing.known() is not None
