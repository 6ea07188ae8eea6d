"""What a study will compute: trials, their chains of epochs, what they share, and in which order.

The epochs of all trials are cut into segments where trials diverge. Chains share a prefix exactly
where the keys of their links are equal, so nothing but keys is needed. A segment is what one worker
runs in one go; its parent must have run before. `Schedule` picks the next one to run.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ablation.grid.load import Study, Variant
from ablation.storage.cache import DiskStore
from ablation.storage.runs import RunFolder, TrialSpec
from ablation.subject.protocol import LinkLike, Record, Subject, digest_of

LookUp = Callable[[str], Record | None]


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and its chain as known now."""

    spec: TrialSpec
    links: Sequence[LinkLike]
    # The chain's length depends on records: it was planned at its longest, or is now known.
    undecided: bool


@dataclass(frozen=True)
class Plan:
    """All trials in the order of the report: arms, then baselines, seeds within."""

    trials: Mapping[str, PlannedTrial]

    @property
    def specs(self) -> list[TrialSpec]:
        """What the manifest holds of each trial."""
        return [trial.spec for trial in self.trials.values()]

    @property
    def chains(self) -> dict[str, Sequence[LinkLike]]:
        """Trial -> its links."""
        return {name: trial.links for name, trial in self.trials.items()}

    def unfinished(self, folder: RunFolder) -> Plan:
        """The plan of those trials that have no outcome yet."""
        left = [name for name, trial in self.trials.items() if folder.ending(trial.spec) is None]
        return Plan({name: self.trials[name] for name in left})

    def of(self, arms: Collection[str]) -> Plan:
        """The plan of the trials of these arms alone; of none, the whole plan."""
        if not arms:
            return self
        return Plan({name: one for name, one in self.trials.items() if one.spec.arm in arms})

    def n_naive(self) -> int:
        """Epochs if every trial ran alone."""
        return sum(map(len, self.chains.values()))

    def unique(self) -> dict[str, LinkLike]:
        """Key -> link, of the links of all trials."""
        return unique_links(self.chains)

    def missing(self, store: DiskStore) -> list[LinkLike]:
        """Links without a record: what is left to train."""
        return missing_links(self.chains, store)


def unique_links(chains: Mapping[str, Sequence[LinkLike]]) -> dict[str, LinkLike]:
    """Key -> link, of the links of all chains."""
    return {link.key: link for links in chains.values() for link in links}


def missing_links(chains: Mapping[str, Sequence[LinkLike]], store: DiskStore) -> list[LinkLike]:
    """The links of chains that have no record, each once."""
    return [link for key, link in unique_links(chains).items() if not store.holds("record", key)]


def build_plan(
    study: Study,
    store: DiskStore,
    folder: RunFolder,
    n_seeds: Mapping[str, int] | None = None,
    known: Mapping[str, PlannedTrial] | None = None,
) -> Plan:
    """Plan every variant under every seed. Keys alone are computed: no training code is loaded.

    n_seeds: variant -> how many of the grid's seeds it has; default, all.
    known: name -> trial, of those that are taken as they are

    A chain whose length depends on records is looked up in `store`; that of a finished trial, in
    its folder, since the store need not have its records any more.
    """
    trials, known = dict[str, PlannedTrial](), known or {}
    for variant in study.variants:
        config = study.subject.resolve(variant.settings)
        n = len(study.grid.seeds) if n_seeds is None else n_seeds[variant.name]
        for seed in study.grid.seeds[:n]:
            name = trial_name(variant.name, seed)
            trials[name] = known.get(name) or plan_trial(
                study.subject, variant, name, seed, store, folder, config
            )
    return with_ownership(trials)


def trial_name(arm: str, seed: int) -> str:
    """How the trial of an arm under a seed is called."""
    return f"{arm}--s{seed}"


def arm_and_seed(trial: str) -> tuple[str, int | None]:
    """What `trial_name` named, of a trial that no manifest has; without a seed, it was no trial.

    >>> arm_and_seed("warmup--s0"), arm_and_seed("notes")
    (('warmup', 0), ('', None))
    """
    arm, _, seed = trial.rpartition("--s")
    return (arm, int(seed)) if seed.isdecimal() else ("", None)


