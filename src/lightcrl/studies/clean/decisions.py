"""Decisions on pairs, as lines of JSON that people can edit and give back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightcrl.errors import CleaningError
from lightcrl.files.local import write_text

Word = Literal["keep", "drop", "move", "recaption"]
DECISIONS: tuple[Word, ...] = ("keep", "drop", "move", "recaption")
TARGETS = {"move": "moved_to", "recaption": "replacement"}
"""The field that a decision needs beside its word."""
WEAK = 0.2
"""Probability of being wrong from which a kept pair is called weak."""

Place = tuple[str, str, str]
"""Group, modality and item of a pair."""


@dataclass(frozen=True)
class Decision:
    """The decision on a pair: an item in its group.

    Attributes:
        group: name of the group.
        split: split of the group.
        modality: modality of the item.
        item: digest of the item's content.
        source: origin of the item, for people.
        content: the text; None for pictures and sounds.
        wrong: probability that the item does not belong to its group; None if it was not judged.
        score: logarithm of the likelihood ratio of right against wrong; None if it was not judged.
        decision: `"keep"`, `"drop"`, `"move"` (into another group), or `"recaption"` (a captioner replaces the text).
        reason: `"right"`, `"weak"`, `"wrong"`, `"held out"` (suspected, in a split that stays as it is),
            `"not judged"`, `"leak"` (the group's anchor is also in another split) or `"review"` (decided by a person).
        duplicate_of: group with the same anchor, into which this group is merged.
        near: group whose anchor is nearly the same.
        replacement: text in place of `content`; only with `"recaption"`.
        moved_to: group in which the item belongs; only with `"move"`.
    """

    group: str
    split: str
    modality: str
    item: str
    source: str
    content: str | None
    wrong: float | None
    score: float | None
    decision: Word
    reason: str
    duplicate_of: str | None = None
    near: str | None = None
    replacement: str | None = None
    moved_to: str | None = None

    @property
    def place(self) -> Place:
        """The pair that the decision is on."""
        return self.group, self.modality, self.item


def decide(wrong: float | None, threshold: float, changed: bool) -> tuple[Word, str]:
    """Return decision and reason for a probability of being wrong; `changed` is false for splits that stay as they are.

    >>> decide(0.9, 0.5, True), decide(0.9, 0.5, False), decide(0.3, 0.5, True)
    (('drop', 'wrong'), ('keep', 'held out'), ('keep', 'weak'))
    """
    if wrong is None:
        return "keep", "not judged"
    if wrong > threshold:
        return ("drop", "wrong") if changed else ("keep", "held out")
    return "keep", "weak" if wrong >= WEAK else "right"


def count_decisions(decisions: Iterable[Decision]) -> dict[str, dict[str, int]]:
    """Return the number of pairs by decision and reason."""
    counts: dict[str, Counter[str]] = {word: Counter() for word in DECISIONS}
    for each in decisions:
        counts[each.decision][each.reason] += 1
    return {word: dict(reasons) for word, reasons in counts.items()}


def write_decisions(path: Path, decisions: Sequence[Decision]) -> None:
    """Write a line of JSON for each decision."""
    write_text(path, "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in decisions))


def read_decisions(path: Path) -> list[Decision]:
    """Read the lines of `write_decisions`.

    Raises:
        OSError: there is no such file.
        ValueError: a line is not a decision.
    """
    try:
        return [Decision(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except TypeError as error:
        raise ValueError(str(error)) from None


def read_review(path: Path) -> dict[Place, dict[str, Any]]:
    """Read decisions of a person by pair: lines with group, modality, item, decision, and what the decision needs.

    Raises:
        CleaningError: the file is unreadable, or a line has another decision.
    """
    review: dict[Place, dict[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CleaningError(f"cannot read the review {path}: {error}. Expected the file that the page saves.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values: dict[str, Any] = json.loads(line)
            place = values["group"], values["modality"], values["item"]
            word = values["decision"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CleaningError(
                f"{path}:{number} is no decision; expected JSON with group, modality, item and decision, as the page "
                "saves it."
            ) from None
        if word not in DECISIONS or (word in TARGETS and not values.get(TARGETS[word])):
            raise CleaningError(
                f"{path}:{number} has the decision {word!r}; expected keep, drop, move with moved_to, or recaption "
                "with replacement."
            )
        review[place] = {"decision": word, **{name: values.get(name) for name in TARGETS.values()}}
    return review


def reviewed(decision: Decision, review: Mapping[Place, Mapping[str, Any]]) -> Decision:
    """Return the decision with that of a person, if there is one."""
    if decision.place not in review:
        return decision
    return replace(decision, reason="review", **review[decision.place])
