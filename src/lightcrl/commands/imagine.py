"""`lightcrl imagine`: pictures of texts, by a model's prior and decoder, by an index, or by a pipeline of diffusers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from lightcrl.arguments import CheckpointFolder, Encoders, Json, Trust, choice, load_embedder, place, write, write_page


def imagine(
    model: CheckpointFolder,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Prompts.")],
    output: Annotated[Path, place(metavar="DIR", help="Folder of the pictures.")] = Path("imagined"),
    samples: Annotated[int, choice(min=1, max=64, help="Number of pictures of each prompt.")] = 4,
    draws: Annotated[
        int | None,
        choice(min=1, help="Pictures drawn for each one, of which the nearest is kept; the head's by default."),
    ] = None,
    guidance: Annotated[float | None, choice(min=0, help="Guidance of the decoder; the head's by default.")] = None,
    prior_guidance: Annotated[float | None, choice(min=0, help="Guidance of the prior; the head's by default.")] = None,
    steps: Annotated[int | None, choice(min=1, max=64, help="Steps of a drawing; the head's by default.")] = None,
    seed: Annotated[int, choice(min=0, help="Seed of all noise.")] = 0,
    words: Annotated[bool, choice("--words", help="Draw from words alone, without the prior.")] = False,
    head: Annotated[str | None, choice(help="Name of the decoder; `drawing` or the only one by default.")] = None,
    prior: Annotated[str | None, choice(help="Name of the prior; `prior` or the only one by default.")] = None,
    index: Annotated[
        Path | None, choice(metavar="INDEX", help="Copy the nearest pictures of this index instead of drawing.")
    ] = None,
    pipeline: Annotated[
        str | None, choice(metavar="ID", help="Draw by this unCLIP pipeline of diffusers, a folder or hub id.")
    ] = None,
    page: Annotated[
        Path | None, place(metavar="OUT.html", help="File for a page: samples, guidance, nearest training pictures.")
    ] = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    json: Json = None,
) -> None:
    """Draw texts by a model with a decoder: lightcrl imagine runs/unclip_world "three blue stars on a grey ground"."""
    from lightcrl.errors import QueryError
    from lightcrl.files.local import make_folder
    from lightcrl.imaginer import Imaginer
    from lightcrl.report import console

    if index is not None and pipeline is not None:
        raise typer.BadParameter("expected --index or --pipeline, not both")
    if page is not None and (index is not None or pipeline is not None):
        raise typer.BadParameter("a page is of drawings; expected neither --index nor --pipeline", param_hint="--page")
    if empty := [number for number, text in enumerate(texts, 1) if not text.strip()]:
        raise QueryError(f"prompt {empty[0]} is empty; expected a text, such as 'three blue stars'.")
    embedder = load_embedder(model, encoder, trust_remote_code)
    settings: dict[str, Any] = {
        "draws": draws,
        "guidance": guidance,
        "prior_guidance": prior_guidance,
        "steps": steps,
        "seed": seed,
    }
    if index is not None:
        pictures = _retrieved(embedder, prior, index, texts, samples, seed, prior_guidance)
    elif pipeline is not None:
        pictures = _piped(embedder, prior, pipeline, texts, samples, seed)
    else:
        imaginer = Imaginer(embedder, head, prior)
        pictures = imaginer.imagine(texts, samples=samples, words=words, **settings)
    folder, paths = make_folder(output), []
    for number, (text, made) in enumerate(zip(texts, pictures, strict=True), 1):
        paths.append([folder / f"{number:03}-{_slug(text)}-{sample}.png" for sample in range(1, len(made) + 1)])
        for path, picture in zip(paths[-1], made, strict=True):
            picture.save(path)
    console.print_pictures(texts, paths)
    if page is not None:
        from lightcrl.report.imagining_page import gather_imagined, render_imagined

        write_page(page, render_imagined(gather_imagined(imaginer, texts, pictures, settings)))
        console.print_page(page)
    if json is not None:
        entries = [{"text": text, "pictures": list(map(str, made))} for text, made in zip(texts, paths, strict=True)]
        write(json, {"model": embedder.fingerprint, "settings": settings, "imagined": entries})


def _retrieved(
    embedder: Any, prior: str | None, place: Path, texts: list[str], samples: int, seed: int, guidance: float | None
) -> list[list[Any]]:
    """Return the nearest pictures of an index to each prompt's embedding, made by the prior."""
    from lightcrl.imaginer import TextPrior
    from lightcrl.index import Index
    from lightcrl.index.imagined import pictures_of

    made = TextPrior(embedder, prior)
    vectors = made.vectors(texts, seed=seed, guidance=guidance)
    opened = Index.open(place)
    hits = opened.search_vectors(
        vectors, samples, modality=made.head.target, query=made.head.target, fingerprint=embedder.fingerprint
    )
    return [pictures_of(opened, each) for each in hits]


def _piped(embedder: Any, prior: str | None, place: str, texts: list[str], samples: int, seed: int) -> list[list[Any]]:
    from lightcrl.bridges.diffusers import imagine as draw
    from lightcrl.bridges.diffusers import load_pipeline
    from lightcrl.imaginer import TextPrior

    return draw(TextPrior(embedder, prior), load_pipeline(place), texts, samples=samples, seed=seed)


def _slug(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "text"
