"""`lightcrl caption`: texts for files, by a model's captioning head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightcrl.arguments import CheckpointFolder, Encoders, Json, Trust, choice, load_embedder, write


def caption(
    model: CheckpointFolder,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Files, folders of files, or text files with one text per line."),
    ],
    beams: Annotated[int, choice(min=1, help="Number of beams; 1 is greedy search.")] = 5,
    nucleus: Annotated[
        float, choice(min=0, max=1, help="Draw each caption from the pieces of this probability, instead of beams.")
    ] = 0.0,
    temperature: Annotated[float, choice(min=0.01, help="Divisor of the logits in drawing.")] = 1.0,
    seed: Annotated[int, choice(min=0, help="Seed of drawing.")] = 0,
    all_beams: Annotated[bool, choice("--all", help="Print every beam's caption with its score.")] = False,
    head: Annotated[str | None, choice(help="Name of the head; `captioning` or the only captioner by default.")] = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    json: Json = None,
) -> None:
    """Describe pictures, sounds or texts by a model with a captioner: lightcrl caption runs/captioned photos/."""
    from lightcrl.captioner import Captioner
    from lightcrl.data.loose import loose_items
    from lightcrl.errors import EmptyDatasetError
    from lightcrl.report import console

    embedder = load_embedder(model, encoder, trust_remote_code)
    captioner = Captioner(embedder, head)
    kind = embedder.modalities[captioner.modality]
    items = [item for path in files for item in loose_items(path, kind)[0]]
    captions, rejected = captioner.caption_some(items, beams=beams, nucleus=nucleus, temperature=temperature, seed=seed)
    if not any(captions):
        reasons = "; ".join(str(item) for item in rejected[:3])
        raise EmptyDatasetError(f"no item could be captioned ({reasons}).")
    sources = [item.source for item in items]
    console.print_captions(sources, captions, rejected, all_beams=all_beams)
    if json is not None:
        entries = [
            {"source": source, "caption": written[0].text, "captions": [vars(each) for each in written]}
            for source, written in zip(sources, captions, strict=True)
            if written
        ]
        write(json, {"model": embedder.fingerprint, "captions": entries, "rejected": list(map(str, rejected))})
