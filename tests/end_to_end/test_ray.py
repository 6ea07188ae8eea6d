"""Studies on a Ray cluster of three nodes in separate folders: workers are placed, lost and replaced. `pytest -m ray`.

The nodes are processes of this machine, with caches of their own; where the system lets a process mount a folder for itself
alone, the project's folder is one that no node sees.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.ray]
pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from chains_project import recorded  # noqa: E402
from test_study import EXPERIMENT  # noqa: E402

UNIT = ROOT / "tests" / "unit"
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

CORE_FACTORS = """
seeds: 1
factors:
  lr_split: {off: {optim.lr.encoder: 1.0e-3}, on: {optim.lr.encoder: 1.0e-5}}
baselines: [ldmlr]
"""

# A toy whose segments say where they run. A file named after what is to happen to a node or a trial makes it happen. These
# files are in a folder that all nodes see, which is no part of the project.
SUBJECT = """
import json, os, signal, time
from pathlib import Path
from toy_subject import Toy

SEEN = Path("@SEEN@")
HERE = {"node": os.environ.get("NODE"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}

class Placed(Toy):
    def chain(self, settings, seed, records):
        links = super().chain(settings, seed, records)
        is_other = HERE["node"] and (SEEN / f"unlike-{HERE['node']}").exists()
        return [link._replace(key=f"other {link.key}") for link in links] if is_other else links

    def advance(self, settings, seed, until, store, report):
        with open(SEEN / "placed.jsonl", "a") as file:
            file.write(json.dumps({**HERE, "until": until}) + "\\n")
        if settings["rate"] == 2 and seed == 1 and "2" in until and (SEEN / "crash").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        if HERE["node"] and (SEEN / f"hang-on-{HERE['node']}").exists():
            time.sleep(600)
        time.sleep(0.5 if HERE["node"] else 0.0)  # so that no node does all
        super().advance(settings, seed, until, store, report)
        print("ended", until, flush=True)

SUBJECT = Placed({0: 1, 1: 2})
"""


class Nodes:
    """A head that runs no worker, node `a` with two CPUs and a GPU, or so it says, and node `b` with one CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, []
        from ray.cluster_utils import Cluster

        light = {
            "include_dashboard": False,
            "no_monitor": True,
            "_system_config": {"enable_worker_prestart": False},
        }
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, **NODE, **light}
        )
        self.a = self._add("a", num_cpus=2, num_gpus=1)
        self.b = self._add("b", num_cpus=1)
        self.address = self.cluster.address

    def lose_b(self, kill: bool) -> None:
        self.cluster.remove_node(self.b, allow_graceful=not kill)

    def restore_b(self) -> None:
        self.b = self._add("b", num_cpus=1)

    def _add(self, name: str, **resources: int):
        """With a folder of its own for all that Ray keeps on a node: of two that share one, the later replaces the code."""
        self.temporary.append(tempfile.TemporaryDirectory(prefix="ray-"))
        (self.folder / "tmp").mkdir(exist_ok=True)
        own = {
            "temp_dir": self.temporary[-1].name,
            "env_vars": {
                "NODE": name,
                "ABLATE_NODE_CACHE": str(self.folder / name),
                "TMPDIR": str(self.folder / "tmp"),
            },
        }
        return self.cluster.add_node(**own, **NODE, **resources)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT), str(UNIT)])
        )  # the nodes have the package, and the toy
        nodes = Nodes(tmp_path_factory.mktemp("nodes"))
        yield nodes
        nodes.cluster.shutdown()
        for folder in nodes.temporary:
            folder.cleanup()


def start(
    folder: Path, *options: str, prefix: tuple[str, ...] = (), **variables: str
) -> subprocess.Popen:
    command = [
        *prefix,
        sys.executable,
        "-P",
        "-m",
        "ablation",
        "run",
        "--grid",
        "grid.yaml",
        "--offline",
        *options,
    ]
    environment = {
        key: text
        for key, text in os.environ.items()
        if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "NODE")
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(UNIT), environment.get("PYTHONPATH")])),
        "COLUMNS": "200",
        **variables,
    }
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, expect: int = 0) -> str:
    said = process.communicate(timeout=240)[0]
    assert process.returncode == expect, said
    return said


