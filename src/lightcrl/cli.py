"""The command line. No other code in LightCRL prints."""

from __future__ import annotations

import gc
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
    Overrides,
    Trust,
    choice,
    load_embedder,
    names,
    place,
    set_console,
    sizes,
    write,
    write_page,
)
from lightcrl.commands.caption import caption
from lightcrl.commands.clean import clean
from lightcrl.commands.evaluate import app as evaluate
from lightcrl.commands.extend import extend
from lightcrl.commands.head import head
from lightcrl.commands.imagine import imagine
from lightcrl.commands.index import app as index
from lightcrl.commands.init import init
from lightcrl.commands.mteb import mteb
from lightcrl.commands.push import push
from lightcrl.commands.run import run
from lightcrl.commands.search import search
from lightcrl.commands.serve import serve
from lightcrl.errors import EmptyDatasetError, LightCRLError
from lightcrl.machine import keep_freed_memory


class Commands(TyperGroup):
    """The commands, which turn an error into one message and an exit code: 1 user's error, 130 interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug` lets its errors pass through."""
        try:
            return super().invoke(ctx)
        except LightCRLError as error:
            if ctx.params.get("debug"):
                raise
            message, code = f"error: {error}", error.exit_code
        except KeyboardInterrupt:
            message, code = "interrupted. Complete results are kept; the same command resumes from them.", 130
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
    keep_freed_memory()
    # Imports make a million objects that all stay: looking through them takes a tenth of a short command.
    gc.set_threshold(10_000, 10, 10)
    # A recipe may name classes of the current folder.
    sys.path.append(str(Path.cwd()))
    # The general options may stand before or after the command.
    words = sys.argv[1:]
    general = [word for word in ("--debug", "--quiet") if word in words]
    debug = "--debug" in general
    try:
        app(args=[*general, *(word for word in words if word not in general)])
    except Exception as error:
        if debug:
            raise
        description = f"{type(error).__name__}: {error}"
        typer.echo(f"internal error: {description}. Run again with --debug for the traceback.", err=True)
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
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors and the JSON of --json -.")] = False,
) -> None:
    """One embedding space over any frozen encoders, in minutes, with honest numbers."""
    if quiet:
        set_console(ctx, "quiet")


app.command(epilog="Example: lightcrl init photos/ --output my.toml")(init)


app.command(epilog="Example: lightcrl run recipes/world.toml --set training.epochs=5 --json -")(run)


@app.command(epilog="Example: lightcrl compare recipes/world.toml --methods dfe,linear --seeds 3")
def compare(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Data, encoders, training, evaluation.")],
    methods: Annotated[
        str | None,
        choice(
            metavar="NAME,NAME[KEY=VALUE,...],...",
            help="Methods to compare; the recipe's and all of the library by default.",
        ),
    ] = None,
    seeds: Annotated[int, choice(min=1, help="Number of trainings of each method.")] = 5,
    output: Annotated[
        Path | None,
        place(metavar="DIR", help="Folder of the comparison; runs/<name>-compare by default."),
    ] = None,
    override: Overrides = None,
    tune: Annotated[bool, choice(help="Choose the options of every method from its grid on dev.")] = True,
    scaling: Annotated[
        str | None,
        choice(metavar="N,N,...|auto", help="Also train on subsets of these numbers of groups; auto doubles from 125."),
    ] = None,
    target: Annotated[
        float | None,
        choice(help="Mean R@1 for which --scaling forecasts the number of groups; the next round figure by default."),
    ] = None,
    extend: Annotated[
        Path | None,
        choice(metavar="MODEL", help="Compare ways to extend this model; RECIPE.toml is one of lightcrl extend."),
    ] = None,
    replace: Annotated[
        str | None, choice(metavar="MODALITY", help="With --extend: the modality whose encoder is replaced.")
    ] = None,
    json: Json = None,
) -> None:
    """Train methods on the same features, splits, seeds and budget, and test their differences for significance."""
    from lightcrl.report import console, progress
    from lightcrl.report.comparison_page import write_comparison
    from lightcrl.studies.compare import compare as compare_methods
    from lightcrl.studies.compare import parse_entries
    from lightcrl.studies.extensions import compare_extensions

    if replace is not None and extend is None:
        raise typer.BadParameter("expected --extend MODEL beside it", param_hint="--replace")
    entries = parse_entries(methods) if methods is not None else None
    given: dict[str, Any] = {"seeds": seeds, "overrides": override or (), "output": output, "tune": tune}
    given |= {"scaling": sizes(scaling), "target": target}
    with progress.Live() as live:
        if extend is None:
            done = compare_methods(recipe, entries, tell=live.tell, **given)
        else:
            done = compare_extensions(extend, recipe, entries, replace=replace, tell=live.tell, **given)
    write_comparison(done)
    console.print_comparison(done)
    if json is not None:
        write(json, done.to_json())


