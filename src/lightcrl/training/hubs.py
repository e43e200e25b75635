"""Correction of a trained model for hubs, by a sample of its training items."""

from __future__ import annotations

from lightcrl.checkpoint import Checkpoint
from lightcrl.events import Tell
from lightcrl.features.embed import embed_rows, sample_rows
from lightcrl.features.table import Features
from lightcrl.methods import Method
from lightcrl.methods.hubs import Hubs
from lightcrl.metrics.result import Result
from lightcrl.processes import is_main, wait_for_everyone
from lightcrl.training.judge import Judge
from lightcrl.training.loop import Trained
from lightcrl.training.spec import TrainingSpec

LEAST = 200
"""Number of training groups below which too few items are known to tell hubs."""
MAIN = "mean_recall@1"


def correct_hubs(
    checkpoint: Checkpoint, features: Features, spec: TrainingSpec, trained: Trained, judge: Judge, report: Tell
) -> Result:
    """Give a trained model its correction for hubs, in memory and in best/, or take it away; return its dev figures.

    The correction is kept unless mean R@1 on dev falls. A model that is as the settings want it stays as it is.

    Args:
        checkpoint: the model with its best weights.
        features: features with the splits `train` and `dev`.
        spec: training settings.
        trained: the training.
        judge: evaluation on dev.
        report: function that is called with the event of a correction.
    """
    method, split = checkpoint.method, features.split("train")
    wanted = spec.hubs is True or (spec.hubs == "auto" and len(split) >= LEAST)
    if wanted == (method.hubs is not None) or (wanted and len(split.members) < 2):
        return trained.result
    before = trained.result
    method.hubs = measure_hubs(method, features) if wanted else None
    result = judge(method, features, trained.progress.best_epoch).result()
    kept = not wanted or result.metrics[MAIN] >= before.metrics[MAIN]
    if method.hubs is not None:
        sizes = {name: len(method.hubs.bank(name)) for name in method.hubs.names}
        figures = {"before": before.metrics[MAIN], "after": result.metrics[MAIN], "kept": kept}
        report({"event": "hubs", "bank": sizes, **figures})
    if not kept:
        method.hubs = None
        return before
    checkpoint.figures = {"split": "dev", **result.to_json()}
    if is_main():
        checkpoint.save(trained.folder / "best")
    wait_for_everyone()
    return result


def measure_hubs(method: Method, features: Features) -> Hubs:
    """Return the correction by a sample of the training items, as `method` embeds them without one."""
    split, method.hubs = features.split("train"), None
    banks = {name: embed_rows(method, features.store(name), name, sample_rows(split, name)) for name in split.members}
    return Hubs.measured(banks).to(method.logit_scale.device)
