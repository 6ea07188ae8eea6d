"""The command line: parse, call, print. What is heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ablation.caching import DEFAULT_SIZE, parse_size
from ablation.errors import InputError, Problem, Stuck
from ablation.files import describe_full, is_full

STUDY_OPTIONS = (
    click.option("--grid", required=True, type=click.Path(path_type=Path), help="Grid file, e.g. experiments/fixes.yaml."),
    click.option("--experiment", help="Experiment in place of the grid's: a name beside the grid file, or a path."),
    click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting in all arms and baselines."),
    click.option("--seeds", help="Number of seeds, or a comma-separated list."),
    click.option("--as", "alias", metavar="NAME", help="Keep the study under another name."),
)
STORAGE_OPTIONS = (
    click.option("--storage", metavar="URL", help="Share the study with other hosts through postgresql://user@host/database; or set ABLATE_STORAGE."),
    click.option("--lease-timeout", type=float, hidden=True, help="Seconds after which a silent host's segments are taken over."),
)
WORKER_OPTIONS = (
    click.option("--cache-size", default=DEFAULT_SIZE, show_default=True, metavar="SIZE", help="Bound of the cache of epochs, e.g. 500MB."),
    click.option("--time-limit", metavar="TIME", help="Fail a trial whose epochs take longer, e.g. 90s, 45min or 1.5h."),
    click.option("--memory-limit", metavar="SIZE", help="Fail a trial whose worker holds more memory, e.g. 8GB."),
    click.option("--gpus", metavar="LIST", help="GPUs to share among the workers, e.g. 0,1; default with device cuda: all."),
    click.option("--trials-per-gpu", type=click.IntRange(min=1), help="Trials that share a GPU at a time; default: 4."),
    click.option("--offline", is_flag=True, help="Write files only; `ablate sync` brings them to Optuna and MLflow later."),
)
jobs_option = click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; default: the processors.")


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return _with(STUDY_OPTIONS, command)


def worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return _with((*WORKER_OPTIONS, *STORAGE_OPTIONS), command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


class Commands(click.Group):
    """Turns wrong input into exit code 2 with every problem on a line of its own."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except InputError as error:
            for problem in error.problems:
                click.echo(str(problem), err=True)
            context.exit(2)
        except (Stuck, OSError) as error:
            if isinstance(error, OSError) and not is_full(error):
                raise
            click.echo(str(error) if isinstance(error, Stuck) else describe_full(error), err=True)
            context.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on from the last checkpoints", err=True)
            context.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ablate-lt")
def main() -> None:
    """Ablation studies that say which change matters, by how much, and how sure we are."""


@main.command()
@study_options
@click.option("--dry-run", is_flag=True, help="Show what would be run, and stop.")
@jobs_option
@click.option("--no-share", is_flag=True, help="Compute every trial alone, sharing no epoch (a check; slow).")
@click.option("--retry-failed", is_flag=True, help="Run failed trials again.")
@worker_options
def run(dry_run: bool, jobs: int | None, no_share: bool, retry_failed: bool, **options: Any) -> None:
    """Run every trial of a study that is missing, track it, and write its report."""
    from ablation import session

    sharing = _sharing(options)
    if sharing and no_share:
        raise InputError([Problem("", "--no-share", "computes every trial alone, and hosts that share a --storage do not")])
    which = {name: options.pop(name) for name in ("grid", "experiment", "overrides", "seeds", "alias")}
    opened = session.open_study(**which, sharing=sharing)
    if dry_run:
        session.describe_plan(opened, _shared_gpus(opened, jobs, options).jobs)
        return
    _run(opened, jobs, options, share=not no_share, retry_failed=retry_failed)


