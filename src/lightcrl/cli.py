"""The command line: wires things together and prints. Nothing else in LightCRL prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from lightcrl import __version__
from lightcrl.arguments import (
    CheckpointFolder,
    Encoders,
    Features,
    Json,
    Trust,
    load_embedder,
    names,
    pairs,
    sizes,
    write,
    write_page,
)
from lightcrl.errors import LightCRLError


class Commands(TyperGroup):
    """Turns what goes wrong in a command into one message and an exit code: 1 the user's error, 130 interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with `--debug` its errors pass through."""
        try:
            return super().invoke(ctx)
        except LightCRLError as error:
            if ctx.params.get("debug"):
                raise
            message, code = f"error: {error}", error.exit_code
        except KeyboardInterrupt:
            message, code = "interrupted. What is complete is kept: the same command goes on from there.", 130
        typer.echo(message, err=True)
        raise typer.Exit(code)


app = typer.Typer(
    name="lightcrl",
    help="One embedding space over any frozen encoders, in minutes, with honest numbers.",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line: 0 is success, 1 the user's error, 2 wrong usage, 130 interrupted."""
    # Threads that spin while they wait for each other take ten times as long on busy cores (docs/LOG.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Your own classes may lie where you are.
    sys.path.append(str(Path.cwd()))
    # `--debug` may stand anywhere.
    words = sys.argv[1:]
    debug = "--debug" in words
    try:
        app(args=["--debug"] * debug + [word for word in words if word != "--debug"])
    except Exception as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {error}"
        typer.echo(f"internal error: {what}. Run again with --debug for the traceback.", err=True)
        raise SystemExit(1) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lightcrl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """One embedding space over any frozen encoders, in minutes, with honest numbers."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What to align, how, and how to measure it.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the recipe.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run; runs/<name> by default.")
    ] = None,
) -> None:
    """Read the data, encode every item once, train, evaluate. The same command goes on where it was stopped."""
    from lightcrl.pipeline import run as run_recipe
    from lightcrl.processes import is_main
    from lightcrl.recipe import load_recipe
    from lightcrl.report import console

    parsed = load_recipe(recipe, override or (), output)
    if not is_main():
        run_recipe(parsed)
        return
    with console.Live() as live:
        done = run_recipe(parsed, tell=live.tell)
    console.print_run(done, parsed)


@app.command()
def compare(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Data, encoders, training, evaluation.")],
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME[KEY=VALUE,...],...", help="By default the recipe's and all there are."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings of each.")] = 5,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the comparison; runs/<name>-compare by default.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the recipe.")
    ] = None,
    tune: Annotated[bool, typer.Option(help="Let every method choose options from its grid on dev.")] = True,
    scaling: Annotated[
        str | None,
        typer.Option(metavar="N,N,...|auto", help="Train on subsets of so many groups too; auto doubles from 125."),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Mean R@1 that --scaling says the groups for; the next round one by default.")
    ] = None,
    json: Json = None,
) -> None:
    """Train methods on the same features, splits, seeds and budget; say who is better, and who is not told apart."""
    from lightcrl.report import console
    from lightcrl.report.comparison_page import write_comparison
    from lightcrl.studies.compare import compare as compare_methods
    from lightcrl.studies.compare import parse_entries

    with console.Live() as live:
        done = compare_methods(
            recipe,
            parse_entries(methods) if methods is not None else None,
            seeds=seeds,
            overrides=override or (),
            output=output,
            tune=tune,
            scaling=sizes(scaling),
            target=target,
            tell=live.tell,
        )
    write_comparison(done)
    console.print_comparison(done)
    if json is not None:
        write(json, done.to_json())


@app.command()
def reproduce(
    family: Annotated[Path, typer.Argument(metavar="FAMILY", help="A folder of recipes with a family.toml.")],
    models: Annotated[
        str | None, typer.Option(metavar="LABEL,LABEL,...|all", help="By default all but the optional ones.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(metavar="NAME,NAME,...", help="By default all.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many trainings of each; by default the family's.")
    ] = None,
    groups: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Training groups of every recipe; by default the family's.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="By default runs/<name of the family>.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of every recipe.")
    ] = None,
) -> None:
    """Compute the paper's tables anew, published figures beside them, and say what becomes of its claims."""
    from lightcrl.report import console
    from lightcrl.report.reproduction_figure import write_figures
    from lightcrl.studies.reproduce import reproduce as reproduce_family

    with console.Live() as live:
        done = reproduce_family(
            family,
            models=names(models),
            tasks=names(tasks),
            seeds=seeds,
            groups=groups,
            overrides=override or (),
            output=output,
            tell=live.tell,
        )
    write_figures(done)
    console.print_reproduction(done)


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Whose data and encoders to look at.")],
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=60, help="Groups of train to look at; by default what fits two minutes."),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the recipe.")
    ] = None,
    json: Json = None,
) -> None:
    """Say before any training which encoders and layers fit, what leaks, and which recall to expect."""
    from lightcrl.recipe import load_recipe
    from lightcrl.report import console
    from lightcrl.studies.check.check import check as check_recipe
    from lightcrl.studies.check.tables import to_json

    parsed = load_recipe(recipe, override or ())
    with console.Live() as live:
        found = check_recipe(parsed, size=sample, tell=live.tell)
    console.print_check(found)
    if json is not None:
        write(json, to_json(found))


