"""Report of an extension on the command line."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from lightcrl.checkpoint import Checkpoint
from lightcrl.growth.extend import Extended
from lightcrl.growth.head import Headed
from lightcrl.growth.replacement import Replacement
from lightcrl.report.console import print_heads
from lightcrl.report.progress import console


def print_extended(done: Extended) -> None:
    """Print recall from and to new modalities, the proof that old ones are unchanged, and advice on the index."""
    title = f"{done.replaced} by another encoder" if done.replaced else f"with {', '.join(done.added)}"
    table = Table(title=f"{title}: {done.split} split, 95 % intervals")
    for heading in ("direction", "R@1", "95 % interval", "chance"):
        table.add_column(heading, justify="left" if heading == "direction" else "right")
    for name, value in done.result.metrics.items():
        direction, _, measure = name.rpartition("/")
        if measure == "recall@1":
            mark = " (emergent)" if direction in done.emergent else ""
            ends = "{:.3f} to {:.3f}".format(*done.result.interval[name])
            chance = f"{done.result.chance[name]:.4f}"
            table.add_row(direction.replace("_to_", " to ") + mark, f"{value:.3f}", ends, chance)
    console.print(table)
    if done.emergent:
        console.print("emergent: the two modalities never met in this training.", style="dim")
    if done.replacement:
        _print_replacement(done.replacement)
    proof = done.proof
    console.print(
        f"unchanged, bit for bit: {proof.leaves} tensors of {proof.numbers:,} numbers, and the embeddings of "
        f"{', '.join(proof.modalities) or 'no modality'}",
        soft_wrap=True,
        markup=False,
    )
    console.print(
        f"trained: {done.parameters:,} parameters in {done.seconds:.0f} s. Model: {done.folder}",
        soft_wrap=True,
        markup=False,
    )


def print_headed(done: Headed) -> None:
    """Print the new heads, and the proof that the space is unchanged."""
    print_heads(done.heads)
    for name, head in done.heads.items():
        if head.figures["metrics"].get("weight") == 0:
            console.print(
                f"{name} did no better than the space on the groups that chose it, so its weight is 0 and reordering "
                "changes nothing. More groups, or more epochs, may help.",
                soft_wrap=True,
                markup=False,
            )
    proof = done.proof
    console.print(
        f"unchanged, bit for bit: {proof.leaves} tensors of {proof.numbers:,} numbers, and the embeddings of "
        f"{', '.join(proof.modalities)}. Model: {done.folder}",
        soft_wrap=True,
        markup=False,
    )


def print_removed(smaller: Checkpoint, modality: str, folder: Path) -> None:
    """Print the remaining modalities and the folder of the smaller model."""
    left = ", ".join(smaller.method.modalities)
    console.print(
        f"without {modality}: {left}, bit for bit as they were. Model: {folder}", soft_wrap=True, markup=False
    )


def _print_replacement(replacement: Replacement) -> None:
    table = Table(title=f"{replacement.modality}: queries/index, mean R@1 over directions")
    for heading in ("queries/index", "mean R@1", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "queries/index" else "right")
    for case, estimate in replacement.recall.items():
        table.add_row(case, f"{estimate.mean:.3f}", "{:.3f} to {:.3f}".format(*estimate.items))
    console.print(table)
    console.print(replacement.advice, soft_wrap=True, markup=False)
