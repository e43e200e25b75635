"""`lightcrl init`: a look at the data, and a first recipe that runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightcrl.arguments import MODEL, Json, choice, pairs, place, write

if TYPE_CHECKING:
    from lightcrl.studies.survey.columns import Column
    from lightcrl.studies.survey.tables import Survey


def init(
    data: Annotated[Path, typer.Argument(metavar="TABLE_OR_FOLDER", help="A table, a .tar file, or a folder of data.")],
    output: Annotated[
        Path | None, place(metavar="RECIPE.toml", help="File of the recipe; <name of the data>.toml by default.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing recipe.", rich_help_panel="Output")
    ] = False,
    column: Annotated[
        list[str] | None, choice(metavar="MODALITY=COLUMN", help="Column of a modality; these modalities alone.")
    ] = None,
    key: Annotated[str | None, choice(metavar="COLUMN", help="Column whose equal values make rows one group.")] = None,
    split_column: Annotated[str | None, choice(metavar="COLUMN", help="Column with train, dev or test.")] = None,
    root: Annotated[Path | None, choice(metavar="FOLDER", help="Folder that paths in the table start at.")] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY=MODEL", help="Encoder: a folder, a hub id, builtin.", rich_help_panel=MODEL),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Further folders with models to choose from.", rich_help_panel=MODEL),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, also at a terminal.")] = False,
    json: Json = None,
) -> None:
    """Look at the data, say what it is, and write a commented recipe that runs as it is."""
    from lightcrl.report import survey_console
    from lightcrl.studies.survey.look import look
    from lightcrl.studies.survey.models import better_than, find_candidates, model_places
    from lightcrl.studies.survey.plan import choose_columns, make_plan, recipe_name
    from lightcrl.studies.survey.proof import write_and_prove

    survey = look(data, root)
    survey_console.print_survey(survey)
    columns = choose_columns(survey, pairs(column, "--column"))
    asking = not yes and at_terminal()
    if asking and not column:
        columns = _ask_columns(survey, columns)
    candidates = find_candidates([*(models or ()), *model_places(data)])
    given = pairs(encoder, "--encoder")
    plan = make_plan(survey, columns, candidates, encoders=given, key=key, split_column=split_column)
    recipe = output or Path(f"{recipe_name(data)}.toml")
    if asking and output is None:
        recipe = Path(typer.prompt("file of the recipe", default=str(recipe)))
    files, proof = write_and_prove(plan, survey, recipe, force=force)
    models_by_kind = {str(spec["kind"]): str(spec["model"]) for spec in plan.encoders.values()}
    better = better_than(models_by_kind, list(models_by_kind))
    survey_console.print_recipe(files, plan, proof, better)
    if json is not None:
        write(json, survey_console.to_json(survey, plan, proof, files, better))


def at_terminal() -> bool:
    """Return true if a person can answer questions."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _ask_columns(survey: Survey, columns: dict[str, Column]) -> dict[str, Column]:
    """Let the user choose among several columns of texts."""
    texts = {each.name: each for each in survey.columns if each.content == "text"}
    answers = {}
    for modality, chosen in columns.items():
        if chosen.content == "text" and len(texts) > sum(each.content == "text" for each in columns.values()):
            name = typer.prompt(f"column of {modality} ({', '.join(texts)})", default=chosen.name)
            answers[modality] = texts.get(name, chosen)
        else:
            answers[modality] = chosen
    return answers
