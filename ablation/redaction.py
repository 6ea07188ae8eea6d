"""Keeping credentials out of what people and files are told."""

from __future__ import annotations

import re


def redacted(text: str) -> str:
    """The text without the credentials of the URLs in it."""
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", text)
