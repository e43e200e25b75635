"""`lightcrl extend`: modalities added, replaced and removed, nothing old moved; ancestors restored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightcrl.arguments import CheckpointFolder, Encoders, Json, Trust, pairs, write


def extend(
    model: CheckpointFolder,
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE.toml]", help="New encoders, data, training; not with --remove or --rollback."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the extended model; runs/<name> by default.")
    ] = None,
    replace: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="Give this modality the recipe's encoder; its index stays.")
    ] = None,
    remove: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="Write the model without this modality.")
    ] = None,
    rollback: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Write this ancestor, by the first digits that info shows.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the recipe.")
    ] = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    json: Json = None,
) -> None:
    """Add a modality to a model, replace an encoder, remove a modality, or roll back; every old embedding stays."""
    from lightcrl.report import progress
    from lightcrl.report.growth import print_extended, print_removed, print_restored

    if sum(given is not None for given in (recipe, remove, rollback)) != 1 or (replace and recipe is None):
        raise typer.BadParameter(
            "expected RECIPE.toml, alone or with --replace, or --remove MODALITY, or --rollback MODEL"
        )
    if recipe is None and output is None:
        raise typer.BadParameter("expected --output DIR with --remove and --rollback", param_hint="--output")
    if remove is not None and output is not None:
        from lightcrl.growth.extend import remove as remove_modality

        print_removed(remove_modality(model, remove, output), remove, output)
        return
    if rollback is not None and output is not None:
        from lightcrl.growth.history import rollback as roll_back

        print_restored(roll_back(model, rollback, output), output)
        return
    from lightcrl.growth.extend import extend as extend_model
    from lightcrl.growth.spec import GrowthRecipe
    from lightcrl.processes import is_main

    assert recipe is not None
    with progress.Live() as live:
        done = extend_model(
            model,
            GrowthRecipe.read(recipe, override or (), output),
            replace=replace,
            encoders=pairs(encoder, "--encoder"),
            trust_remote_code=trust_remote_code,
            tell=live.tell,
        )
    if not is_main():
        return
    print_extended(done)
    if json is not None:
        write(json, done.to_json())