def plan_trial(
    subject: Subject,
    variant: Variant,
    name: str,
    seed: int,
    store: DiskStore,
    folder: RunFolder,
    config: Mapping[str, Any],
) -> PlannedTrial:
    """Plan one trial, as if no other had any of its links. config: its settings resolved."""
    asked: list[str] = []

    def record(key: str) -> Record | None:
        asked.append(key)
        return store.record(key)

    links = longest = subject.chain(variant.settings, seed, record)
    if asked:
        longest = subject.chain(variant.settings, seed, lambda key: None)
    spec = TrialSpec(
        trial=name,
        arm=variant.name,
        kind=variant.kind,
        levels=dict(variant.levels),
        seed=seed,
        key=trial_key(name, longest, config),
        settings=dict(variant.settings),
        epochs_planned=len(links),
        epochs_trained=0,
        epochs_shared=0,
    )
    if asked and folder.ending(spec) is not None:
        links = subject.chain(spec.settings, seed, _by_place(longest, folder.records(name)))
    return PlannedTrial(spec, links, bool(asked))


def revise(study: Study, plan: Plan, store: DiskStore, name: str) -> Plan:
    """The plan with an undecided trial's chain looked up again, now that more records are there."""
    trial = plan.trials[name]
    if not trial.undecided:
        return plan
    links = study.subject.chain(trial.spec.settings, trial.spec.seed, store.record)
    if links == trial.links:
        return plan
    return with_ownership({**plan.trials, name: replace(trial, links=links)})


class Planner:
    """Decides, while a study runs, which epochs and trials come next.

    By itself: all trials are known from the start, and undecided chains end where records say.
    """

    def __init__(self, study: Study):
        self.study = study

    def revised(self, plan: Plan, name: str, store: DiskStore) -> Plan:
        """The plan once more of a trial's records are there; the same object if nothing changes."""
        return revise(self.study, plan, store, name)

    def ends_after(self, name: str, epoch: Record) -> bool:
        """Whether a trial ends with an epoch within a link of own code that goes on.

        Asked of each epoch once, in their order, when a later one has begun.
        """
        return False

    def grown(self, plan: Plan) -> Plan:
        """The plan with the trials that are due now that others have ended.

        Asked at the start and whenever trials have ended; the same object if none are due.
        """
        return plan


def expected(study: Study, plan: Plan, store: DiskStore, folder: RunFolder) -> Plan:
    """The plan, undecided chains taken to be as long as in a finished trial of the same arm."""
    undecided = {name: trial for name, trial in plan.trials.items() if trial.undecided}
    unfinished = Plan(undecided).unfinished(folder).trials
    finished = {trial.spec.arm: name for name, trial in undecided.items() if name not in unfinished}
    trials = dict(plan.trials)
    for name, trial in unfinished.items():
        if trial.spec.arm in finished:
            look_up = _by_place(trial.links, folder.records(finished[trial.spec.arm]), store.record)
            links = study.subject.chain(trial.spec.settings, trial.spec.seed, look_up)
            trials[name] = replace(trial, links=links)
    return with_ownership(trials)


def trial_key(name: str, links: Sequence[LinkLike], config: Mapping[str, Any]) -> str:
    """A trial's identity: its name, its chain at its longest, and its configuration.

    No record changes the longest chain. The configuration may say where the chain ends (a plateau's
    tolerance) without being in any link.
    """
    return digest_of([name, links[-1].key, config])


def with_ownership(trials: Mapping[str, PlannedTrial]) -> Plan:
    """The plan of these trials, with the number of links that each shares with earlier ones."""
    seen: set[str] = set()
    found = {}
    for name, trial in trials.items():
        keys = {link.key for link in trial.links}
        found[name] = counted(trial, len(keys), len(keys - seen))
        seen |= keys
    return Plan(found)


def counted(trial: PlannedTrial, n_epochs: int, n_own: int) -> PlannedTrial:
    """The trial with its epochs, of which `n_own` are in no trial before it."""
    spec = replace(
        trial.spec,
        epochs_planned=n_epochs,
        epochs_trained=n_own,
        epochs_shared=n_epochs - n_own,
    )
    return replace(trial, spec=spec)