def project(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "grid.yaml").write_text(GRID)
    (folder / "nothing.yaml").write_text("title: Nothing\nsubject: placed:SUBJECT\n")
    (folder.parent / "seen").mkdir(exist_ok=True)
    (folder / "placed.py").write_text(SUBJECT.replace("@SEEN@", str(folder.parent / "seen")))
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
    path = folder.parent / "seen" / "placed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tables(folder: Path) -> list[pd.DataFrame]:
    """results.csv and history.csv, timings aside."""
    found = [
        pd.read_csv(folder / "reports" / "toy" / f"{name}.csv") for name in ("results", "history")
    ]
    return [
        table.drop(columns=["wall_seconds", "seconds", "time"], errors="ignore") for table in found
    ]


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


def left_on(nodes: Nodes) -> list[Path]:
    """What workers keep on their nodes while they live."""
    return list((nodes.folder / "tmp").glob("ablate-*"))


def test_a_study_on_a_cluster_leaves_what_it_leaves_on_this_machine(nodes, toy, at_home):
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address))
    require_same(toy, at_home)
    assert {segment["node"] for segment in placed(toy)} == {"a", "b"}
    n_epochs = len(recorded(toy))
    assert f"{n_epochs} epochs trained, 0 reused" in said  # none of them twice
    # but for a line every ten seconds: one per trial, the count of epochs, what the study comes to
    # in three, the report, the commands that show more; Ray says nothing
    lines = [line for line in said.splitlines() if "/8 trials" not in line]
    assert len(lines) == 8 + 1 + 3 + 1 + 1, said
    logs = {
        path.parent.name: path.read_text() for path in (toy / "runs" / "toy").glob("*/stdout.log")
    }
    assert sum(text.count("ended ") for text in logs.values()) == len(
        placed(toy)
    )  # what trials print is in their logs here
    assert not list(nodes.folder.glob("*/record/*/*"))  # which the driver alone keeps
    until(lambda: not left_on(nodes))


def test_a_node_lost_in_the_middle_fails_no_trial_and_its_segment_is_run_again(nodes, toy, at_home):
    (toy.parent / "seen" / "hang-on-b").touch()
    process = start(toy, "--executor", "ray", "--ray-address", nodes.address)
    until(lambda: any(segment["node"] == "b" for segment in placed(toy)), process)
    assert left_on(nodes)
    nodes.lose_b(kill=True)
    try:
        said = finish(process)
    finally:
        nodes.restore_b()
    require_same(toy, at_home)
    lost = [segment for segment in placed(toy) if segment["node"] == "b"]
    assert len(lost) == 1 and lost[0]["until"] in [
        segment["until"] for segment in placed(toy) if segment["node"] == "a"
    ]
    assert "a worker on node" in said and "is lost, and what it did is done again" in said
    until(lambda: not is_alive(lost[0]["pid"]))


def test_a_node_that_joins_is_used(nodes, toy, at_home):
    nodes.lose_b(kill=False)
    (toy.parent / "seen" / "hang-on-a").touch()
    process = start(
        toy, "--executor", "ray", "--ray-address", nodes.address, "--jobs", "3", "--seeds", "3"
    )  # a first segment each
    until(lambda: len(placed(toy)) == 2, process)
    nodes.restore_b()
    until(lambda: any(segment["node"] == "b" for segment in placed(toy)), process)
    (toy.parent / "seen" / "hang-on-a").unlink()
    process.kill()
    process.communicate()
    until(
        lambda: not any(is_alive(segment["pid"]) for segment in placed(toy))
    )  # nor do workers outlive the study
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address, "--jobs", "12"))
    assert "the cluster has room for 3 of 8 workers" in said
    require_same(toy, at_home)


