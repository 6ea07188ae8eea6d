"""Add seeds to the arms of those claims that are not decided yet, look by look.

What is due follows from the files of the study's trials alone: its looks are repeated from the
first one (`ablation.analysis.looks`). So a study that was interrupted goes on as if it had not
been, and a finished one that is run again does nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ablation import PACKAGE
from ablation.analysis.contrasts import claimed, main_effects
from ablation.grid.load import Study
from ablation.planning.manifest import manifest_of
from ablation.planning.plan import Plan, PlannedTrial, build_plan, revise, with_ownership
from ablation.storage.cache import DiskStore
from ablation.storage.files import UNREADABLE
from ablation.storage.runs import RunFolder, write_atomically

if TYPE_CHECKING:
    from ablation.analysis.looks import Look
    from ablation.analysis.results import Scores


@dataclass(frozen=True)
class Budget:
    """When no further look begins; one that has begun is finished."""

    # of the study, those of earlier passes included
    trials: int | None = None
    # of this pass
    seconds: float | None = None


class UntilDecided:
    """Plans the trials of a study that looks at its seeds, see `ablation.planning.plan.Planner`.

    Args:
        tell: called with a line about each look that ends
        known: of this process, of the same study: what is decided of it is not planned again
    """

    def __init__(
        self,
        study: Study,
        store: DiskStore,
        folder: RunFolder,
        budget: Budget | None = None,
        tell: Callable[[str], None] = lambda text: None,
        known: Plan | None = None,
    ):
        self.study, self.store, self.folder = study, store, folder
        self.budget, self.tell = budget or Budget(), tell
        # whether no seeds are added any more, even without a budget
        self.is_over = False
        self._begun = time.monotonic()
        # trials that have ended: their files need not be read again
        self._ended: set[str] = set()
        # trials whose chains no record changes any more
        self._decided: dict[str, PlannedTrial] = {}
        self._keep(known.trials if known else {})
        self._scores: Scores | None = None
        # the plan with which no more are due, and what was said of its last look
        self._over: Plan | None = None
        self._last = ""

    def due(self) -> Plan:
        """The trials that are due by what has ended so far; at least those of the first look."""
        plan = self._as_run()
        if plan is not None and self._have_ended(plan) and self._is_all(plan):
            return plan
        tell, self.tell = self.tell, lambda text: None
        plan = self._planned({})
        while (grown := self.grown(plan)) is not plan:
            plan = grown
        self.tell = tell
        return plan

    def remember(self) -> None:
        """Note that no more trials are due: until anything changes, no look is repeated."""
        if self.is_over and self._over is not None:
            note = {"digest": self._digest(self._over), "said": self._last}
            write_atomically(self._note, json.dumps(note) + "\n")

    def revised(self, plan: Plan, name: str, store: DiskStore) -> Plan:
        """See `revise`."""
        return revise(self.study, plan, store, name)

    def grown(self, plan: Plan) -> Plan:
        """The plan with the trials of the next look, once all of this one have ended."""
        if not self._have_ended(plan):
            return plan
        if self._is_over(plan):
            self._say(self._last)
            return plan
        new, looks = self._replayed(plan)
        self.is_over = new.trials.keys() == plan.trials.keys()
        is_spent = self._is_spent(plan)
        self._last = self._said(looks, is_spent) if looks else ""
        self._say(self._last)
        if self.is_over:
            self._over = plan
        if self.is_over or is_spent:
            return plan
        known = {name: plan.trials.get(name, trial) for name, trial in new.trials.items()}
        return with_ownership(known)

    def _say(self, text: str) -> None:
        if text:
            self.tell(text)

    def _replayed(self, plan: Plan) -> tuple[Plan, dict[str, Look]]:
        """What is due by the results of these trials, and the last look at each kind of question.

        pandas is loaded here, which planning a study does without.
        """
        from ablation.analysis.claims import claims_replay
        from ablation.analysis.effects import effects_replay
        from ablation.analysis.results import Scores

        self._scores = self._scores or Scores(self.folder)
        results = self._scores.results(manifest_of(self.study, self.folder.path.name, plan))
        claims = claims_replay(results)
        effects = effects_replay(results) if self.study.grid.decides_effects else None
        due = dict(claims.due)
        for arm, n in (effects.due if effects else {}).items():
            due[arm] = max(n, due.get(arm, 0))
        replays = {"claims": claims, "main effects": effects}
        looks = {what: one.looks[-1] for what, one in replays.items() if one and one.looks}
        return self._planned(due), looks

    def _is_over(self, plan: Plan) -> bool:
        """Whether it is known that no more are due than these."""
        return self._over is not None and self._over.trials.keys() == plan.trials.keys()

    def _is_all(self, plan: Plan) -> bool:
        """Whether these trials, all of which have ended, are just those that are due.

        The looks are repeated once for all of them, or not at all where a note says what they came
        to.
        """
        last = self._noted(plan)
        if last is None:
            new, looks = self._replayed(plan)
            if new.trials.keys() != plan.trials.keys():
                return False
            last = self._said(looks, False) if looks else ""
        self.is_over, self._over, self._last = True, plan, last
        return True

    def _as_run(self) -> Plan | None:
        """The plan with as many seeds of each arm as study.json has; None where it has others."""
        if not self.folder.exists():
            return None
        trials = {spec.trial for spec in self.folder.manifest().trials}
        counts = Counter(spec.arm for spec in self.folder.manifest().trials)
        first = self.study.grid.looks[0]
        if any(
            not first <= counts[one.name] <= len(self.study.grid.seeds)
            for one in self.study.variants
        ):
            return None
        plan = self._planned(counts)
        return plan if plan.trials.keys() == trials else None

    @property
    def _note(self) -> Path:
        return self.folder.path / ".looks.json"

    def _noted(self, plan: Plan) -> str | None:
        """What was said of the last look, where the note is of these trials as they are."""
        try:
            told = json.loads(self._note.read_bytes())
            return str(told["said"]) if told["digest"] == self._digest(plan) else None
        except (*UNREADABLE, KeyError, TypeError):
            return None

    def _digest(self, plan: Plan) -> str:
        """Of the questions, of how each trial ended, and of the code and libraries that judge."""
        told = asdict(manifest_of(self.study, self.folder.path.name, plan))
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for name in ("numpy", "pandas", "scipy"):
            digest.update(version(name).encode())
        files = [self.folder.trial_path(name) / "outcome.json" for name in plan.trials]
        # an outcome holds the checksums of its trial's other files
        for file in [*files, *sorted((PACKAGE / "analysis").rglob("*.py")), Path(__file__)]:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

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

    def _planned(self, due: Mapping[str, int]) -> Plan:
        """The plan of so many seeds; those of the first look where an arm is not named."""
        first = self.study.grid.looks[0]
        counts = {variant.name: due.get(variant.name, first) for variant in self.study.variants}
        plan = build_plan(self.study, self.store, self.folder, counts, self._decided)
        self._keep(plan.trials)
        return plan

    def _keep(self, trials: Mapping[str, PlannedTrial]) -> None:
        self._decided |= {name: trial for name, trial in trials.items() if not trial.undecided}

    def _have_ended(self, plan: Plan) -> bool:
        for name, trial in plan.trials.items():
            if name not in self._ended:
                if self.folder.ending(trial.spec) is None:
                    return False
                self._ended.add(name)
                # how long an undecided chain became stands in the trial's files
                self._decided[name] = trial
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
        if not going_on:
            return said
        if not later:
            return f"{said}; no more seeds are planned"
        arms = f"{len(going_on)} arm{'s' * (len(going_on) > 1)}"
        if is_spent:
            return f"{said}; the budget is spent, so {arms} do not go on to {later[0]} seeds"
        return f"{said}; {arms} go on to {later[0]} seeds"
