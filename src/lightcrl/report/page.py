"""Self-contained pages from the templates beside this file; `style.css.j2` is their common style."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup


def fill(template: str, figures: Mapping[str, str], **given: Any) -> str:
    """Return the page of a template, with figures (`<svg>` by name) and further values."""
    return make_environment().get_template(template).render(figures=mark(figures), **given)


def make_environment() -> Environment:
    """Return the templates with their filters."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_read))
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment


def mark(figures: Mapping[str, str]) -> dict[str, Markup]:
    """Return figures by name, marked as safe HTML for a template."""
    return {name: Markup(svg) for name, svg in figures.items()}


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
