"""Names and texts as MLflow takes them. It refuses a whole batch, and so a run for ever, for one that does not fit.

A name of which MLflow would refuse a character, a part or the length is changed. Distinct names stay distinct: where two
would be called the same, the changed one ends in a digest of what it was. Texts that are too long are shortened, and end in
a digest, too. What was changed is said once.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ablation.damage import say

NOT_IN_NAMES = re.compile(r"[^\w./ -]")
MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # characters
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Names:
    """Name -> what it is called in MLflow, for all names of one kind in a study."""

    known: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def fitted(cls, kind: str, names: Iterable[str], uri: str) -> Names:
        """kind: what they name, for messages; uri: of the store, on which depends which names are the same to it."""
        names = sorted(set(names))
        are_files = "://" not in uri or uri.startswith("file:")
        # On a server nobody knows what database there is; MySQL's and Microsoft's compare without case, as some file systems.
        folds = not uri.startswith(("sqlite", "postgres"))
        groups: dict[str, list[str]] = defaultdict(list)
        for name in names:
            plain = _plain(name)
            groups[plain.casefold() if folds else plain].append(name)
        folders = (
            {group[:end] for group in groups for end, letter in enumerate(group) if letter == "/"}
            if are_files
            else set()
        )
        known = {}
        for group, members in groups.items():
            first = next(
                (name for name in members if _plain(name) == name),
                members[0] if len(members) == 1 else None,
            )
            for name in members:
                # A file store keeps the metric `loss` in a file, and `loss/train` in a folder of that name.
                fits = (
                    name == first
                    and group not in folders
                    and _size(_plain(name), are_files) <= MAX_NAME
                )
                known[name] = _plain(name) if fits else _with_digest(name, are_files)
        changed = [
            f"{_shown(name)} is {_shown(fitted)}"
            for name, fitted in known.items()
            if name != fitted
        ]
        if changed:
            more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            say(
                f"names of {kind} that MLflow does not take are changed there: {', '.join(changed[:SHOWN])}{more}"
            )
        return cls(known)

    def of(self, name: str) -> str:
        return self.known.get(name, name)


def fitted_texts(kind: str, texts: Mapping[str, str], limit: int) -> dict[str, str]:
    """Texts by name, each as MLflow can hold it."""
    return {
        name: fitted_text(text, limit, f"{kind} {_shown(name)}") for name, text in texts.items()
    }


def fitted_text(text: str, limit: int, what: str) -> str:
    """The text without what no database holds, shortened to `limit` characters."""
    text = _text(text)
    if len(text) <= limit:
        return text
    note = f"... ({len(text)} characters, {_digest(text)})"
    say(
        f"{what} has more than the {limit} characters that MLflow takes; it is shortened there, and whole in the study's files"
    )
    return text[: limit - len(note)] + note


def _plain(name: str) -> str:
    """The name with other characters, and without empty parts, in place of those that MLflow refuses."""
    parts = [part for part in NOT_IN_NAMES.sub("_", name).split("/") if part]
    plain = "/".join("_" * len(part) if part in (".", "..") else part for part in parts) or "_"
    return f"__{plain[2:]}" if plain.startswith("..") else plain


def _with_digest(name: str, are_files: bool) -> str:
    ending = f"-{_digest(name)}"
    plain = _plain(name)
    while _size(plain + ending, are_files) > MAX_NAME:
        plain = plain[:-1]
    return plain + ending


def _size(name: str, are_files: bool) -> int:
    """What counts against the limit: a file system counts bytes."""
    return len(name.encode()) if are_files else len(name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _shown(name: str) -> str:
    name = _text(name)
    return repr(name if len(name) <= 60 else f"{name[:40]}...{name[-12:]}")


def _text(text: str) -> str:
    """Without lone surrogates, which no encoding has, and zeros, which PostgreSQL refuses."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
