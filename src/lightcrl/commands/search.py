"""`lightcrl search`: queries of texts, pictures, sounds and items of the index, alone or combined."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lightcrl.arguments import Encoders, Json, Trust, write, write_page
from lightcrl.commands.index import Folder, Model, Where, open_index

_WEIGHT = re.compile(r"(.+)\^(\d+(?:\.\d+)?|\.\d+)", re.DOTALL)
_HELP = "A weight may follow: '{}^0.5'."


def search(
    index: Folder,
    query: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Text to search for.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Text to search for. " + _HELP.format("at night"))] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Picture to search for. " + _HELP.format("beach.jpg"))
    ] = None,
    audio: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Sound to search for. " + _HELP.format("rain.wav"))
    ] = None,
    like: Annotated[list[str] | None, typer.Option(metavar="ID", help="Item of the index, by id or file.")] = None,
    minus: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Text to search away from.")] = None,
    minus_image: Annotated[list[str] | None, typer.Option(metavar="FILE", help="Picture to search away from.")] = None,
    where: Where = None,
    modality: Annotated[str | None, typer.Option(help="Modality of the results.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 10,
    rerank: Annotated[
        int, typer.Option(min=0, metavar="N", help="Number of first hits that the model's head `matching` reorders.")
    ] = 0,
    prior: Annotated[
        bool, typer.Option("--prior", help="Search with the embeddings that the model's prior makes of the texts.")
    ] = False,
    json: Json = None,
    page: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="File for a page with the results and their pictures.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Write the page and open it in the browser.")] = False,
    model: Model = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Search an index: lightcrl search photos.index "two dogs in the snow"."""
    from lightcrl.imaginer import TextPrior
    from lightcrl.index.outcome import look
    from lightcrl.report import index_console

    asked = {
        "text": _weighted([*([query] if query is not None else []), *(text or [])]),
        "image": _weighted(image),
        "audio": _weighted(audio),
        "like": _weighted(like),
        "minus": [*(_weighted(minus) or []), *(_weighted(minus_image, "image") or [])] or None,
    }
    opened = open_index(index, model, encoder, trust_remote_code)
    made = TextPrior(opened.embedder) if prior else None
    outcome = look(opened, asked, where=where, modality=modality, k=k, rerank=rerank, prior=made)
    index_console.print_hits(outcome)
    if json is not None:
        write(json, outcome.to_json())
    if page is not None or show:
        _write_page(opened, outcome, page, show)


def _write_page(opened: Any, outcome: Any, page: Path | None, show: bool) -> None:
    import webbrowser

    from lightcrl.report import console
    from lightcrl.report.search_page import render_search

    place = page or Path(tempfile.mkdtemp(prefix="lightcrl-")) / "search.html"
    write_page(place, render_search(outcome, opened.preview))
    console.print_page(place)
    if show:
        webbrowser.open(place.absolute().as_uri())


def _weighted(given: list[str] | None, kind: str | None = None) -> list[Any] | None:
    """Return the parts of an option with their weights."""
    from lightcrl.index import Part

    matches = [(text, _WEIGHT.fullmatch(text)) for text in given or []]
    return [
        Part(match[1], float(match[2]), kind=kind) if match else Part(text, kind=kind) for text, match in matches
    ] or None
