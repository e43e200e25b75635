"""The training loop. There is one, for every method and loss.

Every random draw is a function of the seed and the step (or epoch), so a run can go on from any step as if it had never
stopped. The folder it writes:

    best/       the checkpoint with the best dev mean R@1
    last/       the latest checkpoint, with state.safetensors: the optimiser's moments and where the run stands
    log.jsonl   one line a step and one an evaluation
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.encoders.base import fingerprint
from lightcrl.errors import CheckpointError, DivergedError, EmptyDatasetError, TrainingError
from lightcrl.evaluation.base import Result
from lightcrl.evaluation.retrieval import Retrieval
from lightcrl.features.embed import embed_split
from lightcrl.features.table import Features, Split
from lightcrl.logs import Log, Report
from lightcrl.losses import LOSSES, Loss, info_nce
from lightcrl.methods import Method, Step
from lightcrl.plan import Plan, bfloat16_pays, learning_rate, make_plan
from lightcrl.processes import gather_rows, share, sum_gradients
from lightcrl.recipe import TrainingSpec
from lightcrl.sampling import Batch, epoch_batches
from lightcrl.storage import make_folder, recover_folder, whole_folder

# A long epoch is saved in its midst after this many seconds.
SAVE_SECONDS = 120.0
# Items from which a stem takes its means and deviations.
STATISTICS_ITEMS = 16_384


@dataclass
class Progress:
    """Where a run stands; kept in last/ and read back when it goes on.

    Attributes:
        step: steps done.
        epoch: the epoch that the next step belongs to.
        best: best dev mean R@1 so far.
        best_epoch: when that was.
        stale: evaluations since.
        rate_factor: what the plateau schedule has made of the learning rate.
        plateau_best: lowest dev loss so far.
        plateau_stale: epochs since.
        seconds: spent in training and its evaluations.
        finished: the run is over.
    """

    step: int = 0
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1
    stale: int = 0
    rate_factor: float = 1.0
    plateau_best: float = math.inf
    plateau_stale: int = 0
    seconds: float = 0.0
    finished: bool = False


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: with best/, last/ and log.jsonl.
        result: dev figures of the best checkpoint.
        progress: where it ended.
        plan: what it was to do.
        resumed_at: the step that it went on from; 0 for an undisturbed run.
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
    report: Report = lambda event: None,
) -> Trained:
    """Train the checkpoint's method on the `train` split, choose by dev mean R@1, keep best and last.

    A folder that holds an unfinished run of the same settings is gone on with; a finished one is returned as it is.

    Args:
        checkpoint: holds the method, trained in place (left with its best weights), and what best/ has to say of it.
        features: with splits `train` and `dev`.
        spec: how to train.
        folder: of the run.
        seed: of weights, batches and dropout.
        report: called with every line of log.jsonl.

    Raises:
        TrainingError: there is too little data for these settings.
        DivergedError: the loss or its gradient is not a number; the last good checkpoint is kept.
        CheckpointError: the folder holds a run of other settings.
    """
    folder = make_folder(Path(folder))
    spec = spec.suited(type(checkpoint.method))
    train_split, dev_split = features.split("train"), features.split("dev")
    plan = make_plan(spec, train_split)
    if checkpoint.method.closed_form:
        plan = replace(plan, epochs=1, steps=plan.steps_per_epoch)
    features = features.in_memory()
    method = checkpoint.method
    accelerator = _accelerator(spec, plan.batch_size, method)
    settings = spec.model_dump(mode="json", exclude={"device", "tensorboard"})
    identity = fingerprint([checkpoint.method_config(), settings, seed, _fingerprints(features)])
    method.to(accelerator.device)
    optimizer = torch.optim.AdamW(_parameter_groups(method, spec))
    if accelerator.is_main_process:
        recover_folder(folder / "best")
        recover_folder(folder / "last")
    accelerator.wait_for_everyone()
    progress = _resume(folder, method, optimizer, identity)
    resumed_at = progress.step
    if resumed_at == 0:
        _initialise(method, features, train_split, seed)
    if not progress.finished:
        # The method is not "prepared": that would leave its forward in the training's precision for good, and gradients
        # of several processes are added up in `_Loop.step`, over the whole batch's loss.
        optimizer = accelerator.prepare_optimizer(optimizer)
        loop = _Loop(checkpoint, method, optimizer, accelerator, features, train_split, dev_split, spec, plan, seed)
        loop.run(folder, progress, identity, report)
    accelerator.wait_for_everyone()
    best = load_folder(folder / "best")
    checkpoint.method.load_state_dict(best.method.state_dict())
    checkpoint.figures = best.figures
    return Trained(folder, Result.from_json(best.figures), progress, plan, resumed_at)


@dataclass
class _Loop:
    checkpoint: Checkpoint
    method: Method
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    features: Features
    train_split: Split
    dev_split: Split
    spec: TrainingSpec
    plan: Plan
    seed: int

    def run(self, folder: Path, progress: Progress, identity: str, report: Report) -> None:
        spec, plan = self.spec, self.plan
        with Log(folder, progress.step, spec.tensorboard, report, active=self.accelerator.is_main_process) as log:
            if progress.step == 0:
                log.write({"event": "start", "seed": self.seed, **asdict(plan), "parameters": self.method.parts()})
            start = saved = time.monotonic()
            earlier = progress.seconds
            if progress.step == 0 and self.method.solves:
                epoch = epoch_batches(self.train_split, plan.batch_size, plan.items_per_group, self.seed, 0)
                self.method.solve(self.at_hand(batch, progress, whole=True) for batch in epoch)
            while not progress.finished:
                skip = progress.step - progress.epoch * plan.steps_per_epoch
                batches = epoch_batches(
                    self.train_split, plan.batch_size, plan.items_per_group, self.seed, progress.epoch
                )
                if self.method.closed_form:
                    batches = iter(())
                for number, batch in enumerate(batches):
                    if number < skip:
                        continue
                    log.write(self.step(batch, progress))
                    progress.step += 1
                    if time.monotonic() - saved > SAVE_SECONDS:
                        progress.seconds = earlier + time.monotonic() - start
                        self.save_last(folder, progress, identity)
                        saved = time.monotonic()
                progress.epoch += 1
                if progress.epoch % spec.evaluate_every == 0 or progress.epoch == plan.epochs:
                    event = self.evaluate(folder, progress)
                    progress.seconds = earlier + time.monotonic() - start
                    log.write({**event, "seconds": round(progress.seconds, 3)})
                    stopped = 0 < spec.patience <= progress.stale
                    progress.finished = stopped or progress.epoch >= plan.epochs
                    self.save_last(folder, progress, identity)
                    saved = time.monotonic()

    def step(self, batch: Batch, progress: Progress) -> dict[str, Any]:
        """One update; returns its line of the log."""
        torch.manual_seed(_mix(self.seed, progress.step, self.accelerator.process_index))
        rate = learning_rate(self.spec, progress.step, self.plan.steps) * progress.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.method.train()
        self.optimizer.zero_grad()
        loss = self.loss(batch, progress)
        self.accelerator.backward(loss)
        if self.accelerator.num_processes > 1:
            # Every process has the whole gradient of logit scale and bias already.
            named = self.method.named_parameters()
            sum_gradients(parameter for name, parameter in named if not name.startswith("logit_"))
        norm = self.accelerator.clip_grad_norm_(self.method.parameters(), self.spec.clip or math.inf)
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

    def at_hand(self, batch: Batch, progress: Progress, *, whole: bool = False) -> Step:
        """The features of a batch, of which this process holds its share unless it is to have the whole."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        if whole:
            rank, processes = 0, 1
        device = self.accelerator.device
        tokens = {
            modality: self.features.store(modality)
            .gather(rows[share(len(rows), rank, processes)], sequence=self.method.sequences)
            .to(device)
            for modality, rows in batch.rows.items()
        }
        groups = {modality: torch.from_numpy(numbers).to(device) for modality, numbers in batch.groups.items()}
        return Step(tokens, groups, progress.step / self.plan.steps)

    def loss(self, batch: Batch, progress: Progress) -> Tensor:
        step = self.at_hand(batch, progress)
        with self.accelerator.autocast():
            if self.method.training:
                step = self.method.augment(step)
            embeddings: dict[str, Tensor] = {name: self.method(name, tokens) for name, tokens in step.tokens.items()}
        if self.accelerator.num_processes > 1:
            embeddings = {name: gather_rows(own, len(batch.rows[name])) for name, own in embeddings.items()}
        return self.method.objective(_loss(self.spec), embeddings, step)

    def evaluate(self, folder: Path, progress: Progress) -> dict[str, Any]:
        """Measure on dev, keep the checkpoint if it is the best; returns the line of the log."""
        vectors, links = embed_split(self.method, self.features, self.dev_split)
        retrieval = Retrieval(links)
        recall = retrieval.mean_recall(vectors)
        event = {"event": "evaluation", "step": progress.step, "epoch": progress.epoch, "dev_mean_recall@1": recall}
        if recall > progress.best:
            progress.best, progress.best_epoch, progress.stale = recall, progress.epoch, 0
            self.checkpoint.figures = {"split": "dev", **retrieval(vectors).to_json()}
            if self.accelerator.is_main_process:
                self.checkpoint.save(folder / "best")
        else:
            progress.stale += 1
        if self.spec.schedule == "plateau":
            event["dev_loss"] = dev_loss = self.dev_loss(progress)
            self.plateau(progress, dev_loss)
        return event

    @torch.no_grad()
    def dev_loss(self, progress: Progress) -> float:
        self.method.eval()
        batches = epoch_batches(self.dev_split, self.plan.batch_size, self.plan.items_per_group, self.seed, 0)
        values = [self.loss(batch, progress).item() for batch in batches]
        if not values:
            raise TrainingError("the plateau schedule needs a dev split of two groups or more; found fewer.")
        return sum(values) / len(values)

    def plateau(self, progress: Progress, dev_loss: float) -> None:
        """As torch's ReduceLROnPlateau with a relative threshold of 1e-4, kept where it can be resumed."""
        if dev_loss < progress.plateau_best * (1 - 1e-4):
            progress.plateau_best, progress.plateau_stale = dev_loss, 0
        else:
            progress.plateau_stale += 1
        if progress.plateau_stale > self.spec.plateau_patience:
            progress.rate_factor *= self.spec.plateau_factor
            progress.plateau_stale = 0

    def save_last(self, folder: Path, progress: Progress, identity: str) -> None:
        if not self.accelerator.is_main_process:
            return
        method = self.method
        names = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
        parameters = dict(method.named_parameters())
        moments = {
            f"{name}/{key}": value.detach().cpu().contiguous().clone()
            for name in names
            for key, value in self.optimizer.state.get(parameters[name], {}).items()
        }
        state = json.dumps({"identity": identity, "progress": asdict(progress)})
        with whole_folder(folder / "last") as fresh:
            self.checkpoint._save_pretrained(fresh)
            (fresh / "state.safetensors").write_bytes(save(moments, metadata={"state": state}))


