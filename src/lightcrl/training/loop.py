"""The training loop, the only one for all methods and losses.

Every random draw is a function of the seed and the step (or epoch), so a resumed run equals an uninterrupted run. The
loop writes a folder:

    best/       the checkpoint with the best dev figure
    last/       the latest checkpoint, with state.safetensors: the optimiser's moments and the progress of the run
    log.jsonl   a line for each step and for each evaluation
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.errors import DivergedError, EmptyDatasetError, TrainingError
from lightcrl.events import Tell
from lightcrl.features.live import LiveStore
from lightcrl.features.table import Features, Split
from lightcrl.features.views import view_addresses
from lightcrl.files.local import make_folder, recover_folder
from lightcrl.machine import seed_draws
from lightcrl.methods import Method
from lightcrl.methods.base import Step
from lightcrl.metrics.result import Result
from lightcrl.processes import together, wait_for_everyone
from lightcrl.training.batches import Batch, draw_views, epoch_batches, take_view
from lightcrl.training.gradient import Stepper, mix, parameter_groups
from lightcrl.training.judge import Judge, by_retrieval
from lightcrl.training.log import Log
from lightcrl.training.plan import Plan, learning_rate, make_accelerator, make_plan, make_window
from lightcrl.training.settings import settings_of
from lightcrl.training.spec import TrainingSpec
from lightcrl.training.state import Progress, keep_towers, load_state, put_back, save_state
from lightcrl.training.trackers import Tracked, start

# Seconds after which a long epoch is saved before its end.
SAVE_SECONDS = 120.0
# Number of items from which a stem computes its means and deviations.
STATISTICS_ITEMS = 16_384


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: folder with best/, last/ and log.jsonl.
        result: dev figures of the best checkpoint.
        progress: final progress.
        plan: plan of the training.
        resumed_at: step at which the run resumed; 0 for an uninterrupted run.
    """

    folder: Path
    result: Result
    progress: Progress
    plan: Plan
    resumed_at: int = field(default=0)


def train(
    checkpoint: Checkpoint,
    features: Features,
    spec: TrainingSpec,
    folder: Path | str,
    *,
    seed: int = 0,
    report: Tell = lambda event: None,
    live: Mapping[str, LiveStore] | None = None,
    judge: Judge = by_retrieval,
) -> Trained:
    """Train the checkpoint's method on the `train` split, choose by `judge` on dev, keep best and last checkpoint.

    If the folder holds an unfinished run of the same settings, training resumes; a finished run is returned.

    Args:
        checkpoint: checkpoint whose method is trained in place (it ends with its best weights); a template for best/.
        features: features with the splits `train` and `dev`.
        spec: training settings.
        folder: folder of the run.
        seed: seed of weights, batches and dropout.
        report: function that is called with every line of log.jsonl.
        live: modalities with a trained encoder, in place of their stores.
        judge: evaluation on dev.

    Raises:
        TrainingError: there is too little data for these settings.
        DivergedError: the loss or its gradient is not a number; the last good checkpoint is kept.
        CheckpointError: the folder holds a run of other settings.
        ProcessError: another of several processes has ended.
    """
    folder = make_folder(Path(folder))
    method = checkpoint.method
    spec = spec.suited(method)
    train_split, dev_split = features.split("train"), features.split("dev")
    plan = make_plan(spec, train_split)
    if method.closed_form:
        plan = replace(plan, epochs=1, steps=plan.steps_per_epoch)
    features = features.in_memory(spec.memory_bytes)
    method.regularise(len(train_split.usable), plan.steps)
    plan = replace(plan, window=make_window(features, train_split, plan, spec.memory_bytes, method.sequences))
    accelerator = make_accelerator(spec, plan.batch_size, method, tuple(live or ()))
    live = dict(live or {})
    for store in live.values():
        store.hold(spec.memory_bytes)
    settings = settings_of(checkpoint, features, live, spec, plan, seed)
    stepper = Stepper(method, features, live, accelerator, spec)
    for module in stepper.modules().values():
        module.to(accelerator.device)
    optimizer = method.make_optimizer(parameter_groups(method, spec, live))
    with together(folder):
        if accelerator.is_main_process:
            recover_folder(folder / "best")
            recover_folder(folder / "last")
        wait_for_everyone()
        progress = load_state(folder / "last", stepper, optimizer, settings)
        resumed_at = progress.step
        if resumed_at == 0:
            _initialise(method, features, train_split, seed)
        if not progress.finished:
            # The method is not "prepared": that would leave its forward pass in the training's precision for good, and
            # `Stepper.backward` sums the gradients of several processes, over the whole batch's loss.
            optimizer = accelerator.prepare_optimizer(optimizer)
            seen = features.replace_stores(live)
            loop = _Loop(checkpoint, stepper, optimizer, judge, seen, train_split, dev_split, plan, seed)
            loop.run(folder, progress, settings, report)
        wait_for_everyone()
        best = load_folder(folder / "best")
        put_back(best, stepper)
    checkpoint.figures, checkpoint.towers = best.figures, best.towers
    return Trained(folder, Result.from_json(best.figures), progress, plan, resumed_at)


