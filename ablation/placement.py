"""Where a study's workers run, and how many there are: what the options of `ablate run` come to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ablation.devices import TRIALS_PER_GPU, refuse_without_gpu, share_gpus
from ablation.errors import InputError, Problem
from ablation.subjects import BUILT_IN
from ablation.workers import Workers

if TYPE_CHECKING:
    from ablation.session import Opened


class Asked(NamedTuple):
    """Options of `ablate run`, None where they were not given."""

    executor: str | None  # "local" | "ray"; None: local
    jobs: int | None
    gpus: str | None
    trials_per_gpu: int | None
    ray_address: str | None
    cpus_per_trial: int | None


class Placement(NamedTuple):
    """How many workers there are, and what makes them."""

    jobs: int
    make_workers: Callable[[int], Workers]


@contextmanager
def placement(opened: Opened, asked: Asked, n_processors: int) -> Iterator[Placement]:
    """Have the workers' machines at hand for as long as this lasts. Raises InputError if they are not there."""
    if asked.executor == "ray":
        with _on_ray(opened, asked) as placed:
            yield placed
        return
    given = [("--ray-address", asked.ray_address), ("--cpus-per-trial", asked.cpus_per_trial)]
    problems = [
        Problem(option, str(value), "is for --executor ray")
        for option, value in given
        if value is not None
    ]
    if problems:
        raise InputError(problems)
    shared = share_gpus(opened.devices, asked.gpus, asked.trials_per_gpu, asked.jobs, n_processors)
    yield Placement(shared.jobs, partial(Workers, gpus=shared.gpus))


@contextmanager
def _on_ray(opened: Opened, asked: Asked) -> Iterator[Placement]:
    from ablation.on_ray.check import sample_of
    from ablation.on_ray.cluster import Share, connected, fit_nodes, require_room, site_of

    if asked.gpus is not None:
        raise InputError(
            [
                Problem(
                    "--gpus", asked.gpus, "is for --executor local; Ray gives each worker its GPU"
                )
            ]
        )
    refuse_without_gpu(opened.devices, None, asked.trials_per_gpu)
    on_gpu = "cuda" in opened.devices or asked.trials_per_gpu is not None
    share = Share(
        asked.cpus_per_trial or 1, 1 / (asked.trials_per_gpu or TRIALS_PER_GPU) if on_gpu else 0.0
    )
    trial = next(iter(opened.plan.trials.values()))
    name = opened.study.experiment.subject
    sample = sample_of(
        name, opened.study.subject, trial.spec.settings, trial.spec.seed, trial.links[0].key
    )
    needs_code = name not in BUILT_IN
    with connected(asked.ray_address, opened.places.root if needs_code else None):
        from ablation.on_ray.workers import RayWorkers

        require_room(share)
        site = site_of(opened.places.root, sample, needs_code)
        fit = fit_nodes(site, share, _say)
        n_there = sum(fit.values())
        jobs = min(
            asked.jobs or n_there, len(opened.plan.trials)
        )  # a worker without a trial would keep its place from others
        if jobs > n_there:
            _say(
                f"the cluster has room for {n_there} of {jobs} workers; more begin when it has more nodes"
            )
        yield Placement(jobs, lambda n: RayWorkers(n, share, site, fit, _say))


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # a live table makes way for it
