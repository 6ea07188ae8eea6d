"""What a node of a Ray cluster does for a study, without Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ablation.cli import main
from ablation.on_ray.cluster import Share, site_of
from ablation.on_ray.node import Relay, fault_of
from ablation.store import DiskStore
from ablation.subjects import load_subject
from ablation.workers import OURS

SUBJECT = """
import os, time

def train(config, seed, report):
    if seed == 1:
        os._exit(7)
    if seed == 2:
        time.sleep(600)
    return {"top1": float(seed)}
"""

GRID = """
study: toy
experiment: nothing
metric: {name: top1, goal: maximize}
design: factorial
seeds: 1
factors: {rate: {slow: {rate: 1}, fast: {rate: 2}}}
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    (tmp_path / "trained.py").write_text(SUBJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trained", raising=False)
    key = load_subject("trained:train").chain({}, 0, lambda _: None)[0].key
    with site_of(Path("."), {"subject": "trained:train", "settings": {}, "seed": 0, "key": key}) as site:
        yield site


def request(site, seed: int) -> str:
    return json.dumps(
        {"subject": "trained:train", "settings": {}, "seed": seed, "until": None, "cache": f"{site.folder}/cache", "log": f"{site.folder}/log"}
    )


def heard(relay: Relay, last: str) -> list[dict]:
    """All that comes, up to an event."""
    found: list[dict] = []
    while not found or found[-1]["event"] != last:
        found += [json.loads(message) for message in relay.next()]
    return found


def test_a_relay_tells_what_its_worker_says_and_how_it_ends(site):
    relay = Relay(site)
    assert [message["event"] for message in heard(relay, "ready")] == ["ready"]
    relay.send(request(site, 0))
    record, done = heard(relay, "done")
    assert record["record"]["metrics"] == {"top1": 0.0} and done == {"event": "done"}
    assert DiskStore(Path(site.folder) / "cache").holds("record", record["key"])
    assert relay.resident_bytes() > 2**20
    relay.send(request(site, 1))
    failed, exited = heard(relay, "exited")
    assert "exit code 7" in failed["error"]["message"] and exited == {"event": "exited", "code": 7, "for_memory": False}
    relay.send(request(site, 0))  # nobody is there any more


def test_a_worker_does_not_outlive_the_process_that_watches_it(site):
    code = (
        "import sys, time; from ablation.on_ray.node import *; relay = Relay(Site(*sys.argv[1:5])); relay.next(); relay.send(sys.argv[5])\n"
        "print(relay._process.pid, flush=True); time.sleep(600)"
    )
    path = os.pathsep.join(filter(None, [str(OURS), os.environ.get("PYTHONPATH")]))
    watch = subprocess.Popen(
        [sys.executable, "-c", code, *site, request(site, 2)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    worker = int(watch.stdout.readline())
    log = Path(site.folder) / "log"
    while not log.exists():  # it is in the middle of its task, and would not look at its pipes for minutes
        time.sleep(0.01)
    watch.send_signal(signal.SIGKILL)
    watch.communicate()
    for _ in range(500):
        if not Path(f"/proc/{worker}").exists() or ") Z " in Path(f"/proc/{worker}/stat").read_text():
            return
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("it did")


def test_a_node_that_sees_the_project_and_plans_the_same_is_fit(site):
    assert fault_of(site) is None


def test_a_node_without_the_project_folder_says_so(site):
    assert "does not see the project folder /nowhere" in fault_of(site._replace(folder="/nowhere"))


def test_a_node_that_sees_another_folder_there_says_so(site, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    assert "sees another folder at" in fault_of(site._replace(folder=str(other), mark=str(other / Path(site.mark).name)))


def test_a_node_with_other_source_says_so(site):
    with open("trained.py", "a") as file:
        file.write("\n# changed\n")
    assert "not those of the plan" in fault_of(site)


def test_a_node_without_the_subject_says_so(site):
    os.remove("trained.py")
    assert "cannot import 'trained'" in fault_of(site)


def test_a_node_without_ablate_says_so(site, tmp_path):
    (tmp_path / "elsewhere" / "ablation").mkdir(parents=True)
    (tmp_path / "elsewhere" / "ablation" / "__init__.py").write_text("raise ImportError('not what was installed')\n")
    assert "cannot run ablate with" in fault_of(site._replace(import_path=str(tmp_path / "elsewhere")))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--executor", "ray", "--ray-address", "127.0.0.1:9"], "--ray-address: no Ray cluster at 127.0.0.1:9: "),
        (["--executor", "ray", "--ray-address", "somewhere"], "--ray-address: no Ray cluster at somewhere: "),
        (["--executor", "ray", "--ray-address", "local"], "--ray-address: 'local' is no cluster"),
        (["--executor", "ray", "--gpus", "0"], "--gpus: 0: is for --executor local"),
        (["--ray-address", "127.0.0.1:9"], "--ray-address: 127.0.0.1:9: is for --executor ray"),
        (["--cpus-per-trial", "2"], "--cpus-per-trial: 2: is for --executor ray"),
    ],
)
def test_what_cannot_be_placed_is_refused_before_anything_is_run(site, options, message):
    Path("nothing.yaml").write_text("title: Nothing\nsubject: trained:train\n")
    Path("grid.yaml").write_text(GRID)
    done = CliRunner().invoke(main, ["run", "--grid", "grid.yaml", *options])
    assert done.exit_code == 2 and message in done.output
    assert not Path("runs").exists()


def test_the_mark_of_a_project_folder_goes_with_the_study(tmp_path):
    with site_of(tmp_path, {}) as site:
        assert Path(site.mark).is_file()
    assert list((tmp_path / ".ablate").iterdir()) == []


@pytest.mark.parametrize(
    "share, resources, n",
    [
        (Share(1), {"CPU": 3.0}, 3),
        (Share(2), {"CPU": 3.0}, 1),
        (Share(2), {"CPU": 1.0}, 0),
        (Share(1, 1 / 3), {"CPU": 8.0, "GPU": 2.0}, 6),
        (Share(1, 1 / 3), {"CPU": 4.0, "GPU": 2.0}, 4),
        (Share(1, 0.5), {"CPU": 4.0}, 0),
        (Share(1), {}, 0),
    ],
)
def test_a_node_has_room_for_as_many_workers_as_its_scarcest_resource(share, resources, n):
    assert share.times_in(resources) == n
