"""`lightcrl head`: heads on the frozen space of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightcrl.arguments import CheckpointFolder, Encoders, Json, Overrides, Trust, pairs, place, write


def head(
    model: CheckpointFolder,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Heads and their training: [heads.<name>].")],
    output: Annotated[
        Path | None, place(metavar="DIR", help="Folder of the model with its heads; runs/<name> by default.")
    ] = None,
    override: Overrides = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    json: Json = None,
) -> None:
    """Train heads on a model (matching, captioning, ...); its space stays as it is, bit for bit."""
    from lightcrl.growth.head import HeadRecipe, add_heads
    from lightcrl.report import progress
    from lightcrl.report.growth import print_headed

    with progress.Live() as live:
        done = add_heads(
            model,
            HeadRecipe.read(recipe, override or (), output),
            encoders=pairs(encoder, "--encoder"),
            trust_remote_code=trust_remote_code,
            tell=live.tell,
        )
    print_headed(done)
    if json is not None:
        write(json, done.to_json())