def _loss(spec: TrainingSpec) -> Loss:
    if spec.loss != "info_nce":
        return LOSSES.load(spec.loss)
    return partial(info_nce, label_smoothing=float(spec.label_smoothing))


def _accelerator(spec: TrainingSpec, batch_size: int, method: Method) -> Accelerator:
    # Accelerate keeps one precision per process; several trainings in one process may differ.
    AcceleratorState._reset_state(reset_partial_state=True)
    cpu = spec.device == "cpu" or (spec.device == "auto" and not torch.cuda.is_available())
    bfloat16 = spec.precision == "bfloat16" or (spec.precision == "auto" and bfloat16_pays(cpu, batch_size))
    accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if bfloat16 else "no")
    if accelerator.num_processes > batch_size // 2:
        raise TrainingError(
            f"launched as {accelerator.num_processes} processes for batches of {batch_size} groups; expected two "
            "groups or more for each."
        )
    if accelerator.num_processes > 1 and (method.one_process or method.closed_form):
        raise TrainingError(
            f"launched as {accelerator.num_processes} processes, but {type(method).__name__} needs each batch whole in "
            "one. Launch it without accelerate or torchrun."
        )
    return accelerator


def _initialise(method: Method, features: Features, split: Split, seed: int) -> None:
    """Give the stems the means and deviations of a sample of the training split."""
    generator = torch.Generator().manual_seed(seed)
    for modality, members in split.members.items():
        if not len(members.rows):
            raise EmptyDatasetError(f"the training split has no items of modality {modality!r}.")
        chosen = torch.randperm(len(members.rows), generator=generator)[:STATISTICS_ITEMS].sort().values
        if method.options.standardise:
            rows = members.rows[chosen.numpy()]
            method.fit(modality, features.store(modality).gather(rows, sequence=method.sequences))


