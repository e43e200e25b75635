"""`lightcrl index`: build an index, change it, and print its content."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightcrl.arguments import CheckpointFolder, Encoders, Json, Trust, load_embedder, pairs, write

app = typer.Typer(help="Index items of all modalities for search.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders of files, tables, .txt files with one text per line, a run's folder (nothing is encoded again).",
    ),
]
Column = Annotated[list[str] | None, typer.Option(help="modality=COLUMN of a table; the modality's name by default.")]
IdColumn = Annotated[
    str | None, typer.Option("--id", metavar="COLUMN", help="Column of a table with the ids of the items.")
]
Modality = Annotated[str | None, typer.Option(help="Modality of the files, if the model has several of their kind.")]
Where = Annotated[
    str | None, typer.Option("--filter", metavar="CONDITION", help='Condition on the items, such as "year > 2020".')
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="DIR", help="Present folder of the model, if it has moved.")
]


@app.command()
def build(
    model: CheckpointFolder,
    sources: Sources,
    output: Annotated[Path, typer.Option(metavar="INDEX", help="Folder of the index; an index in it is extended.")],
    engine: Annotated[str, typer.Option(help="Search engine: exact, or lancedb from a million items on.")] = "exact",
    option: Annotated[list[str] | None, typer.Option(help="Option of the engine, NAME=VALUE.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of the stored vectors: float16 or float32.")] = "float16",
    column: Column = None,
    id_column: IdColumn = None,
    modality: Modality = None,
    json: Json = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Build an index of files and tables: lightcrl index build runs/mine photos/ --output photos.index."""
    from lightcrl.index import Index
    from lightcrl.report import progress

    embedder = load_embedder(model, encoder, trust_remote_code)
    options = {name: _value(value) for name, value in pairs(option, "--option").items()}
    with progress.Live() as live:
        index = Index.create(output, embedder, engine=engine, dtype=dtype, options=options, tell=live.tell)
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
    """Add new items, replace changed ones: lightcrl index add photos.index photos/."""
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
    """Print the content of an index, with the items set aside: lightcrl index info photos.index."""
    from lightcrl.index import Index
    from lightcrl.report import index_console

    opened = Index.open(index)
    facts = opened.info()
    index_console.print_index(facts, opened.aside())
    if json is not None:
        write(json, {**facts, "set_aside": [str(item) for item in opened.aside()]})


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index, or of a feature store.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files.")],
    json: Json = None,
) -> None:
    """Write vectors as .npy and items as Parquet: lightcrl index export photos.index --output photos-npy."""
    from lightcrl.index import Index, export_store, is_store
    from lightcrl.report import index_console

    folder = export_store(source, output) if is_store(source) else Index.open(source).export(output)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*_emb/*.npy"))}
    index_console.print_exported(folder, files)
    if json is not None:
        write(json, {"folder": str(folder), "files": files})


@app.command()
def compact(index: Folder) -> None:
    """Drop removed items from the files of an index and of its engine: lightcrl index compact photos.index."""
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
        float | None, typer.Option(help="Least similarity of copies; chosen from the data by default.")
    ] = None,
    where: Where = None,
    modality: Annotated[str | None, typer.Option(help="Modality of the items to examine; all by default.")] = None,
    json: Json = None,
) -> None:
    """List groups of near-identical items: lightcrl index duplicates photos.index --modality image."""
    from lightcrl.index import Index, find_duplicates
    from lightcrl.report import index_console

    copies = find_duplicates(Index.open(index), threshold=threshold, where=where, modality=modality)
    index_console.print_copies(copies)
    if json is not None:
        write(json, {"duplicates": [result.to_json() for result in copies]})


@app.command()
def outliers(
    index: Folder,
    most: Annotated[
        int | None, typer.Option("-n", min=1, help="List this many items, farthest first, whether far or not.")
    ] = None,
    where: Where = None,
    modality: Annotated[str | None, typer.Option(help="Modality of the items to examine; all by default.")] = None,
    json: Json = None,
) -> None:
    """List items that are far from all others: lightcrl index outliers photos.index -n 20."""
    from lightcrl.index import Index, find_outliers
    from lightcrl.report import index_console

    far = find_outliers(Index.open(index), where=where, modality=modality, most=most)
    index_console.print_outliers(far)
    if json is not None:
        write(json, {"outliers": [item.to_json() for item in far]})


def open_index(folder: Path, model: str | None, encoder: list[str] | None, trust_remote_code: bool) -> Any:
    """Return the index in a folder; its model is loaded at once only if an option concerns it."""
    from lightcrl.index import Index

    index = Index.open(folder)
    if model is None and not encoder and not trust_remote_code:
        return index
    place = model or index.manifest["model"]["place"]
    if place is None:
        raise typer.BadParameter("the index has no folder of its model; expected --model DIR", param_hint="--model")
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
        write(json, {**figures, "items": len(index), "rejected": [str(item) for item in done.rejected]})


def _value(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
