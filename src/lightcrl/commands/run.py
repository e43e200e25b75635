"""`lightcrl run`: a recipe from data to figures, or its rehearsal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightcrl.arguments import Json, Overrides, place, write, write_page


def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="Data, encoders, method, training, evaluation.")
    ],
    override: Overrides = None,
    output: Annotated[
        Path | None,
        place(metavar="DIR", help="Folder of the run; runs/<name> by default."),
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Do everything once on 64 groups, then forecast hours, disk and memory.")
    ] = False,
    json: Json = None,
) -> None:
    """Read the data, encode every item once, train, evaluate. The same command resumes a stopped run."""
    from lightcrl.pipeline import attach_files
    from lightcrl.pipeline import run as run_recipe
    from lightcrl.processes import is_main
    from lightcrl.recipe import load_recipe
    from lightcrl.report import console, progress
    from lightcrl.runs import summary

    parsed = load_recipe(recipe, override or (), output)
    if rehearse:
        _rehearse(parsed, json)
        return
    if not is_main():
        run_recipe(parsed)
        return
    with progress.Live() as live:
        done = run_recipe(parsed, tell=live.tell)
        if parsed.training.trackers:
            attach_files(parsed, done, _pages(done.folder, live.tell))
    console.print_run(done, parsed)
    if json is not None:
        write(json, summary(parsed, done))


def _rehearse(recipe: Any, json: Path | None) -> None:
    """Rehearse a recipe; the exit code is 1 if something would break."""
    from lightcrl.report import progress
    from lightcrl.report.facts import gather
    from lightcrl.report.rehearsal_console import print_rehearsal
    from lightcrl.report.run_page import render
    from lightcrl.studies.rehearse import rehearse as rehearse_recipe

    with progress.Live() as live:
        done = rehearse_recipe(recipe, page=lambda folder: render(gather(folder)), tell=live.tell)
    print_rehearsal(done)
    if json is not None:
        write(json, done.to_json())
    if done.problems:
        raise typer.Exit(1)


def _pages(folder: Path, tell: Any) -> list[Path]:
    """Return the tables and pages of a run for trackers; its report page too if the extra `report` is installed."""
    from lightcrl.errors import MissingExtraError
    from lightcrl.report.facts import gather

    files = [folder / "README.md", folder / "metrics.json"]
    try:
        from lightcrl.report.run_page import render

        write_page(folder / "report.html", render(gather(folder, tell=tell)))
    except MissingExtraError:
        return files
    return [*files, folder / "report.html"]
