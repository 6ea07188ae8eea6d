"""The shortest study that two hosts share, through a PostgreSQL server where there is one to start."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chains_project import Project  # noqa: E402
from hosts import Host, twice  # noqa: E402


@pytest.fixture(scope="module")
def hosts(cluster, tmp_path_factory) -> list[Host]:
    """Two, that have run a study together; the second has the code to ablate and nothing else."""
    storage, root = cluster.database(), tmp_path_factory.mktemp("shared")
    made = [Host(root / f"host{i}", [], storage, "", pause=0.2, seeds=1) for i in range(2)]
    for name in ("chains.yaml", "chains.grid.yaml"):
        (made[1].root / name).unlink()
    begun = made[0].start("--offline")
    while not (made[0].root / "runs" / "chains" / "study.json").exists():
        assert begun.poll() is None, made[0].said
    made[1].run("--offline")
    made[0].end(begun)
    return made


def test_two_hosts_train_every_epoch_once_and_have_the_results_of_one(hosts, tmp_path):
    alone = Project(tmp_path, pause=0.0, seeds=1)
    alone.run("--offline")
    assert hosts[0].tables() == hosts[1].tables() == alone.tables()
    assert not twice(*hosts) and len(set(hosts[0].trained() + hosts[1].trained())) == alone.n_records()


def test_a_host_that_comes_when_all_is_done_says_so(hosts):
    assert "nothing to train: all 4 trials of chains are there already" in hosts[1].run("--offline")


def test_hosts_can_start_in_one_folder_if_they_keep_their_files_apart(hosts):
    here = {path.name for path in hosts[1].root.iterdir()}
    said = hosts[1].run("--offline", "--folder", "apart")
    assert "0 epochs trained" in said or "nothing to train" in said
    assert (hosts[1].root / "apart" / "reports" / "chains" / "results.csv").exists()
    assert {path.name for path in hosts[1].root.iterdir()} == here | {"apart"}


def test_a_host_with_other_code_is_refused_before_it_trains_anything(hosts, tmp_path):
    other = Host(tmp_path, [], hosts[0].storage, "")
    (other.root / "chains.grid.yaml").unlink()
    code = (other.root / "chains.py").read_text()
    (other.root / "chains.py").write_text(code.replace('f"seed {seed}"', 'f"another seed {seed}"').replace("return {}", 'return {"source_fingerprint": "x"}'))
    said = other.run(expect=2)
    assert "chains: source_fingerprint: None where the study was begun, x here" in said and not (other.root / "runs" / "chains").exists()


@pytest.mark.parametrize(
    "storage, study, said",
    [
        ("", "chains", "--storage: is missing"),
        ("here", "chians", "--study: chians: no such study at postgresql+psycopg://***@127.0.0.1"),
        ("nonsense", "chains", "--storage: nonsense: is no database URL"),
    ],
)
def test_a_worker_that_cannot_find_the_study_says_why(hosts, tmp_path, storage, study, said):
    host = Host(tmp_path, [], hosts[0].storage if storage == "here" else storage, "")
    (host.root / "chains.grid.yaml").unlink()
    told = host.run(expect=2, study=study)
    assert said in told and "s3cret" not in told and "Traceback" not in told
