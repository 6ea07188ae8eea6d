"""Names and texts as MLflow takes them: it refuses a whole batch for one that does not fit.

A name that MLflow takes stays as it is. Any other keeps the characters that MLflow takes, and ends
in a digest of the whole name, so that distinct names stay distinct. Texts that are too long are
shortened, and end in a digest, too.
"""

from __future__ import annotations

import functools
import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping

from ablation.storage.damage import say

REFUSED = re.compile(r"[^\w./: -]")
MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # characters
SHOWN = 3  # names in a message


@functools.cache
def fitted_name(name: str) -> str:
    """The name of a metric, param or tag in MLflow."""
    is_path = posixpath.normpath(name) == name != "." and not name.startswith(("/", ".."))
    if is_path and len(name) <= MAX_NAME and not REFUSED.search(name):
        return name
    parts = (part.strip(".") for part in REFUSED.sub("_", name).split("/"))
    ending = f"-{_digest(name)}"
    return "/".join(filter(None, parts))[: MAX_NAME - len(ending)] + ending


def fitted_names(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Name -> what it is called in MLflow. A message lists those that differ.

    kind: what they name, for the message.
    """
    fitted = {name: fitted_name(name) for name in sorted(set(names))}
    changed = [f"{_shown(name)} is {_shown(new)}" for name, new in fitted.items() if name != new]
    if changed:
        more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        say(
            f"names of {kind} that MLflow does not take are changed there: "
            f"{', '.join(changed[:SHOWN])}{more}"
        )
    return fitted


def fitted_labels(kind: str, texts: Mapping[str, str], limit: int) -> dict[str, str]:
    """Texts by name, names and texts as MLflow takes them."""
    names = fitted_names(f"{kind}s", texts)
    return {
        names[name]: fitted_text(text, limit, f"{kind} {_shown(name)}")
        for name, text in texts.items()
    }


def fitted_text(text: str, limit: int, what: str) -> str:
    """The text without what no database holds, shortened to `limit` characters."""
    text = _storable(text)
    if len(text) <= limit:
        return text
    note = f"... ({len(text)} characters, {_digest(text)})"
    say(
        f"{what} has more than the {limit} characters that MLflow takes; "
        "it is shortened there, and whole in the study's files"
    )
    return text[: limit - len(note)] + note


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _shown(name: str) -> str:
    name = _storable(name)
    return repr(name if len(name) <= 60 else f"{name[:40]}...{name[-12:]}")


def _storable(text: str) -> str:
    """Without lone surrogates, which no encoding has, and zeros, which PostgreSQL refuses."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
