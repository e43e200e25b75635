"""`lightcrl index`: make an index, change it, and look at what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightcrl.arguments import CheckpointFolder, Encoders, Json, Trust, load_embedder, pairs, write

app = typer.Typer(help="Index items of all modalities, to be searched.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders of files, tables, .txt files with a text a line, a run's folder (nothing is encoded again).",
    ),
]
Column = Annotated[list[str] | None, typer.Option(help="modality=COLUMN of a table; by default the modality's name.")]
IdColumn = Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column of a table that names the items.")]
Modality = Annotated[str | None, typer.Option(help="Modality of files, where the model has several of a kind.")]
Where = Annotated[str | None, typer.Option("--filter", metavar="CONDITION", help='Such as "year > 2020".')]
Model = Annotated[str | None, typer.Option("--model", metavar="DIR", help="Where the model lies, if it has moved.")]


@app.command()
def build(
    model: CheckpointFolder,
    sources: Sources,
    output: Annotated[Path, typer.Option(metavar="INDEX", help="Folder of the index; one that is there goes on.")],
    engine: Annotated[str, typer.Option(help="exact, or lancedb from a million items on.")] = "exact",
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the engine.")] = None,
    dtype: Annotated[str, typer.Option(help="Of stored vectors: float16 or float32.")] = "float16",
    column: Column = None,
    id_column: IdColumn = None,
    modality: Modality = None,
    json: Json = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Make an index of files and tables: lightcrl index build runs/mine photos/ --output photos.index."""
    from lightcrl.index import Index
    from lightcrl.report import progress

    embedder = load_embedder(model, encoder, trust_remote_code)
    options = {name: _value(value) for name, value in pairs(option, "--option").items()}
    with progress.Live() as live:
        index = Index.create(output, embedder, engine=engine, dtype=dtype, options=options, place=model, tell=live.tell)
        done = _add(index, sources, column, id_column, modality, live.tell)
    _print_added(index, done, json)


@app.command()
def add(
    index: Folder,
    sources: Sources,
    column: Column = None,
    id_column: IdColumn = None,
    modality: Modality = None,
    json: Json = None,
    model: Model = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Add what is new, replace what has changed: lightcrl index add photos.index photos/."""
    from lightcrl.report import progress

    opened = open_index(index, model, encoder, trust_remote_code)
    with progress.Live() as live:
        done = _add(opened, sources, column, id_column, modality, live.tell)
    _print_added(opened, done, json)


@app.command()
def remove(
    index: Folder,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids, or paths of files.")] = None,
    where: Where = None,
) -> None:
    """Remove items by id or filter: lightcrl index remove photos.index --filter "folder = 'drafts'"."""
    from lightcrl.index import Index
    from lightcrl.report import index_console, progress

    if not ids and where is None:
        raise typer.BadParameter("expected ids or --filter", param_hint="ID")
    opened = Index.open(index)
    with progress.Live() as live:
        count = opened.remove(ids or (), where=where, tell=live.tell)
    index_console.print_removed(count, len(opened))


@app.command()
def info(index: Folder, json: Json = None) -> None:
    """Print what is in an index: model, engine, items, columns, what was set aside."""
    from lightcrl.index import Index
    from lightcrl.report import index_console

    opened = Index.open(index)
    told = opened.info()
    index_console.print_index(told, opened.aside())
    if json is not None:
        write(json, {**told, "set_aside": [str(rejection) for rejection in opened.aside()]})


@app.command()
def compact(index: Folder) -> None:
    """Rewrite an index without what was removed, and let the engine tidy up."""
    from lightcrl.index import Index
    from lightcrl.report import index_console, progress

    opened = Index.open(index)
    before = opened.info()
    with progress.Live() as live:
        opened.compact(live.tell)
    index_console.print_compacted(before, opened.info())


@app.command()
def duplicates(
    index: Folder,
    threshold: Annotated[
        float | None, typer.Option(help="Least similarity of copies; by default chosen from the data.")
    ] = None,
    where: Where = None,
    modality: Annotated[str | None, typer.Option(help="Of these items alone.")] = None,
    json: Json = None,
) -> None:
    """List groups of near-identical items."""
    from lightcrl.index import Index, find_duplicates
    from lightcrl.report import index_console

    copies = find_duplicates(Index.open(index), threshold=threshold, where=where, modality=modality)
    index_console.print_copies(copies)
    if json is not None:
        write(json, {"duplicates": [of_modality.to_json() for of_modality in copies]})


@app.command()
def outliers(
    index: Folder,
    most: Annotated[int | None, typer.Option("-n", min=1, help="List so many, whether they are far or not.")] = None,
    where: Where = None,
    modality: Annotated[str | None, typer.Option(help="Of these items alone.")] = None,
    json: Json = None,
) -> None:
    """List items that are far from everything."""
    from lightcrl.index import Index, find_outliers
    from lightcrl.report import index_console

    far = find_outliers(Index.open(index), where=where, modality=modality, most=most)
    index_console.print_outliers(far)
    if json is not None:
        write(json, {"outliers": [outlier.to_json() for outlier in far]})


def open_index(folder: Path, model: str | None, encoder: list[str] | None, trust_remote_code: bool) -> Any:
    """The index in a folder; its model loaded at once only where something is said of it."""
    from lightcrl.index import Index

    index = Index.open(folder)
    if model is None and not encoder and not trust_remote_code:
        return index
    place = model or index.manifest["model"]["place"]
    if place is None:
        raise typer.BadParameter("the index does not know where its model lies", param_hint="--model")
    return Index.open(folder, load_embedder(place, encoder, trust_remote_code))


def _add(
    index: Any, sources: list[Path], column: list[str] | None, id_column: str | None, modality: str | None, tell: Any
) -> Any:
    from lightcrl.index import Added, Reading

    done, reading = Added(), Reading(pairs(column, "--column"), id_column, modality)
    for source in sources:
        done += index.add(source, reading=reading, tell=tell)
    return done


def _print_added(index: Any, done: Any, json: Path | None) -> None:
    from lightcrl.report import index_console

    index_console.print_added(index, done)
    if json is not None:
        figures = {name: getattr(done, name) for name in ("added", "replaced", "present", "encoded")}
        write(json, {**figures, "items": len(index), "rejected": [str(rejection) for rejection in done.rejected]})


def _value(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
