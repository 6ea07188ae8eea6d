"""A Python source as its syntax tree: what is the same whatever its comments and layout are."""

from __future__ import annotations

import ast
from typing import Any

# Of nodes and lists in each other. Fixed, so that no digest depends on the caller's stack.
MAX_DEPTH = 200


def plain(node: Any, depth: int = 0) -> Any:
    """A syntax tree as lists, without empty fields: later Pythons have more of those.

    Raises RecursionError where it is deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise RecursionError(f"a syntax tree deeper than {MAX_DEPTH}")
    if isinstance(node, ast.AST):
        fields = ast.iter_fields(node)
        held = [
            [name, plain(value, depth + 1)] for name, value in fields if value not in (None, [])
        ]
        return [type(node).__name__, held]
    return [plain(each, depth + 1) for each in node] if isinstance(node, list) else repr(node)
