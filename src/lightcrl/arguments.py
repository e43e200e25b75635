"""Arguments that several commands share, and the functions that parse them and write results."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

CheckpointFolder = Annotated[
    str, typer.Argument(metavar="DIR", help="Folder of a run or of a checkpoint, or a hub id.")
]


def _json_place(ctx: typer.Context, place: Path | None) -> Path | None:
    """Send tables and progress to standard error if the JSON goes to standard output."""
    if place == STANDARD_OUTPUT:
        set_console(ctx, "stderr")
    return place


def set_console(ctx: typer.Context, setting: Literal["quiet", "stderr"]) -> None:
    """Switch on a setting of the console until the command ends."""
    from lightcrl.report.progress import console

    setattr(console, setting, True)
    # The root context is closed also if a later argument of the sub-command is refused; its own is not.
    ctx.find_root().call_on_close(lambda: setattr(console, setting, False))


STANDARD_OUTPUT = Path("-")
# Panels of a command's help.
OUTPUT, MODEL, CHOICE = "Output", "Model", "Selection"
choice = partial(typer.Option, rich_help_panel=CHOICE)
place = partial(typer.Option, rich_help_panel=OUTPUT)
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=_json_place,
        help="File for the figures as JSON; - is standard output.",
        rich_help_panel=OUTPUT,
    ),
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder", help="modality=FOLDER: present folder of an encoder that has moved.", rich_help_panel=MODEL
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
Features = Annotated[Path | None, typer.Option(help="Folder of the feature stores; the recipe's by default.")]


def load_embedder(place: str, encoders: list[str] | None, trust_remote_code: bool) -> Any:
    """Return the embedder of a folder or hub id; `modality=FOLDER` gives the folders of moved encoders."""
    from lightcrl.embedder import load

    return load(place, encoders=pairs(encoders, "--encoder"), trust_remote_code=trust_remote_code)


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Return the values of `NAME=VALUE` by name; the error for a malformed one cites `option`."""
    pairs = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{pair!r}: expected NAME=VALUE", param_hint=option)
        pairs[name] = value
    return pairs


def names(given: str | None) -> list[str] | None:
    """Return the parts of a comma-separated list."""
    return None if given is None else [part.strip() for part in given.split(",") if part.strip()]


def sizes(given: str | None) -> list[int] | str | None:
    """Return comma-separated numbers of groups as integers; `auto` is returned as it is."""
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
    """Write a page, and create the folders above it."""
    from lightcrl.files.local import make_folder, write_text

    make_folder(path.absolute().parent)
    write_text(path, html)


def write(path: Path, value: Any) -> None:
    """Write a JSON value to a file, creating the folders above it, or the same text to standard output (`-`)."""
    from lightcrl.files.local import json_text, make_folder, write_json

    if path == STANDARD_OUTPUT:
        typer.echo(json_text(value), nl=False)
        return
    make_folder(path.absolute().parent)
    write_json(path, value)
