"""kill -9 of a study, of its workers, or of all, at a hundred random moments. `pytest -m chaos`: ten minutes on two cores.

ABLATE_CHAOS_SEED chooses other moments, ABLATE_CHAOS_KILLS their number.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chains_project import Project, kill, recorded, workers_of

N_KILLS = int(os.environ.get("ABLATE_CHAOS_KILLS", "100"))
SEED = int(os.environ.get("ABLATE_CHAOS_SEED", "0"))
SIZE = {
    "pause": 0.25,
    "epochs": 24,
    "seeds": 3,
}  # some 200 epochs: minutes of work, so that kills meet all of it


@pytest.mark.chaos
def test_a_hundred_kills_change_nothing(tmp_path):
    undisturbed, project, chance = (
        Project(tmp_path / "undisturbed", **SIZE),
        Project(tmp_path / "project", **SIZE),
        random.Random(SEED),
    )
    undisturbed.run()
    n_killed, n_rounds = 0, 0
    while n_killed < N_KILLS:
        if (outcomes := list(project.root.glob("runs/*/*/outcome.json"))) and len(outcomes) == 12:
            chance.choice(outcomes).unlink()  # all is done: something is left to do again
            for record in chance.sample(recorded(project.root), 20):
                record.unlink()
        n_rounds += 1
        process = project.start()
        while process.poll() is None and n_killed < N_KILLS:
            time.sleep(chance.expovariate(1 / 2.0))
            who = chance.choice(["study", "worker", "both"])
            workers = workers_of(process)
            if process.poll() is not None or (who == "worker" and not workers):
                continue
            victims = {
                "study": [process.pid],
                "worker": workers[:1] if chance.random() < 0.5 else workers[-1:],
                "both": [process.pid, *workers],
            }[who]
            for victim in victims:
                kill(victim)
            n_killed += 1
            if who != "worker":
                break
        said = process.communicate()[0]
        assert process.returncode in (0, -signal.SIGKILL), said
    said = project.run()
    print(f"{n_killed} kills in {n_rounds} runs of the command")
    assert project.tables() == undisturbed.tables()
    assert project.states_elsewhere() == undisturbed.states_elsewhere()
    assert project.points() == undisturbed.points()
    assert "FAILED" not in said


SEARCH = """
  start: {a: {start: 1}, b: {start: 2}}
search:
  space: {rate: {low: 1, high: 100}, dose: {low: 0.001, high: 1.0, log: true}}
  trials: 9
  metric: {name: train/loss, goal: minimize}
  pruner: {name: hyperband, min_epochs: 2}
"""


@pytest.mark.long
def test_a_search_that_is_killed_asks_for_the_same_trials(tmp_path):
    """At 20 random moments, the study, a worker, or all of them."""
    undisturbed, project = (
        Project(tmp_path / name, pause=0.1, epochs=12) for name in ("undisturbed", "project")
    )
    for each in (undisturbed, project):
        each.grid("chains", 2, SEARCH)
    undisturbed.run()
    chance, n_killed = random.Random(SEED), 0
    while n_killed < 20:
        process = project.start()
        time.sleep(chance.uniform(0.5, 6))
        who = chance.choice([process.pid, *workers_of(process)])
        if process.poll() is None:
            kill(who)
            n_killed += 1
            if who != process.pid:
                time.sleep(chance.uniform(0, 1))
                kill(process.pid)
        elif n_killed:
            # all is done: a part of the search is to be done again
            shutil.rmtree(project.root / "runs")
            for record in recorded(project.root)[::3]:
                record.unlink()
        process.communicate()
    project.run()
    assert asked(project) == asked(undisturbed)
    assert project.tables() == undisturbed.tables()
    assert project.states_elsewhere() == undisturbed.states_elsewhere()


def asked(project: Project) -> dict[str, str]:
    """Arm -> the events of its search."""
    files = (project.root / "runs" / "chains.search").glob("*.asked.jsonl")
    return {file.name: file.read_text() for file in files}
