"""`lightcrl clean`: wrong, weak and duplicate pairs found, and the data written without them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from lightcrl.arguments import Json, Overrides, choice, names, place, write, write_page


def clean(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe with the data and encoders.")],
    output: Annotated[
        Path | None, place(metavar="DIR", help="Folder of the cleaned data; runs/<name>-clean by default.")
    ] = None,
    method: Annotated[
        str, choice(metavar="NAME[key=value,...]", help="Method of the spaces that judge; csa takes seconds.")
    ] = "csa",
    folds: Annotated[
        int, choice(metavar="K", help="Number of folds; each is judged by a space trained on the rest.")
    ] = 5,
    rounds: Annotated[
        int, choice(metavar="N", help="Number of rounds; a later one trains without the pairs suspected before.")
    ] = 2,
    threshold: Annotated[
        float, choice(metavar="P", help="Probability of being wrong above which a pair is dropped.")
    ] = 0.5,
    splits: Annotated[
        str, choice(metavar="SPLIT,...", help="Splits that are changed; the others are judged and reported only.")
    ] = "train",
    anchor: Annotated[
        str | None, choice(metavar="MODALITY", help="Modality that stands for a group; the first that is not a text.")
    ] = None,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep groups with the same picture or sound apart.")
    ] = False,
    move: Annotated[
        bool, typer.Option("--move", help="Move a wrong item into the group where it belongs, if that is in the data.")
    ] = False,
    seed: Annotated[int, choice(help="Seed of folds and trainings.")] = 0,
    review: Annotated[
        Path | None, choice(metavar="FILE.jsonl", help="Decisions of a person, as the page saves them.")
    ] = None,
    recaption: Annotated[
        Path | None, choice(metavar="MODEL", help="Model whose captioner writes new texts for those dropped as wrong.")
    ] = None,
    captioner: Annotated[
        str | None, choice(metavar="NAME", help="Its captioner; captioning, or the only one, by default.")
    ] = None,
    override: Overrides = None,
    json: Json = None,
) -> None:
    """Find wrong, weak and duplicate pairs in a recipe's data; write the data without them, and a page to look at."""
    from lightcrl.errors import MissingExtraError
    from lightcrl.report import progress
    from lightcrl.report.cleaning_console import print_cleaning
    from lightcrl.report.cleaning_page import render_cleaning
    from lightcrl.studies.clean import clean as clean_recipe

    with progress.Live() as live:
        done = clean_recipe(
            recipe,
            output,
            overrides=override or (),
            tell=live.tell,
            method=method,
            folds=folds,
            rounds=rounds,
            threshold=threshold,
            splits=tuple(names(splits) or ()),
            anchor=anchor,
            merge=not keep_duplicates,
            move=move,
            seed=seed,
            review=review,
            recaption=recaption,
            captioner=captioner,
        )
    with suppress(MissingExtraError):
        write_page(done.folder / "report.html", render_cleaning(done))
    print_cleaning(done)
    if json is not None:
        write(json, done.to_json())
