"""Notice that every trial fails alike, so that the rest of a study need not be run to learn it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ablation.storage.runs import Failure, TrialSpec, cause

# how often work fails by one cause before a study is given up
ENOUGH = 3
# beside the names of factors, none of which is empty or begins with a space
ARMS, SEEDS = "", " seeds"
# failures that are results of their trial: training ran, and this is what came of it
RESULTS = (
    "Diverged",
    "NotFinite",
    "TimeLimit",
    "MemoryLimit",
    "MemoryError",
    "OutOfMemoryError",
)


class Failures:
    """The failures of one pass, until it shows that a trial of the study can run.

    A study whose own arms fail is a result, and arms that fail are often the first to end. So the
    failures must have one cause, `ENOUGH` times, and nothing in common that other trials lack: of
    each factor that the study has, they cover two levels, and they are of two seeds. Work that
    trials share fails once, however many trials fail by it.
    """

    def __init__(self) -> None:
        self._study_goes_on = False
        self._causes: set[str] = set()
        self._n = 0
        self.specs: list[TrialSpec] = []

    def ran(self) -> None:
        """Note that the study goes on: a trial has run to its end, in this pass or before."""
        self._study_goes_on = True

    def failed(self, specs: Sequence[TrialSpec], error: Failure) -> None:
        """Note that work of these trials failed."""
        if error["type"] in RESULTS:
            self.ran()
        elif specs:
            self._n += 1
            self.specs += specs
            self._causes |= {cause(spec, error) for spec in specs}

    def are_systematic(self, planned: Iterable[TrialSpec]) -> bool:
        """Whether the rest of the study's trials would fail, too. planned: all of them."""
        if self._study_goes_on or self._n < ENOUGH or len(self._causes) > 1:
            return False
        failed = _levels(self.specs)
        return all(
            len(failed[factor]) >= min(2, len(levels))
            for factor, levels in _levels(planned).items()
        )


def _levels(specs: Iterable[TrialSpec]) -> dict[str, set[str]]:
    """Factor -> levels of these trials; ARMS and SEEDS -> those of the trials."""
    found = defaultdict[str, set[str]](set)
    for spec in specs:
        found[ARMS].add(spec.arm)
        found[SEEDS].add(str(spec.seed))
        for factor, level in spec.levels.items():
            found[factor].add(level)
    return found