@main.command()
@click.option("--study", required=True, metavar="NAME", help="A study that `ablate run --storage URL` has begun.")
@click.option("--folder", type=click.Path(path_type=Path), default=".", help="Where this host keeps runs, cache and report; each needs its own.")
@jobs_option
@worker_options
def worker(study: str, folder: Path, jobs: int | None, **options: Any) -> None:
    """Help to run a study that another host has begun, until it is complete."""
    from ablation import session

    sharing = _sharing(options, folder)
    if sharing is None:
        raise InputError([Problem("", "--storage", "is missing: the URL that the study was begun with; or set ABLATE_STORAGE")])
    _run(session.open_shared(study, sharing), jobs, options, share=True, retry_failed=False, begins=False)


def _run(opened: Any, jobs: int | None, options: dict[str, Any], **how: Any) -> None:
    from ablation import session
    from ablation.limits import Limits, parse_duration

    size = parse_size(options["cache_size"], "--cache-size")
    limits = Limits(
        None if options["time_limit"] is None else parse_duration(options["time_limit"], "--time-limit"),
        None if options["memory_limit"] is None else parse_size(options["memory_limit"], "--memory-limit"),
    )
    shared = _shared_gpus(opened, jobs, options)
    done = session.run(opened, shared.jobs, cache_limit=size, offline=options["offline"], limits=limits, gpus=shared.gpus, **how)
    sys.exit(130 if done.n_open else 1 if done.failed else 0)


def _shared_gpus(opened: Any, jobs: int | None, options: dict[str, Any]) -> Any:
    from ablation.devices import share_gpus

    return share_gpus(opened.devices, options["gpus"], options["trials_per_gpu"], jobs, n_processors())


def _sharing(options: dict[str, Any], folder: Path = Path(".")) -> Any:
    """The database of --storage or ABLATE_STORAGE; None where there is none."""
    from_environment = os.environ.pop("ABLATE_STORAGE", None)  # in any case: no process that is started from here has it
    url = options.pop("storage") or from_environment
    if not url:
        return None
    from ablation.sharing import Sharing  # SQLAlchemy

    return Sharing(url, options.pop("lease_timeout"), folder)


@main.command()
@study_options
@jobs_option
def plan(jobs: int | None, **which: Any) -> None:
    """Show a study's arms, epochs and forks, what is left to train, and how long it will take."""
    from ablation import session

    session.describe_plan(session.open_study(**which), jobs or n_processors())


@main.command()
@click.argument("study", required=False)
def status(study: str | None) -> None:
    """Show how far a study has come, arm by arm, and how long it still takes."""
    from ablation import session
    from ablation.places import Places
    from ablation.status import describe_status

    describe_status(_existing(study), Places(), session.output())


@main.command()
@click.argument("study", required=False)
@click.option("--html", "as_html", is_flag=True, help="Write report.html too: the whole report in one file.")
def report(study: str | None, as_html: bool) -> None:
    """Write a study's report again from its files."""
    from ablation.places import Places
    from ablation.report import write_report

    name = _existing(study)
    Places().require_writable("reports")
    click.echo(write_report(Places().runs(name), Places().report(name), as_html))


@main.command()
@click.argument("study", required=False)
@click.argument("parts", nargs=-1, metavar="[arms] [claims]")
@click.option("--into", type=click.Path(path_type=Path), metavar="FILE", help="Renew each <!-- ablate table STUDY --> ... <!-- /ablate table --> in FILE.")
@click.option("--check", is_flag=True, help="With --into: write nothing, and exit with 1 if FILE is not up to date.")
def table(study: str | None, parts: tuple[str, ...], into: Path | None, check: bool) -> None:
    """Print a study's arms and claims as Markdown, from the files of its report."""
    from ablation.blocks import refresh_file
    from ablation.headline import headline_tables

    if into is None and check:
        raise InputError([Problem("", "--check", "needs --into FILE")])
    if into is None:
        click.echo(headline_tables(Path("reports"), study, parts))
        return
    if study is not None:
        raise InputError([Problem("", "--into", f"takes no STUDY: the blocks of {into} name theirs")])
    done = refresh_file(into, Path("reports"), check)
    click.echo(f"{into}: {len(done.stale)} of {done.n_blocks} blocks {'not up to date' if check else 'renewed'}")
    sys.exit(1 if check and done.stale else 0)


