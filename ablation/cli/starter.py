"""`ablate init`: the files that a new project begins with, copied from the package."""

from __future__ import annotations

from pathlib import Path

from ablation import PACKAGE
from ablation.errors import InputError, Problem

SHIPPED = PACKAGE / "shipped"
STUDY_FILES = ("fixes.yaml", "digits-lt.yaml", "published.yaml", "sources.yaml")
EXAMPLE = SHIPPED / "examples" / "own-function"

NEXT = """
next:
  ablate run --grid fixes          eight ways of training on handwritten digits: two to five minutes
  ablate run --grid own-function   the function `train` of training.py, with two factors: seconds
  ablate ui                        compare the runs in MLflow
Put your own code in place of training.py, and its settings and factors into experiments/own.yaml
and own-function.yaml."""


def write_starter(root: Path) -> str:
    """Write the files below `root`; returns which, and what to type next. Files there stay.

    Raises InputError where a file cannot be written.
    """
    files = {Path("experiments", name): SHIPPED / "experiments" / name for name in STUDY_FILES}
    example = sorted(path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".yaml"))
    files |= {path.relative_to(EXAMPLE): path for path in example}
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
    return "\n".join([*lines, NEXT])
