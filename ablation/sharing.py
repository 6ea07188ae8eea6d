"""This host's part in a study that several share: opened before the study is planned, joined while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy
from rich.console import Console

from ablation.definition import Definition, known_studies, read_definition, refuse_difference, write_definition
from ablation.errors import InputError, Problem, nearest
from ablation.forest import segments
from ablation.hosts import Hosts
from ablation.leases import TIMEOUT_SECONDS, Leases, this_host
from ablation.outcome import UNSCORED
from ablation.places import Places
from ablation.plan import Plan
from ablation.redaction import redacted
from ablation.runs import RunFolder
from ablation.shared_database import OPTION, StorageUnavailable, enroll, open_database, storage_url
from ablation.shared_store import DOUBT, FAILURE, MARK, RECORD, STATE, SharedStore
from ablation.study import refuse_change



class Sharing:
    """A study in the database at `url`, of which this host keeps its files below `root`.

    Raises InputError if the database cannot be used or reached.
    """

    def __init__(self, url: str, lease_seconds: float | None = None, root: Path = Path(".")):
        self.url, self.lease_seconds = storage_url(url), lease_seconds or TIMEOUT_SECONDS
        self.places = Places(root, self.url)
        with self._reaching():
            self.engine = open_database(self.url)

    def definition(self, study: str) -> Definition:
        """Of a study that a host has begun. Raises InputError if there is none."""
        with self._reaching():
            found = read_definition(self.engine, study)
            known = known_studies(self.engine)
        if found is None:
            hint = nearest(study, known) if known else "`ablate run --grid G --storage URL` begins one, and there is none yet"
            raise InputError([Problem("--study", study, f"no such study at {redacted(self.url)}; {hint}")])
        return found

    def living_hosts(self, study: str) -> list[str]:
        """The hosts that run a study now."""
        with self._reaching():
            return Leases(self.engine, study, this_host(), self.lease_seconds).others()

    def open(self, study: str) -> None:
        """Bring into the cache what there is of a study."""
        with self._reaching():
            enroll(self.engine, study)
            self.leases = Leases(self.engine, study, this_host(), self.lease_seconds)
            self.store = SharedStore(self.places.store.root, self.engine, study)
            self.news = self.store.pull()
        self.agreed: Definition | None = None

    def agree(self, mine: Definition, may_change: bool) -> None:
        """Compare this host's idea of the study with that of the others. Raises InputError where they would be mixed.

        may_change: what the others go by if this host may say so and none of them is at work.
        """
        study = self.leases.study
        with self._reaching():
            theirs, others = read_definition(self.engine, study), self.leases.others()
            if theirs is not None:
                refuse_change(theirs, mine, f"{study} in the storage")
                if others and may_change and theirs.keys.keys() != mine.keys.keys():
                    message = f"{', '.join(others)} would not hear of the trials that are new; stop them first, or wait until they have ended"
                    raise InputError([Problem("--grid", study, message)])
                if others or not may_change:
                    refuse_difference(theirs, mine, study)
            if may_change and theirs != mine:
                write_definition(self.engine, study, mine)
        self.is_new, self.agreed = theirs is None, mine

    def has_grown(self) -> bool:
        """Whether the study's trials are others by now than this host has agreed to run. Raises StorageUnavailable."""
        if self.agreed is None:
            return False
        now = read_definition(self.engine, self.leases.study)
        return now is not None and now.keys != self.agreed.keys

    def reconcile(self, plan: Plan, folder: RunFolder, retry: bool) -> None:
        """Let the same trials have ended here as elsewhere; with `retry`, none that failed, so that they are run again.

        Whole records count more than a failure, and records that all share more than what this host had in their place.
        Raises InputError if they cannot be run again now.
        """
        with self._reaching():
            if retry:
                others = self.leases.others()
                if others:
                    message = f"{', '.join(others)} would not hear of it; stop them first, or wait until they have ended"
                    raise InputError([Problem("--retry-failed", "", message)])
                for kind in (FAILURE, DOUBT):
                    self.store.withdraw(kind, [spec.key for spec in plan.specs])
                self.store.withdraw(MARK)  # what was delivered is not how it will have ended
                self.news.failures.clear()
        chains = {name: trial.links for name, trial in plan.trials.items()}
        stale = self.store.forsake_after(self.news.replaced, chains)
        endings = {spec.key: folder.ending(spec) for spec in plan.specs}
        failed = {key: ending for key, ending in endings.items() if ending is not None and ending.state == "FAILED"}
        if self.is_new and not retry:  # until now, this host was the only one
            with self._reaching():
                self.store.push_failures(failed)
            self.news.failures.update(failed | self.news.failures)
        for spec in plan.specs:
            ending, failure = endings[spec.key], self.news.failures.get(spec.key)
            is_whole = all(self.store.holds_here(RECORD, link.key) for link in chains[spec.trial])
            if is_whole and ending is not None and (ending.error or {}).get("type") in UNSCORED and spec.trial not in stale:
                continue  # it failed by its records, as on every host
            if ending is not None and (spec.trial in stale or (ending.state == "FAILED" and (failure is None or is_whole))):
                (folder.trial_path(spec.trial) / "outcome.json").unlink()  # it is run again, or closed by its records
            elif failure is not None and ending is None and not is_whole:
                folder.write_outcome(spec.trial, failure)

    @contextlib.contextmanager
    def joined(self, plan: Plan, console: Console) -> Iterator[Hosts]:
        """Be one of the hosts. They get what this one's cache has of the study."""
        with Hosts(self.store, self.leases, lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)) as hosts:
            with self._reaching():
                hosts.offer(list(segments({name: trial.links for name, trial in plan.trials.items()}).values()))
            yield hosts

    def clean(self, plan: Plan) -> None:
        """The plan is complete: none of its checkpoints is needed any more, unless the study has grown meanwhile."""
        with contextlib.suppress(StorageUnavailable):
            if not self.has_grown():
                self.store.withdraw(STATE, list(plan.unique()))

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except StorageUnavailable as error:
            raise InputError([Problem(OPTION, "", str(error))]) from None