@app.command(epilog="Example: lightcrl reproduce recipes/paper_small --seeds 1 --output runs/paper")
def reproduce(
    family: Annotated[Path, typer.Argument(metavar="FAMILY", help="Folder of recipes with a family.toml.")],
    models: Annotated[
        str | None,
        choice(metavar="LABEL,LABEL,...|all", help="Models to train; all but the optional ones by default."),
    ] = None,
    tasks: Annotated[str | None, choice(metavar="NAME,NAME,...", help="Tasks to measure; all by default.")] = None,
    seeds: Annotated[
        int | None,
        choice(min=1, help="Number of trainings of each model; the family's seeds by default."),
    ] = None,
    groups: Annotated[
        int | None,
        choice(metavar="N", min=2, help="Number of training groups of every recipe; the family's by default."),
    ] = None,
    output: Annotated[
        Path | None, place(metavar="DIR", help="Folder of the reproduction; runs/<name of the family> by default.")
    ] = None,
    override: Annotated[
        list[str] | None,
        choice("--set", metavar="SECTION.KEY=VALUE", help="Change one key of every recipe."),
    ] = None,
    json: Json = None,
) -> None:
    """Compute the paper's tables anew, set the published figures beside them, and test the paper's claims."""
    from lightcrl.report import console, progress
    from lightcrl.report.reproduction_figure import write_figures
    from lightcrl.studies.reproduce import reproduce as reproduce_family

    with progress.Live() as live:
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
    if json is not None:
        write(json, done.to_json())


@app.command(epilog="Example: lightcrl check recipes/world.toml --json check.json")
def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe with the data and encoders to check.")],
    sample: Annotated[
        int | None,
        choice(
            metavar="N", min=60, help="Number of training groups to examine; as many as fit two minutes by default."
        ),
    ] = None,
    override: Overrides = None,
    json: Json = None,
) -> None:
    """Find suitable encoders and layers, leaks between splits and the recall to expect, before any training."""
    from lightcrl.recipe import load_recipe
    from lightcrl.report import console, progress
    from lightcrl.studies.check.check import check as check_recipe
    from lightcrl.studies.check.tables import to_json

    parsed = load_recipe(recipe, override or ())
    with progress.Live() as live:
        result = check_recipe(parsed, size=sample, tell=live.tell)
    console.print_check(result)
    if json is not None:
        write(json, to_json(result))


app.add_typer(evaluate, name="evaluate")
app.add_typer(index, name="index")
app.command()(search)
app.command(epilog="Example: lightcrl clean recipes/world.toml --output runs/world-clean")(clean)
app.command(epilog="Example: lightcrl extend runs/seen recipes/extend/sound.toml --output runs/heard")(extend)
app.command(epilog="Example: lightcrl head runs/world recipes/heads/matching.toml --output runs/matched")(head)
app.command(epilog="Example: lightcrl mteb runs/world --tasks Flickr30kT2IRetrieval,CIFAR10ZeroShot")(mteb)
app.command(epilog="Example: lightcrl caption runs/captioned photos/ --beams 5 --json captions.json")(caption)


app.command(epilog='Example: lightcrl imagine runs/unclip_world "three blue stars on a grey ground" --output pictures')(
    imagine
)
app.command(epilog="Example: lightcrl push runs/world someone/world --with-encoders")(push)
app.command(epilog="Example: lightcrl serve runs/demo --port 8000")(serve)


