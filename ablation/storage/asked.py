"""What the search of one arm has asked for, decided and found: a file of events, one a line.

    {"search": "<digest of what is searched, and how>"}
    {"ask": 0, "values": {"optim.lr.encoder": 0.003}}
    {"step": 10, "of": 0, "value": 61.2, "prune": false}
    {"end": 0, "state": "COMPLETE", "value": 71.5}

The file only grows. From its events the search can be made again as it was: they stand in the order
in which they happened. A torn last line is ignored, and the file of another search is put aside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.storage.files import UNREADABLE, put_aside, warn_once
from ablation.storage.runs import write_atomically

SUFFIX = ".search"
"""Follows a study's name in that of its search."""
COMPLETE, PRUNED, FAILED = "COMPLETE", "PRUNED", "FAILED"

Event = dict[str, Any]


def trial_name(arm: str, number: int, seed: int) -> str:
    """How a trial of an arm's search is called, under one of the search's seeds."""
    return f"{arm}--t{number:03d}--s{seed}"


@dataclass
class AskedTrial:
    """One trial of a search, as far as the events tell."""

    number: int
    # setting -> value
    values: dict[str, Any]
    # the last step of which the metric was told, and the metric there; 0 and None before the first
    last_step: int = 0
    last_value: float | None = None
    # the step at which it was to end before its time
    pruned_at: int | None = None
    # COMPLETE, PRUNED or FAILED; "" while it is open
    state: str = ""
    # of a complete trial: the metric at its last epoch, averaged over the search's seeds
    value: float = math.nan


class SearchLog:
    """Reads and writes the events of one arm's search."""

    def __init__(self, folder: Path, arm: str, digest: str):
        """digest: of what is searched, and how."""
        self.path, self.digest = folder / f"{arm}.asked.jsonl", digest
        self.events: list[Event] = []
        self.trials: dict[int, AskedTrial] = {}
        # those that have not ended
        self.open: dict[int, AskedTrial] = {}
        for event in self._read():
            self._take(event)

    def append(self, event: Event) -> None:
        """Add an event, in memory and in the file. One process at a time may do so."""
        if not self._is_whole:
            self._write_whole()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        self._take(event)

    def ended(self) -> list[AskedTrial]:
        """The trials that have ended, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.state]

    def best(self, goal: str, n: int | None = None) -> AskedTrial | None:
        """The complete trial with the best metric, the first of equals; None where none is.

        n: of the first trials; default: of all
        """
        asked = [trial for trial in self.ended() if n is None or trial.number < n]
        complete = [trial for trial in asked if trial.state == COMPLETE]
        sign = -1 if goal == "minimize" else 1
        return max(complete, key=lambda trial: (sign * trial.value, -trial.number), default=None)

    def _take(self, event: Event) -> None:
        """Count an event. Raises KeyError, TypeError or ValueError if it is none."""
        if "ask" in event:
            number = int(event["ask"])
            self.trials[number] = self.open[number] = AskedTrial(number, dict(event["values"]))
        elif "step" in event:
            trial = self.trials[int(event["of"])]
            trial.last_step, trial.last_value = int(event["step"]), float(event["value"])
            if event["prune"] and trial.pruned_at is None:
                trial.pruned_at = trial.last_step
        else:
            trial = self.open.pop(int(event["end"]))
            value = event.get("value")
            trial.state, trial.value = str(event["state"]), math.nan if value is None else value
        self.events.append(event)

    def _read(self) -> list[Event]:
        """The events of this search, up to the first that is damaged."""
        self._is_whole = self._is_of_other = False
        events, known = list[Event](), set[int]()
        try:
            first, *lines = self.path.read_bytes().split(b"\n")
            self._is_of_other = json.loads(first) != {"search": self.digest}
            if self._is_of_other:
                return []
            for line in lines[:-1]:
                events.append(_checked(json.loads(line), known))
        except FileNotFoundError:
            return []
        except (*UNREADABLE, KeyError, TypeError) as error:
            warn_once(f"{self.path} is damaged ({error}); what follows is looked for again")
            return events
        self._is_whole = lines[-1:] == [b""]
        return events

    def _write_whole(self) -> None:
        """Write the file anew with the events that are known; another search's is put aside."""
        if self.path.exists() and not self.events:
            put_aside(self.path, "earlier" if self._is_of_other else "damaged")
        lines = [{"search": self.digest}, *self.events]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self._is_whole = True


def _checked(event: Any, known: set[int]) -> Event:
    """An event of a trial that is `known` to be open, or asks for one.

    Raises ValueError, KeyError or TypeError if it is none.
    """
    if not isinstance(event, dict):
        raise ValueError("a line is no event")
    if "ask" in event:
        if not isinstance(event["values"], Mapping) or event["ask"] in known:
            raise ValueError("a trial is asked for twice, or has no values")
        known.add(event["ask"])
        return event
    if (event["of"] if "step" in event else event["end"]) not in known:
        raise ValueError("a trial is told of that was not asked for")
    if "step" in event:
        float(event["value"]), int(event["step"]), bool(event["prune"])
        return event
    if event["state"] not in (COMPLETE, PRUNED, FAILED):
        raise ValueError("a trial has no such state")
    if event["state"] == COMPLETE:
        float(event["value"])
    known.remove(event["end"])
    return event
