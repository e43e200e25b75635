"""Routers in the layout of sentence-transformers: modules for queries, documents, or kinds of items, in one folder.

router_config.json    `types` by the name of a module's folder, `structure`: those names by route, `parameters`:
                      `default_route`, and `route_mappings` from "(task, kind)" to a route (config.json in versions
                      before 5, where the module is called Asym)
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightcrl.errors import EncoderError

ROUTERS = frozenset({"Router", "Asym"})
CONFIGS = ("router_config.json", "config.json")
TASKS = ("query", "document")
"""Prompts that are tasks of a router too, as in the library's `encode_query` and `encode_document`."""
OURS = "sentence_transformers."

Modules = list[tuple[str, Path]]


def kind_of_module(name: str) -> str:
    """Return the name of a class of sentence-transformers without its modules; foreign classes keep their full name."""
    return name.rpartition(".")[2] if name.startswith(OURS) else name


@dataclass(frozen=True)
class Router:
    """The routes of a folder.

    Attributes:
        folder: folder of the router.
        routes: kind and folder of each module by route.
        default: route of items that no rule names.
        mappings: route by task and kind, each of which may be None for any.
    """

    folder: Path
    routes: Mapping[str, Modules]
    default: str | None
    mappings: Mapping[tuple[str | None, object], str]

    def choose(self, kind: str, task: str | None) -> Modules:
        """Return the modules of the route for a kind of items and a task, by the library's order of rules.

        Raises:
            EncoderError: no route fits.
        """
        rules = ((task, kind), (task, None), (None, kind), (None, None))
        mapped = next((self.mappings[rule] for rule in rules if rule in self.mappings), None)
        direct = next((name for name in (task, kind) if name in self.routes), None)
        # The default stands for items without a task alone.
        name = mapped or direct or (self.default if task is None else None)
        if name is None or name not in self.routes:
            asked = f"{kind} items" + (f" as prompt = {task!r}" if task else "")
            raise EncoderError(
                f"the router in {self.folder} has no route for {asked}; it has {', '.join(self.routes)}. Name one of "
                "its tasks as prompt, or another kind."
            )
        return self.routes[name]


def read_router(folder: Path) -> Router:
    """Read a router's folder.

    Raises:
        EncoderError: its description is missing or invalid, or names folders elsewhere.
    """
    path = next((folder / name for name in CONFIGS if (folder / name).is_file()), folder / CONFIGS[0])
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        types, parameters = config["types"], config["parameters"]
        routes = {
            route: [(kind_of_module(types[name]), folder / name) for name in names]
            for route, names in config["structure"].items()
        }
        mappings = {ast.literal_eval(key): name for key, name in (parameters.get("route_mappings") or {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise EncoderError(f"{path} is no router's types, structure and parameters ({error!r}).") from None
    if any(inner.parent != folder for modules in routes.values() for _, inner in modules):
        raise EncoderError(f"{path} names a folder outside of {folder}; expected folders in it.")
    default = parameters.get("default_route")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(routes), None)
    return Router(folder, routes, default, mappings)
