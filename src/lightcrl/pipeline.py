"""A complete run in one call: data, features, training, evaluation.

recipe.json     the recipe with all its settings
rejected.jsonl  items set aside, with reasons
best/ last/ log.jsonl      the run's own model: the recipe's method, first seed
heads/<name>/              the training of a head on the recipe's method; the head itself is in best/
others/<method>-seed<N>/   further seeds and baselines, in the same layout
metrics.json    figures of all models
README.md       card of the run's own model with its figures
modules.json, config_sentence_transformers.json   names under which sentence-transformers finds that model
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightcrl.card import CardFacts, model_card
from lightcrl.checkpoint import CARD, Checkpoint, load_folder, write_layout
from lightcrl.data import Rejection
from lightcrl.data.base import write_rejected
from lightcrl.encoders import load_encoder, settled
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.tower import Tower
from lightcrl.errors import HeadError
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.contents import training_data
from lightcrl.features.extract import encode_each, encode_views
from lightcrl.features.live import LiveStore
from lightcrl.features.states import store_states
from lightcrl.features.views import settled_views
from lightcrl.files.local import make_folder, write_json, write_text
from lightcrl.files.locks import only_writer
from lightcrl.methods import METHODS, Method
from lightcrl.methods.spec import MethodSpec, make_method
from lightcrl.processes import is_main, launched, main_first
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.runs import Model, Run, summary
from lightcrl.tasks.base import Setting, Task, prepare_task
from lightcrl.tasks.retrieval import RetrievalSpec
from lightcrl.tasks.spec import RETRIEVAL, TASKS
from lightcrl.training.early import check_early, read_groups
from lightcrl.training.heads import head_features, train_head
from lightcrl.training.hubs import correct_hubs
from lightcrl.training.judge import Judge, Judgement, by_retrieval
from lightcrl.training.loop import Trained, train
from lightcrl.training.plan import make_plan
from lightcrl.training.refusals import Combination, check_combination
from lightcrl.training.trackers import Tracked, attach, check_trackers


def prepare_tasks(recipe: Recipe, setting: Setting) -> dict[str, Task]:
    """Encode the data of the recipe's tasks, once; the first is retrieval on the recipe's own split.

    Raises:
        DataError: the data of a task is unusable.
    """
    return {RETRIEVAL: prepare_task(RETRIEVAL, RetrievalSpec(), setting)} | prepare_named(recipe, setting)


def prepare_named(recipe: Recipe, setting: Setting) -> dict[str, Task]:
    """Encode the data of the tasks that the recipe names, by label; errors as in `prepare_tasks`."""
    return {label: prepare_task(kind, spec, setting) for label, (kind, spec) in recipe.evaluation.named().items()}


def check_tasks(recipe: Recipe) -> None:
    """Refuse tasks that the recipe's modalities or their own data do not allow, before anything is encoded.

    Raises:
        LightCRLError: see `Task.check`.
        HeadError: a task needs a head that a model of the run lacks.
    """
    for label, (kind, spec) in recipe.evaluation.named().items():
        TASKS.load(kind).check(spec, recipe.kinds)
        if spec.needs and (spec.needs not in recipe.heads or recipe.evaluation.baselines):
            raise HeadError(
                f"evaluation.tasks.{label} needs the head {spec.needs!r}; the recipe has the heads "
                f"{', '.join(recipe.heads) or 'none'}, and baselines have no heads. Add [heads.{spec.needs}] and leave "
                "out the baselines, or leave out the task."
            )


def prepare(
    recipe: Recipe, tell: Tell = lambda event: None, methods: Iterable[MethodSpec] = (), *, views: bool = True
) -> tuple[Features, dict[str, Encoder], list[Rejection]]:
    """Read the data and encode every item: features, encoders, and rejections.

    Args:
        recipe: recipe whose data, encoders and features are read; its tuning of encoders is validated.
        tell: function that is called with events.
        methods: methods to train on the features; their refusals are raised before encoding.
        views: true to encode the number of views that `"auto"` stands for; false for plain items there.

    Raises:
        DataError: the data is unusable.
        EncoderError: an encoder is unusable, or cannot be trained.
        TrainingError: see `check_early`.
        StorageError: features cannot be written.
    """
    dataset = read_groups(recipe.data, recipe.kinds, tell)
    encoders = {modality: load_encoder(spec) for modality, spec in recipe.encoders.items()}
    check_early(dataset, encoders, methods, recipe.training, recipe.tuning, recipe.evaluation.split)
    data = recipe.data
    stores, rejected = encode_each(
        encoders, dataset, recipe.features, tell, strict=data.strict, max_rejected=data.max_rejected
    )
    specs = settled_views(recipe.encoders, dataset, recipe.tuning) if views else recipe.encoders
    viewed = encode_views(stores, encoders, specs, dataset, recipe.features, tell, max_rejected=data.max_rejected)
    raw = {modality: dataset.items[modality] for modality in recipe.tuning}
    states = store_states(encoders, recipe.tuning, dataset, recipe.features, tell)
    return Features(viewed, raw, states), encoders, [*dataset.rejected, *rejected]


def run(
    recipe: Recipe | Path | str,
    overrides: Iterable[str] = (),
    output: Path | str | None = None,
    tell: Tell = lambda event: None,
) -> Run:
    """Run a recipe; finished work is reused.

    Args:
        recipe: a recipe, or the file of one.
        overrides: `section.key=value` on top of the file.
        output: folder of the run, in place of the recipe's.
        tell: function that is called with events.

    Raises:
        LockedError: another process writes to the folder.
        LightCRLError: a setting of the recipe, the data or the machine is invalid.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, output)
    elif output is not None:
        recipe = recipe.model_copy(update={"output": str(output)})
    if not is_main():  # the main process holds the folder for all
        return _run(recipe, tell)
    with only_writer(recipe.folder, tell) as hold:
        return _run(recipe, hold.guard(tell))


