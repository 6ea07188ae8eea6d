"""What a pass ends with: the report, written where anything has changed, and what it comes to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ablation import PACKAGE
from ablation.analysis.first_plan import other_trials
from ablation.grid.file import published_now
from ablation.planning.plan import arm_and_seed
from ablation.storage.asked import SUFFIX
from ablation.storage.files import UNREADABLE
from ablation.storage.project import ProjectPaths, report_files
from ablation.storage.runs import RunFolder, write_atomically

# whose versions change a report of the same results
LIBRARIES = ("jinja2", "markdown-it-py", "matplotlib", "numpy", "pandas", "scipy")


@dataclass(frozen=True)
class Closing:
    """The report of a study and a note of what it was made of: `.ablate/reported/<study>.json`."""

    places: ProjectPaths
    name: str

    @property
    def path(self) -> Path:
        """The report that a person opens."""
        return self.places.report(self.name) / "report.md"

    @property
    def page(self) -> Path:
        """The whole report in one file, where it was asked for."""
        return self.path.with_suffix(".html")

    def known(self, changed: str = "") -> list[str] | None:
        """What the report comes to; None if it is not whole, or not of the files as they are.

        changed: what the report has to say of changes since, as of `write`
        """
        try:
            told = json.loads(self._note.read_bytes())
            said = [str(line) for line in told["said"]]
            is_same = told["changed"] == changed and told["digest"] == self._digest()
            return said if is_same else None
        except (*UNREADABLE, KeyError, TypeError):
            return None

    def outdated(self) -> str:
        """What to say of a report that is there and not of the files as they are; else ""."""
        if not self.path.is_file() or self.known() is not None:
            return ""
        return f"{self.path} is of before: `ablate report {self.name}` writes it again"

    def write(self, as_html: bool = False, changed: str = "") -> list[str]:
        """Write the report; returns what it comes to. as_html, changed: as of `write_report`."""
        # Matplotlib and pandas are loaded when they are needed.
        from ablation.reporting.report import write_report
        from ablation.reporting.verdict import conclusion

        folder = self.places.runs(self.name)
        # before they are read: a study that is run may add to them
        was_running, results = folder.is_being_run(), self._hash(self._results())
        drawn = self._drawn(results)
        written = write_report(folder, self.path.parent, as_html, changed, drawn)
        said = conclusion(written.study, written.effects, written.claims)
        # Of a study that is run, the report tells more than the files; or less, if it went on
        # while they were read.
        is_passing = was_running or folder.is_being_run()
        is_passing = is_passing or self._hash(self._results()) != results
        note = {
            "digest": "" if is_passing else self._digest(results),
            "changed": changed,
            "said": said,
            "results": results,
            "drawn": written.drawn,
            "figures": self._hash(self._figures()),
        }
        write_atomically(self._note, json.dumps(note, indent=1) + "\n")
        return said

    def _drawn(self, results: str) -> list[str] | None:
        """The names of the figures that are there, if they are of these results; else None."""
        try:
            told = json.loads(self._note.read_bytes())
            drawn = [str(name) for name in told["drawn"]]
            is_same = told["results"] == results
            return drawn if is_same and told["figures"] == self._hash(self._figures()) else None
        except (*UNREADABLE, KeyError, TypeError):
            return None

    @property
    def _note(self) -> Path:
        return self.places.root / ".ablate" / "reported" / f"{self.name}.json"

    def _digest(self, results: str = "") -> str:
        """Of the results, and of the report's own files that are made of them.

        results: the hash of the former, where it is known
        """
        made_of_them = self._hash(report_files(self.path.parent))
        return f"{results or self._hash(self._results())} {made_of_them}"

    def _hash(self, files: Iterable[Path]) -> str:
        """Of files, and of what else a report is made of."""
        told = [version(name) for name in LIBRARIES]
        published = published_now(self.places.runs(self.name).manifest())
        digest = hashlib.sha256(repr((told, published)).encode())
        for file in files:
            # a name and a length, so that no two lists of files look alike
            content = file.read_bytes()
            digest.update(f"{file.parent.name}/{file.name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def _figures(self) -> list[Path]:
        return sorted((self.path.parent / "figures").glob("*"))

    def _results(self) -> Iterator[Path]:
        """The files of the results, and those of the code that makes a report of them."""
        for name in (self.name, f"{self.name}{SUFFIX}"):
            folder = self.places.runs(name).path
            # but for the lock
            yield from sorted(path for path in folder.glob("[!.]*") if path.is_file())
            for read in ("outcome.json", "metrics.jsonl"):
                yield from sorted(folder.glob(f"*/{read}"))
        for package in ("analysis", "reporting"):
            yield from sorted((PACKAGE / package).rglob("*.py"))
            yield from sorted((PACKAGE / package).rglob("*.j2"))
        yield PACKAGE / "formatting.py"


def other_seeds(folder: RunFolder) -> str:
    """Says that trials of more seeds have ended than the study has; "" if none have.

    Of a study that adds seeds by itself, nothing is said.
    """
    manifest = folder.manifest()
    if manifest.looks or manifest.search.get("of"):
        return ""
    others = other_trials(manifest, folder)
    if not others:
        return ""
    seeds = {seed for _, seed in map(arm_and_seed, others) if seed is not None}
    known = sorted({*manifest.seeds, *seeds})
    asked = str(len(known)) if known == [*range(len(known))] else ",".join(map(str, known))
    names = ", ".join(map(str, sorted(seeds)))
    seeds_named = f"seeds {names}" if len(seeds) > 1 else f"seed {names}"
    n_failed = sum(outcome.state == "FAILED" for outcome in others.values())
    failed = f"; {n_failed} failed" if n_failed else ""
    trials = f"{len(others)} more trials" if len(others) > 1 else "1 more trial"
    verb, them = ("are", "them") if len(others) > 1 else ("is", "it")
    return f"{trials} ({seeds_named}{failed}) {verb} there; --seeds {asked} includes {them}"
