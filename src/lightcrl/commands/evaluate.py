"""`lightcrl evaluate`: one sub-command per task, each with the options that the task reads and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightcrl.arguments import (
    CheckpointFolder,
    Encoders,
    Features,
    Json,
    Trust,
    load_embedder,
    pairs,
    write,
    write_page,
)

app = typer.Typer(help="Measure a model on raw files that it has never seen.", no_args_is_help=True)

Page = Annotated[
    Path | None,
    typer.Option("--page", metavar="OUT.html", help="Write the figures here as a page, drawn and in tables."),
]
Folders = Annotated[str, typer.Option("--data", help="A folder of class folders.")]
Modality = Annotated[str | None, typer.Option("--modality", help="Modality of the items in the class folders.")]
Files = Annotated[str, typer.Option("--files", metavar="PATTERN", help="Names of the files to take.")]
Test = Annotated[str | None, typer.Option("--test", metavar="FOLDER", help="Class folders to measure on.")]
TestFiles = Annotated[
    str | None, typer.Option("--test-files", metavar="PATTERN", help="Names of the files to measure on.")
]


@app.command()
def retrieval(
    checkpoint: CheckpointFolder,
    data: Annotated[str, typer.Option(help="A table of files.")],
    image_column: Annotated[str | None, typer.Option(help="Column of the modality `image`.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the modality `text`.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="modality=COLUMN; where columns are given, only their modalities are used."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Column whose equal values make rows one group.")] = None,
    json: Json = None,
    page: Page = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    features: Features = None,
) -> None:
    """Measure recall between modalities: lightcrl evaluate retrieval runs/mine --data test.jsonl."""
    columns = {name: value for name, value in (("image", image_column), ("text", text_column)) if value}
    given = {"columns": columns | pairs(column, "--column"), "key": key, "features": features}
    _measure("retrieval", checkpoint, data, given, json, page, encoder, trust_remote_code)


@app.command("zero-shot")
def zero_shot(
    checkpoint: CheckpointFolder,
    data: Folders,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the class name; may be repeated.")
    ] = None,
    modality: Modality = None,
    files: Files = "*",
    json: Json = None,
    page: Page = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    features: Features = None,
) -> None:
    """Classify by prompts alone: lightcrl evaluate zero-shot runs/mine --data classes/."""
    templates = tuple(template) if template else None
    given = {"templates": templates, "modality": modality, "files": files, "features": features}
    _measure("zero_shot", checkpoint, data, given, json, page, encoder, trust_remote_code)


@app.command("linear-probe")
def linear_probe(
    checkpoint: CheckpointFolder,
    data: Folders,
    test: Test = None,
    test_files: TestFiles = None,
    modality: Modality = None,
    files: Files = "*",
    json: Json = None,
    page: Page = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    features: Features = None,
) -> None:
    """Probe all models of a run: lightcrl evaluate linear-probe runs/mine --data train/ --test test/."""
    given = {"test": test, "test_files": test_files, "modality": modality, "files": files, "features": features}
    _measure("linear_probe", checkpoint, data, given, json, page, encoder, trust_remote_code)


@app.command("fine-tuning")
def fine_tuning(
    checkpoint: CheckpointFolder,
    data: Folders,
    test: Test = None,
    test_files: TestFiles = None,
    modality: Modality = None,
    files: Files = "*",
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="TABLE.KEY=VALUE",
            help="training.epochs=100, tuning.blocks=2 (trains the encoder's last two), seed=1, ...",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to keep the model; DIR/fine_tuning/... by default.")
    ] = None,
    json: Json = None,
    page: Page = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    features: Features = None,
) -> None:
    """Train a classifier: lightcrl evaluate fine-tuning runs/mine --data train/ --test test/."""
    from lightcrl.recipe import override_table

    given: dict[str, Any] = {"settings": override_table({}, override or ()), "output": output, "features": features}
    given |= {"test": test, "test_files": test_files, "modality": modality, "files": files}
    _measure("fine_tuning", checkpoint, data, given, json, page, encoder, trust_remote_code)


@app.command("text-similarity")
def text_similarity(
    checkpoint: CheckpointFolder,
    data: Annotated[
        str,
        typer.Option(help="A table or hub id (owner/name/configuration) of pairs with text1, text2, label or score."),
    ],
    calibration: Annotated[
        str | None, typer.Option(help="Labelled text pairs that thresholds are calibrated on: the training split.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=COLUMN; names are text1, text2, label and score.")
    ] = None,
    json: Json = None,
    page: Page = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    features: Features = None,
) -> None:
    """Compare pairs of texts: lightcrl evaluate text-similarity runs/mine --data test.jsonl."""
    given = {"calibration": calibration, "columns": pairs(column, "--column"), "features": features}
    _measure("text_similarity", checkpoint, data, given, json, page, encoder, trust_remote_code)


def _measure(
    task: str,
    checkpoint: str,
    data: str,
    given: dict[str, Any],
    json: Path | None,
    page: Path | None,
    encoder: list[str] | None,
    trust_remote_code: bool,
) -> None:
    """Measure, print the figures, and write them where asked."""
    from lightcrl.report import console
    from lightcrl.tasks.measure import Request, measure

    with console.Live() as live:
        embedder = load_embedder(checkpoint, encoder, trust_remote_code)
        request = Request(place=checkpoint, embedder=embedder, data=data, tell=live.tell, **given)
        result, rejected = measure(task, request)
    console.print_result(result, rejected)
    if json is not None:
        write(json, {"task": task, "data": data, **result.to_json(), "rejected": [str(item) for item in rejected]})
    if page is not None:
        from lightcrl.report.result_page import render_result

        write_page(page, render_result(result, task, Path(data).name, Path(checkpoint).name))
