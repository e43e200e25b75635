"""What each objective of BLIP adds to the others: a table of a run with a matching head and a captioner.

    lightcrl run recipes/blip_world.toml --output runs/blip_world
    python benchmarks/objectives.py runs/blip_world

Reads the figures of all seeds of finished runs; nothing is trained. Heads never change the space, so a row without
matching has the space's own retrieval, and a row without captioning no captions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.checkpoint import load_folder
from lightcrl.sheets import markdown_table

HEADINGS = ("objectives", "mean R@1", "pair accuracy", "average precision", "BLEU-4", "CIDEr-D")


def figures(model: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a model of metrics.json, with and without each head."""
    matching = load_folder(Path(model["folder"]) / "best").heads["matching"].figures["metrics"]
    captions = {name: model[name]["metrics"] for name in model if name.endswith("captions")}
    values = {"space": model["retrieval"]["metrics"]["mean_recall@1"]}
    values["reordered"] = model["reordered"]["metrics"]["mean_recall@1"]
    for name in ("pair_accuracy", "average_precision"):
        values |= {name: matching[name], f"space/{name}": matching[f"space/{name}"]}
    for name, each in captions.items():
        values |= {f"{name}/bleu_4": each["bleu_4"], f"{name}/cider": each["cider"]}
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    models = [
        model for run in parser.parse_args().runs for model in json.loads((run / "metrics.json").read_text())["models"]
    ]
    seeds = [figures(model) for model in models]

    def cell(name: str | None) -> str:
        values = [seed[name] for seed in seeds] if name else []
        return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})" if values else ""

    contrast = ("space", "space/pair_accuracy", "space/average_precision")
    matching = ("reordered", "pair_accuracy", "average_precision")
    rows = [("contrast", *map(cell, (*contrast, None, None))), ("+ matching", *map(cell, (*matching, None, None)))]
    for name in sorted({key.partition("/")[0] for key in seeds[0] if key.partition("/")[0].endswith("captions")}):
        captions = (f"{name}/bleu_4", f"{name}/cider")
        rows.append((f"+ captioning ({name})", *map(cell, (*contrast, *captions))))
        rows.append((f"+ matching + captioning ({name})", *map(cell, (*matching, *captions))))
    print(f"{len(seeds)} seeds: mean (least-greatest)")
    print("\n".join(markdown_table(HEADINGS, rows)))


if __name__ == "__main__":
    main()