def _parameter_groups(method: Method, spec: TrainingSpec) -> list[dict[str, Any]]:
    """Weight decay for matrices alone."""
    named = [(name, parameter) for name, parameter in method.named_parameters() if parameter.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and not name.endswith("bias")]
    spared = [p for name, p in named if not (p.ndim >= 2 and not name.endswith("bias"))]
    return [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": spared, "weight_decay": 0.0}]


def _resume(folder: Path, method: Method, optimizer: torch.optim.Optimizer, identity: str) -> Progress:
    path = folder / "last" / "state.safetensors"
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as stream:
        state = json.loads(stream.metadata()["state"])
        if state["identity"] != identity:
            raise CheckpointError(
                f"{folder} holds a run of other settings, data or seed (identity {state['identity']}, expected "
                f"{identity}). Choose another --output, or remove the folder."
            )
        parameters = dict(method.named_parameters())
        for key in stream.keys():  # noqa: SIM118 - not a mapping
            name, _, moment = key.rpartition("/")
            value = stream.get_tensor(key)
            optimizer.state[parameters[name]][moment] = value.to(parameters[name].device) if value.ndim else value
    method.load_state_dict(load_folder(folder / "last").method.state_dict())
    return Progress(**state["progress"])


def _fingerprints(features: Features) -> list[str]:
    return [f"{modality} {store.fingerprint}" for modality, store in sorted(features.stores.items())]


def _mix(seed: int, step: int, process: int) -> int:
    return int(fingerprint([seed, step, process])[:15], 16)