def check_methods(recipe: Recipe, specs: Iterable[MethodSpec]) -> None:
    """Refuse impossible combinations of methods, losses, trained encoders and processes.

    Raises:
        TrainingError: the combination is in `lightcrl.training.refusals.REFUSALS`.
    """
    for spec in specs:
        kind = METHODS.load(spec.name)
        loss = recipe.training.suited(kind).loss
        check_combination(Combination(kind, tuple(recipe.tuning), launched(), loss, spec.parsed()))
    check_trackers(recipe.training.trackers or ())


def _run(recipe: Recipe, tell: Tell) -> Run:
    specs = recipe.methods()
    check_methods(recipe, specs)
    folder = make_folder(recipe.folder)
    with main_first():
        # Immediate refusals come before hours of encoding.
        check_tasks(recipe)
        features, encoders, rejected = prepare(recipe, tell, specs)
        make_plan(recipe.training, features.split("train"))
        setting = Setting(encoders, recipe.features, tell, recipe.data, features, recipe.evaluation.split)
        tasks = prepare_tasks(recipe, setting)
    if is_main():
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        write_rejected(rejected, folder / "rejected.jsonl")

    texts = [modality for modality, kind in recipe.kinds.items() if kind == "text"]
    texts_cut = {modality: len(features.store(modality).cut) for modality in texts}
    models = []
    for spec in specs:
        for seed in recipe.evaluation.seeds:
            own = spec is recipe.method and seed == recipe.evaluation.seeds[0]
            place = folder if own else folder / "others" / f"{spec.name.replace(':', '.')}-seed{seed}"
            models.append(train_one(recipe, spec, seed, place, setting, tasks))
            if is_main():
                write_json(folder / "metrics.json", summary(recipe, Run(folder, tuple(models), texts_cut)))
    if is_main():
        write_layout(folder, "best")
        results = {label: result.to_json() for label, result in models[0].results.items()}
        facts = CardFacts(results=results, split=recipe.evaluation.split)
        write_text(folder / CARD, model_card(load_folder(folder / "best"), facts))
    return Run(folder, tuple(models), texts_cut)


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
    """Train a method with the recipe's settings, and the encoders that it tunes.

    Returns:
        The checkpoint with its best weights, the training, and the features from the trained encoders (the given
        features if all encoders are frozen).

    Args:
        recipe: training settings; its own method is ignored.
        spec: the method.
        seed: seed of weights, batches and dropout.
        place: folder of the training.
        features: features with the splits `train` and `dev`.
        encoders: encoders of the features.
        report: function that is called with every line of log.jsonl.
        judge: evaluation on dev.

    Raises:
        TrainingError: see `train`.
        CheckpointError: `place` has a training with other settings.
    """
    loss = recipe.training.suited(METHODS.load(spec.name)).loss
    checkpoint = Checkpoint(
        make_method(spec.name, features.specs, spec.options, loss, seed),
        name=spec.name,
        loss=loss,
        encoders={modality: settled(spec, encoders[modality]) for modality, spec in recipe.encoders.items()},
        fingerprints={modality: encoder.fingerprint for modality, encoder in encoders.items()},
        recipe=recipe.model_dump(mode="json"),
        data=training_data(features),
    )
    live = {
        modality: LiveStore(
            features.store(modality),
            Tower(encoders[modality], tuning),
            features.items[modality],
            workers=recipe.features.workers,
            states=features.states.get(modality),
        )
        for modality, tuning in recipe.tuning.items()
    }
    trained = train(checkpoint, features, recipe.training, place, seed=seed, report=report, live=live, judge=judge)
    features, settings = features.replace_stores(live), recipe.training.suited(checkpoint.method)
    result = correct_hubs(checkpoint, features, settings, trained, judge, report)
    return checkpoint, replace(trained, result=result), features


