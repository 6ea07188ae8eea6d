"""Studies on a Ray cluster of three nodes, all of which are this machine: workers are placed, lost and replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.ray]
pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")

UNIT = Path(__file__).parents[1] / "unit"
NODE = {"object_store_memory": 80 * 2**20, "include_log_monitor": False}

GRID = """
study: toy
experiment: nothing
metric: {name: top1, goal: maximize}
design: factorial
seeds: 2
factors:
  warmup: {two: {warmup: 2}, settling: {warmup: plateau}}
  rate: {slow: {rate: 1}, fast: {rate: 2}}
"""

# A toy whose segments say where they run. A file named after what is to happen to a node or a trial makes it happen.
SUBJECT = """
import json, os, signal, time
from pathlib import Path
from toy_study import Toy

HERE = {"node": os.environ.get("NODE"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}

class Placed(Toy):
    def advance(self, settings, seed, until, store, report):
        with open("placed.jsonl", "a") as file:
            file.write(json.dumps({**HERE, "until": until}) + "\\n")
        if settings["rate"] == 2 and seed == 1 and "2" in until and Path("crash").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        if HERE["node"] and Path(f"hang-on-{HERE['node']}").exists():
            time.sleep(600)
        time.sleep(0.5 if HERE["node"] else 0.0)  # so that no node does all
        super().advance(settings, seed, until, store, report)

SUBJECT = Placed({0: 1, 1: 2})
"""


class Nodes:
    """A head that runs no worker, node `a` with two CPUs and a GPU, or so it says, and node `b` with one CPU."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        light = {"include_dashboard": False, "no_monitor": True, "_system_config": {"enable_worker_prestart": False}}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE, **light})
        self.a = self._add("a", num_cpus=2, num_gpus=1)
        self.b = self._add("b", num_cpus=1)
        self.address = self.cluster.address

    def lose_b(self, kill: bool) -> None:
        self.cluster.remove_node(self.b, allow_graceful=not kill)

    def restore_b(self) -> None:
        self.b = self._add("b", num_cpus=1)

    def _add(self, name: str, **resources: int):
        return self.cluster.add_node(env_vars={"NODE": name}, **NODE, **resources)


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Nodes()
        yield nodes
        nodes.cluster.shutdown()


def start(folder: Path, *options: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [*prefix, sys.executable, "-P", "-m", "ablation", "run", "--grid", "grid.yaml", "--offline", *options]
    environment = {key: text for key, text in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "NODE")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(UNIT), environment.get("PYTHONPATH")])), "COLUMNS": "200"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen, expect: int = 0) -> str:
    said = process.communicate(timeout=240)[0]
    assert process.returncode == expect, said
    return said


def project(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "grid.yaml").write_text(GRID)
    (folder / "nothing.yaml").write_text("title: Nothing\nsubject: placed:SUBJECT\n")
    (folder / "placed.py").write_text(SUBJECT)
    return folder


@pytest.fixture
def toy(tmp_path) -> Path:
    return project(tmp_path / "toy")


@pytest.fixture(scope="module")
def at_home(tmp_path_factory) -> Path:
    """The project after a run on this machine."""
    folder = project(tmp_path_factory.mktemp("home") / "toy")
    finish(start(folder, "--jobs", "2"))
    return folder


def placed(folder: Path) -> list[dict]:
    """Where each segment began, in that order."""
    path = folder / "placed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tables(folder: Path) -> list[pd.DataFrame]:
    """results.csv and history.csv, timings aside."""
    found = [pd.read_csv(folder / "reports" / "toy" / f"{name}.csv") for name in ("results", "history")]
    return [table.drop(columns=["wall_seconds", "seconds", "time"], errors="ignore") for table in found]


def require_same(left: Path, right: Path) -> None:
    for one, other in zip(tables(left), tables(right)):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    for _ in range(900):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_a_study_on_a_cluster_leaves_what_it_leaves_on_this_machine(nodes, toy, at_home):
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address))
    require_same(toy, at_home)
    assert {segment["node"] for segment in placed(toy)} == {"a", "b"}
    n_epochs = len(list((toy / ".ablate" / "cache" / "record").glob("*/*")))
    assert f"{n_epochs} epochs trained, 0 reused" in said  # none of them twice
    lines = [line for line in said.splitlines() if "/8 trials" not in line]  # a line every ten seconds
    assert len(lines) == 10, said  # one per trial, the count of epochs, the report: Ray says nothing
    assert not list((toy / ".ablate").glob("shared-*"))


def test_a_node_lost_in_the_middle_fails_no_trial_and_its_segment_is_run_again(nodes, toy, at_home):
    (toy / "hang-on-b").touch()
    process = start(toy, "--executor", "ray", "--ray-address", nodes.address)
    until(lambda: any(segment["node"] == "b" for segment in placed(toy)), process)
    nodes.lose_b(kill=True)
    try:
        said = finish(process)
    finally:
        nodes.restore_b()
    require_same(toy, at_home)
    lost = [segment for segment in placed(toy) if segment["node"] == "b"]
    assert len(lost) == 1 and lost[0]["until"] in [segment["until"] for segment in placed(toy) if segment["node"] == "a"]
    assert "a worker on node" in said and "is lost, and what it did is done again" in said
    until(lambda: not is_alive(lost[0]["pid"]))


