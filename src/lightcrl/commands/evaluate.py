"""`lightcrl evaluate`: a sub-command per task, with exactly the options that the task reads.

A sub-command is a function from its own options to the settings of its task; `evaluation` adds the checkpoint and the
options that all tasks share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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


class Evaluations(TyperGroup):
    """The sub-commands of the tasks in `TASKS`, and a general one for `package.module:Class`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the sub-command; the name of a class stays its first argument."""
        if args and ":" in args[0]:
            return "own", self.get_command(ctx, "own"), args
        return super().resolve_command(ctx, args)


app = typer.Typer(
    help="Measure a model on raw files outside its training data, by a task below or by package.module:Class.",
    cls=Evaluations,
    no_args_is_help=True,
)

Page = Annotated[
    Path | None,
    typer.Option("--page", metavar="OUT.html", help="File for a page with the figures, drawn and in tables."),
]
Folders = Annotated[str, typer.Option("--data", help="Folder of class folders.")]
Modality = Annotated[str | None, typer.Option("--modality", help="Modality of the items in the class folders.")]
Files = Annotated[str, typer.Option("--files", metavar="PATTERN", help="Pattern of the names of the files to use.")]
Test = Annotated[str | None, typer.Option("--test", metavar="FOLDER", help="Class folders to measure on.")]
TestFiles = Annotated[
    str | None, typer.Option("--test-files", metavar="PATTERN", help="Pattern of the names of the files to measure on.")
]


Settings = Callable[..., Mapping[str, Any]]


def _measure(
    task: str,
    settings: Mapping[str, Any],
    checkpoint: CheckpointFolder,
    json: Json = None,
    page: Page = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    features: Features = None,
) -> None:
    """Measure, print the figures, and write them where asked."""
    from lightcrl.processes import is_main
    from lightcrl.report import console, progress
    from lightcrl.tasks.evaluate import evaluate

    given = {key: value for key, value in settings.items() if value is not None}
    index = given.pop("index", None) if task == "retrieval" else None
    if not is_main():
        if index is None:
            evaluate(task, checkpoint, load_embedder(checkpoint, encoder, trust_remote_code), given, features)
        return
    with progress.Live() as live:
        embedder = load_embedder(checkpoint, encoder, trust_remote_code)
        if index is None:
            done = evaluate(task, checkpoint, embedder, given, features, live.tell)
        else:
            from lightcrl.index.recall import evaluate_index

            done = evaluate_index(index, embedder, given)
    console.print_result(done.result, done.rejected)
    data = str(given.get("data", ""))
    if json is not None:
        rejected = [str(item) for item in done.rejected]
        write(json, {"task": task, "data": data, **done.result.to_json(), "rejected": rejected})
    if page is not None:
        from lightcrl.report.result_page import render_result

        write_page(page, render_result(done.result, task, Path(data).name, Path(checkpoint).name))


SHARED = signature(_measure, eval_str=True).parameters


def evaluation(task: str, name: str, **given: Any) -> Callable[[Settings], Settings]:
    """Register a sub-command: a function from its own options to the settings of `task`.

    The sub-command takes the checkpoint and the options of `_measure` too.

    Args:
        task: member of `TASKS`; empty if the argument `task` names a class.
        name: name of the sub-command.
        given: further arguments of `typer.Typer.command`.
    """

    def register(settings: Settings) -> Settings:
        own = signature(settings, eval_str=True).parameters
        shared = {option: each for option, each in SHARED.items() if option not in ("task", "settings")}

        @wraps(settings)
        def command(**options: Any) -> None:
            chosen = {option: options.pop(option) for option in own}
            _measure(task or chosen["task"], settings(**chosen), **options)

        first = {option: each for option, each in {**own, **shared}.items() if option in ("task", "checkpoint")}
        command.__signature__ = Signature(  # type: ignore[attr-defined]
            [each.replace(kind=Parameter.KEYWORD_ONLY) for each in {**first, **own, **shared}.values()]
        )
        app.command(name, **given)(command)
        return settings

    return register


@evaluation("retrieval", "retrieval")
def retrieval(
    data: Annotated[str, typer.Option(help="Table of files, or a folder like that of the recipe.")],
    image_column: Annotated[str | None, typer.Option(help="Column of the modality `image`.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the modality `text`.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="modality=COLUMN; columns restrict the evaluation to their modalities."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Column whose equal values make rows one group.")] = None,
    rerank: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of first hits that the head `matching` reorders.")
    ] = None,
    vectors: Annotated[
        list[str] | None, typer.Option(help="modality=FILE of vectors with ids; the data then has ids in their column.")
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(metavar="INDEX", help="Folder of an index in which the data's items are queries and answers."),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--filter", metavar="CONDITION", help="Condition on the items of the index to search.")
    ] = None,
) -> Mapping[str, Any]:
    """Measure recall between modalities: lightcrl evaluate retrieval runs/mine --data test.jsonl."""
    columns = {name: value for name, value in (("image", image_column), ("text", text_column)) if value}
    place = Path(data)
    # A name without a suffix may be the id of a data set on the hub.
    path = str(place.absolute()) if place.exists() or place.suffix else data
    columns |= pairs(column, "--column")
    files = {name: {"path": file} for name, file in pairs(vectors, "--vectors").items()}
    if where is not None and index is None:
        raise typer.BadParameter("a condition on the items of an index; expected --index", param_hint="--filter")
    given = {"data": path, "columns": columns, "key": key, "rerank": rerank, "vectors": files}
    return given | {"index": index, "where": where}


@evaluation("zero_shot", "zero-shot")
def zero_shot(
    data: Folders,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the class name; may be repeated.")
    ] = None,
    modality: Modality = None,
    files: Files = "*",
) -> Mapping[str, Any]:
    """Classify by prompts alone: lightcrl evaluate zero-shot runs/mine --data classes/."""
    return {"data": data, "templates": template or None, "modality": modality, "files": files}


@evaluation("linear_probe", "linear-probe")
def linear_probe(
    data: Folders,
    test: Test = None,
    test_files: TestFiles = None,
    modality: Modality = None,
    files: Files = "*",
) -> Mapping[str, Any]:
    """Probe all models of a run: lightcrl evaluate linear-probe runs/mine --data train/ --test test/."""
    return {"data": data, "test": test, "test_files": test_files, "modality": modality, "files": files}


@evaluation("fine_tuning", "fine-tuning")
def fine_tuning(
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
            help="training.epochs=100, tuning.blocks=2 (train the encoder's last two), seed=1, ...",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the classifier; DIR/fine_tuning/... by default.")
    ] = None,
) -> Mapping[str, Any]:
    """Train a classifier: lightcrl evaluate fine-tuning runs/mine --data train/ --test test/."""
    from lightcrl.recipe import override_table

    settings: dict[str, Any] = {"data": data, "test": test, "test_files": test_files, "modality": modality}
    settings |= {"files": files, "output": None if output is None else str(output)}
    return settings | override_table({}, override or ())


@evaluation("text_similarity", "text-similarity")
def text_similarity(
    data: Annotated[
        str,
        typer.Option(help="Table or hub id (owner/name/configuration) of pairs with text1, text2, label or score."),
    ],
    calibration: Annotated[
        str | None, typer.Option(help="Labelled text pairs for the calibration of thresholds: the training split.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=COLUMN; names are text1, text2, label and score.")
    ] = None,
) -> Mapping[str, Any]:
    """Compare pairs of texts: lightcrl evaluate text-similarity runs/mine --data test.jsonl."""
    return {"data": data, "calibration": calibration, "columns": pairs(column, "--column")}


@evaluation("captioning", "captioning")
def captioning(
    data: Annotated[
        str | None, typer.Option(help="Table of items and their captions; the recipe's dev split by default.")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="modality=COLUMN, of the items and of the captions.")] = None,
    key: Annotated[str | None, typer.Option(help="Column whose equal values make rows one group.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Name of the head; `captioning` or the only captioner by default.")
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Number of beams; 1 is greedy search.")] = 5,
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="Also measure the consensus of the nearest training captions.")
    ] = False,
) -> Mapping[str, Any]:
    """Measure captions against references: lightcrl evaluate captioning runs/mine --data test.jsonl."""
    settings: dict[str, Any] = {"data": data, "columns": pairs(column, "--column") or None, "key": key, "head": head}
    return settings | {"beams": beams, "retrieval": retrieval}


@evaluation("prior", "prior")
def prior(
    data: Annotated[str, typer.Option(help="Table of groups with items of both modalities.")],
    column: Annotated[list[str] | None, typer.Option(help="modality=COLUMN, of both modalities.")] = None,
    key: Annotated[str | None, typer.Option(help="Column whose equal values make rows one group.")] = None,
    source: Annotated[str, typer.Option(help="Modality of the given items.")] = "text",
    target: Annotated[str | None, typer.Option(help="Modality of what the prior makes of them.")] = None,
    head: Annotated[str | None, typer.Option(help="Name of the head; `prior` or the only prior by default.")] = None,
    guidance: Annotated[list[float] | None, typer.Option(min=0, help="A strength to measure; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
) -> Mapping[str, Any]:
    """Measure a prior's embeddings beside the true ones: lightcrl evaluate prior runs/mine --data test.jsonl."""
    settings: dict[str, Any] = {"data": data, "columns": pairs(column, "--column") or None, "key": key, "head": head}
    return settings | {"source": source, "target": target, "guidances": guidance, "seed": seed}


@evaluation("", "own", hidden=True)
def own(
    task: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:CLASS", help="Your own task.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the task; may be repeated.")
    ] = None,
) -> Mapping[str, Any]:
    """Measure by a task of your own: lightcrl evaluate my_package.tasks:Mine runs/mine --set data=test.jsonl."""
    from lightcrl.recipe import override_table

    return override_table({}, override or ())
