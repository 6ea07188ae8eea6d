"""A study on several hosts: folders of their own, a PostgreSQL server and an MLflow server between them. `pytest -m postgres`.

Each host is in a network namespace of its own where the machine lets the test make them.
"""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import postgresql
import pytest
from mlflow import MlflowClient

from ablation.ledger import read_trials, studies_of
from ablation.ledger_storage import open_storage
from ablation.runs import RunFolder
from ablation.shared_database import storage_url

sys.path.insert(0, str(Path(__file__).parent))
from chains import WARMUP, Chains  # noqa: E402
from chains_project import WAIT_SECONDS, Project, kill, workers_of  # noqa: E402
from hosts import Host, twice  # noqa: E402
from mlflow_server import MlflowServer  # noqa: E402
from network import Network  # noqa: E402
from test_study import EXPERIMENT  # noqa: E402

pytestmark = pytest.mark.postgres

LEASE = ("--lease-timeout", "8")
SECRET = "s3cret"  # part of the password, however it is written
N_HOSTS = 3


@pytest.fixture(scope="module")
def network():
    with Network(N_HOSTS) as made:
        yield made


@pytest.fixture(scope="module")
def server(network):
    if postgresql.programs() is None:
        pytest.skip("needs the programs of a PostgreSQL server (Debian: postgresql), which are not here")
    with postgresql.Cluster(network.address) as running:
        yield running