def watching(tasks: Iterable[Task]) -> Judge:
    """Judge by dev as usual (`by_retrieval`), and log the figures of `Task.watch`, which decide nothing."""

    def judge(method: Method, features: Features, epoch: int) -> Judgement:
        judgement = by_retrieval(method, features, epoch)
        seen = {name: value for task in tasks for name, value in task.watch(method).items()}
        return replace(judgement, figures={**judgement.figures, **seen})

    return judge


def tasks_as_trained(
    recipe: Recipe, checkpoint: Checkpoint, setting: Setting, tasks: Mapping[str, Task], features: Features
) -> Mapping[str, Task]:
    """Return the tasks with a checkpoint's own encoders: the same tasks if all encoders are frozen."""
    if not checkpoint.towers:
        return tasks
    return prepare_tasks(recipe, setting.as_trained(checkpoint, features))


def train_one(
    recipe: Recipe, spec: MethodSpec, seed: int, place: Path, setting: Setting, tasks: Mapping[str, Task]
) -> Model:
    """Train a method with one seed on given features, and measure it on all tasks.

    Args:
        recipe: training settings.
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

    # Towers would have to read the tasks' items again at every evaluation.
    judge = by_retrieval if recipe.tuning else watching(tuple(tasks.values()))
    checkpoint, trained, features = train_method(recipe, spec, seed, place, features, setting.encoders, report, judge)
    if recipe.heads and spec is recipe.method:
        train_heads(recipe, checkpoint, place, setting)
    measured = tasks_as_trained(recipe, checkpoint, setting, tasks, features)
    model = Model(
        spec.name,
        seed,
        place,
        sum(checkpoint.parts().values()),
        trained.progress.seconds,
        {label: task.evaluate(checkpoint, place / "tasks" / label) for label, task in measured.items()},
    )
    if is_main():
        _attach(recipe, checkpoint, model, trained.progress.step)
    setting.tell(
        {"event": "trained", "method": spec.name, "seed": seed, "seconds": model.seconds, "folder": str(place)}
    )
    return model


def train_heads(recipe: Recipe, checkpoint: Checkpoint, place: Path, setting: Setting) -> None:
    """Train the recipe's heads on a trained space, and keep them in its best checkpoint."""
    encoders = checkpoint.as_trained(setting.encoders)
    features = head_features(checkpoint, encoders, recipe.data, recipe.features, setting.tell)
    for name, spec in recipe.heads.items():
        checkpoint.heads[name] = train_head(checkpoint, name, spec, features, place / "heads" / name, setting.tell)
    checkpoint.save(place / "best")


def _attach(recipe: Recipe, checkpoint: Checkpoint, model: Model, step: int) -> None:
    """Add a model's figures and card to its runs in the trackers that the recipe names."""
    results = {label: result.to_json() for label, result in model.results.items()}
    figures = {f"{label}/{name}": value for label, each in results.items() for name, value in each["metrics"].items()}
    card = model_card(checkpoint, CardFacts(results=results, split=recipe.evaluation.split))
    tracked = Tracked.of(checkpoint, model.seed, model.folder, step)
    attach(recipe.training.trackers or (), tracked, figures, card)


def attach_files(recipe: Recipe, run: Run, files: Sequence[Path]) -> None:
    """Add files to the run's own model in the trackers that the recipe names.

    Raises:
        TrainingError: see `attach`.
    """
    if recipe.training.trackers:
        checkpoint = load_folder(run.folder / "best")
        attach(recipe.training.trackers, Tracked.of(checkpoint, run.models[0].seed, run.folder), files=files)
