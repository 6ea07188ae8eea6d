"""The texts of reports, as Jinja templates."""

from __future__ import annotations

import jinja2

from ablation.formatting import correlation, listed, p_value


def template(name: str) -> jinja2.Template:
    """A template of this package, with the filters of `ablation.formatting`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ablation.reporting"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        listed=lambda names: listed(list(names)),
        code="`{}`".format,
        p_value=p_value,
        correlation=correlation,
    )
    return environment.get_template(name)
