"""A whole run: data, features, training, evaluation, in one call.

recipe.json     the recipe as it was understood
rejected.jsonl  what was set aside, with its reason
best/ last/ log.jsonl      the run's own model: the recipe's method, first seed
others/<method>-seed<N>/   further seeds and baselines, laid out alike
metrics.json    every model's figures
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Dataset, Rejection, load_dataset
from lightcrl.data.base import write_rejected
from lightcrl.encoders import load_encoder, settled
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.tower import Tower
from lightcrl.errors import DataError, TrainingError
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.extract import encode_modality
from lightcrl.features.live import LiveStore
from lightcrl.files.local import make_folder, write_json
from lightcrl.files.locks import only_writer
from lightcrl.methods import METHODS, Method
from lightcrl.methods.spec import MethodSpec, make_method
from lightcrl.metrics.result import Result
from lightcrl.processes import is_main, launched, main_first
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.specs import parse
from lightcrl.tasks.base import Setting, Task, prepare_task
from lightcrl.tasks.retrieval import RetrievalSpec
from lightcrl.tasks.spec import OWN_TABLES, TASKS
from lightcrl.training.early import check_early
from lightcrl.training.loop import Judge, Judgement, Trained, by_retrieval, train
from lightcrl.training.plan import make_plan
from lightcrl.training.refusals import Combination, check_combination

RETRIEVAL = "retrieval"
"""The label of the task that every run measures, on its own data."""


@dataclass(frozen=True)
class Model:
    """One trained model of a run.

    Attributes:
        method: name of the method.
        seed: training seed.
        folder: folder with best/ and last/.
        parameters: number of trained parameters.
        seconds: seconds of training, its evaluations included.
        results: figures by label of the task; `retrieval` first, on the recipe's evaluation split.
    """

    method: str
    seed: int
    folder: Path
    parameters: int
    seconds: float
    results: Mapping[str, Result]

    @property
    def retrieval(self) -> Result:
        """Retrieval on the recipe's evaluation split, with curves of precision and recall."""
        return self.results[RETRIEVAL]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies; `lightcrl.load` takes it.
        models: the recipe's method for every seed, then each baseline for every seed.
    """

    folder: Path
    models: tuple[Model, ...]


def prepare_tasks(recipe: Recipe, setting: Setting) -> dict[str, Task]:
    """Encode the data of the recipe's tasks, once; the first is retrieval on the recipe's own split.

    Raises:
        DataError: the data of a task cannot be used.
    """
    return {RETRIEVAL: prepare_task(RETRIEVAL, RetrievalSpec(), setting)} | prepare_named(recipe, setting)


def prepare_named(recipe: Recipe, setting: Setting) -> dict[str, Task]:
    """Encode the data of the tasks that the recipe names, by label; errors as in `prepare_tasks`."""
    return {label: prepare_task(kind, spec, setting) for label, (kind, spec) in recipe.evaluation.named().items()}


def check_tasks(recipe: Recipe) -> None:
    """Refuse tasks that the recipe's modalities or their own data do not allow, before anything is encoded.

    Raises:
        LightCRLError: as `Task.check`.
    """
    for kind, spec in recipe.evaluation.named().values():
        TASKS.load(kind).check(spec, recipe.kinds)


def prepare(
    recipe: Recipe, tell: Tell = lambda event: None, methods: Iterable[MethodSpec] = ()
) -> tuple[Features, dict[str, Encoder], list[Rejection]]:
    """Read the data and have every item encoded: features, encoders, and what was set aside.

    Args:
        recipe: of which data, encoders and features are read; that its encoders can be trained as it says is checked.
        tell: called with what happens.
        methods: to be trained on the features; what they would refuse is refused before anything is encoded.

    Raises:
        DataError: the data cannot be used.
        EncoderError: an encoder cannot, or cannot be trained.
        TrainingError: as `check_early`.
        StorageError: features cannot be written.
    """
    dataset = load_dataset(recipe.data, recipe.kinds)
    tell({"event": "data", "groups": dict(Counter(dataset.splits)), "rejected": len(dataset.rejected)})
    check_groups(dataset)
    rejected = list(dataset.rejected)
    encoders = {modality: load_encoder(spec) for modality, spec in recipe.encoders.items()}
    check_early(dataset, encoders, methods, recipe.training, recipe.tuning, recipe.evaluation.split)
    stores = {}
    for modality, encoder in encoders.items():
        done = encode_modality(
            encoder,
            dataset,
            modality,
            recipe.features,
            tell,
            strict=recipe.data.strict,
            max_rejected=recipe.data.max_rejected,
        )
        stores[modality] = done.store
        rejected += done.rejected
    raw = {modality: dataset.items[modality] for modality in recipe.tuning}
    return Features(stores, raw), encoders, rejected


def run(
    recipe: Recipe | Path | str,
    overrides: Iterable[str] = (),
    output: Path | str | None = None,
    tell: Tell = lambda event: None,
) -> Run:
    """Do what a recipe says; what is already done is not done again.

    Args:
        recipe: a recipe, or the file of one.
        overrides: `section.key=value` on top of the file.
        output: folder of the run, in place of the recipe's.
        tell: called with what happens.

    Raises:
        LockedError: another process is writing the folder.
        LightCRLError: anything that the recipe, the data or the machine does not allow.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, output)
    elif output is not None:
        recipe = recipe.model_copy(update={"output": str(output)})
    if not is_main():  # the main process holds the folder for all
        return _run(recipe, tell)
    with only_writer(recipe.folder, tell) as hold:
        return _run(recipe, hold.guard(tell))