@app.command()
def evaluate(
    checkpoint: CheckpointFolder,
    task: Annotated[str, typer.Option(help="retrieval, zero_shot, text_similarity, linear_probe or fine_tuning.")],
    data: Annotated[
        str,
        typer.Option(
            help="A table of files (retrieval), a folder of class folders (zero_shot, linear_probe, fine_tuning), a "
            "table or hub id (owner/name/configuration) of text pairs with text1, text2 and label or score "
            "(text_similarity)."
        ),
    ],
    json: Json = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the modality `image`.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the modality `text`.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="modality=COLUMN; where columns are given, only their modalities are used. Of text pairs: text1, "
            "text2, label or score."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Column whose equal values make rows one group.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the class name; may be repeated.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="Whose items the class folders hold.")] = None,
    files: Annotated[str, typer.Option(metavar="PATTERN", help="Names of the class folders' files to take.")] = "*",
    test: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Class folders to measure on: linear_probe, fine_tuning.")
    ] = None,
    test_files: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Names of the files that it is measured on.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Labelled text pairs that thresholds are calibrated on: the training split.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="TABLE.KEY=VALUE",
            help="Of fine_tuning: training.epochs=100, tuning.blocks=2 (trains the encoder's last two), seed=1, ...",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of fine_tuning: where to keep the model; DIR/fine_tuning/...")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="Write the figures here as a page, drawn and in tables.")
    ] = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    features: Features = None,
) -> None:
    """Measure a model on raw files that it has never seen; a linear probe, all models of a run."""
    from lightcrl.recipe import override_table
    from lightcrl.report import console
    from lightcrl.tasks.measure import Request, measure

    columns = {name: found for name, found in (("image", image_column), ("text", text_column)) if found}
    with console.Live() as live:
        request = Request(
            place=checkpoint,
            embedder=load_embedder(checkpoint, encoder, trust_remote_code),
            data=data,
            columns=columns | pairs(column, "--column"),
            key=key,
            templates=tuple(template) if template else None,
            modality=modality,
            files=files,
            test=test,
            test_files=test_files,
            calibration=calibration,
            settings=override_table({}, override or ()),
            output=output,
            features=features,
            tell=live.tell,
        )
        result, rejected = measure(task, request)
    console.print_result(result, rejected)
    if json is not None:
        write(json, {"task": task, "data": data, **result.to_json(), "rejected": [str(one) for one in rejected]})
    if page is not None:
        from lightcrl.report.result_page import render_result

        write_page(page, render_result(result, task, Path(data).name, Path(checkpoint).name))


@app.command()
def embed(
    checkpoint: CheckpointFolder,
    modality: Annotated[str, typer.Option(help="Whose items they are.")],
    input: Annotated[Path, typer.Option(help="A file, a folder, or for texts a .txt file with one text a line.")],
    output: Annotated[
        Path, typer.Option(help="Where to write the vectors, as .npy [N, d]; ids go beside it as .json.")
    ],
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Embed a file, the files of a folder or the lines of a text file."""
    import numpy as np

    from lightcrl.data.loose import loose_items
    from lightcrl.files.local import make_folder, whole_file
    from lightcrl.report import console

    embedder = load_embedder(checkpoint, encoder, trust_remote_code)
    items = loose_items(input, embedder.encoder(modality).kind)
    vectors, rejected = embedder.encode_some(items, modality)
    kept = ~np.isnan(vectors).any(1)
    make_folder(output.absolute().parent)
    with whole_file(output) as temporary, temporary.open("wb") as stream:
        np.save(stream, vectors[kept])
    ids = [item.source for item, keep in zip(items, kept, strict=True) if keep]
    write(output.with_suffix(".json"), {"modality": modality, "ids": ids, "rejected": [str(one) for one in rejected]})
    console.print_embedded(output, vectors[kept].shape, rejected)


@app.command()
def export(
    checkpoint: CheckpointFolder,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the graphs.")],
    format: Annotated[Literal["onnx"], typer.Option(help="Of the graphs.")] = "onnx",
    modality: Annotated[list[str] | None, typer.Option(help="Whose graph to write; by default everyone's.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="A quarter of the size, at the price of some recall.")] = False,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write encoder and model as one ONNX graph per modality."""
    from lightcrl.export import export_onnx
    from lightcrl.report import console

    embedder = load_embedder(checkpoint, encoder, trust_remote_code)
    console.print_exported(export_onnx(embedder, output, modality, int8=int8))


@app.command()
def info(checkpoint: CheckpointFolder, json: Json = None) -> None:
    """Print what a model maps, its parameters by part, and its figures."""
    from lightcrl.checkpoint import load_checkpoint
    from lightcrl.report import console

    found = load_checkpoint(checkpoint)
    console.print_info(found)
    if json is not None:
        write(json, {"parameters": found.parts(), **found.config()})


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Finished runs; several stand side by side.")],
    output: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="Where to write the page; DIR/report.html of the first run.")
    ] = None,
) -> None:
    """Write one self-contained page of a run, or of several side by side."""
    from lightcrl.report import console
    from lightcrl.report.facts import gather
    from lightcrl.report.run_page import render

    with console.Live() as live:
        html = render(*(gather(folder, tell=live.tell) for folder in folders))
    place = output or folders[0] / "report.html"
    write_page(place, html)
    console.print_page(place)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the run and report.html.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Generate a small world of pictures, captions and sounds, align all three and show what came out."""
    from lightcrl.demo import run_demo
    from lightcrl.report import console

    with console.Live() as live:
        done = run_demo(output, live.tell)
    console.print_demo(done)
