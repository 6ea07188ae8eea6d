"""What a node of a Ray cluster does for a study, without Ray."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from ablation import INSTALLED_IN
from ablation.cli.main import main
from ablation.execution import ray_node
from ablation.execution.ray_driver import WorkerResources, answer_of, site_of
from ablation.execution.ray_node import CACHE, ON_THE_WAY, Relay, fault_of
from ablation.storage.cache import DiskStore
from ablation.subject.command import Command
from ablation.subject.loading import load_subject

SUBJECT = """
import os, time

def train(config, seed, report):
    print("seed", seed, flush=True)
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
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join(filter(None, [str(INSTALLED_IN), os.environ.get("PYTHONPATH")])),
    )
    monkeypatch.setenv(CACHE, str(tmp_path / "node"))
    monkeypatch.delenv("ABLATE_DATA", raising=False)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "trained.py").write_text(SUBJECT)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.syspath_prepend(tmp_path / "project")
    monkeypatch.delitem(sys.modules, "trained", raising=False)
    return site_of(Path("."), sample("trained:train"), True)


def sample(name: str, settings=(), **changes) -> dict:
    subject = load_subject(name)
    key = subject.chain(dict(settings), 0, lambda _: None)[0].key
    return ray_node.sample_of(name, subject, dict(settings), 0, key) | changes


def request(folder: Path, seed: int) -> dict:
    there = {"cache": f"{folder}/cache", "log": f"{folder}/runs/log"}
    return {
        "subject": "trained:train",
        "settings": {},
        "seed": seed,
        "until": None,
        "trial": "a",
        **there,
    }


def heard(relay: Relay, store: DiskStore, last: str) -> list[dict]:
    """All that comes, up to an event; the store's questions are answered. Pieces of the log have `text`."""
    found: list[dict] = []
    while not found or found[-1]["event"] != last:
        for message, payload in relay.next():
            if message["event"] == "store":
                relay.answer(*answer_of(store, message, payload))
            else:
                found.append(message | ({"text": payload.decode()} if payload is not None else {}))
    return found


