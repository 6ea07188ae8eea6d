"""Count a study's epochs by phase while it runs: how many there are, and how many are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ablation.planning.plan import Plan
from ablation.subject.protocol import LinkLike


class PhaseCounts:
    """Epochs by phase. One that trials share counts once; so do those of trials that come later.

    Args:
        share: whether epochs that trials have in common are trained once
    """

    def __init__(self, share: bool = True):
        self.share = share
        # phase -> epochs, in the order in which trials go through them
        self.n_planned: Counter[str] = Counter()
        self.n_done: Counter[str] = Counter()
        self._chains: dict[str, Sequence[LinkLike]] = {}
        # epoch -> how many trials go through it
        self._n_trials: Counter[str] = Counter()
        self._done: set[str] = set()
        self._failed: set[str] = set()

    def replanned(self, plan: Plan) -> None:
        """Count the plan as it is now. Chains that are the same object are not gone through."""
        for name, trial in plan.trials.items():
            if self._chains.get(name) is not trial.links and name not in self._failed:
                self._put(name, trial.links)

    def did(self, name: str, links: Iterable[LinkLike]) -> None:
        """Count epochs of a trial as done."""
        for link in links:
            epoch = self._epoch(name, link)
            if epoch not in self._done:
                self._done.add(epoch)
                self.n_done[link.phase] += epoch in self._n_trials

    def gave_up(self, name: str) -> None:
        """A trial has failed: what is left of it is not planned any more."""
        done = [link for link in self._chains[name] if self._epoch(name, link) in self._done]
        self._put(name, done)
        self._failed.add(name)

    def _put(self, name: str, links: Sequence[LinkLike]) -> None:
        # in this order: what both have stays counted
        self._count(name, links, +1)
        self._count(name, self._chains.get(name, ()), -1)
        self._chains[name] = links

    def _count(self, name: str, links: Iterable[LinkLike], sign: int) -> None:
        for link in links:
            epoch = self._epoch(name, link)
            before = self._n_trials[epoch]
            self._n_trials[epoch] += sign
            if not self._n_trials[epoch]:
                del self._n_trials[epoch]
            change = (epoch in self._n_trials) - (before > 0)
            self.n_planned[link.phase] += change
            self.n_done[link.phase] += change * (epoch in self._done)

    def _epoch(self, name: str, link: LinkLike) -> str:
        return link.key if self.share else f"{name} {link.key}"