@pytest.fixture(scope="module")
def tracking(network, tmp_path_factory):
    """The URI of an MLflow server, and the folder where it keeps everything."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow"), network.address) as server:
        yield server.uri, server.folder


@pytest.fixture
def hosts(tmp_path, network, server, tracking):
    """Three, of which the first has the grid; the others have the code to ablate and nothing else."""
    storage = server.database()
    made = [Host(tmp_path / f"host{i}", network.host(i), storage, tracking[0], pause=0.6, epochs=12, seeds=3) for i in range(N_HOSTS)]
    for host in made[1:]:
        (host.root / "chains.yaml").unlink()
        (host.root / "chains.grid.yaml").unlink()
    yield made
    for host in made:
        host.clear()
    client = MlflowClient(tracking[0])
    if (experiment := client.get_experiment_by_name(made[0].study)) is not None:
        client.rename_experiment(experiment.experiment_id, storage.rpartition("/")[2])  # the next test begins with nothing


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Project:
    """The same study as of `hosts`, run by one host without a storage."""
    project = Project(tmp_path_factory.mktemp("alone"), pause=0.0, epochs=12, seeds=3)
    project.run("--offline")
    return project


def assert_each_trial_is_there_once(host: Host) -> None:
    """In Optuna and in MLflow, whole, and nothing runs."""
    n_trials = len(host.states())
    with closing(open_storage(storage_url(host.storage))) as storage:
        trials = [trial for name in studies_of(host.study) for trial in read_trials(storage, name)]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * n_trials
    client = MlflowClient(host.tracking)
    runs = client.search_runs([client.get_experiment_by_name(host.study).experiment_id])
    assert Counter(run.info.status for run in runs) == {"FINISHED": n_trials + 1}
    assert len({run.data.tags.get("trial") for run in runs}) == n_trials + 1
    results = pd.read_csv(host.root / "reports" / host.study / "results.csv").set_index("trial")
    for run in runs:
        if "trial" in run.data.tags:
            assert run.data.metrics["test/top1"] == pytest.approx(results.loc[run.data.tags["trial"], "test/top1"])


def files_with(secret: str, *folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def in_storage(server, storage: str, kind: str) -> set[str]:
    return {key for key, in server.execute(f"SELECT key FROM ablate_entries WHERE kind = '{kind}'", storage.rpartition("/")[2])}


def leases(server, storage: str) -> list[tuple[str, str]]:
    """(key of a link, host that has it in hand)."""
    query = "SELECT key, host FROM ablate_leases WHERE key NOT LIKE '(%'"
    return [(key, host) for key, host in server.execute(query, storage.rpartition("/")[2])]


def segments_of(host: Host) -> list[list[str]]:
    """Keys of the epochs of each segment: warm-ups that trials share, and what each has of its own."""
    specs = RunFolder(host.root / "runs" / host.study).manifest().trials
    links = [[link.key for link in Chains().chain(spec.settings, spec.seed, None)] for spec in specs]
    return [list(keys) for keys in dict.fromkeys(tuple(keys[:WARMUP]) for keys in links)] + [keys[WARMUP:] for keys in links]


def wait_until(is_so: Callable[[], bool], host: Host, process: subprocess.Popen) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < end and process.poll() is None, host.said
        time.sleep(0.05)


def has_begun(host: Host) -> bool:
    return (host.root / "runs" / host.study / "study.json").exists()


def test_a_host_that_is_killed_in_the_middle_is_missed_by_nobody(hosts, alone, server, tracking):
    first, *others = hosts
    lost = first.start("--storage", first.storage, *LEASE)
    wait_until(lambda: has_begun(first), first, lost)
    helpers = [host.start(*LEASE) for host in others]
    segments = segments_of(first)

    def has_given_a_checkpoint_of_what_it_has_in_hand() -> bool:
        mine, given = set(first.trained()), in_storage(server, first.storage, "state")
        return any(mine & given & set(keys[:5]) and not mine & set(keys[6:]) for keys in segments[-12:])

    wait_until(lambda: all(host.trained() for host in others) and has_given_a_checkpoint_of_what_it_has_in_hand(), first, lost)
    for pid in workers_of(lost):
        assert SECRET not in Path(f"/proc/{pid}/cmdline").read_text() and SECRET not in Path(f"/proc/{pid}/environ").read_text()
    for pid in (lost.pid, *workers_of(lost)):
        kill(pid)
    records, given = (in_storage(server, first.storage, kind) for kind in ("record", "state"))
    mine = set(first.trained())
    in_hand = [keys for keys in segments if mine & set(keys) and not set(keys) <= records]
    lost.wait()
    said = [host.end(process) for host, process in zip(others, helpers)]
    assert all(" by other hosts" in text for text in said)
    for host in others:
        assert host.tables() == alone.tables()
    assert set(first.trained()) | set(others[0].trained()) | set(others[1].trained()) == {key for keys in segments for key in keys}
    may_be_trained_again = {key for keys in in_hand for key in keys[max((i + 1 for i, key in enumerate(keys) if key in given), default=0) :]}
    assert any(set(keys) & given for keys in in_hand) and twice(*hosts) <= may_be_trained_again
    assert_each_trial_is_there_once(others[0])
    assert in_storage(server, first.storage, "state") == set()  # which nobody needs any more
    assert first.run("--storage", first.storage).count("epochs trained") <= 1  # it comes back, and has everything
    assert first.tables() == alone.tables()
    assert files_with(SECRET, tracking[1], *(host.root for host in hosts)) == []


def test_a_host_whose_network_is_cut_goes_on_when_it_is_back(hosts, alone, network, server):
    if not network.is_real:
        pytest.skip("needs network namespaces, which this machine does not let one make")
    first, second, _ = hosts
    running = first.start(*LEASE)
    wait_until(lambda: has_begun(first), first, running)
    helper = second.start(*LEASE)
    wait_until(lambda: bool(second.trained()), second, helper)
    network.connect(1, False)
    had = {key for key, host in leases(server, first.storage) if f":{helper.pid}:" in host}
    assert had
    wait_until(lambda: any(key in had and f":{running.pid}:" in host for key, host in leases(server, first.storage)), first, running)
    network.connect(1, True)
    first.end(running), second.end(helper)
    assert "is not available" in second.said and "the storage answers again" in second.said
    assert first.tables() == second.tables() == alone.tables()
    assert_each_trial_is_there_once(first)


def test_a_server_that_is_restarted_is_waited_for(hosts, alone, server):
    host = hosts[0]
    running = host.start("--offline")
    wait_until(lambda: len(host.trained()) > 3, host, running)
    server.stop()
    wait_until(lambda: "is not available" in host.said, host, running)
    server.start()
    assert "the storage answers again" in host.end(running) and SECRET not in host.said
    assert host.tables() == alone.tables() and twice(host) == set()


CORE_GRID = """
study: tiny
experiment: tiny-digits
design: factorial
seeds: 1
factors:
  lr_split: {off: {optim.lr.encoder: 1.0e-3}, on: {optim.lr.encoder: 1.0e-5}}
baselines: [ldmlr]
"""


def test_core_trains_the_same_bits_on_two_hosts(tmp_path, network, server):
    storage = server.database()
    first, second, single = (
        Host(tmp_path / name, prefix, url, "")
        for name, prefix, url in [("first", network.host(0), storage), ("second", network.host(1), storage), ("single", [], "")]
    )
    for host in (first, second, single):
        (host.root / "chains.grid.yaml").unlink()
        host.study, host.jobs = "tiny", "1"
    for host in (first, single):
        (host.root / "tiny.grid.yaml").write_text(CORE_GRID)
        (host.root / "tiny-digits.yaml").write_text(EXPERIMENT)
    running = first.start("--offline")
    wait_until(lambda: has_begun(first), first, running)
    second.run("--offline")
    first.end(running)
    single.run("--offline")
    assert first.tables() == second.tables() == single.tables()
    trained = [int(re.findall(r"(\d+) epochs trained", host.said)[-1]) for host in (first, second)]  # the last line that says so
    assert sum(trained) == single.n_records()