def test_a_trial_that_crashes_its_process_fails_and_the_others_go_on(nodes, toy):
    (toy.parent / "seen" / "crash").touch()
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address), expect=1)
    results = tables(toy)[0].set_index("trial")
    assert set(results[results["state"] == "FAILED"].index) == {
        "rate=fast--s1",
        "warmup=settling+rate=fast--s1",
    }
    assert (
        results.loc["rate=fast--s1", "error"]
        == "WorkerDied: the worker process ended: killed by signal 11 (Segmentation fault)"
    )
    assert (results["state"] == "COMPLETE").sum() == 6 and "is lost" not in said


def test_trials_share_a_gpu_of_a_node(nodes, toy):
    finish(
        start(
            toy,
            "--executor",
            "ray",
            "--ray-address",
            nodes.address,
            "--jobs",
            "3",
            "--trials-per-gpu",
            "2",
        )
    )
    assert {(segment["node"], segment["gpus"]) for segment in placed(toy)} == {("a", "0")}
    assert len({segment["pid"] for segment in placed(toy)}) == 2  # the third found no place


def test_a_study_asked_to_stop_keeps_what_it_has_and_goes_on_later(nodes, toy, at_home):
    options = ("--executor", "ray", "--ray-address", nodes.address, "--jobs", "2")
    process = start(toy, *options)
    until(lambda: placed(toy), process)
    process.send_signal(signal.SIGTERM)
    assert "the same command continues" in finish(process, expect=130)
    assert 0 < len(recorded(toy)) < len(tables(at_home)[1])
    finish(start(toy, *options))
    require_same(toy, at_home)


def test_a_trial_past_its_time_limit_is_ended_on_its_node(nodes, toy):
    (toy.parent / "seen" / "hang-on-a").touch()
    (toy.parent / "seen" / "hang-on-b").touch()
    said = finish(
        start(
            toy,
            "--executor",
            "ray",
            "--ray-address",
            nodes.address,
            "--time-limit",
            "2s",
            "--seeds",
            "1",
        ),
        expect=1,
    )
    assert "FAILED reference--s0: TimeLimit: ran past its limit of 2" in said
    until(lambda: not any(is_alive(segment["pid"]) for segment in placed(toy)))


def test_a_project_folder_that_no_node_sees_does(nodes, toy, at_home):
    """This process has mounted it, and the nodes have not. Code, records and checkpoints travel."""
    private = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    if subprocess.run([*private, f"mount -t tmpfs none {toy}"], capture_output=True).returncode:
        pytest.skip("this system lets no process mount a folder for itself")
    hidden = toy.parent / "mounted"
    hidden.mkdir()
    mount = 'mount -t tmpfs none "$1" && cp "$0"/*.* "$1" && cd "$1" && shift && "$@" && cp -r reports "$OUT"'
    said = finish(
        start(
            toy,
            "--executor",
            "ray",
            "--ray-address",
            nodes.address,
            prefix=(*private, mount, str(toy), str(hidden)),
            OUT=str(toy),
        )
    )
    require_same(toy, at_home)
    assert list(hidden.iterdir()) == [] and {segment["node"] for segment in placed(toy)} == {
        "a",
        "b",
    }, said


def test_a_driver_that_is_killed_goes_on_by_the_same_command(nodes, toy, at_home):
    process = start(toy, "--executor", "ray", "--ray-address", nodes.address)
    until(lambda: len(recorded(toy)) > 5, process)
    process.kill()
    process.communicate()
    until(lambda: not any(is_alive(segment["pid"]) for segment in placed(toy)))
    until(lambda: not left_on(nodes))
    # what a process leaves that is killed while it writes: no epoch
    (recorded(toy)[0].parent / ".unfinished").touch()
    n_before = len(recorded(toy))
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address))
    n_epochs = len(recorded(toy))
    found = re.search(r"(\d+) epochs trained, (\d+) reused", said)
    n_trained, n_reused = int(found[1]), int(found[2])
    assert n_reused == n_before
    # Each once, but for what the three workers had recorded after their last checkpoints.
    assert 0 <= n_trained - (n_epochs - n_before) <= 3
    require_same(toy, at_home)


