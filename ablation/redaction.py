"""Remove credentials from texts before they reach consoles, logs, reports or databases."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
# Greedy: a password may hold an @ or a slash that is not encoded.
USER = re.compile(r"(://)(\S*)@")
FIELD = re.compile(
    r"([?&;][\w.-]*(?:passw|pwd|secret|token|key|credential)[\w.-]*=)([^&;\s'\"]+)", re.IGNORECASE
)
# of what is looked for outside its URL: shorter ones would be found in any text
MIN_CHARACTERS = 4


def redacted(text: str, *urls: str) -> str:
    """The text without credentials: of the URLs in it, and of `urls` where they stand alone."""
    for secret in sorted(
        {secret for url in urls for secret in _secrets(url)}, key=len, reverse=True
    ):
        text = text.replace(secret, HIDDEN)
    return FIELD.sub(rf"\1{HIDDEN}", USER.sub(rf"\1{HIDDEN}@", text))


def _secrets(url: str) -> set[str]:
    """Passwords, and the pieces that a badly encoded one may be read as, as written and decoded."""
    found = [match[2] for match in FIELD.finditer(url)]
    for match in USER.finditer(url):
        found += re.split(r"[@/?#]", match[2].partition(":")[2])
        found.append(match[2].partition(":")[2])
    return {
        form
        for secret in found
        for form in (secret, unquote(secret))
        if len(form) >= MIN_CHARACTERS
    }
