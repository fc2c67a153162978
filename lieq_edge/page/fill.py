"""Templates of jinja2 that escape everything."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..system.units import size_text
from ..version import __version__
from . import numbers


def fill(template: str, page: Any) -> str:
    """The text of a page.

    Args:
        template: file in ``templates/``.
        page: what it reads, under the name ``page``.
    """
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=numbers.shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = size_text
    for name in ("number", "with_error", "decimals", "percent", "setting", "passages"):
        environment.filters[name] = getattr(numbers, name)
    return environment.get_template(template).render(page=page, version=__version__)
