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
from lightcrl.data.pairs import TextPairs, read_pairs
from lightcrl.encoders import load_encoder, settled
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.tower import Tower
from lightcrl.errors import DataError, TrainingError
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.features.extract import encode_modality
from lightcrl.features.live import LiveStore
from lightcrl.files.local import make_folder, write_json
from lightcrl.files.locks import only_writer
from lightcrl.methods import METHODS, Method
from lightcrl.methods.spec import MethodSpec, make_method
from lightcrl.metrics.result import Result
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.processes import is_main, launched, main_first
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.specs import parse
from lightcrl.tasks.text_similarity import TextSimilarity
from lightcrl.tasks.zero_shot import ZeroShot
from lightcrl.training.early import check_early
from lightcrl.training.loop import Judge, Judgement, Trained, by_retrieval, train
from lightcrl.training.plan import make_plan
from lightcrl.training.refusals import Combination, check_combination


@dataclass(frozen=True)
class Model:
    """One trained model of a run.

    Attributes:
        method: its name.
        seed: its seed.
        folder: with best/ and last/.
        parameters: trained ones.
        seconds: of training, its evaluations included.
        retrieval: figures on the recipe's evaluation split, with curves of precision and recall.
        zero_shot: figures, where the recipe asks for them.
        text_similarity: likewise, every aligned space beside the encoders as they come.
    """

    method: str
    seed: int
    folder: Path
    parameters: int
    seconds: float
    retrieval: Result
    zero_shot: Result | None
    text_similarity: Result | None = None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies; `lightcrl.load` takes it.
        models: the recipe's method for every seed, then each baseline for every seed.
    """

    folder: Path
    models: tuple[Model, ...]


@dataclass(frozen=True)
class Tasks:
    """What is measured beside retrieval, encoded and ready to score any method on.

    Attributes:
        zero_shot: class folders, where the recipe asks for them.
        text_similarity: pairs of texts, likewise.
    """

    zero_shot: ZeroShot | None = None
    text_similarity: TextSimilarity | None = None

    @classmethod
    def prepare(
        cls,
        recipe: Recipe,
        encoders: Mapping[str, Encoder],
        pairs: tuple[TextPairs, TextPairs | None] | None,
        tell: Tell = lambda event: None,
    ) -> Tasks:
        """Encode what the recipe asks for, once.

        Args:
            recipe: whose class folders are read.
            encoders: by modality.
            pairs: of texts, with those to calibrate on; see `read_pairs`.
            tell: called with what happens.

        Raises:
            DataError: the class folders cannot be used.
        """
        wanted, features = recipe.evaluation.zero_shot, recipe.features
        return cls(
            ZeroShot.prepare(wanted, encoders, features, tell) if wanted else None,
            TextSimilarity.prepare(*pairs, encoders, features, tell) if pairs else None,
        )

    def as_trained(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        encoders: Mapping[str, Encoder],
        tell: Tell = lambda event: None,
    ) -> Tasks:
        """The same tasks as a checkpoint's own encoders see them: these, where all encoders are frozen."""
        if not checkpoint.towers or not (self.zero_shot or self.text_similarity):
            return self
        pairs = (self.text_similarity.pairs, self.text_similarity.calibration) if self.text_similarity else None
        return self.prepare(recipe, checkpoint.as_trained(encoders), pairs, tell)


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
        wanted = recipe.evaluation.text_similarity
        pairs = read_pairs(wanted.data, wanted.calibration, wanted.columns) if wanted else None
        features, encoders, rejected = prepare(recipe, tell, specs)
        make_plan(recipe.training, features.split("train"))
        tasks = Tasks.prepare(recipe, encoders, pairs, tell)
    if is_main():
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        write_rejected(rejected, folder / "rejected.jsonl")

    models = []
    for spec in specs:
        for seed in recipe.evaluation.seeds:
            own = spec is recipe.method and seed == recipe.evaluation.seeds[0]
            place = folder if own else folder / "others" / f"{spec.name.replace(':', '.')}-seed{seed}"
            models.append(train_one(recipe, spec, seed, place, features, encoders, tasks, tell))
            if is_main():
                write_json(folder / "metrics.json", summary(recipe, models, features))
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


def watching(task: TextSimilarity) -> Judge:
    """Dev decides as ever (`by_retrieval`); beside it the log has what `task.watch` sees, which decides nothing."""

    def judge(method: Method, features: Features, epoch: int) -> Judgement:
        found = by_retrieval(method, features, epoch)
        return replace(found, figures={**found.figures, **task.watch(method)})

    return judge


def train_one(
    recipe: Recipe,
    spec: MethodSpec,
    seed: int,
    place: Path,
    features: Features,
    encoders: Mapping[str, Encoder],
    tasks: Tasks = Tasks(),
    tell: Tell = lambda event: None,
) -> Model:
    """Train one method from one seed on features that are there, and measure it as the recipe says."""

    def report(event: Mapping[str, Any]) -> None:
        tell({"method": spec.name, "seed": seed, **event})

    judge: Judge = by_retrieval
    wanted = recipe.evaluation.text_similarity
    # Towers would have to read all texts anew at every look.
    if tasks.text_similarity and wanted and wanted.watch and not recipe.tuning:
        judge = watching(tasks.text_similarity)
    checkpoint, trained, features = train_method(recipe, spec, seed, place, features, encoders, report, judge)
    tasks = tasks.as_trained(recipe, checkpoint, encoders, tell)
    vectors, links = embed_split(checkpoint.method, features, features.split(recipe.evaluation.split))
    retrieval = Retrieval(links)
    found = trained.result if recipe.evaluation.split == "dev" else retrieval(vectors)
    model = Model(
        spec.name,
        seed,
        place,
        sum(checkpoint.parts().values()),
        trained.progress.seconds,
        replace(found, curves=retrieval.curves(vectors)),
        tasks.zero_shot(checkpoint.method) if tasks.zero_shot else None,
        tasks.text_similarity(checkpoint.method) if tasks.text_similarity else None,
    )
    tell({"event": "trained", "method": spec.name, "seed": seed, "seconds": model.seconds, "folder": str(place)})
    return model


def summary(recipe: Recipe, models: Iterable[Model], features: Features) -> dict[str, Any]:
    """What metrics.json holds; `texts_cut` counts, by modality, the texts that were longer than their encoder takes."""
    texts = [modality for modality, kind in recipe.kinds.items() if kind == "text"]
    return {
        "recipe": recipe.name,
        "split": recipe.evaluation.split,
        "texts_cut": {modality: len(features.store(modality).cut) for modality in texts},
        "models": [
            {
                "method": model.method,
                "seed": model.seed,
                "folder": str(model.folder),
                "parameters": model.parameters,
                "seconds": round(model.seconds, 3),
                "retrieval": model.retrieval.to_json(),
                "zero_shot": model.zero_shot.to_json() if model.zero_shot else None,
                "text_similarity": model.text_similarity.to_json() if model.text_similarity else None,
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
