"""The model card: the README of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightcrl import __version__
from lightcrl.lineage import history_table
from lightcrl.sheets import markdown_table

if TYPE_CHECKING:
    from lightcrl.checkpoint import Checkpoint


def model_card(checkpoint: Checkpoint) -> str:
    """Return the README of a checkpoint: modalities, usage, figures, history."""
    modalities = checkpoint.method.modalities
    metrics = checkpoint.figures.get("metrics", {})
    interval = checkpoint.figures.get("interval", {})
    rows = [
        f"| {name} | {value:.3f} | " + ("{:.3f} to {:.3f}".format(*interval[name]) if name in interval else "") + " |"
        for name, value in metrics.items()
    ]
    encoders = [
        f"| {name} | {spec.kind} | `{Path(spec.model).name if Path(spec.model).is_absolute() else spec.model}` | "
        f"{modalities[name]} | `{checkpoint.fingerprints[name]}` |"
        for name, spec in checkpoint.encoders.items()
    ]
    parts = [f"| {part} | {count:,} |" for part, count in checkpoint.parts().items()]
    first = next(iter(modalities))
    lines = [
        "---",
        "library_name: lightcrl",
        "license: apache-2.0",
        "tags: [lightcrl, contrastive-learning, cross-modal-retrieval]",
        "---",
        "",
        f"# {checkpoint.recipe.get('name', 'LightCRL model')}",
        "",
        f"Maps {', '.join(modalities)} into one space of {checkpoint.method.dim} dimensions "
        f"(method `{checkpoint.name}`, LightCRL {__version__}). The encoders are not part of this checkpoint"
        + (f", except for the trained weights of {', '.join(checkpoint.towers)}." if checkpoint.towers else "."),
        "",
        "```python",
        "import lightcrl",
        "",
        'embedder = lightcrl.load("this/folder")',
        f'vectors = embedder.encode(items, "{first}")  # [N, {checkpoint.method.dim}], unit length',
        "```",
        "",
        "## Encoders",
        "",
        "| modality | kind | encoder | tokens | fingerprint |",
        "|---|---|---|---|---|",
        *encoders,
        "",
        "## Figures",
        "",
        *([f"On the {checkpoint.figures['split']} split.", ""] if "split" in checkpoint.figures else []),
        *(["| metric | value | 95 % interval |", "|---|---|---|", *rows] if rows else ["None measured yet."]),
        "",
        "## Trained parameters",
        "",
        "| part | parameters |",
        "|---|---|",
        *parts,
        "",
        *_history(checkpoint),
    ]
    return "\n".join(lines)


def _history(checkpoint: Checkpoint) -> list[str]:
    """Return the ancestors of an extended model as a section of its card."""
    if not checkpoint.lineage:
        return []
    headings = ["model", "change", "date", "data", "figures"]
    return [
        "## History",
        "",
        "Embeddings of modalities that a step left alone are those of its ancestors, bit for bit. "
        "`lightcrl extend DIR --rollback MODEL --output OUT` restores an ancestor.",
        "",
        *markdown_table(headings, history_table(checkpoint.digest, checkpoint.lineage)),
    ]
