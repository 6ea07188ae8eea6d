"""A report as one HTML page with its figures inside; it loads nothing from anywhere else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from ablation.reporting.templates import template


def to_html(text: str, folder: Path) -> str:
    """A page that needs no other file.

    It holds the figures `figures/<name>.png` of `folder`, as SVG where there is one.

    text: Markdown. HTML in it is shown as text, and pictures from elsewhere as their description.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    figures = {f"figures/{path.name}": path for path in (folder / "figures").glob("*.png")}

    def image(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: Any) -> str:
        """A picture whole, if it is one of the folder's, else as its description."""
        description = html.escape(tokens[index].content)
        path = figures.get(str(tokens[index].attrs["src"]))
        return f'<img alt="{description}" src="{_inlined(path)}">' if path else description

    markdown.add_render_rule("image", image)
    markdown.add_render_rule("table_open", lambda self, *_: '<div class="table"><table>\n')
    markdown.add_render_rule("table_close", lambda self, *_: "</table></div>\n")
    title = next(
        (line.removeprefix("# ") for line in text.split("\n") if line.startswith("# ")), "Report"
    )
    return template("page.html.j2").render(title=title, body=markdown.render(text))


def _inlined(path: Path) -> str:
    """A picture as a data URI; an SVG in it can neither run scripts nor load anything."""
    drawing = path.with_suffix(".svg")
    kind, file = ("svg+xml", drawing) if drawing.is_file() else ("png", path)
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
