"""A cleaning: the scores of all pairs from folds, the decisions, and the cleaned data.

settings.json     all settings that determine the scores; written first
spaces/           a folder for each fold and round: see `lightcrl.studies.clean.spaces`
decisions.jsonl   the decision on every pair
cleaned...        the cleaned table, or one per split; cleaned.toml reads it
cleaning.json     noise rates and counts; written last
report.html       the page, written by `lightcrl clean` at the end (`report.cleaning_page`)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data.rewrite import rewrite
from lightcrl.errors import CleaningError, ModalityError, ShapeError, TrainingError
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.embed import own_rows
from lightcrl.features.table import SPLITS
from lightcrl.files.local import make_folder, write_json, write_text
from lightcrl.files.locks import only_writer
from lightcrl.methods import METHODS
from lightcrl.methods.spec import MethodSpec
from lightcrl.pipeline import prepare
from lightcrl.processes import launched
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.specs import toml_text
from lightcrl.studies.clean.catalog import Catalog, open_catalog
from lightcrl.studies.clean.decisions import Decision, Place, read_review, reviewed, write_decisions
from lightcrl.studies.clean.duplicates import Twins, find_twins
from lightcrl.studies.clean.homes import find_homes, move
from lightcrl.studies.clean.outcome import Cleaning
from lightcrl.studies.clean.pairs import choose_anchor, draw_folds, lay_out
from lightcrl.studies.clean.recaption import Author, recaption
from lightcrl.studies.clean.spaces import Ground, measure_pairs
from lightcrl.studies.clean.verdict import Verdict, give_verdict
from lightcrl.studies.entries import method_spec, parse_entry
from lightcrl.training.settings import differences

METHOD = "csa"
"""Default method: solved in seconds, and nearly as good a judge as trained ones (docs/cleaning.md)."""
FOLDS, ROUNDS, THRESHOLD = 5, 2, 0.5
MOVE = 0.25
"""Probability of belonging to another group above which an item is moved there: two of three moves are then right."""
LEAST_GROUPS = 20
"""Least number of groups of train per fold."""


@dataclass(frozen=True)
class Options:
    """Settings of a cleaning beside the recipe.

    Attributes:
        method: method of the spaces, `"name"` or `"name[key=value,...]"`.
        folds: K, number of folds.
        rounds: number of rounds; each later one trains without the pairs that the one before suspects.
        threshold: probability of being wrong above which a pair is dropped.
        splits: splits that are changed; the others are judged and reported only.
        anchor: modality that stands for a group; by default the first that is not a text.
        merge: true to merge groups whose anchors have the same content.
        move: true to move items that are dropped as wrong into the group where they belong, if it is in the data.
        seed: seed of folds, trainings and nulls.
        review: file with decisions of a person, which take precedence.
        recaption: model whose captioner writes new texts for those that are dropped as wrong.
        captioner: name of that captioner; by default `captioning`, or the only one.
    """

    method: str = METHOD
    folds: int = FOLDS
    rounds: int = ROUNDS
    threshold: float = THRESHOLD
    splits: tuple[str, ...] = ("train",)
    anchor: str | None = None
    merge: bool = True
    move: bool = False
    seed: int = 0
    review: Path | None = None
    recaption: Path | str | None = None
    captioner: str | None = None

    def check(self) -> None:
        """Refuse impossible numbers.

        Raises:
            CleaningError: a number is out of its range, or a split unknown.
        """
        for name, value, least in (("folds", self.folds, 2), ("rounds", self.rounds, 1)):
            if value < least:
                raise CleaningError(f"{name} is {value}; expected {least} or more.")
        if self.captioner and not self.recaption:
            raise CleaningError(f"no model for the captioner {self.captioner!r}; expected --recaption MODEL beside it.")
        if not 0 < self.threshold < 1:
            raise CleaningError(f"the threshold is {self.threshold}; expected a probability between 0 and 1.")
        for split in self.splits:
            if split not in ("train", "dev", "test"):
                raise CleaningError(f"unknown split {split!r}; expected some of train, dev, test.")


def clean(
    recipe: Recipe | Path | str,
    output: Path | str | None = None,
    *,
    overrides: Iterable[str] = (),
    tell: Tell = lambda event: None,
    **options: Any,
) -> Cleaning:
    """Find wrong, weak and duplicate pairs in a recipe's data, and write the data without them.

    Finished work is reused.

    Args:
        recipe: a recipe, or the file of one: data, encoders, training settings of the spaces.
        output: folder of the cleaning; by default the run's with `-clean`.
        overrides: `section.key=value` on top of the file.
        tell: function that is called with events, as in `lightcrl.pipeline`.
        **options: settings of `Options`.

    Raises:
        CleaningError: the data is too small or has one modality, the method cannot be trained, the recipe trains
            encoders, or `output` has a cleaning with other settings.
        LockedError: another process writes to the folder.
        LightCRLError: another setting of the recipe, the data or the machine is invalid.
    """
    start = time.monotonic()
    try:
        chosen = Options(**options)
    except TypeError as error:
        raise CleaningError(f"{error}; expected {', '.join(Options.__dataclass_fields__)}.") from None
    chosen.check()
    if launched() > 1:
        raise CleaningError("a cleaning runs in one process. Launch it without accelerate or torchrun.")
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    if recipe.tuning:
        raise CleaningError(
            f"the recipe trains the encoder of {', '.join(recipe.tuning)}; scores come from cached features. Remove "
            "[tuning] from the recipe, or clean with --set tuning={}."
        )
    anchor = choose_anchor(recipe.kinds, chosen.anchor)
    entry = parse_entry(chosen.method)
    spec = method_spec(entry, recipe)
    review = read_review(chosen.review) if chosen.review else {}
    folder = Path(output) if output is not None else recipe.folder.with_name(f"{recipe.folder.name}-clean")
    with only_writer(folder, tell) as hold:
        ground, catalog, twins = _prepare(recipe, spec, anchor, chosen, make_folder(folder), hold.guard(tell))
        author = _author(ground, chosen)
        rounds = judge_pairs(ground, chosen.rounds)
        decisions = catalog.decide(rounds[-1].verdicts, twins, chosen.threshold, chosen.splits, merge=chosen.merge)
        if chosen.move:
            decisions = move(decisions, _homes(ground, chosen, rounds[-1], catalog), MOVE)
        decisions = [reviewed(each, review) for each in decisions]
        if author is not None:
            decisions = recaption(decisions, author, ground.features, ground.layout, catalog.names, ground.folder)
        return _write(ground, chosen, catalog, rounds, decisions, twins, start, author)


def _homes(ground: Ground, options: Options, last: Round, catalog: Catalog) -> dict[Place, tuple[str, float]]:
    """Return the likeliest home of every wrong item of the changed splits, and its probability."""
    homes: dict[Place, tuple[str, float]] = {}
    for modality, verdict in last.verdicts.items():
        links = ground.layout.links[modality]
        for split in options.splits:
            code = SPLITS.index(split)
            for link, home in find_homes(ground, last.spaces, verdict, modality, code, options.threshold).items():
                item = catalog.items[modality][links.rows[link]].key
                place = catalog.names[links.groups[link]], modality, item
                homes[place] = catalog.names[home.group], home.probability
    return homes


def _author(ground: Ground, options: Options) -> Author | None:
    """Return the captioner that the options name, before anything is trained."""
    if options.recaption is None:
        return None
    fingerprints = {name: encoder.fingerprint for name, encoder in ground.encoders.items()}
    return Author.of(options.recaption, options.captioner, ground.layout, fingerprints)


def _prepare(
    recipe: Recipe, spec: MethodSpec, anchor: str, options: Options, folder: Path, tell: Tell
) -> tuple[Ground, Catalog, Twins]:
    """Encode the data, find duplicates and draw the folds; nothing is trained yet."""
    features, encoders, _ = prepare(recipe, tell, (spec,), views=False)
    held = features.in_memory(recipe.training.memory_bytes)
    layout = lay_out(held, anchor)
    count = len(held.split("train").usable)
    if count < LEAST_GROUPS * options.folds:
        raise CleaningError(
            f"{count} groups of train have items of two modalities; {options.folds} folds need "
            f"{LEAST_GROUPS * options.folds} or more. Give fewer --folds, or more data."
        )
    _claim(folder, recipe, spec, held, options, anchor)
    own = {name: own_rows(encoders[name], store, np.arange(store.rows)) for name, store in held.stores.items()}
    catalog = open_catalog(recipe, held, layout)
    twins = find_twins(catalog.items[anchor], own[anchor])
    folds = draw_folds(layout, options.folds, np.concatenate([twins.exact, twins.near]), options.seed)
    return Ground(recipe, spec, options.seed, folder, held, encoders, layout, folds, own, tell), catalog, twins


def _claim(folder: Path, recipe: Recipe, spec: MethodSpec, features: Features, options: Options, anchor: str) -> None:
    """Write the settings of the scores, or compare them with those of an earlier call.

    Raises:
        CleaningError: the folder has a cleaning with other settings.
    """
    settings: dict[str, Any] = {
        "method": {"name": spec.name, **spec.options},
        "training": recipe.training.suited(METHODS.load(spec.name)).identity(),
        "features": {name: store.fingerprint for name, store in sorted(features.stores.items())},
        **{name: getattr(options, name) for name in ("folds", "rounds", "seed")},
        "anchor": anchor,
    }
    path = folder / "settings.json"
    try:
        there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(path, settings)
        return
    except (OSError, ValueError) as error:
        raise CleaningError(f"cannot read {path}: {error}. Remove it, or choose another --output.") from None
    if differing := differences(there, settings):
        raise CleaningError(
            f"{folder} holds a cleaning with other settings: {'; '.join(differing[:8])}. Choose another --output, or "
            "remove the folder."
        )


@dataclass(frozen=True)
class Round:
    """A round of judging all pairs.

    Attributes:
        verdicts: verdicts by modality.
        spaces: folder of the space of each fold.
    """

    verdicts: Mapping[str, Verdict]
    spaces: Mapping[int, Path]


def judge_pairs(ground: Ground, rounds: int) -> list[Round]:
    """Return the rounds; each trains without the pairs that the one before suspects.

    Raises:
        CleaningError: a space cannot be trained, or there are too few pairs.
    """
    layout = ground.layout
    trust = {name: np.ones(len(layout.links[name].rows)) for name in layout.judged}
    dropped: dict[str, np.ndarray] = {}
    done: list[Round] = []
    for number in range(1, rounds + 1):
        try:
            measured, spaces = measure_pairs(ground, number, trust, dropped)
        except (TrainingError, ModalityError, ShapeError) as error:
            raise CleaningError(f"method {ground.spec.name!r} cannot judge these pairs: {error}") from error
        if not measured:
            raise CleaningError(
                f"no group has a {layout.anchor} item and one of {', '.join(layout.judged)}. Check data.key: rows of "
                "equal key are one group."
            )
        verdicts = {name: give_verdict(part, layout, name, ground.seed) for name, part in measured.items()}
        done.append(Round(verdicts, spaces))
        wrong = {name: verdict.over_links(len(trust[name])) for name, verdict in verdicts.items()}
        trust |= {name: 1 - values for name, values in wrong.items()}
        # Pairs of dev only choose checkpoints; without its suspects a small dev could be empty.
        train = {name: layout.splits[layout.links[name].groups] == 0 for name in wrong}
        dropped = {name: (values > THRESHOLD) & train[name] for name, values in wrong.items()}
    return done


def _write(
    ground: Ground,
    options: Options,
    catalog: Catalog,
    rounds: Sequence[Round],
    decisions: list[Decision],
    twins: Twins,
    start: float,
    author: Author | None = None,
) -> Cleaning:
    """Write decisions, cleaned data and its recipe, and the summary last."""
    folder, recipe = ground.folder, ground.recipe
    write_decisions(folder / "decisions.jsonl", decisions)
    edits = catalog.edits(decisions)
    if not edits.splits:
        raise CleaningError(f"nothing would be left of {recipe.name!r}. Give a higher --threshold.")
    data = rewrite(recipe.data, recipe.kinds, edits, folder)
    table = recipe.model_dump(mode="json", exclude_unset=True, exclude={"output"})
    written = data.model_dump(mode="json", exclude_defaults=True)
    write_text(folder / "cleaned.toml", toml_text({**table, "name": f"{recipe.name}-cleaned", "data": written}))
    leaks = len({each.group for each in decisions if each.reason == "leak"})
    cleaning = Cleaning(
        folder,
        folder / "cleaned.toml",
        ground.layout.anchor,
        ground.spec.name,
        options.folds,
        tuple({name: each.rates for name, each in some.verdicts.items()} for some in rounds),
        options.threshold,
        tuple(decisions),
        twins,
        len(edits.merged),
        leaks,
        time.monotonic() - start,
        written,
        recipe,
        None if author is None else {"model": str(options.recaption), "digest": author.digest},
    )
    write_json(folder / "cleaning.json", cleaning.to_json())
    return cleaning
