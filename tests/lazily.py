"""Packages that few tests use: each worker collects all files, and would import them for nothing."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any


class Lazily:
    """A module that is imported where an attribute is first used, without its warnings."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # collection looks for marks of fixtures and decorators
            raise AttributeError(attribute)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(import_module(self._name), attribute)
