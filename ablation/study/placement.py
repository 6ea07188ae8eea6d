"""Choose where a study's workers run, how many, and on which GPUs, as `ablate run` is told.

The system is asked for its GPUs: the harness never imports torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ablation.errors import InputError, Problem, nearest
from ablation.execution.workers import LocalProcesses, Workers, threads_of_each
from ablation.study.opening import PlannedStudy
from ablation.subject.loading import BUILT_IN

if TYPE_CHECKING:
    from ablation.study.running import RunOptions


class Placement(NamedTuple):
    """The number of workers, and the function that starts them."""

    jobs: int
    make_workers: Callable[[int], Workers]


@contextmanager
def placement(planned: PlannedStudy, options: RunOptions) -> Iterator[Placement]:
    """Connect to the workers' machines while this lasts. Raises InputError if that fails."""
    is_on_ray = options.executor == "ray"
    given = {
        "--gpus": (options.gpus, "local; Ray gives each worker its GPU"),
        "--ray-address": (options.ray_address, "ray"),
        "--cpus-per-trial": (options.cpus_per_trial, "ray"),
    }
    problems = [
        Problem(option, str(value), f"is for --executor {executor}")
        for option, (value, executor) in given.items()
        if value is not None and executor.startswith("ray") != is_on_ray
    ]
    if is_on_ray and getattr(planned.study.subject, "keep", False):
        message = "the files that `keep` names would stay on the nodes; save them elsewhere"
        problems.append(Problem("--executor", "ray", message))
    if problems:
        raise InputError(problems)
    if is_on_ray:
        with _on_ray(planned, options) as placed:
            yield placed
        return
    shared = share_gpus(
        planned.devices, options.gpus, options.trials_per_gpu, options.jobs, n_processors()
    )
    if warning := _unshared_gpus(planned, options, shared):
        _say(warning)
    variables = _thread_variables(planned, options.only, shared.jobs)
    yield Placement(shared.jobs, lambda n: Workers(n, LocalProcesses(shared.gpus, variables)))


# own code that imports one of them may compute on a GPU, whatever its settings say
GPU_LIBRARIES = {"torch", "jax", "tensorflow"}


def _unshared_gpus(planned: PlannedStudy, options: RunOptions, shared: GpuPlacement) -> str:
    """A warning where trials of own code may all take the same GPU; "" where that is not so."""
    imported = GPU_LIBRARIES & getattr(planned.study.subject, "versions", {}).keys()
    is_asked = options.gpus is not None or options.trials_per_gpu is not None
    is_told = is_asked or "" not in planned.devices
    if shared.gpus or shared.jobs == 1 or is_told or not imported:
        return ""
    gpus = visible_gpus()
    if not gpus:
        return ""
    remedy = f"--trials-per-gpu N shares out the {len(gpus)} GPUs that are visible"
    return f"{shared.jobs} trials at a time may all use GPU {gpus[0]}; {remedy}"


def _thread_variables(planned: PlannedStudy, only: Collection[str], jobs: int) -> dict[str, str]:
    """Of workers that run own code; what is built in has a setting for its threads."""
    if planned.study.experiment.subject in BUILT_IN:
        return {}
    # the trials of a search come one after another
    n_trials = jobs if planned.search.get("of") else len(planned.plan.of(only).trials)
    return threads_of_each(n_processors(), min(jobs, max(n_trials, 1)))


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _on_ray(planned: PlannedStudy, options: RunOptions) -> Iterator[Placement]:
    from ablation.execution.ray_driver import (
        RayNodes,
        WorkerResources,
        connected,
        fit_nodes,
        site_of,
    )
    from ablation.execution.ray_node import sample_of

    refuse_without_gpu(planned.devices, None, options.trials_per_gpu)
    on_gpu = "cuda" in planned.devices or options.trials_per_gpu is not None
    gpus = 1 / (options.trials_per_gpu or TRIALS_PER_GPU) if on_gpu else 0.0
    share = WorkerResources(options.cpus_per_trial or 1, gpus)
    name, root = planned.study.experiment.subject, planned.places.root
    trial = next(iter(planned.plan.trials.values()))
    settings, seed = trial.spec.settings, trial.spec.seed
    sample = sample_of(name, planned.study.subject, settings, seed, trial.links[0].key)
    needs_code = name not in BUILT_IN
    with connected(options.ray_address, root if needs_code else None):
        site = site_of(root, sample, needs_code)
        fit = fit_nodes(site, share, _say)
        n_there = sum(fit.values())
        # A worker without a trial would only occupy its node.
        jobs = min(options.jobs or n_there, len(planned.plan.of(options.only).trials))
        if jobs > n_there:
            begin = "more begin when it has more nodes"
            _say(f"the cluster has room for {n_there} of {jobs} workers; {begin}")
        yield Placement(jobs, lambda n: Workers(n, RayNodes(n, share, site, fit, _say)))


def _say(text: str) -> None:
    # The live table moves below it.
    print(text, file=sys.stderr)


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
