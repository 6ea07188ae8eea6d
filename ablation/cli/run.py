"""`ablate run`, which runs a study, and `ablate plan`, which shows what it would compute."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ablation.cli.completion import experiment_names, grid_names
from ablation.storage.cache import DEFAULT_SIZE

# of `open_study`
ARGUMENTS = ("grid", "experiment", "overrides", "seeds", "until_decided", "alias", "storage")
GRID = "Grid file, or the name of one in experiments/, e.g. fixes; default: the only one there is."
OVERRIDE = "Override a setting in all arms and baselines."
UNTIL_DECIDED = "Add seeds, up to 20, to the arms of claims that are not decided yet."
STORAGE = "Keep Optuna's ledger in a database, postgresql://user@host/name; or set ABLATE_STORAGE."


def _storage(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    # Removed in any case: no process started from here gets it.
    os.environ.pop("ABLATE_STORAGE", None)
    if not url:
        return None
    # Optuna is imported only where a database is named.
    from ablation.tracking.ledger import storage_url

    return storage_url(url)


def _grid(context: click.Context, _option: click.Parameter, named: Path | None) -> Path | None:
    # YAML is imported only where a grid is looked for.
    from ablation.grid.choices import the_grid

    return None if context.resilient_parsing else the_grid(named)


def _size(_context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    from ablation.formatting import parse_size

    return None if text is None else parse_size(text, option.opts[0])


def _finite(_context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", param=option)
    return value


def _time(_context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    from ablation.formatting import parse_duration

    return None if text is None else parse_duration(text, option.opts[0])


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that become the arguments of `open_study`."""
    path = click.Path(path_type=Path)
    here = "a name beside the grid file, or a path."
    for option in (
        click.option("--as", "alias", metavar="NAME", help="Keep the study under another name."),
        click.option("--until-decided", is_flag=True, help=UNTIL_DECIDED),
        click.option("--seeds", help="Number of seeds, or a comma-separated list."),
        click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help=OVERRIDE),
        click.option(
            "--experiment",
            shell_complete=experiment_names,
            help=f"Experiment in place of the grid's: {here}",
        ),
        click.option("--grid", type=path, callback=_grid, shell_complete=grid_names, help=GRID),
    ):
        command = option(command)
    return command


storage_option = click.option(
    "--storage", metavar="URL", envvar="ABLATE_STORAGE", callback=_storage, help=STORAGE
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Number of worker processes; default: the number of processors, or as many as GPUs or a "
    "cluster have room for.",
)


# But for those of the study, the options are the fields of `ablation.study.running.RunOptions`.
@click.command()
@study_options
@click.option("--dry-run", is_flag=True, help="Show what would be run, and stop.")
@click.option(
    "--no-share",
    "share",
    is_flag=True,
    callback=lambda _context, _option, is_given: not is_given,
    help="Train every epoch of every trial (slow): checks that sharing changes nothing.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="ARM",
    help="Run the trials of this arm alone, e.g. reference; again for more arms.",
)
@click.option("--retry-failed", is_flag=True, help="Run failed trials again.")
@click.option(
    "--keep-going", is_flag=True, help="Run all trials, even if the first ones fail alike."
)
@jobs_option
@click.option(
    "--cache-size",
    "cache_bytes",
    default=DEFAULT_SIZE,
    show_default=True,
    metavar="SIZE",
    callback=_size,
    help="Largest size of the cache of epochs, e.g. 500MB.",
)
@click.option(
    "--time-limit",
    "seconds_per_trial",
    metavar="TIME",
    callback=_time,
    help="Stop a trial whose epochs take longer, e.g. 90s, 45min or 1.5h; it is FAILED.",
)
@click.option(
    "--memory-limit",
    "bytes_per_worker",
    metavar="SIZE",
    callback=_size,
    help="Stop a trial whose worker holds more memory, e.g. 8GB; it is FAILED.",
)
@click.option(
    "--max-hours",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    help="Until decided: add no seeds after so many hours.",
)
@click.option(
    "--max-trials",
    type=click.IntRange(min=1),
    help="Until decided: add no seeds once there are so many trials.",
)
@click.option(
    "--gpus",
    metavar="LIST",
    help="GPUs that trials share, e.g. 0,1; default with device cuda: all.",
)
@click.option(
    "--trials-per-gpu", type=click.IntRange(min=1), help="Trials on a GPU at a time; default: 4."
)
@click.option(
    "--offline", is_flag=True, help="Do not write to Optuna or MLflow; `ablate sync` does it later."
)
@storage_option
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where workers run: on this machine, or on a Ray cluster.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Address of the Ray cluster; default: RAY_ADDRESS, else the local cluster.",
)
@click.option(
    "--cpus-per-trial", type=click.IntRange(min=1), help="CPUs of a Ray worker; default: 1."
)
def run(dry_run: bool, **options: Any) -> None:
    """Run the missing trials of a study, track them, and write the report."""
    from ablation.study import running
    from ablation.study.opening import open_study
    from ablation.study.placement import placement
    from ablation.study.views import describe_plan

    which = {name: options.pop(name) for name in ARGUMENTS}
    planned = open_study(**which, may_be_absent=dry_run)
    how = running.RunOptions(**options)
    if dry_run:
        running.refuse_unknown_arms(planned, how.only)
        with placement(planned, how) as placed:
            describe_plan(planned, placed.jobs, how.only)
        sys.exit(2 if planned.study.absent else 0)
    result = running.run(planned, how)
    is_given_up = result.is_outdated or result.given_up_for
    is_interrupted = result.n_open and not is_given_up
    sys.exit(130 if is_interrupted else 1 if result.failed or is_given_up else 0)


@click.command()
@study_options
@jobs_option
def plan(jobs: int | None, **which: Any) -> None:
    """Show a study's arms, its shared and own epochs, what is left to train, and a forecast."""
    from ablation.study.opening import open_study
    from ablation.study.views import describe_plan

    describe_plan(open_study(**which, may_be_absent=True), jobs)