def test_a_node_that_would_not_compute_the_same_is_named_and_not_used(nodes, toy, at_home):
    """Its data are others, or it has none, or other versions: here, another file beside the project's code."""
    (toy.parent / "seen" / "unlike-b").touch()
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address))
    assert re.search(
        r"node \S+ \(\S+\) is not used: it has other data, or other source of what is ablated, than the plan",
        said,
    ), said
    require_same(toy, at_home)
    assert {segment["node"] for segment in placed(toy)} == {"a"}


def test_where_no_node_is_fit_nothing_is_run(nodes, toy):
    for name in "ab":
        (toy.parent / "seen" / f"unlike-{name}").touch()
    said = finish(start(toy, "--executor", "ray", "--ray-address", nodes.address), expect=2)
    assert said.count("has other data, or other source of what is ablated, than the plan") == 2
    assert placed(toy) == [] and not (toy / "runs").exists()


def test_workers_are_kept_from_nodes_that_turn_out_unfit(nodes):
    """As those that join later may."""
    from ablation.execution.ray_driver import RayNodes, WorkerResources, connected
    from ablation.execution.ray_node import NodeSetup
    from ablation.execution.workers import Workers

    said: list[str] = []
    site = NodeSetup(
        json.dumps(
            {"subject": "nowhere:train", "settings": {}, "seed": 0, "key": "", "versions": {}}
        ),
        "",
        False,
    )
    with (
        connected(nodes.address, None),
        Workers(1, backend := RayNodes(1, WorkerResources(1), site, (), said.append)) as workers,
    ):
        until(lambda: (workers.idle(), workers.wait(0.1)) and len(backend.unfit) == 3)
        assert workers.idle() is None and workers.busy() == []
    assert (
        len(said) == 1 and "is not used: it cannot load the subject" in said[0]
    )  # one, since all are called alike


def test_a_function_and_what_it_imports_of_the_project_are_brought_to_the_nodes(nodes, tmp_path):
    for name in ("here", "there"):
        folder = project(tmp_path / name)
        (folder / "nothing.yaml").write_text("title: Nothing\nsubject: trained:train\n")
        (folder / "trained.py").write_text(
            "import os\nfrom mine import scaled\n\ndef train(config, seed, report):\n    print('on', os.environ.get('NODE'))\n"
            "    report(1, {'top1': 0.5})\n    return {'top1': scaled(config['rate'], seed)}\n"
        )
        (folder / "mine.py").write_text("def scaled(rate, seed):\n    return rate / 3 + seed\n")
        for runs in ("data", "runs"):  # what is no code stays where it is
            (folder / runs).mkdir()
            (folder / runs / "large").write_bytes(b"x" * 2**20)
    finish(start(tmp_path / "here", "--jobs", "2"))
    finish(start(tmp_path / "there", "--executor", "ray", "--ray-address", nodes.address))
    require_same(tmp_path / "there", tmp_path / "here")
    logs = [path.read_text() for path in (tmp_path / "there" / "runs" / "toy").glob("*/stdout.log")]
    assert len(logs) == 8 and set(logs) <= {"on a\n", "on b\n"}


def test_core_trains_the_same_bits_on_nodes_and_here(nodes, tmp_path):
    grid = (
        GRID[: GRID.index("seeds")].replace("nothing", "tiny-digits").replace("top1", "test/top1")
        + CORE_FACTORS
    )
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "grid.yaml").write_text(grid)
        (folder / "tiny-digits.yaml").write_text(EXPERIMENT)
    finish(start(tmp_path / "here", "--jobs", "2"))
    finish(start(tmp_path / "there", "--executor", "ray", "--ray-address", nodes.address))
    require_same(tmp_path / "there", tmp_path / "here")
    assert list(nodes.folder.glob("*/state/*/*"))  # checkpoints that a node keeps


def test_a_worker_that_fits_no_node_is_refused(nodes, toy):
    said = finish(
        start(toy, "--executor", "ray", "--ray-address", nodes.address, "--cpus-per-trial", "3"),
        expect=2,
    )
    assert (
        "no node of the cluster has 3 CPUs for a worker; together they have 3 CPUs and 1 GPUs"
        in said
    )
    assert not (toy / "runs").exists()
