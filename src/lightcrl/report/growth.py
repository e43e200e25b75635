"""Report of an extension on the command line."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.tree import Tree

from lightcrl.checkpoint import Checkpoint
from lightcrl.growth.extend import Extended
from lightcrl.growth.head import Headed
from lightcrl.growth.replacement import Replacement
from lightcrl.lineage import change_words, figure_words
from lightcrl.report.console import print_heads
from lightcrl.report.progress import console
from lightcrl.report.run_sheets import replacement_sheet
from lightcrl.report.sheets import figures_sheet, print_sheet


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


def print_restored(ancestor: Checkpoint, folder: Path) -> None:
    """Print the modalities of a restored ancestor and its folder."""
    left = ", ".join(ancestor.method.modalities)
    console.print(f"restored {ancestor.digest}: {left}, bit for bit. Model: {folder}", soft_wrap=True, markup=False)


def print_history(checkpoint: Checkpoint) -> None:
    """Print the line of an extended model as a tree: a branch for every step, with its date, data and figures."""
    digests = [step["from"] for step in checkpoint.lineage] + [checkpoint.digest]
    tree = branch = Tree(f"{digests[0][:12]} trained", highlight=False)
    for step, digest in zip(checkpoint.lineage, digests[1:], strict=True):
        date, data = str(step.get("date", ""))[:10], step.get("data", "")[:12]
        facts = [change_words(step), date, f"data {data}" if data else "", figure_words(step)]
        branch = branch.add(escape(f"{digest[:12]} {'; '.join(fact for fact in facts if fact)}"), highlight=False)
    console.print(tree)


def _print_replacement(replacement: Replacement) -> None:
    print_sheet(replacement_sheet(replacement.to_json()))
    console.print(replacement.advice, soft_wrap=True, markup=False)
