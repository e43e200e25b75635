"""Report of an extension on the command line."""

from __future__ import annotations

from pathlib import Path

from lightcrl.checkpoint import Checkpoint
from lightcrl.growth.extend import Extended
from lightcrl.growth.head import Headed
from lightcrl.growth.replacement import Replacement
from lightcrl.report.console import print_heads
from lightcrl.report.progress import console
from lightcrl.report.sheets import figures_sheet, print_sheet
from lightcrl.sheets import Sheet


def print_extended(done: Extended) -> None:
    """Print recall from and to new modalities, the proof that old ones are unchanged, and advice on the index."""
    title = f"{done.replaced} by another encoder" if done.replaced else f"with {', '.join(done.added)}"
    names = {}
    for name in done.result.metrics:
        direction, _, measure = name.rpartition("/")
        if measure == "recall@1":
            names[name] = direction.replace("_to_", " to ") + " (emergent)" * (direction in done.emergent)
    print_sheet(figures_sheet(done.result, f"{title}: R@1 on the {done.split} split", names))
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
    rows = [
        (case, f"{estimate.mean:.3f}", "{:.3f}–{:.3f}".format(*estimate.items))
        for case, estimate in replacement.recall.items()
    ]
    headings = ("queries/index", "mean R@1", "95 % interval")
    print_sheet(Sheet(f"{replacement.modality}: queries/index, mean R@1 over directions", headings, rows))
    console.print(replacement.advice, soft_wrap=True, markup=False)
