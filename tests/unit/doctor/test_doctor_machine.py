"""What the doctor says of the machine: Python, packages, disk, clock, torch, devices, and whether it computes the same twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ablation.doctor import machine as doctor_machine
from ablation.doctor.machine import determinism, machine_checks, required
from ablation.storage.cache import DiskStore
from ablation.storage.project import ProjectPaths

ROOT = Path(__file__).parents[3]


def looked(root, name: str):
    return next(check for check in machine_checks(ProjectPaths(root)) if check.name == name).look()


def test_bounds_are_those_of_setup_cfg_and_of_the_distribution_where_there_is_none(
    tmp_path, monkeypatch
):
    python, packages = required()
    assert python == ">=3.11" and {"torch", "mlflow", "optuna", "click"} <= {
        each.name for each in packages
    }
    monkeypatch.setattr(doctor_machine, "SETUP", tmp_path / "setup.cfg")
    python, installed = required()
    assert python == ">=3.11" and {"torch", "mlflow", "optuna", "click"} <= {
        each.name for each in installed
    }


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        ("optuna>=99", "optuna>=99 (found"),
        ("nosuchthing>=1", "nosuchthing>=1 (found none)"),
        ("click", ""),
    ],
)
def test_a_package_that_is_not_as_needed_is_named(tmp_path, monkeypatch, needed, said):
    monkeypatch.setattr(doctor_machine, "required", lambda: (">=3.11", [Requirement(needed)]))
    found = looked(tmp_path, "packages")
    assert found.is_well == (not said) and said in found.what


@pytest.mark.parametrize(("needed", "is_well"), [(">=3.11", True), (">=99", False)])
def test_python_is_as_needed_or_not(tmp_path, monkeypatch, needed, is_well):
    monkeypatch.setattr(doctor_machine, "required", lambda: (needed, []))
    assert looked(tmp_path, "Python").is_well == is_well


def test_this_machine_can_be_looked_at(tmp_path):
    for name in ("processors", "memory", "disk", "write access", "clock"):
        assert looked(tmp_path, name).what


def test_little_disk_and_little_memory_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_machine, "LITTLE_DISK", 10**18)
    monkeypatch.setattr(doctor_machine, "LITTLE_MEMORY", 10**18)
    assert not looked(tmp_path, "disk").is_well
    assert not looked(tmp_path, "memory").is_well


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    found = looked(tmp_path, "write access")
    assert not found.is_well and "runs: is a file, and a folder is needed" in found.what


def test_files_of_the_future_tell_that_the_clock_was_set_back(tmp_path):
    file = tmp_path / "runs" / "fixes" / "study.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert looked(tmp_path, "clock").is_well
    os.utime(file, (time.time() + 3600,) * 2)
    found = looked(tmp_path, "clock")
    assert not found.is_well and "runs/fixes/study.json" in found.what


def test_a_file_system_whose_clock_is_another_is_found(tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(doctor_machine.time, "time", lambda: now - 60)
    found = looked(tmp_path, "clock")
    assert not found.is_well and "+60 s off" in found.what


def test_a_database_is_named_without_loading_mlflow():
    code = "import sys; from ablation.doctor.files import place; print(place('http://me:secret@host/'), 'mlflow' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert said == "http://***@host/ False\n"


@pytest.fixture
def python(monkeypatch):
    """Let another Python answer."""

    def answers(
        stdout: str = "", stderr: str = "", code: int = 0, does=lambda *arguments: None
    ) -> None:
        def run(source: str, *arguments: str):
            does(*arguments)
            return subprocess.CompletedProcess([], code, stdout, stderr)

        monkeypatch.setattr(doctor_machine, "_run_python", run)

    doctor_machine._probed.cache_clear()
    yield answers
    doctor_machine._probed.cache_clear()


def said(name: str):
    return next(
        check for check in machine_checks(ProjectPaths(Path())) if check.name == name
    ).look()


def test_devices_are_listed_with_their_memory(python):
    python(
        json.dumps(
            {
                "version": "2.11.0",
                "cuda": "13.0",
                "devices": [["NVIDIA H100", 85 * 10**9], ["NVIDIA L4", 24 * 10**9]],
            }
        )
    )
    assert said("torch").what == "2.11.0, for CUDA 13.0"
    assert said("devices").what == "cuda:0 NVIDIA H100, 85.0 GB, cuda:1 NVIDIA L4, 24.0 GB"


def test_a_torch_that_cannot_be_imported_is_found_and_the_rest_is_still_looked_at(python):
    python(
        stderr="Traceback ...\nImportError: libcudart.so.13: cannot open shared object file\n",
        code=1,
    )
    assert not said("torch").is_well and said("torch").what.endswith(
        "libcudart.so.13: cannot open shared object file"
    )
    assert said("devices").is_well
    assert (
        determinism().what
        == "a short trial failed: ImportError: libcudart.so.13: cannot open shared object file"
    )


def test_a_machine_too_slow_for_torch_is_found_and_the_rest_is_still_looked_at(python, monkeypatch):
    monkeypatch.setattr(doctor_machine, "TIMEOUT_SECONDS", 0.001)
    assert (
        said("torch").what == "cannot be imported: it took more than 0.001 s"
        and not said("torch").is_well
    )
    assert said("devices").is_well
    assert said("determinism").what == "a short trial failed: it took more than 0.001 s"


def leave(other: dict, **record):
    """A trial that leaves a record and a checkpoint; the second one otherwise."""
    stores = []

    def trial(settings: str, root: str) -> None:
        stores.append(DiskStore(Path(root)))
        differs = other if len(stores) == 2 else {}
        stores[-1].save(
            "record",
            "ab12",
            json.dumps(
                {"epoch": 1, "seconds": len(stores), "metrics": {"loss": 0.5}}
                | differs.get("record", {})
            ).encode(),
            len(stores),
        )
        stores[-1].save(
            "state", differs.get("key", "ab12"), differs.get("state", b"weights"), len(stores)
        )

    return trial


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({}, ""),
        ({"record": {"metrics": {"loss": 0.5000001}}}, "1: record ab12"),
        ({"state": b"weight5"}, "1: state ab12"),
        ({"key": "ab13"}, "2: state ab12, state ab13"),
    ],
)
def test_two_runs_of_a_trial_that_differ_in_anything_but_time_are_found(python, other, named):
    python(does=leave(other))
    found = determinism()
    assert found.is_well == (not named) and named in found.what


@pytest.mark.slow
def test_this_machine_computes_the_same_twice():
    found = determinism()
    assert found.is_well, found.what
    assert (
        found.what
        == "a short trial, run twice, left the same 5 records and tables and 3 checkpoints"
    )
