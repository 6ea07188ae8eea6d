"""GPUs are shared out evenly to workers, and what cannot be is refused by name."""

from pathlib import Path

import pytest

from ablation.errors import InputError
from ablation.execution.workers import LocalProcesses, Workers
from ablation.storage.runs import failure
from ablation.study import placement
from ablation.study.placement import GpuPlacement, share_gpus, visible_gpus


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3")


@pytest.mark.parametrize(
    ("which", "gpus", "per_gpu", "jobs", "shared"),
    [
        ({"cpu"}, None, None, None, GpuPlacement(16, [])),
        ({"cpu"}, None, None, 3, GpuPlacement(3, [])),
        ({"", "cpu"}, None, None, None, GpuPlacement(16, [])),  # settings do not tell, nobody asks
        ({"cuda"}, None, None, None, GpuPlacement(8, ["0", "3"])),  # four to each
        ({"cuda", "cpu"}, "3", None, None, GpuPlacement(4, ["3"])),
        ({"cuda"}, None, 1, None, GpuPlacement(2, ["0", "3"])),
        (
            {"cuda"},
            None,
            20,
            None,
            GpuPlacement(40, ["0", "3"]),
        ),  # asked for, so not bounded by the processors
        ({"cuda"}, "0,3", 2, 3, GpuPlacement(3, ["0", "3"])),
        ({""}, "0", 2, None, GpuPlacement(2, ["0"])),
    ],
)
def test_options_come_to_so_many_workers_on_these_gpus(which, gpus, per_gpu, jobs, shared):
    assert share_gpus(which, gpus, per_gpu, jobs, 16) == shared


def test_few_processors_bound_the_workers_that_nobody_asked_for():
    assert share_gpus({"cuda"}, None, None, None, 2) == GpuPlacement(2, ["0", "3"])


@pytest.mark.parametrize(
    ("which", "gpus", "per_gpu", "jobs", "said"),
    [
        ({"cpu"}, "0", None, None, "--gpus: 0: no trial of this study is on a GPU"),
        ({"cpu"}, None, 2, None, "--trials-per-gpu: 2: no trial"),
        ({"cuda"}, "0,1", None, None, "--gpus: 1: there is no such GPU; choose from 0, 3"),
        ({"cuda"}, ",", None, None, "--gpus: ,: names no GPU"),
        ({"cuda"}, None, 2, 5, "--jobs: 5: are more than 2 on each of 2 GPUs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(which, gpus, per_gpu, jobs, said):
    with pytest.raises(InputError) as refused:
        share_gpus(which, gpus, per_gpu, jobs, 16)
    assert said in str(refused.value)


def test_gpus_are_those_that_the_driver_lists_where_no_variable_chooses(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(placement.subprocess, "check_output", lambda *_, **__: "0\n1\n")
    assert visible_gpus() == ["0", "1"]


def test_a_machine_without_a_driver_has_none(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []


def variables(worker) -> dict[str, str]:
    # empty while the system is still starting it
    while not (text := Path(f"/proc/{worker.process.pid}/environ").read_text()):
        pass
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


@pytest.mark.parametrize(("allowed", "order"), [(None, "PCI_BUS_ID"), ("0,3", "FASTEST_FIRST")])
def test_a_worker_counts_gpus_as_they_were_counted_when_it_was_given_one(
    monkeypatch, allowed, order
):
    """By the bus, as nvidia-smi does, unless a variable has chosen among them as CUDA counts."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    with Workers(1, LocalProcesses(["3"])) as workers:
        seen = variables(workers.idle())
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == ("3", order)


def test_workers_are_given_gpus_in_turn_and_a_dead_one_s_goes_to_the_next():
    def gpu_of(worker) -> str:
        return variables(worker)["CUDA_VISIBLE_DEVICES"]

    with Workers(3, LocalProcesses(["0", "3"])) as workers:
        crew = []
        for _ in range(3):
            worker = workers.idle()
            worker.task = "busy"
            crew.append(worker)
        assert [gpu_of(worker) for worker in crew] == ["0", "3", "0"] and workers.idle() is None
        crew[1].kill(failure("TimeLimit", "planted"))
        events = []
        while not events:
            events = workers.wait(5)
        assert [(event.worker, event.message.error["type"]) for event in events] == [
            (crew[1], "TimeLimit")
        ]
        assert gpu_of(workers.idle()) == "3"
