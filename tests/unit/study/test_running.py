"""What `ablate run` does around its trials: damaged files are made again first, and nothing says RUNNING of what nobody runs."""

import pytest

from ablation.errors import InputError
from ablation.reporting import figures
from ablation.storage.files import folder_lock
from ablation.storage.runs import Damaged
from ablation.study import running
from ablation.study.opening import open_study
from ablation.tracking import delivery

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

TRIAL = "rate=fast--s0"


@pytest.fixture
def run(toy, monkeypatch):
    """`ablate run`, with workers in this process; `after` is called when one has run a segment."""
    monkeypatch.setattr(figures, "draw", lambda *arguments: [])
    monkeypatch.setattr(delivery, "SYNC_SECONDS", -1.0)  # at every tick

    def run(after=lambda request: None, retry_failed=False):
        planned = open_study(toy.root / "grid.yaml")
        toy.work_here(monkeypatch, after)
        return running.run(planned, running.RunOptions(jobs=2, retry_failed=retry_failed))

    return run


def test_damaged_files_are_made_again_without_training_and_said(toy, run, capsys):
    path = toy.folder.trial_path(TRIAL) / "outcome.json"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert run().n_trained == 0 and toy.ran == [] and path.read_bytes() == content
    assert (
        f"{TRIAL}: outcome.json was damaged: made again, without training"
        in capsys.readouterr().out
    )


def test_a_study_that_another_process_runs_is_neither_restored_nor_are_its_failures_forgotten(
    toy, run
):
    path = toy.folder.trial_path(TRIAL) / "outcome.json"
    path.write_bytes(b"half writ")
    with (
        folder_lock(toy.folder.path),
        pytest.raises(InputError, match="another process is running this study"),
    ):
        run(retry_failed=True)
    assert path.read_bytes() == b"half writ"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_what_is_interrupted_was_running_and_is_not_any_more(toy, run, error):
    toy.edit("[0, 1]", "[0, 1, 2]")
    seen = []

    def interrupt(request):
        seen.append((toy.statuses()["toy on nothing"], toy.counted().get("RUNNING", 0)))
        if len(seen) == 4:
            raise error

    with pytest.raises(type(error)):
        run(interrupt)
    assert seen[-1][0] == "RUNNING" and seen[-1][1]
    assert "RUNNING" not in toy.statuses().values() and "RUNNING" not in toy.counted()
    assert toy.statuses()["toy on nothing"] == "KILLED"
    run()
    assert set(toy.statuses().values()) == {"FINISHED"} and set(
        map(tuple, toy.states().values())
    ) == {("COMPLETE",)}


def test_a_study_that_was_killed_is_set_right_by_sync(killed):
    running.sync("toy")
    assert set(killed.statuses().values()) == {"KILLED"} and set(killed.counted()) == {"WAITING"}


def test_a_study_that_another_process_runs_is_said_to_run_by_sync(killed):
    with folder_lock(killed.folder.path):
        running.sync("toy")
    assert "RUNNING" in killed.statuses().values() and killed.counted()["RUNNING"] > 0


def test_a_damaged_manifest_is_named_by_sync(killed):
    (killed.folder.path / "study.json").write_text("half writ")
    with pytest.raises(Damaged, match="study.json: is damaged"):
        running.sync("toy")