def test_a_node_that_joins_is_used(nodes, toy, at_home):
    nodes.lose_b(kill=False)
    (toy / "hang-on-a").touch()
    process = start(toy, "--executor", "ray", "--ray-address", nodes.address, "--jobs", "3", "--seeds", "3")  # a first segment each
    until(lambda: len(placed(toy)) == 2, process)
    nodes.restore_b()
    until(lambda: any(segment["node"] == "b" for segment in placed(toy)), process)
    (toy / "hang-on-a").unlink()
    process.kill()
    process.communicate()
    until(lambda: not any(is_alive(segment["pid"]) for segment in placed(toy)))  # nor do workers outlive the study
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address, "--jobs", "12"))
    assert "the cluster has room for 3 of 8 workers" in said
    require_same(toy, at_home)


def test_a_trial_that_crashes_its_process_fails_and_the_others_go_on(nodes, toy):
    (toy / "crash").touch()
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address), expect=1)
    results = tables(toy)[0].set_index("trial")
    assert set(results[results["state"] == "FAILED"].index) == {"rate=fast--s1", "warmup=settling+rate=fast--s1"}
    assert results.loc["rate=fast--s1", "error"] == "WorkerDied: the worker process ended: killed by signal 11 (Segmentation fault)"
    assert (results["state"] == "COMPLETE").sum() == 6 and "is lost" not in said


def test_trials_share_a_gpu_of_a_node(nodes, toy):
    finish(start(toy, "--executor", "ray", "--ray-address", nodes.address, "--jobs", "3", "--trials-per-gpu", "2"))
    assert {(segment["node"], segment["gpus"]) for segment in placed(toy)} == {("a", "0")}
    assert len({segment["pid"] for segment in placed(toy)}) == 2  # the third found no place


def test_a_study_asked_to_stop_keeps_what_it_has_and_goes_on_later(nodes, toy, at_home):
    options = ("--executor", "ray", "--ray-address", nodes.address, "--jobs", "2")
    process = start(toy, *options)
    until(lambda: placed(toy), process)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in finish(process, expect=130)
    assert 0 < len(list((toy / ".ablate" / "cache" / "record").glob("*/*"))) < len(tables(at_home)[1])
    finish(start(toy, *options))
    require_same(toy, at_home)


def test_a_trial_past_its_time_limit_is_ended_on_its_node(nodes, toy):
    (toy / "hang-on-a").touch()
    (toy / "hang-on-b").touch()
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address, "--time-limit", "2s", "--seeds", "1"), expect=1)
    assert "FAILED reference--s0: TimeLimit: ran past its limit of 2" in said
    until(lambda: not any(is_alive(segment["pid"]) for segment in placed(toy)))


def test_a_project_folder_that_the_nodes_do_not_see_is_refused(nodes, toy):
    """This process has mounted it, and they have not."""
    private = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    mount = 'mount -t tmpfs none "$1" && cp "$0"/*.* "$1" && cd "$1" && shift && exec "$@"'
    if subprocess.run([*private, f"mount -t tmpfs none {toy}"], capture_output=True).returncode:
        pytest.skip("this system lets no process mount a folder for itself")
    (toy.parent / "mounted").mkdir()
    prefix = (*private, mount, str(toy), str(toy.parent / "mounted"))
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address, prefix=prefix), expect=2)
    assert said.count(f"sees another folder at {toy.parent / 'mounted'}; the project folder must be on storage that all nodes mount") == 2
    assert placed(toy) == []


def test_workers_are_kept_from_nodes_that_turn_out_unfit(nodes, tmp_path):
    """As those that join later may."""
    from ablation.on_ray.cluster import Share, connected, site_of

    said: list[str] = []
    with connected(nodes.address), site_of(tmp_path, {}) as site:
        from ablation.on_ray.workers import RayWorkers

        with RayWorkers(1, Share(1), site._replace(mark=f"{site.mark}-elsewhere"), (), said.append) as workers:
            until(lambda: (workers.idle(), workers.wait(0.1)) and len(said) == 3)
            assert workers.idle() is None and workers.busy() == []
    assert all(f"is not used: it sees another folder at {tmp_path}" in text for text in said)


def test_a_record_that_is_not_seen_yet_is_kept_as_the_worker_told_it(tmp_path):
    from ablation.on_ray.workers import require_record
    from ablation.store import DiskStore

    store, record = DiskStore(tmp_path), {"seconds": 2.0, "metrics": {"top1": 1.0}}
    require_record(store, {"key": "k" * 32, "record": record})
    require_record(store, {"key": "k" * 32, "record": {"seconds": 9.0}})  # it is there
    assert store.record("k" * 32) == record
    assert [entry.seconds for entry in store.entries()] == [2.0]


def test_a_worker_that_fits_no_node_is_refused(nodes, toy):
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address, "--cpus-per-trial", "3"), expect=2)
    assert "no node of the cluster has 3 CPUs for a worker; together they have 3 CPUs and 1 GPUs" in said
    assert not (toy / "runs").exists()