@main.command()
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option("--study", help="The study that A and B are arms of.")
@click.option("--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw it too, as .png or .svg.")
def compare(left: str, right: str, study: str | None, figure: Path | None) -> None:
    """Compare two arms, two studies, or what was measured with what was published.

    A and B are each STUDY, STUDY:ARM, published:METHOD, or, with --study or where there is one study only, ARM.
    """
    from ablation.compare import compare as compared
    from ablation.compare_text import comparison_text
    from ablation.places import Places

    found = compared(left, right, study, Places())
    if figure is not None:
        from ablation.figures.comparison import draw_comparison  # matplotlib

        draw_comparison(found, figure)
    click.echo(comparison_text(found))


@main.command()
@click.argument("study", required=False)
def sync(study: str | None) -> None:
    """Bring a study's files to Optuna and MLflow; twice is harmless."""
    from ablation import session

    said = session.sync(_existing(study))
    if said is None:
        sys.exit(1)
    click.echo(said)


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def ui(port: int) -> None:
    """Serve the MLflow user interface for this folder, on this machine only."""
    from ablation.tracking_store import TrackingUnavailable
    from ablation.ui import serve

    try:
        serve(None, port=port)
    except TrackingUnavailable as error:
        click.echo(str(error), err=True)
        sys.exit(1)


@main.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show the cache of epochs; trim or clear it."""
    from ablation.caching import describe_cache
    from ablation.places import Places

    if context.invoked_subcommand is None:
        click.echo(describe_cache(Places().store))


@cache.command()
@click.option("--size", required=True, help="What to leave at most, e.g. 1GB.")
def trim(size: str) -> None:
    """Evict what saves the least time per byte. Records of finished epochs stay."""
    from ablation.caching import trim_cache
    from ablation.places import Places

    click.echo(trim_cache(Places().store, parse_size(size, "--size")))


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(yes: bool) -> None:
    """Remove everything, records of finished epochs too. Finished trials keep their results in runs/."""
    from ablation.caching import clear_cache, describe_clearing
    from ablation.places import Places

    places, runs = Places(), Places().root / "runs"
    what = describe_clearing(places.store, runs)
    if not yes:
        click.confirm(f"{what}. Remove?", abort=True)
    click.echo(clear_cache(places.store, runs))


@main.group()
def data() -> None:
    """Look at data sets: describe, verify, unpack."""


@data.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
def describe(experiment: Path, overrides: tuple[str, ...]) -> None:
    """Class counts, image shape, channel order and fingerprint of an experiment's data."""
    from ablation.dataset import describe_data

    click.echo(describe_data(experiment, overrides))


@data.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
def verify(experiment: Path, overrides: tuple[str, ...]) -> None:
    """Load every image and look for what would spoil a study: leaks, empty classes, unbalanced tests."""
    from ablation.dataset import verify_data

    text, is_sound = verify_data(experiment, overrides)
    click.echo(text)
    sys.exit(0 if is_sound else 1)


@data.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz of train/<class>/* and test/<class>/* images into a folder."""
    from ablation.dataset import unpack_data

    click.echo(unpack_data(archive, folder))


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _existing(study: str | None) -> str:
    """The study of that name in `runs/`; the only one if none is named."""
    from ablation.errors import nearest
    from ablation.runs import studies

    known = studies(Path("runs"))
    if study is None and len(known) == 1:
        return known[0]
    if study is None:
        raise InputError([Problem("", "STUDY", f"name one of the studies in runs/: {', '.join(known)}" if known else "there is no study in runs/ yet")])
    if study not in known:
        raise InputError([Problem("runs", study, f"no such study; {nearest(study, known) if known else 'there is none yet'}")])
    return study
