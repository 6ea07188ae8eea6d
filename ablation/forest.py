"""The links of all trials as a forest: common prefixes once, cut into segments where trials part.

A segment is what one worker runs in one go; its parent must have run before. Chains share a prefix exactly
where their keys are equal, so the forest needs nothing but keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ablation.subject import Link


@dataclass
class Segment:
    """Consecutive links that the same trials pass through."""

    end: str  # its name: the key of its last link
    links: list[Link]
    trials: list[str]  # in plan order
    parent: str | None  # `end` of the segment before
    children: list[str] = field(default_factory=list)
    critical: float = 0.0  # cost from its first link to the end of the longest trial through it


def segments(chains: Mapping[str, Sequence[Link]]) -> dict[str, Segment]:
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
    for segment in reversed(found.values()):  # children stand after their parents
        after = max((found[child].critical for child in segment.children), default=0.0)
        segment.critical = sum(link.cost for link in segment.links) + after
    return found


def separate(chains: Mapping[str, Sequence[Link]]) -> dict[str, Segment]:
    """Every trial as one segment of its own: nothing is shared."""
    return {
        trial: Segment(trial, list(links), [trial], None, critical=sum(link.cost for link in links))
        for trial, links in chains.items()
    }


def ownership(chains: Mapping[str, Sequence[Link]]) -> dict[str, tuple[int, int]]:
    """Trial -> (links that no earlier trial has, links that it shares with an earlier one)."""
    seen: set[str] = set()
    counts = {}
    for trial, links in chains.items():
        new = sum(link.key not in seen for link in links)
        seen.update(link.key for link in links)
        counts[trial] = (new, len(links) - new)
    return counts
