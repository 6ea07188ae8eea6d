"""Commands that run a study, and the one that says what it will take."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ablation.caching import DEFAULT_SIZE, parse_size

STUDY_OPTIONS = (
    click.option(
        "--grid",
        required=True,
        type=click.Path(path_type=Path),
        help="Grid file, or the name of one in experiments/, e.g. fixes.",
    ),
    click.option(
        "--experiment",
        help="Experiment in place of the grid's: a name beside the grid file, or a path.",
    ),
    click.option(
        "-S",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting in all arms and baselines.",
    ),
    click.option("--seeds", help="Number of seeds, or a comma-separated list."),
    click.option("--as", "alias", metavar="NAME", help="Keep the study under another name."),
)


def _storage(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    os.environ.pop(
        "ABLATE_STORAGE", None
    )  # in any case: no process that is started from here has it
    if not url:
        return None
    from ablation.ledger_storage import storage_url  # Optuna

    return storage_url(url)


storage_option = click.option(
    "--storage", metavar="URL", envvar="ABLATE_STORAGE", callback=_storage,
    help="Keep Optuna's ledger in a team's database, postgresql://user@host/database; or set ABLATE_STORAGE.",
)  # fmt: skip
jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1), help="Worker processes; default: the processors."
)
WORKER_OPTIONS = (
    jobs_option,
    click.option(
        "--cache-size",
        default=DEFAULT_SIZE,
        show_default=True,
        metavar="SIZE",
        help="Bound of the cache of epochs, e.g. 500MB.",
    ),
    click.option(
        "--time-limit",
        metavar="TIME",
        help="Fail a trial whose epochs take longer, e.g. 90s, 45min or 1.5h.",
    ),
    click.option(
        "--memory-limit",
        metavar="SIZE",
        help="Fail a trial whose worker holds more memory, e.g. 8GB.",
    ),
    click.option(
        "--gpus",
        metavar="LIST",
        help="GPUs to share among the workers, e.g. 0,1; default with device cuda: all.",
    ),
    click.option(
        "--trials-per-gpu",
        type=click.IntRange(min=1),
        help="Trials that share a GPU at a time; default: 4.",
    ),
    click.option(
        "--offline",
        is_flag=True,
        help="Write files only; `ablate sync` brings them to Optuna and MLflow later.",
    ),
    storage_option,
)
RAY_OPTIONS = (
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Workers are processes here, or on a Ray cluster.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of the cluster; default: RAY_ADDRESS, or the one that this machine belongs to.",
    ),
    click.option(
        "--cpus-per-trial",
        type=click.IntRange(min=1),
        help="CPUs that a worker asks of a Ray cluster; default: 1.",
    ),
)


def with_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@with_options(*STUDY_OPTIONS)
@click.option("--dry-run", is_flag=True, help="Show what would be run, and stop.")
@click.option(
    "--no-share", is_flag=True, help="Compute every trial alone, sharing no epoch (a check; slow)."
)
@click.option("--retry-failed", is_flag=True, help="Run failed trials again.")
@with_options(*WORKER_OPTIONS, *RAY_OPTIONS)
def run(dry_run: bool, no_share: bool, retry_failed: bool, **options: Any) -> None:
    """Run every trial of a study that is missing, track it, and write its report."""
    from ablation import session

    which = {
        name: options.pop(name) for name in ("grid", "experiment", "overrides", "seeds", "alias")
    }
    limits, size = _limits(options)
    opened = session.open_study(**which, storage=options.pop("storage"), may_be_absent=dry_run)
    _run(
        opened,
        options,
        dry_run,
        limits=limits,
        cache_limit=size,
        share=not no_share,
        retry_failed=retry_failed,
    )


@click.command()
@with_options(*STUDY_OPTIONS, jobs_option)
def plan(jobs: int | None, **which: Any) -> None:
    """Show a study's arms, epochs and forks, what is left to train, and how long it will take."""
    from ablation import session

    session.describe_plan(session.open_study(**which, may_be_absent=True), jobs or n_processors())


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(opened: Any, options: dict[str, Any], dry_run: bool = False, **how: Any) -> None:
    from ablation import session
    from ablation.placement import Asked, placement

    with placement(
        opened, Asked(**{name: options.get(name) for name in Asked._fields}), n_processors()
    ) as placed:
        if dry_run:
            session.describe_plan(opened, placed.jobs)
            sys.exit(2 if opened.study.absent else 0)
        done = session.run(
            opened, placed.jobs, offline=options["offline"], make_workers=placed.make_workers, **how
        )
    sys.exit(130 if done.n_open else 1 if done.failed else 0)


def _limits(options: dict[str, Any]) -> tuple[Any, int]:
    """What trials may take, and the cache. Raises InputError before anything is opened."""
    from ablation.limits import Limits, parse_duration

    seconds, n_bytes = options["time_limit"], options["memory_limit"]
    limits = Limits(
        None if seconds is None else parse_duration(seconds, "--time-limit"),
        None if n_bytes is None else parse_size(n_bytes, "--memory-limit"),
    )
    return limits, parse_size(options["cache_size"], "--cache-size")
