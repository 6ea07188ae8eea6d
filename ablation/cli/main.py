"""The command line: parse, call, print. Commands import the heavy modules that they use."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from ablation import PACKAGE
from ablation.cli.completion import LINES, report_names, run_names, side_names
from ablation.cli.data import CommandGroup, cache, data
from ablation.cli.run import plan, run, storage_option
from ablation.errors import DiskFull, InputError, Problem, Unavailable, nearest
from ablation.storage.files import describe_full, is_full

SHIPPED = PACKAGE / "shipped"
STUDY_FILES = ("fixes.yaml", "digits-lt.yaml", "published.yaml", "sources.yaml")
EXAMPLES = SHIPPED / "examples"

NEXT = """
next:
  ablate run --grid fixes          nine ways of training on handwritten digits: some minutes
  ablate run --grid own-function   the function `train` of training.py, with two factors: seconds
  ablate ui                        compare the runs in MLflow
Put your own code in place of training.py, and its settings and factors into experiments/own.yaml
and own-function.yaml."""


class Commands(CommandGroup):
    """Turn wrong input into exit code 2, with every problem on a line of its own."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Replace characters that the output cannot encode; end quietly if its pipe is closed."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        try:
            return super().main(*args, **options)
        finally:
            try:
                print(end="", flush=True)
            except BrokenPipeError:
                # Python flushes again as it exits, and would print the error.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(1)

    def invoke(self, context: click.Context) -> Any:
        """Run the command; print errors that the user can act on, and exit with their code."""
        from ablation.storage.project import require_usable_name

        try:
            require_usable_name(Path())
            return super().invoke(context)
        except InputError as error:
            for problem in error.problems:
                click.echo(str(problem), err=True)
            context.exit(2)
        except (DiskFull, Unavailable) as error:
            click.echo(str(error), err=True)
            context.exit(1)
        except OSError as error:
            if not is_full(error):
                raise
            click.echo(describe_full(error), err=True)
            context.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command continues where it stopped", err=True)
            context.exit(130)


def _existing(
    _context: click.Context,
    _argument: click.Parameter,
    study: str | None,
    with_searched: bool = False,
) -> str:
    """The study of that name in `runs/`; the only one if none is named.

    with_searched: also one of which there is no more than its search so far.
    """
    from ablation.storage.asked import SUFFIX
    from ablation.storage.runs import studies

    known = studies(Path("runs"))
    # a search belongs to its study
    own = [name for name in known if not name.endswith(SUFFIX)]
    if with_searched:
        own = list(dict.fromkeys([*own, *(name.removesuffix(SUFFIX) for name in known)]))
    if study is None and len(own) == 1:
        return own[0]
    if study in [*own, *known]:
        return study
    if study is None:
        named = f"name one of the studies in runs/: {', '.join(own or known)}"
        problem = Problem("", "STUDY", named if known else "there is no study in runs/ yet")
    else:
        hint = nearest(study, known) if known else "there is none yet"
        problem = Problem("runs", study, f"no such study; {hint}")
    raise InputError([problem])


study_argument = click.argument(
    "study", required=False, callback=_existing, shell_complete=run_names
)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="ablate-lt")
def main() -> None:
    """Ablation studies that say which change matters, by how much, and how sure we are."""


@main.command()
@click.option(
    "--example",
    type=click.Choice(sorted(path.name for path in EXAMPLES.glob("[a-z]*"))),
    help="Write this example alone.",
)
def init(example: str | None) -> None:
    """Write example studies: one of digits, one of a training function of your own."""
    click.echo(write_starter(Path(), example))


def write_starter(root: Path, example: str | None = None) -> str:
    """Write the files below `root`; returns which, and what to type next. Files there stay.

    example: the folder of `examples/` to be written; default, own-function beside a first study

    Raises InputError where a file cannot be written.
    """
    files, folder = {}, EXAMPLES / (example or "own-function")
    if example is None:
        files = {Path("experiments", name): SHIPPED / "experiments" / name for name in STUDY_FILES}
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml"))
    files |= {path.relative_to(folder): path for path in found}
    then = NEXT if example is None else f"\nnow type\n\n    {_first_command(folder)}"
    lines = []
    for name, shipped in files.items():
        target = root / name
        if target.is_file():
            lines.append(f"kept  {target}, which was there")
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(shipped.read_bytes())
        except OSError as error:
            message = f"cannot be written: {error.strerror or error}"
            raise InputError([Problem("", str(target), message)]) from None
        lines.append(f"wrote {target}")
    return "\n".join([*lines, then])


def _first_command(example: Path) -> str:
    """What the first line of an example's grid says how to run it."""
    grid = next((example / "experiments").glob(f"{example.name}.yaml"))
    return grid.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


@main.command()
@click.argument(
    "study",
    required=False,
    callback=partial(_existing, with_searched=True),
    shell_complete=run_names,
)
def status(study: str) -> None:
    """Show a study's progress, arm by arm, and the time left."""
    from ablation.storage.project import ProjectPaths
    from ablation.study.live import output
    from ablation.study.views import describe_status

    describe_status(study, ProjectPaths(), output())


