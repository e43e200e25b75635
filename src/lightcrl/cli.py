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
    Json,
    Trust,
    load_embedder,
    names,
    set_console,
    sizes,
    write,
    write_page,
)
from lightcrl.commands.evaluate import app as evaluate
from lightcrl.commands.index import app as index
from lightcrl.commands.search import search
from lightcrl.commands.serve import serve
from lightcrl.errors import EmptyDatasetError, LightCRLError


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
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line: 0 is success, 1 the user's error, 2 wrong usage, 130 interrupted."""
    # Threads that spin while they wait for each other take ten times as long on busy cores (docs/LOG.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Your own classes may lie where you are.
    sys.path.append(str(Path.cwd()))
    # These may stand anywhere.
    words = sys.argv[1:]
    general = [word for word in ("--debug", "--quiet") if word in words]
    debug = "--debug" in general
    try:
        app(args=[*general, *(word for word in words if word not in general)])
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
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only, and what --json - asks for.")] = False,
) -> None:
    """One embedding space over any frozen encoders, in minutes, with honest numbers."""
    if quiet:
        set_console(ctx, "quiet")


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


app.add_typer(evaluate, name="evaluate")
app.add_typer(index, name="index")
app.command()(search)
app.command()(serve)


@app.command()
def embed(
    checkpoint: CheckpointFolder,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A file, a folder, for texts a file with one text a line, or a table with --column."
        ),
    ],
    modality: Annotated[str, typer.Option(help="Modality of the items.")],
    output: Annotated[
        Path, typer.Option(help="Where to write the vectors, as .npy [N, d]; ids go beside it as .json.")
    ],
    column: Annotated[str | None, typer.Option(help="SOURCE is a table; embed the items of this column.")] = None,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
) -> None:
    """Embed a file, the files of a folder, the lines of a text file or a column of a table."""
    import numpy as np

    from lightcrl.data.loose import loose_items
    from lightcrl.files.local import make_folder, whole_file
    from lightcrl.report import console

    embedder = load_embedder(checkpoint, encoder, trust_remote_code)
    items, aside = loose_items(source, embedder.encoder(modality).kind, column)
    vectors, rejected = embedder.encode_some(items, modality)
    rejected = [*aside, *rejected]
    kept = ~np.isnan(vectors).any(1)
    if not kept.any():
        reasons = "; ".join(str(one) for one in rejected[:3])
        raise EmptyDatasetError(f"nothing in {source} could be embedded ({reasons}). Nothing was written.")
    make_folder(output.absolute().parent)
    with whole_file(output) as temporary, temporary.open("wb") as stream:
        np.save(stream, vectors[kept])
    ids = [item.source for item, keep in zip(items, kept, strict=True) if keep]
    told = {"modality": modality, "model": embedder.fingerprint, "ids": ids, "rejected": [str(one) for one in rejected]}
    write(output.with_suffix(".json"), told)
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