def test_a_relay_tells_what_its_worker_says_and_how_it_ends(site, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    relay, store = Relay(site), DiskStore(tmp_path / "cache")
    assert [message["event"] for message in heard(relay, store, "ready")] == ["ready"]
    relay.send(request(tmp_path, 0))
    *logs, record, done = heard(relay, store, "done")
    assert record["record"]["metrics"] == {"top1": 0.0} and done == {"event": "done"}
    assert "".join(log["text"] for log in logs) == "seed 0\n" and {log["log"] for log in logs} == {
        f"{tmp_path}/runs/log"
    }
    assert (
        store.record(record["key"]) == record["record"]
    )  # where the driver is; the node keeps none
    assert not list((tmp_path / "node").glob("record/*/*"))
    assert relay.resident_bytes() > 2**20
    (scratch,) = (tmp_path / "tmp").iterdir()
    (task,) = scratch.iterdir()
    relay.send(request(tmp_path, 1))
    assert not task.exists()  # the last task's
    *logs, exited = [
        message for message in heard(relay, store, "exited") if message["event"] != "failed"
    ]
    assert "seed 1" in "".join(log["text"] for log in logs) and exited == {
        "event": "exited",
        "code": 7,
    }
    relay.send(request(tmp_path, 0))  # nobody is there any more
    assert not any((tmp_path / "tmp").iterdir())


def test_a_node_runs_a_command_too(site, tmp_path):
    """As it runs a function: in its copy of the project, which holds the script."""
    Path("script.py").write_text("print('epoch=1 top1=5')\n")
    name = Command(f"{sys.executable} script.py {{seed}}").name
    relay, store = Relay(site_of(Path("."), sample(name), True)), DiskStore(tmp_path / "cache")
    heard(relay, store, "ready")
    relay.send(request(tmp_path, 0) | {"subject": name})
    told = heard(relay, store, "done")
    (record,) = [one["record"] for one in told if one["event"] == "record"]
    assert record["metrics"] == {"top1": 5.0}
    assert "".join(one.get("text", "") for one in told) == "epoch=1 top1=5\n"
    relay.stop()


def test_a_worker_does_not_outlive_the_process_that_watches_it(site, tmp_path):
    code = (
        "import json, sys, time; from ablation.execution.ray_node import *; relay = Relay(NodeSetup(*sys.argv[1:3], True)); relay.next()\n"
        "relay.send(json.loads(sys.argv[3])); relay.next(); relay.answer({'holds': False}, None)\n"
        "while relay.next()[0][1] != b'seed 2\\n': pass\n"
        "print(relay._process.pid, flush=True); time.sleep(600)"
    )
    watch = subprocess.Popen(
        [sys.executable, "-c", code, site.sample, site.data, json.dumps(request(tmp_path, 2))],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    worker = int(
        watch.stdout.readline()
    )  # in the middle of its task, it would not look at its pipes for minutes
    assert len(list(tmp_path.glob("ablate-work-*"))) == 1
    watch.send_signal(signal.SIGKILL)
    watch.communicate()
    for _ in range(500):
        is_gone = (
            not Path(f"/proc/{worker}").exists()
            or ") Z " in Path(f"/proc/{worker}/stat").read_text()
        )
        # nor does its scratch
        if is_gone and not list(tmp_path.glob("ablate-work-*")):
            return
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    pytest.fail("it did")


@pytest.mark.parametrize("moment", ["watch", "mkdir"])
def test_an_actor_killed_with_its_children_while_it_starts_leaves_no_folder(tmp_path, moment):
    """As Ray kills them: the children first, and the actor goes on for a while.

    As on a node, nothing but the environment's site-packages says where `ablation` is.
    """
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    found_in = f"{INSTALLED_IN}\n{sysconfig.get_path('purelib')}\n"
    (packages / "found.pth").write_text(found_in, encoding="utf-8")
    code = """
import os, signal, sys
from ablation.execution import process
at = {"watch": process, "mkdir": os}[sys.argv[2]]
real = getattr(at, sys.argv[2])
def with_children_killed(*asked):
    done = real(*asked)
    for path in process.PROCESSES.glob(f"{os.getpid()}/task/*/children"):
        for child in path.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    return done
setattr(at, sys.argv[2], with_children_killed)
process.WorkerProcess(os.environ, sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""
    scratch = tmp_path / "scratch"
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "-P", "-c", code, scratch, moment],
        capture_output=True,
        timeout=60,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
    )
    if moment == "watch":
        assert "removes its folder did not start (exit status -9)" in done.stderr
    else:
        assert done.returncode == -signal.SIGKILL, done.stderr
    for _ in range(500):
        if not scratch.exists():
            return
        time.sleep(0.01)
    pytest.fail("it did")


def children() -> set[str]:
    """Ids of the processes that this one has started."""
    found = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return set(" ".join(found).split())


def test_a_node_on_which_no_worker_can_be_started_says_so(site, tmp_path, monkeypatch):
    before = children()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    relay = Relay(site)
    ((message, _),) = relay.next()
    assert message["event"] == "unfit"
    assert re.match(r"cannot start a worker: .*No such file.*/absent/", message["fault"])
    assert children() <= before, "the process that it had started is left"


def test_a_worker_is_told_that_its_node_cannot_take_what_the_driver_sends(site, tmp_path):
    """It would wait for ever otherwise."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / ON_THE_WAY).touch()  # no folder can be made there
    Path("goes_on.py").write_text("def train(config, seed, report, resume_from): return {}")
    relay, found = Relay(site), []
    heard(relay, DiskStore(tmp_path / "cache"), "ready")
    relay.send(request(tmp_path, 0) | {"subject": "goes_on:train"})
    while not found:
        for message, _ in relay.next():
            if message["event"] == "store":
                is_load = message["op"] == "load"
                relay.answer({"holds": is_load, "sent": is_load}, b"entry" if is_load else None)
            elif message["event"] != "log":
                found.append(message)
    assert found[0]["event"] == "failed" and "FileExistsError" in str(found[0]["error"])
    relay.stop()


def test_a_node_that_plans_the_same_is_fit(site):
    assert fault_of(site) is None


def test_a_node_with_other_source_says_so(site):
    with open("trained.py", "a") as file:
        file.write("\nchanged = True\n")
    assert fault_of(site) == "has other data, or other source of what is ablated, than the plan"


def test_a_node_without_the_subject_says_so(site):
    os.remove("trained.py")
    assert "cannot load the subject" in fault_of(site) and "cannot import 'trained'" in fault_of(
        site
    )


@pytest.mark.parametrize(
    "versions, said",
    [
        ({"ablate": "0"}, r"ablate \w+ where the plan has 0"),
        ({"python": "3.1"}, r"python 3\.\d+ where the plan has 3\.1"),
        ({"torch": "9.9"}, r"torch none where the plan has 9\.9"),
    ],
)
def test_a_node_with_other_versions_names_them(site, versions, said):
    planned = json.loads(site.sample)
    planned["versions"] |= versions
    assert re.fullmatch(
        f"has other versions: {said}", fault_of(site._replace(sample=json.dumps(planned)))
    )


def test_a_node_without_the_data_names_them(site, tmp_path):
    settings = {
        "data.source": "folder",
        "data.path": "images",
        "data.channels": "rgb",
        "encoder.name": "small-cnn",
    }
    without = site._replace(
        sample=json.dumps(
            {"subject": "core", "settings": settings, "seed": 0, "key": "k", "versions": {}}
        ),
        data=str(tmp_path),
    )
    assert "'images' is not there; looked for" in fault_of(
        without
    ) and f"{tmp_path}/images" in fault_of(without)


def test_a_node_without_ablate_says_so(site, tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "ablation").mkdir(parents=True)
    (tmp_path / "elsewhere" / "ablation" / "__init__.py").write_text(
        "raise ImportError('not what was installed')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    assert "cannot run ablate with" in fault_of(
        site
    ) and "install there what the driver's machine has" in fault_of(site)


def test_a_node_whose_cache_cannot_be_written_says_so(site, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    assert f"cannot write to {tmp_path}/file/cache, which {CACHE} may name" in fault_of(site)


def test_a_module_of_the_project_hides_none_of_ours_on_a_node(site, monkeypatch):
    """Ray puts the project's code first on the import path."""
    (Path("ablation")).mkdir()
    Path("ablation", "__init__.py").write_text("raise ImportError('the project has this')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]]))
    assert fault_of(site) is None


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--executor", "ray", "--ray-address", "127.0.0.1:9"],
            "--ray-address: no Ray cluster at 127.0.0.1:9: ",
        ),
        (
            ["--executor", "ray", "--ray-address", "somewhere"],
            "--ray-address: no Ray cluster at somewhere: ",
        ),
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


@pytest.mark.parametrize(
    "share, resources, n",
    [
        (WorkerResources(1), {"CPU": 3.0}, 3),
        (WorkerResources(2), {"CPU": 3.0}, 1),
        (WorkerResources(2), {"CPU": 1.0}, 0),
        (WorkerResources(1, 1 / 3), {"CPU": 8.0, "GPU": 2.0}, 6),
        (WorkerResources(1, 1 / 3), {"CPU": 4.0, "GPU": 2.0}, 4),
        (WorkerResources(1, 0.5), {"CPU": 4.0}, 0),
        (WorkerResources(1), {}, 0),
    ],
)
def test_a_node_has_room_for_as_many_workers_as_its_scarcest_resource(share, resources, n):
    assert share.times_in(resources) == n