def _run(recipe: Recipe, tell: Tell) -> Run:
    specs = [recipe.method, *(parse(MethodSpec, {"name": name}, "method") for name in recipe.evaluation.baselines)]
    for spec in specs:
        kind = METHODS.load(spec.name)
        loss = recipe.training.suited(kind).loss
        check_combination(Combination(kind, tuple(recipe.tuning), launched(), loss, spec.parsed()))
    folder = make_folder(recipe.folder)
    with main_first():
        # Hours of encoding come after what can be refused at once.
        check_tasks(recipe)
        features, encoders, rejected = prepare(recipe, tell, specs)
        make_plan(recipe.training, features.split("train"))
        setting = Setting(encoders, recipe.features, tell, recipe.data, features, recipe.evaluation.split)
        tasks = prepare_tasks(recipe, setting)
    if is_main():
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        write_rejected(rejected, folder / "rejected.jsonl")

    models = []
    for spec in specs:
        for seed in recipe.evaluation.seeds:
            own = spec is recipe.method and seed == recipe.evaluation.seeds[0]
            place = folder if own else folder / "others" / f"{spec.name.replace(':', '.')}-seed{seed}"
            models.append(train_one(recipe, spec, seed, place, setting, tasks))
            if is_main():
                write_json(folder / "metrics.json", summary(recipe, models))
    return Run(folder, tuple(models))


def train_method(
    recipe: Recipe,
    spec: MethodSpec,
    seed: int,
    place: Path,
    features: Features,
    encoders: Mapping[str, Encoder],
    report: Tell = lambda event: None,
    judge: Judge = by_retrieval,
) -> tuple[Checkpoint, Trained, Features]:
    """Train one method as the recipe has it, and the encoders that it wants trained.

    Returns:
        The checkpoint with its best weights, how it went, and the features as the trained encoders give them (those
        given, where all encoders are frozen).

    Args:
        recipe: how to train; its own method does not matter.
        spec: the method.
        seed: of weights, batches and dropout.
        place: folder of the training.
        features: with splits `train` and `dev`.
        encoders: that made them.
        report: called with every line of log.jsonl.
        judge: how dev is measured.

    Raises:
        TrainingError: as `train`.
        CheckpointError: `place` holds a training of other settings.
    """
    loss = recipe.training.suited(METHODS.load(spec.name)).loss
    checkpoint = Checkpoint(
        make_method(spec.name, features.specs, spec.options, loss, seed),
        name=spec.name,
        loss=loss,
        encoders={modality: settled(spec, encoders[modality]) for modality, spec in recipe.encoders.items()},
        fingerprints={modality: encoder.fingerprint for modality, encoder in encoders.items()},
        recipe=recipe.model_dump(mode="json"),
    )
    live = {
        modality: LiveStore(
            features.store(modality),
            Tower(encoders[modality], tuning),
            features.items[modality],
            workers=recipe.features.workers,
        )
        for modality, tuning in recipe.tuning.items()
    }
    trained = train(checkpoint, features, recipe.training, place, seed=seed, report=report, live=live, judge=judge)
    return checkpoint, trained, features.replace_stores(live)


