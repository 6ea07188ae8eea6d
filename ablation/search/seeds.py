"""Add seeds to the arms of those claims that are not decided yet, look by look.

What is due follows from the files of the study's trials alone: its looks are repeated from the
first one (`ablation.analysis.looks`). So a study that was interrupted goes on as if it had not
been, and a finished one that is run again does nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

from ablation import PACKAGE
from ablation.analysis.contrasts import claimed, main_effects
from ablation.grid.load import Study
from ablation.grid.seeds import Look
from ablation.planning.manifest import manifest_of
from ablation.planning.plan import Plan, PlannedTrial, Planner, build_plan
from ablation.storage.cache import DiskStore
from ablation.storage.files import UNREADABLE
from ablation.storage.runs import Manifest, RunFolder, write_atomically

# of a study's looks, in the file that keeps them
MAX_NOTES = 50


@dataclass(frozen=True)
class Budget:
    """When no further look begins; one that has begun is finished."""

    # of the study, those of earlier passes included
    trials: int | None = None
    # of this pass
    seconds: float | None = None


class LooksSoFar(NamedTuple):
    """What a study's results say of its looks."""

    # arm or baseline -> how many seeds it is to have; of those that are due more than at the start
    due: dict[str, int]
    # "claims" or "main effects" -> its last look whose trials have ended
    looks: dict[str, Look]


def judged(folder: RunFolder, manifest: Manifest) -> LooksSoFar:
    """Repeat a study's looks, or read what they came to: that is kept in `runs/<study>/`.

    manifest: of trials that have all ended
    """
    path, digest = folder.path / ".looks.json", _digest(folder, manifest)
    notes: dict[str, Any] = {}
    try:
        notes = dict(json.loads(path.read_bytes()))
        due, looks = notes[digest]
        return LooksSoFar(
            {str(arm): int(n) for arm, n in due.items()},
            {
                str(what): Look(int(n), int(decided), int(asked), frozenset(arms))
                for what, (n, decided, asked, arms) in looks.items()
            },
        )
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        state = _replayed(folder, manifest)
    kept = {what: [*look[:3], sorted(look.going_on)] for what, look in state.looks.items()}
    known = [*notes.items()][1 - MAX_NOTES :]
    # it is only a note: a folder that cannot be written is read all the same
    with suppress(OSError):
        write_atomically(path, json.dumps(dict([*known, (digest, [state.due, kept])])) + "\n")
    return state


def _replayed(folder: RunFolder, manifest: Manifest) -> LooksSoFar:
    # pandas, which planning a study does without
    from ablation.analysis.claims import claims_replay
    from ablation.analysis.effects import effects_replay
    from ablation.analysis.results import load_scores

    results = load_scores(folder, manifest)
    claims = claims_replay(results)
    due, looks = dict(claims.due), {"claims": claims.looks}
    if manifest.decides_effects:
        effects = effects_replay(results)
        due |= {arm: max(n, due.get(arm, 0)) for arm, n in effects.due.items()}
        looks["main effects"] = effects.looks
    return LooksSoFar(due, {what: each[-1] for what, each in looks.items() if each})