@app.command(epilog="Example: lightcrl embed runs/world captions.txt --modality text --output captions.npy")
def embed(
    checkpoint: CheckpointFolder,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A file, a folder, a text file with one text per line, or, with --column, a table."
        ),
    ],
    modality: Annotated[str, choice(help="Modality of the items.")],
    output: Annotated[
        Path,
        place(help="File for the vectors, .npy [N, d]; the ids go beside it as .json."),
    ],
    column: Annotated[str | None, choice(help="Column of the items; SOURCE is then a table.")] = None,
    views: Annotated[
        int, choice(min=1, help="Number of views of every picture or sound whose mean is its vector.")
    ] = 1,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    json: Json = None,
) -> None:
    """Embed a file, the files of a folder, the lines of a text file or a column of a table."""
    import numpy as np

    from lightcrl.data.loose import loose_items
    from lightcrl.files.local import make_folder, whole_file
    from lightcrl.report import console

    embedder = load_embedder(checkpoint, encoder, trust_remote_code)
    items, aside = loose_items(source, embedder.encoder(modality).kind, column)
    vectors, rejected = embedder.encode_some(items, modality, views=views)
    rejected = [*aside, *rejected]
    kept = ~np.isnan(vectors).any(1)
    if not kept.any():
        reasons = "; ".join(str(item) for item in rejected[:3])
        raise EmptyDatasetError(f"nothing in {source} could be embedded ({reasons}). Nothing was written.")
    make_folder(output.absolute().parent)
    with whole_file(output) as temporary, temporary.open("wb") as stream:
        np.save(stream, vectors[kept])
    ids = [item.source for item, keep in zip(items, kept, strict=True) if keep]
    facts = {"modality": modality, "model": embedder.fingerprint, "ids": ids, "rejected": list(map(str, rejected))}
    write(output.with_suffix(".json"), facts)
    console.print_embedded(output, vectors[kept].shape, rejected)
    if json is not None:
        write(json, {"vectors": str(output), "shape": list(vectors[kept].shape), **facts})


@app.command(epilog="Example: lightcrl export runs/world --output exported --modality text")
def export(
    checkpoint: CheckpointFolder,
    output: Annotated[Path, place(metavar="DIR", help="Folder for the graphs.")],
    format: Annotated[Literal["onnx"], typer.Option(help="Format of the graphs.")] = "onnx",
    modality: Annotated[list[str] | None, choice(help="Modality whose graph to write; all by default.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Store weights in 8 bits: a quarter of the size, with some loss of recall.")
    ] = False,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    json: Json = None,
) -> None:
    """Write encoder and model as one ONNX graph per modality."""
    from lightcrl.export import export_onnx
    from lightcrl.report import console

    embedder = load_embedder(checkpoint, encoder, trust_remote_code)
    folder = export_onnx(embedder, output, modality, int8=int8)
    console.print_exported(folder)
    if json is not None:
        graphs = {path.name: path.stat().st_size for path in sorted(folder.glob("*.onnx"))}
        write(json, {"folder": str(folder), "bytes": graphs})


@app.command(epilog="Example: lightcrl info runs/world")
def info(checkpoint: CheckpointFolder, json: Json = None) -> None:
    """Print the modalities of a model, its parameters by part, and its figures."""
    from lightcrl.checkpoint import load_checkpoint
    from lightcrl.report import console

    loaded = load_checkpoint(checkpoint)
    console.print_info(loaded)
    if loaded.lineage:
        from lightcrl.report.growth import print_history

        print_history(loaded)
    if json is not None:
        write(json, {"parameters": loaded.parts(), **loaded.config()})


@app.command(epilog="Example: lightcrl report runs/world runs/other --output both.html")
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders of finished runs or extensions; several stand side by side."),
    ],
    output: Annotated[
        Path | None,
        place(metavar="OUT.html", help="File for the page; DIR/report.html of the first run by default."),
    ] = None,
) -> None:
    """Write one self-contained page of a run or an extended model, or of several side by side."""
    from lightcrl.report import console, progress
    from lightcrl.report.extension_facts import gather_model
    from lightcrl.report.run_page import render

    with progress.Live() as live:
        html = render(*(gather_model(folder, tell=live.tell) for folder in folders))
    page = output or folders[0] / "report.html"
    write_page(page, html)
    console.print_page(page)


@app.command(epilog="Example: lightcrl demo --output runs/demo")
def demo(
    output: Annotated[Path, place(metavar="DIR", help="Folder for the run and report.html.")] = Path("runs/demo"),
) -> None:
    """Generate a small world of pictures, captions and sounds, align all three and show the results."""
    from lightcrl.demo import run_demo
    from lightcrl.report import console, progress

    with progress.Live() as live:
        done = run_demo(output, live.tell)
    console.print_demo(done)