def watching(tasks: Iterable[Task]) -> Judge:
    """Dev decides as ever (`by_retrieval`); beside it the log has what `Task.watch` sees, which decides nothing."""

    def judge(method: Method, features: Features, epoch: int) -> Judgement:
        judgement = by_retrieval(method, features, epoch)
        seen = {name: value for task in tasks for name, value in task.watch(method).items()}
        return replace(judgement, figures={**judgement.figures, **seen})

    return judge


def tasks_as_trained(
    recipe: Recipe, checkpoint: Checkpoint, setting: Setting, tasks: Mapping[str, Task], features: Features
) -> Mapping[str, Task]:
    """Return the same tasks as a checkpoint's own encoders see them: these, where all encoders are frozen."""
    if not checkpoint.towers:
        return tasks
    return prepare_tasks(recipe, setting.as_trained(checkpoint, features))


def train_one(
    recipe: Recipe, spec: MethodSpec, seed: int, place: Path, setting: Setting, tasks: Mapping[str, Task]
) -> Model:
    """Train one method from one seed on features that are there, and measure it on all tasks.

    Args:
        recipe: how to train.
        spec: the method.
        seed: training seed.
        place: folder of the training.
        setting: encoders and features of the recipe's data.
        tasks: prepared tasks by label.
    """
    features = setting.features
    assert features is not None

    def report(event: Mapping[str, Any]) -> None:
        setting.tell({"method": spec.name, "seed": seed, **event})

    # Towers would have to read the tasks' items anew at every look.
    judge = by_retrieval if recipe.tuning else watching(tuple(tasks.values()))
    checkpoint, trained, features = train_method(recipe, spec, seed, place, features, setting.encoders, report, judge)
    measured = tasks_as_trained(recipe, checkpoint, setting, tasks, features)
    model = Model(
        spec.name,
        seed,
        place,
        sum(checkpoint.parts().values()),
        trained.progress.seconds,
        {label: task.evaluate(checkpoint, place / "tasks" / label) for label, task in measured.items()},
    )
    setting.tell(
        {"event": "trained", "method": spec.name, "seed": seed, "seconds": model.seconds, "folder": str(place)}
    )
    return model


def summary(recipe: Recipe, models: Iterable[Model]) -> dict[str, Any]:
    """What metrics.json holds."""
    return {
        "recipe": recipe.name,
        "split": recipe.evaluation.split,
        "models": [
            {
                "method": model.method,
                "seed": model.seed,
                "folder": str(model.folder),
                "parameters": model.parameters,
                "seconds": round(model.seconds, 3),
                # Tasks with a table of their own always have their key.
                **dict.fromkeys((RETRIEVAL, *OWN_TABLES)),
                **{label: result.to_json() for label, result in model.results.items()},
            }
            for model in models
        ],
    }


def check_groups(dataset: Dataset) -> None:
    """Say what is wrong before hours of encoding."""
    for modality, items in dataset.items.items():
        if not items:
            raise DataError(
                f"the data has no items of modality {modality!r}. Check data.columns, or leave the modality out of "
                "[encoders]."
            )
    counts = Counter(dataset.splits)
    if counts["train"] < 2:
        raise TrainingError(
            f"{counts['train']} groups in the training split ({len(dataset.groups)} in all, {len(dataset.rejected)} "
            "things set aside); a contrastive loss needs two or more. Check data.key: rows of equal key are one group."
        )
    if counts["dev"] < 1:
        raise TrainingError(
            "no groups in the dev split, which chooses the best checkpoint. Give data.dev, or a data.dev_fraction "
            f"large enough for {len(dataset.groups)} groups."
        )
