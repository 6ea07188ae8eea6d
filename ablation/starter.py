"""`ablate init`: the files that a new project begins with, copied from those that came with the package."""

from __future__ import annotations

from pathlib import Path

from ablation.errors import InputError, Problem

SHIPPED = Path(__file__).parent / "shipped"
STUDY_FILES = ("fixes.yaml", "digits-lt.yaml", "published.yaml", "sources.yaml")
EXAMPLE = SHIPPED / "examples" / "own-function"

NEXT = """
next:
  ablate run --grid fixes          eight ways of training on handwritten digits, and five baselines: two to five minutes
  ablate run --grid own-function   the function `train` of training.py, with two factors: seconds
  ablate ui                        compare the runs in MLflow
Put your own code in place of training.py, and its settings and factors into experiments/own.yaml and own-function.yaml."""


def write_starter(root: Path) -> str:
    """Write the files below `root`, and say which, and what to type next. A file that is there is left as it is.

    Raises InputError where a file cannot be written.
    """
    lines = []
    for target, shipped in _files(root).items():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(shipped.read_bytes())
            lines.append(f"wrote {target}")
        except OSError as error:
            if target.is_file():
                lines.append(f"kept  {target}, which was there")
                continue
            raise InputError(
                [Problem("", str(target), f"cannot be written: {error.strerror or error}")]
            ) from None
    return "\n".join([*lines, NEXT])


def _files(root: Path) -> dict[Path, Path]:
    """Each file to write, and the shipped one that it is a copy of."""
    study = {root / "experiments" / name: SHIPPED / "experiments" / name for name in STUDY_FILES}
    example = sorted(path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".yaml"))
    return study | {root / path.relative_to(EXAMPLE): path for path in example}
