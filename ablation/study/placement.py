"""Choose where a study's workers run, and how many, from the options of `ablate run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ablation.errors import InputError, Problem
from ablation.execution.devices import TRIALS_PER_GPU, refuse_without_gpu, share_gpus
from ablation.execution.workers import LocalProcesses, Workers
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
    if problems:
        raise InputError(problems)
    if is_on_ray:
        with _on_ray(planned, options) as placed:
            yield placed
        return
    shared = share_gpus(
        planned.devices, options.gpus, options.trials_per_gpu, options.jobs, n_processors()
    )
    yield Placement(shared.jobs, lambda n: Workers(n, LocalProcesses(shared.gpus)))


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _on_ray(planned: PlannedStudy, options: RunOptions) -> Iterator[Placement]:
    from ablation.execution.ray_cluster.check import sample_of
    from ablation.execution.ray_cluster.cluster import (
        WorkerResources,
        connected,
        fit_nodes,
        site_of,
    )

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
        from ablation.execution.ray_cluster.workers import RayNodes

        site = site_of(root, sample, needs_code)
        fit = fit_nodes(site, share, _say)
        n_there = sum(fit.values())
        # A worker without a trial would only occupy its node.
        jobs = min(options.jobs or n_there, len(planned.plan.trials))
        if jobs > n_there:
            begin = "more begin when it has more nodes"
            _say(f"the cluster has room for {n_there} of {jobs} workers; {begin}")
        yield Placement(jobs, lambda n: Workers(n, RayNodes(n, share, site, fit, _say)))


def _say(text: str) -> None:
    # The live table moves below it.
    print(text, file=sys.stderr)