def _by_place(
    links: Sequence[LinkLike], records: Iterable[Record], known: LookUp = lambda key: None
) -> LookUp:
    """Looks up records without keys, where none is `known`, by phase and epoch of `links`."""
    found = {(record["phase"], record["epoch"]): record for record in records}
    by_key = {link.key: found.get((link.phase, link.epoch)) for link in links}
    return lambda key: known(key) or by_key.get(key)


@dataclass
class Segment:
    """Consecutive links that the same trials pass through."""

    # its name: the key of its last link
    end: str
    links: list[LinkLike]
    # in plan order
    trials: list[str]
    # `end` of the segment before
    parent: str | None
    children: list[str] = field(default_factory=list)
    # cost from its first link to the end of the longest trial through it
    critical: float = 0.0


class Schedule:
    """The segments of unfinished trials, handed out one by one, the longest path first.

    Costs O(log n) per segment. When chains change (a plateau is reached, a trial fails) a new
    schedule is made.

    Args:
        chains: trial -> its links
        share: whether common prefixes are segments of their own; else every trial is one segment
        is_there: whether a segment need not run
        busy: keys of links (names of segments, where nothing is shared) that are being run;
            segments that overlap them are not handed out
    """

    def __init__(
        self,
        chains: Mapping[str, Sequence[LinkLike]],
        share: bool,
        is_there: Callable[[Segment], bool],
        busy: Collection[str] = (),
    ):
        self.segments = segments(chains) if share else separate(chains)
        self._is_there = is_there
        self._busy = frozenset(busy)
        self._order = {end: i for i, end in enumerate(self.segments)}
        self._ready: list[tuple[float, int, str]] = []
        # A segment is offered once: `done` may be called for one that was there when this was made.
        self._offered: set[str] = set()
        self._offer(end for end, segment in self.segments.items() if segment.parent is None)

    def next(self) -> Segment | None:
        """The most urgent segment that can run, once. None if all must wait."""
        return self.segments[heapq.heappop(self._ready)[2]] if self._ready else None

    def done(self, end: str) -> None:
        """A segment is there: its children can run."""
        self._offer(self.segments[end].children)

    def _offer(self, ends: Iterable[str]) -> None:
        waiting = list(ends)
        while waiting:
            segment = self.segments[waiting.pop()]
            if self._is_there(segment):
                waiting += segment.children
            elif segment.end not in self._offered and not self._is_busy(segment):
                self._offered.add(segment.end)
                entry = (-segment.critical, self._order[segment.end], segment.end)
                heapq.heappush(self._ready, entry)

    def _is_busy(self, segment: Segment) -> bool:
        return not self._busy.isdisjoint([segment.end, *(link.key for link in segment.links)])


def segments(chains: Mapping[str, Sequence[LinkLike]]) -> dict[str, Segment]:
    """Trial name -> links, as segments by their `end`; parents before children, in plan order."""
    passing = Counter(link.key for links in chains.values() for link in links)
    found: dict[str, Segment] = {}
    for trial, links in chains.items():
        parent, start = None, 0
        for i, link in enumerate(links):
            is_last = i == len(links) - 1
            if not is_last and passing[links[i + 1].key] == passing[link.key]:
                continue
            if link.key in found:
                found[link.key].trials.append(trial)
            else:
                found[link.key] = Segment(link.key, list(links[start : i + 1]), [trial], parent)
                if parent is not None:
                    found[parent].children.append(link.key)
            parent, start = link.key, i + 1
    # Children stand after their parents.
    for segment in reversed(found.values()):
        after = max((found[child].critical for child in segment.children), default=0.0)
        segment.critical = sum(link.cost for link in segment.links) + after
    return found


def separate(chains: Mapping[str, Sequence[LinkLike]]) -> dict[str, Segment]:
    """Every trial as one segment of its own: nothing is shared."""
    return {
        trial: Segment(trial, list(links), [trial], None, critical=sum(link.cost for link in links))
        for trial, links in chains.items()
    }


def is_there(segment: Segment, store: DiskStore) -> bool:
    """Whether a segment need not run: it has records, and the checkpoint for its children."""
    return has_records(segment, store) and (
        not segment.children or store.holds("state", segment.end)
    )


def has_records(segment: Segment, store: DiskStore) -> bool:
    """Whether every epoch of the segment has a record."""
    return all(store.holds("record", link.key) for link in reversed(segment.links))
