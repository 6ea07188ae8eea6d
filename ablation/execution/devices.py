"""Which GPUs a study's workers share. The system is asked: the harness never imports torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from typing import NamedTuple

from ablation.errors import InputError, Problem, nearest

# The networks here fill a GPU with four trials; more cost memory and start-up.
TRIALS_PER_GPU = 4


class GpuPlacement(NamedTuple):
    """The number of workers, and the GPUs that are assigned to them in turn."""

    jobs: int
    # []: workers see what the study's process sees
    gpus: list[str]


def share_gpus(
    devices: Collection[str],
    gpus: str | None,
    trials_per_gpu: int | None,
    jobs: int | None,
    n_processors: int,
) -> GpuPlacement:
    """The placement that the options ask for.

    devices: of the trials; "cpu", "cuda", or "" where a trial's settings do not tell. Raises
    InputError for a GPU that is not there, or options that fit no trial.
    """
    refuse_without_gpu(devices, gpus, trials_per_gpu)
    if "cuda" not in devices and gpus is None and trials_per_gpu is None:
        return GpuPlacement(jobs or n_processors, [])
    known = visible_gpus()
    chosen = known if gpus is None else _listed(gpus)
    if gpus is not None and not chosen:
        raise InputError([Problem("--gpus", gpus, "names no GPU")])
    absent = [name for name in chosen if name not in known]
    if absent:
        hints = [nearest(name, known) if known else "no GPU is seen here" for name in absent]
        raise InputError(
            Problem("--gpus", name, f"there is no such GPU; {hint}")
            for name, hint in zip(absent, hints, strict=True)
        )
    n_places = (trials_per_gpu or TRIALS_PER_GPU) * max(len(chosen), 1)
    if trials_per_gpu is None:
        return GpuPlacement(jobs or min(n_processors, n_places), chosen)
    if chosen and jobs is not None and jobs > n_places:
        message = f"are more than {trials_per_gpu} on each of {len(chosen)} GPUs (--trials-per-gpu)"
        raise InputError([Problem("--jobs", str(jobs), message)])
    return GpuPlacement(jobs or n_places, chosen)


def refuse_without_gpu(
    devices: Collection[str], gpus: str | None, trials_per_gpu: int | None
) -> None:
    """Raise InputError if options on GPUs are given for trials none of which is on one."""
    asked = {"--gpus": gpus, "--trials-per-gpu": trials_per_gpu}
    message = "no trial of this study is on a GPU; see the setting 'device'"
    problems = [
        Problem(option, str(value), message) for option, value in asked.items() if value is not None
    ]
    if problems and set(devices) == {"cpu"}:
        raise InputError(problems)


def only(gpu: str) -> dict[str, str]:
    """Variables of a process that sees one GPU alone: by the name that it has in `visible_gpus`."""
    # CUDA counts from the fastest, nvidia-smi by the bus; the names of a variable that chooses are
    # already CUDA's
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**order, "CUDA_VISIBLE_DEVICES": gpu}


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; [] if not known."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return _listed(allowed)
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        told = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return told.split()


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
