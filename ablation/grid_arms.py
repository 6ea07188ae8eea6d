"""The arms that a grid calls for, and what is wrong with their names or with claims about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ablation.design import DESIGNS, Arm, arms, n_cells
from ablation.errors import Problem, nearest
from ablation.grid_file import Grid

MAX_ARMS = 1000
MAX_ARM_NAME = (
    200  # characters; with the seed it becomes a folder's name, of which most systems allow 255
)


def grid_arms(grid: Grid, problems: list[Problem]) -> list[Arm]:
    """The arms of the design and the extra ones. Claims are judged only where the arms are beyond doubt."""
    doubtful = any(problem.key.startswith(("factors", "arms", "design")) for problem in problems)
    designs = [design for design in grid.design if design in DESIGNS]
    n_arms = sum(n_cells(grid.factors, design) for design in designs)
    if n_arms > MAX_ARMS:
        hint = "try leave-one-out or add-one-in"
        problems.append(
            Problem(grid.file, "design", f"makes {n_arms} arms, and {MAX_ARMS} are allowed; {hint}")
        )
        return list(grid.arms)
    found = arms(grid.factors, designs, grid.arms)
    problems.extend(_unfit_names(grid, found))
    if not doubtful:
        problems.extend(_unmet_claims(grid, found))
    return found


def _unfit_names(grid: Grid, found: Sequence[Arm]) -> Iterator[Problem]:
    """Names become folders, so they must differ, even where a file system ignores the case, and be short."""
    taken = {name.casefold(): f"baseline '{name}'" for name in grid.baselines}
    for arm in found:
        place = "factors" if arm.levels else f"arms.{arm.name}"
        name = arm.name.casefold()
        if name in taken:
            yield Problem(grid.file, place, f"the arm '{arm.name}' has the name of {taken[name]}")
        taken.setdefault(name, f"arm '{arm.name}'")
        if len(name) > MAX_ARM_NAME:
            length = f"{len(name)} characters, and {MAX_ARM_NAME} are allowed"
            yield Problem(grid.file, place, f"the arm '{arm.name[:40]}...' has a name of {length}")


def _unmet_claims(grid: Grid, found: Sequence[Arm]) -> Iterator[Problem]:
    """Claims about arms that the study does not have."""
    names = [*(arm.name for arm in found), *grid.baselines]
    for i, claim in enumerate(grid.claims):
        for side, value in claim["contrast"].items():
            place = f"claims[{i}].contrast.{side}"
            if side in ("arm", "minus") and value is not None and value not in names:
                yield Problem(
                    grid.file,
                    place,
                    f"'{value}' is neither an arm nor a baseline; {nearest(value, names)}",
                )
            factor = claim["contrast"].get("factor")
            if (
                side in ("from", "to", "level")
                and value is not None
                and all(arm.levels.get(factor) != value for arm in found)
            ):
                yield Problem(grid.file, place, f"no arm of the design has {factor} at '{value}'")