def _digest(folder: RunFolder, manifest: Manifest) -> str:
    """Of what is asked, of the trials' outcomes, and of the code and libraries that judge them."""
    digest = hashlib.sha256(json.dumps(asdict(manifest), sort_keys=True).encode())
    digest.update(" ".join(map(version, ("numpy", "pandas", "scipy"))).encode())
    outcomes = [folder.trial_path(spec.trial) / "outcome.json" for spec in manifest.trials]
    for file in [*outcomes, *sorted((PACKAGE / "analysis").rglob("*.py"))]:
        content = file.read_bytes()
        digest.update(f"{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


class UntilDecided(Planner):
    """Plans the trials of a study that looks at its seeds.

    Args:
        tell: called with a line about each look that ends
    """

    def __init__(
        self,
        study: Study,
        store: DiskStore,
        folder: RunFolder,
        budget: Budget | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ):
        super().__init__(study)
        self.store, self.folder = store, folder
        self.budget, self.tell = budget or Budget(), tell
        # whether no seeds are added any more, even without a budget
        self.is_over = False
        self._begun = time.monotonic()
        # trials that have ended: their files need not be read again
        self._ended: set[str] = set()
        # those that were planned before, and whose chains hang on no records
        self._lasting: dict[str, PlannedTrial] = {}

    def due(self, before: Plan | None = None) -> Plan:
        """The trials that are due by what has ended so far; at least those of the first look.

        before: a plan of the study, of which chains are taken that hang on no records
        """
        tell, self.tell = self.tell, lambda text: None
        trials = {} if before is None else before.trials
        self._lasting |= {name: one for name, one in trials.items() if not one.undecided}
        plan = self._planned({})
        while (grown := self.grown(plan)) is not plan:
            plan = grown
        self.tell = tell
        return plan

    def grown(self, plan: Plan) -> Plan:
        """The plan with the trials of the next look, once all of this one have ended."""
        if not self._have_ended(plan):
            return plan
        state = judged(self.folder, manifest_of(self.study, self.folder.path.name, plan))
        new = self._planned(state.due, plan.trials)
        self.is_over = len(new.trials) == len(plan.trials)
        is_spent = self._is_spent(plan)
        if state.looks:
            self.tell(self._said(state.looks, is_spent))
        if self.is_over or is_spent:
            return plan
        return new

    def longest(self, plan: Plan) -> Plan:
        """The plan if no question were decided any more: the most that the study may take."""
        if self.is_over:
            return plan
        counts = {variant.name: 0 for variant in self.study.variants}
        for spec in plan.specs:
            counts[spec.arm] += 1
        most, asking = max(counts.values()), self._asking()
        going_on = {arm for arm, n in counts.items() if n == most and arm in asking}
        longest = counts | dict.fromkeys(going_on, len(self.study.grid.seeds))
        return self._planned(longest)

    def _planned(
        self, due: Mapping[str, int], known: Mapping[str, PlannedTrial] | None = None
    ) -> Plan:
        """The plan of so many seeds; those of the first look where an arm is not named."""
        first = self.study.grid.looks[0]
        counts = {variant.name: due.get(variant.name, first) for variant in self.study.variants}
        lasting = self._lasting | dict(known or {})
        return build_plan(self.study, self.store, self.folder, counts, lasting)

    def _have_ended(self, plan: Plan) -> bool:
        for name, trial in plan.trials.items():
            if name not in self._ended:
                if self.folder.ending(trial.spec) is None:
                    return False
                self._ended.add(name)
        return True

    def _is_spent(self, plan: Plan) -> bool:
        trials, seconds = self.budget.trials, self.budget.seconds
        return (trials is not None and len(plan.trials) >= trials) or (
            seconds is not None and time.monotonic() - self._begun >= seconds
        )

    def _asking(self) -> set[str]:
        """The arms and baselines that may get more seeds than those of the first look."""
        study = self.study
        arms: dict[str, dict[str, str]] = {
            variant.name: variant.levels for variant in study.variants if variant.kind == "arm"
        }
        compared = [claimed(arms, claim["contrast"]) for claim in study.grid.claims]
        if study.grid.decides_effects:
            factors = {
                factor.name: [level.name for level in factor.levels]
                for factor in study.grid.factors
            }
            compared += main_effects(arms, factors)
        return {cell for one in compared for cell in one.cells}

    def _said(self, looks: Mapping[str, Look], is_spent: bool) -> str:
        """`after 3 seeds: 2 of 5 claims decided; 6 arms go on to 5 seeds`."""
        n = max(look.n_seeds for look in looks.values())
        counted = [
            f"{look.n_decided} of {look.n_asked} {what}"
            for what, look in looks.items()
            if look.n_asked
        ]
        said = f"after {n} seeds: {' and '.join(counted)} decided"
        going_on = {arm for look in looks.values() if look.n_seeds == n for arm in look.going_on}
        later = [size for size in self.study.grid.looks if size > n]
        most = len(self.study.grid.seeds)
        if not going_on:
            return said
        if not later:
            return f"{said}; no more seeds are planned"
        arms = f"{len(going_on)} arm{'s' * (len(going_on) > 1)}"
        if n >= most:
            return f"{said}; with --seeds {most}, {arms} do not go on to {later[0]} seeds"
        if is_spent:
            return f"{said}; the budget is spent, so {arms} do not go on to {later[0]} seeds"
        return f"{said}; {arms} go on to {later[0]} seeds"