@dataclass
class _Loop:
    checkpoint: Checkpoint
    stepper: Stepper
    optimizer: torch.optim.Optimizer
    judge: Judge
    features: Features
    train_split: Split
    dev_split: Split
    plan: Plan
    seed: int

    @property
    def method(self) -> Method:
        return self.stepper.method

    @property
    def spec(self) -> TrainingSpec:
        return self.stepper.spec

    @property
    def accelerator(self) -> Accelerator:
        return self.stepper.accelerator

    def run(self, folder: Path, progress: Progress, settings: Mapping[str, Any], report: Tell) -> None:
        spec, plan = self.spec, self.plan
        main = self.accelerator.is_main_process
        tracked = Tracked.of(self.checkpoint, self.seed, folder, progress.step)
        trackers = start(spec.tracked_by, tracked, self.checkpoint.recipe) if main else []
        with Log(folder, progress.step, report, trackers, active=main) as log:
            if progress.step == 0:
                described = {"parameters": self.method.parts(), "input_dropout": self.method.dropped()}
                log.write({"event": "start", "seed": self.seed, **asdict(plan), **described})
            begun = saved = time.monotonic()
            earlier = progress.seconds
            if progress.step == 0 and self.method.solves:
                self.method.solve(self.passes())
            while not progress.finished:
                skip = progress.step - progress.epoch * plan.steps_per_epoch
                epoch = iter(()) if self.method.closed_form else self.epoch(self.train_split, progress.epoch)
                drawn = draw_views(epoch, self.views, self.seed, progress.epoch)
                for batch in self.stepper.read(islice(drawn, skip, None)):
                    log.write(self.step(batch, progress))
                    progress.step += 1
                    if time.monotonic() - saved > SAVE_SECONDS:
                        progress.seconds = earlier + time.monotonic() - begun
                        self.save(folder, progress, settings)
                        saved = time.monotonic()
                progress.epoch += 1
                if progress.epoch % spec.evaluate_every == 0 or progress.epoch == plan.epochs:
                    event = self.evaluate(folder, progress)
                    progress.seconds = earlier + time.monotonic() - begun
                    log.write({**event, "seconds": round(progress.seconds, 3)})
                    progress.finished = 0 < spec.patience <= progress.stale or progress.epoch >= plan.epochs
                    self.save(folder, progress, settings)
                    saved = time.monotonic()

    def epoch(self, split: Split, number: int) -> Iterator[Batch]:
        """Return the batches of an epoch, of plain items."""
        plan = self.plan
        return epoch_batches(split, plan.batch_size, plan.items_per_group, self.seed, number, plan.window)

    def passes(self) -> Iterator[Step]:
        """Yield what a closed form sees: the training split once for each view, plain items first.

        It reads stored outputs of the encoders, also those of towers with their initial weights.
        """
        for number in range(max(map(len, self.views.values()), default=1)):
            batches = take_view(self.epoch(self.train_split, 0), self.views, number)
            for batch in self.stepper.read(batches, whole=True, stored=True):
                yield self.stepper.stored(batch, number)

    @cached_property
    def views(self) -> dict[str, np.ndarray]:
        """Rows of all views by modality, of the modalities that have some."""
        return view_addresses(self.features.stores)

    def step(self, batch: Batch, progress: Progress) -> dict[str, Any]:
        """Do an update and return its line of the log."""
        seed_draws(seed := mix(self.seed, progress.step, self.accelerator.process_index))
        rate = learning_rate(self.spec, progress.step, self.plan.steps) * progress.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.stepper.train()
        self.optimizer.zero_grad()
        loss = self.stepper.backward(batch, progress.step / self.plan.steps, seed)
        parameters = [parameter for _, parameter in self.stepper.parameters()]
        norm = self.accelerator.clip_grad_norm_(parameters, self.spec.clip or math.inf)
        if not (math.isfinite(loss.item()) and math.isfinite(float(norm))):
            raise DivergedError(
                f"the loss is {loss.item()} and the norm of its gradient {float(norm)} at step {progress.step}. The "
                "last good checkpoint is kept. Lower training.learning_rate, or look for odd values in the features."
            )
        self.optimizer.step()
        self.method.bound_logit_scale()
        return {
            "event": "step",
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": loss.item(),
            "learning_rate": rate,
            "logit_scale": self.method.scale.item(),
            "gradient_norm": float(norm),
        }

    def evaluate(self, folder: Path, progress: Progress) -> dict[str, Any]:
        """Measure on dev, keep the checkpoint if it is the best, and return the line of the log."""
        judgement = self.judge(self.method, self.features, progress.epoch)
        score = next(iter(judgement.figures.values()))
        event = {"event": "evaluation", "step": progress.step, "epoch": progress.epoch, **judgement.figures}
        if score > progress.best:
            progress.best, progress.best_epoch, progress.stale = score, progress.epoch, 0
            self.checkpoint.figures = {"split": "dev", **judgement.result().to_json()}
            if self.accelerator.is_main_process:
                keep_towers(self.checkpoint, self.stepper)
                self.checkpoint.save(folder / "best")
        else:
            progress.stale += 1
        if self.spec.schedule == "plateau":
            event["dev_loss"] = dev_loss = self.dev_loss(progress)
            self.plateau(progress, dev_loss)
        return event

    @torch.no_grad()
    def dev_loss(self, progress: Progress) -> float:
        self.stepper.train(False)
        done = progress.step / self.plan.steps
        batches = self.stepper.read(self.epoch(self.dev_split, 0))
        values = [self.stepper.loss(batch, done, self.seed).item() for batch in batches]
        if not values:
            raise TrainingError("the plateau schedule needs a dev split of two groups or more; found fewer.")
        return sum(values) / len(values)

    def plateau(self, progress: Progress, dev_loss: float) -> None:
        """Update the rate like torch's ReduceLROnPlateau with a relative threshold of 1e-4, in resumable state."""
        if dev_loss < progress.plateau_best * (1 - 1e-4):
            progress.plateau_best, progress.plateau_stale = dev_loss, 0
        else:
            progress.plateau_stale += 1
        if progress.plateau_stale > self.spec.plateau_patience:
            progress.rate_factor *= self.spec.plateau_factor
            progress.plateau_stale = 0

    def save(self, folder: Path, progress: Progress, settings: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            save_state(folder / "last", self.checkpoint, self.stepper, self.optimizer, settings, progress)


def _initialise(method: Method, features: Features, split: Split, seed: int) -> None:
    """Set the stems' means and deviations from a sample of the training split."""
    generator = torch.Generator().manual_seed(seed)
    for modality, members in split.members.items():
        if not len(members.rows):
            raise EmptyDatasetError(f"the training split has no items of modality {modality!r}.")
        chosen = torch.randperm(len(members.rows), generator=generator)[:STATISTICS_ITEMS].sort().values
        if method.options.standardise:
            rows = members.rows[chosen.numpy()]
            method.fit(modality, features.store(modality).gather(rows, sequence=method.sequences))