@main.command()
@study_argument
@click.option(
    "--html", "as_html", is_flag=True, help="Also write report.html, the whole report in one file."
)
def report(study: str, as_html: bool) -> None:
    """Write a study's report again, from the files of its runs; one that is of them is kept."""
    from ablation.storage.asked import SUFFIX
    from ablation.storage.project import ProjectPaths
    from ablation.study.closing import Closing
    from ablation.study.opening import changes_since

    places = ProjectPaths()
    folder = places.runs(study)
    of = folder.manifest().search.get("of") if study.endswith(SUFFIX) else None
    if of:
        message = f"holds the trials of a search; `ablate report {of}` tells what it has found"
        raise InputError([Problem("runs", study, message)])
    places.require_writable("reports")
    is_running = folder.is_being_run()
    changed = "" if is_running else changes_since(places, study).description
    closing = Closing(places, study)
    path = closing.page if as_html else closing.path
    if is_running or not path.is_file() or closing.known(changed) is None:
        closing.write(as_html, changed)
    print(path)
    click.echo(changed, err=True, nl=bool(changed))


@main.command()
@click.argument("study", required=False, shell_complete=report_names)
@click.argument("parts", nargs=-1, metavar="[arms] [claims]")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Update each <!-- ablate table STUDY --> ... <!-- /ablate table --> block in FILE.",
)
@click.option(
    "--check",
    is_flag=True,
    help="With --into: write nothing; exit with 1 if a block of FILE is out of date.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "latex"]),
    default="markdown",
    show_default=True,
    help="latex: the arms alone, for the package booktabs.",
)
def table(
    study: str | None, parts: tuple[str, ...], into: Path | None, check: bool, form: str
) -> None:
    """Print a study's arms and claims as Markdown, from the files of its report.

    Reports are read from reports/, else from docs/results/; without STUDY, the only one in
    reports/. With --into, docs/results/ comes first: the tables of a FILE are those of committed
    results where these exist.
    """
    from ablation.analysis.results import known_reports
    from ablation.reporting.tables import latex_table, refresh_file, study_tables
    from ablation.storage.project import ProjectPaths

    if into is None and check:
        raise InputError([Problem("", "--check", "needs --into FILE")])
    if form == "latex" and (into is not None or "claims" in parts):
        other = "claims" if into is None else "--into"
        raise InputError([Problem("", "--format latex", f"does not go with {other}")])
    folders = ProjectPaths().report_folders
    if into is None:
        own = list(known_reports(folders[:1]))
        study = own[0] if study is None and len(own) == 1 else study
        is_latex = form == "latex"
        print(latex_table(folders, study) if is_latex else study_tables(folders, study, parts))
        return
    if study is not None:
        message = f"takes no STUDY: the blocks of {into} name theirs"
        raise InputError([Problem("", "--into", message)])
    done = refresh_file(into, folders[::-1], check)
    state = "not up to date" if check else "renewed"
    print(f"{into}: {len(done.stale)} of {done.n_blocks} blocks {state}")
    sys.exit(1 if check and done.stale else 0)


@main.command()
@click.argument("left", metavar="A", shell_complete=side_names)
@click.argument("right", metavar="B", shell_complete=side_names)
@click.option("--study", shell_complete=report_names, help="The study that A and B are arms of.")
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw it too, as .png or .svg.",
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Compare by it; may be repeated."
)
def compare(
    left: str, right: str, study: str | None, figure: Path | None, metrics: tuple[str, ...]
) -> None:
    """Compare two arms, two studies, or what was measured with what was published.

    A and B are each STUDY, STUDY:ARM, published:METHOD, or, with --study or where there is one
    study of your own only, ARM. Your own runs in runs/ and reports/ come before docs/results/.
    Prints a table on a terminal, elsewhere Markdown.
    """
    from ablation.analysis.compare import compare as compared
    from ablation.analysis.compare import comparison_text
    from ablation.storage.project import ProjectPaths
    from ablation.study.comparison import show_comparison
    from ablation.study.live import output

    found = compared(left, right, study, ProjectPaths(), metrics)
    if figure is not None:
        # Matplotlib is loaded where a figure is asked for.
        from ablation.reporting.figures import draw_comparison

        draw_comparison(found, figure)
    console = output()
    if console.is_terminal:
        show_comparison(found, console)
    else:
        print(comparison_text(found))


@main.command()
@study_argument
@storage_option
def sync(study: str, storage: str | None) -> None:
    """Deliver a study's results to Optuna and MLflow. It is safe to repeat."""
    from ablation.study import running

    text = running.sync(study, storage)
    if text is None:
        sys.exit(1)
    print(text)


@main.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Default: 5000, or the next one that is free."
)
def ui(port: int | None) -> None:
    """Serve MLflow's user interface for this folder, to this machine only."""
    from ablation.tracking.mlflow_ui import serve

    serve(port)


@main.command()
@click.argument(
    "study",
    required=False,
    callback=lambda *given: _existing(*given) if given[-1] else None,
    shell_complete=run_names,
)
@click.option(
    "--repair", is_flag=True, help="Repair what can be repaired; without it, nothing is changed."
)
@storage_option
def doctor(study: str | None, repair: bool, storage: str | None) -> None:
    """Check this machine and this project; with --repair, repair what is wrong."""
    from ablation.doctor import examine as module

    is_all_well = module.doctor(study, repair, partial(print, flush=True), storage)
    sys.exit(0 if is_all_well else 1)


@main.command()
@click.argument("shell", type=click.Choice(list(LINES)))
def completion(shell: str) -> None:
    """Print the line that makes a shell complete commands, options, grids, studies and arms."""
    file, line = LINES[shell]
    print(f"# add this line to {file}, and open a new shell\n{line}")


for command in (run, plan, cache, data):
    main.add_command(command)
