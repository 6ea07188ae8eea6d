"""A report as one page: the Markdown as HTML, its figures inside. Nothing is loaded from anywhere else."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

FIGURES = "figures"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""
STYLE = """
:root { --ink: #222; --paper: #fff; --soft: #f3f3f1; --line: #d5d5d5; --link: #33508f }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e2; --paper: #16181b; --soft: #212429; --line: #41454b; --link: #9db7f0 }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.55 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.25 }
h2 { margin-top: 2.4rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line) }
a { color: var(--link) }
code, pre { font: .9em ui-monospace, monospace; background: var(--soft); border-radius: 3px }
code { padding: .1em .3em; overflow-wrap: anywhere }
pre { padding: .7rem; overflow-x: auto }
pre code { padding: 0 }
.table { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .4rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line) }
th, td:last-child:not([style*=right]) { white-space: normal }
td code { background: none; padding: 0 }
th { background: var(--soft) }
tbody tr:hover { background: var(--soft) }
img { display: block; max-width: 100%; box-sizing: border-box; background: #fff; border-radius: 6px; padding: .5rem }
@media print { body { max-width: none } .table { overflow: visible } }
""".strip()


def to_html(text: str, folder: Path) -> str:
    """A page that needs no other file: `figures/<name>.png` of `folder` stand in it, as SVG where there is one.

    text: Markdown. HTML in it is shown as text, and pictures from elsewhere as their description.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", _rule(folder))
    markdown.add_render_rule("table_open", lambda self, *_: '<div class="table"><table>\n')
    markdown.add_render_rule("table_close", lambda self, *_: "</table></div>\n")
    title = next(
        (line.removeprefix("# ") for line in text.split("\n") if line.startswith("# ")), "Report"
    )
    return PAGE.format(title=html.escape(title), style=STYLE, body=markdown.render(text))


def _rule(folder: Path) -> Callable[..., str]:
    """How a picture is rendered, markdown-it's way: whole, if it is one of the folder's, else as its description."""
    known = {f"{FIGURES}/{path.name}": path for path in (folder / FIGURES).glob("*.png")}

    def render(
        renderer: RendererHTML,
        tokens: Sequence[Token],
        index: int,
        options: OptionsDict,
        env: EnvType,
    ) -> str:
        description = html.escape(tokens[index].content)
        path = known.get(str(tokens[index].attrs["src"]))
        return f'<img alt="{description}" src="{_inlined(path)}">' if path else description

    return render


def _inlined(path: Path) -> str:
    """A picture as a data URI; an SVG in it can neither run scripts nor load anything."""
    drawing = path.with_suffix(".svg")
    kind, file = ("svg+xml", drawing) if drawing.is_file() else ("png", path)
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
