"""`lightcrl mteb`: tasks of mteb on a model, with results in mteb's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightcrl.arguments import CheckpointFolder, Encoders, Json, Trust, load_embedder, names, write


def mteb(
    checkpoint: CheckpointFolder,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="NAME,NAME,...", help="Tasks of mteb, or package.module:Class of your own."),
    ] = None,
    benchmarks: Annotated[
        str | None, typer.Option("--benchmarks", metavar="NAME,NAME,...", help="Benchmarks of mteb: all their tasks.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of mteb's result files; DIR/mteb of the model by default."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items per batch.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run tasks again that have results.")] = False,
    encoder: Encoders = None,
    trust_remote_code: Trust = False,
    json: Json = None,
) -> None:
    """Measure a model on tasks of mteb: lightcrl mteb runs/mine --tasks STSBenchmark."""
    if not tasks and not benchmarks:
        raise typer.BadParameter("expected --tasks NAME,... or --benchmarks NAME,...", param_hint="--tasks")
    from lightcrl.bridges.mteb import find_tasks, measure
    from lightcrl.report.bridges_console import print_scores

    embedder = load_embedder(checkpoint, encoder, trust_remote_code)
    folder = output or (Path(checkpoint) / "mteb" if Path(checkpoint).is_dir() else Path("mteb"))
    wanted = find_tasks(names(tasks) or [], names(benchmarks) or [])
    done = measure(embedder, checkpoint, wanted, folder, batch_size=batch_size, overwrite=overwrite)
    print_scores(done)
    if json is not None:
        write(json, {"folder": str(folder), "results": list(done.tables)})
