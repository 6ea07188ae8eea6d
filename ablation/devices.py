"""Which GPUs a study's workers share. Asked of the system, since the harness never loads torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from typing import NamedTuple

from ablation.errors import InputError, Problem, nearest

TRIALS_PER_GPU = (
    4  # of the networks here: they fill a GPU, and four processes' memory and start-up are bearable
)


class Shared(NamedTuple):
    """How many workers there are, and the GPUs that they are given in turn."""

    jobs: int
    gpus: list[str]  # []: workers see what the study's process sees


def share_gpus(
    devices: Collection[str],
    gpus: str | None,
    trials_per_gpu: int | None,
    jobs: int | None,
    n_processors: int,
) -> Shared:
    """What the options come to, for trials on these `devices` ("cpu", "cuda", "" where a trial's settings do not tell).

    Raises InputError for a GPU that is not there, or options that fit no trial.
    """
    refuse_without_gpu(devices, gpus, trials_per_gpu)
    if "cuda" not in devices and gpus is None and trials_per_gpu is None:
        return Shared(jobs or n_processors, [])
    known = visible_gpus()
    chosen = known if gpus is None else [name.strip() for name in gpus.split(",") if name.strip()]
    problems = [
        Problem(
            "--gpus",
            name,
            f"there is no such GPU; {nearest(name, known) if known else 'no GPU is seen here'}",
        )
        for name in chosen
        if name not in known
    ]
    if problems or (gpus is not None and not chosen):
        raise InputError(problems or [Problem("--gpus", gpus, "names no GPU")])
    if (
        trials_per_gpu is not None
        and jobs is not None
        and chosen
        and jobs > trials_per_gpu * len(chosen)
    ):
        raise InputError(
            [
                Problem(
                    "--jobs",
                    str(jobs),
                    f"are more than {trials_per_gpu} on each of {len(chosen)} GPUs (--trials-per-gpu)",
                )
            ]
        )
    most = (trials_per_gpu or TRIALS_PER_GPU) * max(len(chosen), 1)
    return Shared(jobs or (most if trials_per_gpu is not None else min(n_processors, most)), chosen)


def refuse_without_gpu(
    devices: Collection[str], gpus: str | None, trials_per_gpu: int | None
) -> None:
    """Raise InputError if options on GPUs are given for trials none of which is on one."""
    asked = [
        (option, value)
        for option, value in (("--gpus", gpus), ("--trials-per-gpu", trials_per_gpu))
        if value is not None
    ]
    if asked and set(devices) == {"cpu"}:
        raise InputError(
            [
                Problem(
                    option,
                    str(value),
                    "no trial of this study is on a GPU; see the setting 'device'",
                )
                for option, value in asked
            ]
        )


def only(gpu: str) -> dict[str, str]:
    """Variables of a process that sees one GPU alone: by the name that it has in `visible_gpus`."""
    # CUDA counts from the fastest, nvidia-smi by the bus; the names of a variable that chooses are already CUDA's
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**order, "CUDA_VISIBLE_DEVICES": gpu}


def visible_gpus() -> list[str]:
    """Names, as CUDA_VISIBLE_DEVICES takes them, of the GPUs that this process may use; [] if none can be told."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip()]
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return told.stdout.split()
