"""A hook of mkdocs: links to files outside docs/ become text, or links to `repo_url` if it is set.

The pages are read in the repository as well, where links to source files work; a site has no such
files, and mkdocs warns of each. `tests/unit/test_documents.py` checks that the files exist.
"""

from __future__ import annotations

import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s]*)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of one page that leave docs/."""
    depth = page.file.src_uri.count("/")

    def rewritten(link: re.Match[str]) -> str:
        text, target = link.groups()
        n_up = target.count("../")
        if n_up <= depth:
            return link[0]
        path = target.removeprefix("../" * n_up)
        return (
            f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})" if config.repo_url else text
        )

    return LINK.sub(rewritten, markdown)
