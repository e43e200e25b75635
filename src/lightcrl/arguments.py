"""What several commands share: their arguments, and how these are read and figures written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

CheckpointFolder = Annotated[
    str, typer.Argument(metavar="DIR", help="A run's folder, a checkpoint's folder or a hub id.")
]


def _json_place(ctx: typer.Context, place: Path | None) -> Path | None:
    """Send tables and progress to standard error where the JSON goes to standard output."""
    if place == STANDARD_OUTPUT:
        set_console(ctx, "stderr")
    return place


def set_console(ctx: typer.Context, setting: Literal["quiet", "stderr"]) -> None:
    """Switch on a setting of the console until the command ends."""
    from lightcrl.report.progress import console

    setattr(console, setting, True)
    ctx.call_on_close(lambda: setattr(console, setting, False))


STANDARD_OUTPUT = Path("-")
# Panels of a command's help.
OUTPUT, MODEL, CHOICE = "Output", "Model", "What is taken"
choice = partial(typer.Option, rich_help_panel=CHOICE)
place = partial(typer.Option, rich_help_panel=OUTPUT)
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=_json_place,
        help="Write the figures here as JSON; - is standard output.",
        rich_help_panel=OUTPUT,
    ),
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder", help="modality=FOLDER, where an encoder lies now, if it has moved.", rich_help_panel=MODEL
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that comes with the model's encoders.", rich_help_panel=MODEL),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the recipe.", rich_help_panel=CHOICE),
]
Features = Annotated[Path | None, typer.Option(help="Folder of the feature stores; by default that of the recipe.")]


def load_embedder(place: str, encoders: list[str] | None, trust_remote_code: bool) -> Any:
    """The embedder of a place, its encoders where `modality=FOLDER` says."""
    from lightcrl.embedder import load

    return load(place, encoders=pairs(encoders, "--encoder"), trust_remote_code=trust_remote_code)


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Names and values of `NAME=VALUE`; `option` is told where one is wrong."""
    pairs = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{pair!r}: expected NAME=VALUE", param_hint=option)
        pairs[name] = value
    return pairs


def names(given: str | None) -> list[str] | None:
    """A list with commas between its parts."""
    return None if given is None else [part.strip() for part in given.split(",") if part.strip()]


def sizes(given: str | None) -> list[int] | str | None:
    """Numbers of groups with commas between them, or `auto`."""
    if given is None or given == "auto":
        return given
    try:
        sizes = [int(part) for part in given.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise typer.BadParameter(f"{given!r}: expected numbers of groups or auto", param_hint="--scaling")
    return sizes


def write_page(path: Path, html: str) -> None:
    """Write a page, and the folders above it."""
    from lightcrl.files.local import make_folder, write_text

    make_folder(path.absolute().parent)
    write_text(path, html)


def write(path: Path, value: Any) -> None:
    """Write a JSON value to a file, with the folders above it, or to standard output (`-`): the same text."""
    from lightcrl.files.local import json_text, make_folder, write_json

    if path == STANDARD_OUTPUT:
        typer.echo(json_text(value), nl=False)
        return
    make_folder(path.absolute().parent)
    write_json(path, value)
