"""Advice in words from the results of a check: pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightcrl.encoders.base import Slot
from lightcrl.encoders.layout import write_layout
from lightcrl.studies.check.check import Check, Match, Modality
from lightcrl.studies.check.forecast import FARTHEST, Need
from lightcrl.studies.check.slots import Pair

# With fewer dev groups, an interval of R@1 is wider than most differences between methods.
TINY_DEV = 200
# A text in more than this share of all groups does not identify any of them.
GENERIC = 0.005
# If captions of a group retrieve each other less often than this, they cannot retrieve their picture either.
WEAK_SIBLINGS = 0.2
# A share of wrong pairs up to this one costs little recall, and the estimate of a sample is no better.
NOISY = 0.03


@dataclass(frozen=True)
class Advice:
    """A result and a recommendation.

    Attributes:
        about: `"fit"`, `"layers"`, `"data"`, `"noise"`, `"leak"`, `"texts"`, `"splits"` or `"weak"`.
        urgent: true if the figures of a run would be wrong or at chance.
        text: text for people.
    """

    about: str
    urgent: bool
    text: str


def advise(check: Check) -> list[Advice]:
    """Return all advice, urgent advice first."""
    listed = [
        *[advice for pair, match in check.matches.items() for advice in _on_pair(pair, match)],
        *_on_layers(check),
        *[advice for name, modality in check.modalities.items() for advice in _on_modality(check, name, modality)],
        *_on_weakest(check),
        *_on_groups(check),
    ]
    return sorted(listed, key=lambda advice: not advice.urgent)


def unfit(match: Match) -> bool | None:
    """True if neither neighbours nor a linear map distinguish the spaces from independent ones; None if unknown."""
    if match.likeness is None or match.baseline is None:
        return None
    by_chance = match.likeness.knn <= match.likeness.highest_by_chance
    return by_chance and match.baseline.near_chance


def _on_pair(pair: Pair, match: Match) -> list[Advice]:
    names = f"{pair[0]} and {pair[1]}"
    if match.baseline is None or match.likeness is None:
        return [
            Advice("data", False, f"{names} share too few groups of the sample for a result. Give a greater --sample.")
        ]
    alike, line = match.likeness, match.baseline
    if unfit(match):
        return [
            Advice(
                "fit",
                True,
                f"{names} do not fit: their neighbourhoods agree no more than chance ({alike.knn:.3f}; chance "
                f"{alike.chance:.3f}, at most {alike.highest_by_chance:.3f}), and a linear map is at chance (R@1 "
                f"{line.recall:.3f}, chance {line.chance:.3f}). Check that rows contain items that belong together "
                "(data.key, data.columns); if they do, choose another encoder.",
            )
        ]
    if match.prediction is None and not line.near_chance:
        return [
            Advice(
                "fit",
                False,
                f"{names}: a linear map of this sample has R@1 {line.recall:.3f} on dev. No forecast: both are of one "
                "kind, and their groups have several items, which training brings together and a linear map does not.",
            )
        ]
    if match.prediction is None:
        return [
            Advice(
                "fit",
                True,
                f"{names}: a linear map of this sample is near chance on dev (R@1 {line.recall:.3f}, chance "
                f"{line.chance:.3f}), though their neighbourhoods agree ({alike.knn:.3f}; chance {alike.chance:.3f}). "
                "Give a greater --sample before you train, or choose another encoder.",
            ),
        ]
    expected = match.prediction
    advice = _on_noise(names, match)
    if alike.knn <= alike.highest_by_chance:
        advice.append(
            Advice(
                "fit",
                False,
                f"{names} have different neighbourhoods ({alike.knn:.3f}, chance {alike.chance:.3f}), yet a linear map "
                "aligns them: they share information among much else. More groups help more than usual.",
            )
        )
    gain, at_hand = expected.growth[4] - expected.recall, expected.groups
    more = "More groups help: " if gain > 0.03 else "More groups help little: "
    advice.append(
        Advice(
            "data",
            False,
            f"{names}: expect a mean R@1 of about {expected.recall:.2f} ({expected.low:.2f} to {expected.high:.2f}) "
            f"among {expected.gallery:,} groups, with 95 % confidence. {more}about {expected.growth[2]:.2f} with twice "
            f"as many, {expected.growth[4]:.2f} with four times, {expected.growth[10]:.2f} with ten times"
            f"{_on_need(expected.need, at_hand)}.",
        )
    )
    return advice


def _on_need(need: Need, groups: int) -> str:
    """Return the number of further groups for the next target in words; empty beyond the range of the forecast."""
    if not math.isfinite(need.groups):
        return ""
    low, high = (_rounded(max(0.0, end - groups)) for end in (need.low, need.high))
    return f"; about {_rounded(need.groups - groups)} more groups for {need.recall:.2f} ({low} to {high})"


def _rounded(groups: float) -> str:
    """Format a number of groups with two significant digits.

    >>> _rounded(2871.3), _rounded(math.inf)
    ('2,900', 'more than 10 times the data')
    """
    if not math.isfinite(groups):
        return f"more than {FARTHEST:.0f} times the data"
    return f"{float(f'{groups:.2g}'):,.0f}"


def _on_noise(names: str, match: Match) -> list[Advice]:
    """Return advice on wrong pairs, if their share is above `NOISY` with confidence."""
    noise = match.noise
    if noise is None or noise.interval[0] <= NOISY:
        return []
    low, high = noise.interval
    return [
        Advice(
            "noise",
            noise.interval[0] > 0.1,
            f"{names}: about {noise.share:.0%} of the pairs ({low:.0%} to {high:.0%}, from {noise.pairs:,} of them) "
            "look no better than random ones. Find them with lightcrl clean, and train on the data without them.",
        )
    ]


def _on_layers(check: Check) -> list[Advice]:
    advice = []
    picked = check.selection
    if picked.changed:
        advice.append(
            Advice(
                "layers",
                False,
                f"these layers and tokens beat the default: closed-form R@1 {picked.recall + picked.gain:.3f}, "
                f"not {picked.recall:.3f} (gain {picked.interval[0]:+.3f} to {picked.interval[1]:+.3f}), on groups of "
                f"train that were not used for the choice:\n{snippet(check)}",
            )
        )
    else:
        tried = (
            "; the best alternative gained "
            f"{picked.gain:+.3f} ({picked.interval[0]:+.3f} to {picked.interval[1]:+.3f}), no more than noise"
            if picked.found != picked.auto
            else ""
        )
        advice.append(Advice("layers", False, f'keep layers = "auto" and tokens = "auto"{tried}.'))
    for name, modality in check.modalities.items():
        if not modality.layout.free:
            advice.append(
                Advice("layers", False, f"{name}: this encoder has no choice of layers; its only output was used.")
            )
        elif modality.layout.chosen is None:
            advice.append(
                Advice(
                    "layers", False, f"{name}: the recipe takes patches, words or a grid; the check used pools instead."
                )
            )
    return advice


def snippet(check: Check) -> str:
    """Return the picked layers and tokens as TOML, for the modalities where they differ from the default."""
    lines = []
    for name, modality in check.modalities.items():
        picked = check.selection.picked[name]
        if modality.layout.free and picked != check.selection.auto[name]:
            slots = [slot for n in picked if isinstance(slot := modality.layout.names[n], Slot)]
            layers, tokens = write_layout(slots)
            tokens += f"|{modality.layout.sequence}" if modality.layout.sequence else ""
            lines += [f"[encoders.{name}]", f"layers = {list(layers)}", f'tokens = "{tokens}"']
    return "\n".join(lines)


def _on_modality(check: Check, name: str, modality: Modality) -> list[Advice]:
    advice = []
    leaks = modality.leaks
    if leaks.exact:
        texts = modality.kind == "text"
        first = leaks.exact_first[0]
        # An item in both splits has one source, its first row.
        such = " and ".join(dict.fromkeys((first.other, first.train)))
        advice.append(
            Advice(
                "leak",
                not texts,
                f"{name}: {leaks.exact:,} items of dev and test have the same content as one of train, such as "
                f"{such}. "
                + (
                    "Texts may repeat by chance; check whether their groups do." if texts else "Remove them from train."
                ),
            )
        )
    if leaks.near:
        first = leaks.near_first[0]
        advice.append(
            Advice(
                "leak",
                modality.kind != "text" and leaks.near > 0.01 * check.sampled["dev"],
                f"{name}: {leaks.near:,} sampled items of dev have a near-duplicate in train (cosine "
                f"{first.cosine:.3f} and less; nearest neighbours usually have {leaks.typical:.3f}), such as "
                f"{first.other} and {first.train}; about {leaks.near_expected:,} in total. Within train, "
                f"{leaks.near_within:.1%} have one. Inspect them; give such items the same data.key, or remove them.",
            )
        )
    total = sum(check.groups.values())
    generic = [(text, count) for text, count in modality.shared if count > max(2, GENERIC * total)]
    if generic:
        text, count = generic[0]
        advice.append(
            Advice(
                "texts",
                False,
                f"{name}: texts in many groups cannot retrieve their group, such as {text!r} in {count:,} of "
                f"{total:,}. Remove them, or give those groups more texts.",
            )
        )
    if modality.siblings is not None and modality.siblings < WEAK_SIBLINGS:
        advice.append(
            Advice(
                "weak",
                False,
                f"{name} is weak: only {modality.siblings:.0%} of its items have an item of their own group as the "
                "nearest neighbour. Its items have too little information on their group, or its encoder discards it.",
            )
        )
    return advice


def _on_weakest(check: Check) -> list[Advice]:
    """Return advice on the weakest modality: by its pairs, or with two modalities by its dimensions."""
    names = list(check.modalities)
    recalls = {
        name: [match.baseline.recall for pair, match in check.matches.items() if name in pair and match.baseline]
        for name in names
    }
    if len(names) > 2 and all(recalls.values()):
        means = {name: sum(values) / len(values) for name, values in recalls.items()}
        weakest = min(means, key=means.__getitem__)
        if means[weakest] < 0.5 * max(means.values()):
            return [
                Advice(
                    "weak",
                    False,
                    f"{weakest} is the weak modality: its pairs have a mean closed-form R@1 of {means[weakest]:.3f}, "
                    f"the best modality's {max(means.values()):.3f}. A better encoder for it helps most.",
                )
            ]
        return []
    low, high = sorted(names, key=lambda name: check.modalities[name].dimensions)[:: len(names) - 1]
    few, many = (check.modalities[name].dimensions for name in (low, high))
    if few < 0.4 * many:
        return [
            Advice(
                "weak",
                False,
                f"{low} is the weaker modality: its features vary in about {few:.0f} directions, those of {high} in "
                f"{many:.0f}. Try a richer encoder for {low} first.",
            )
        ]
    return []


def _on_groups(check: Check) -> list[Advice]:
    advice = []
    if check.repeated:
        advice.append(
            Advice("leak", False, f"{check.repeated:,} groups of train were set aside: they are also in dev or test.")
        )
    for split, count in check.alone.items():
        if count:
            advice.append(
                Advice(
                    "splits",
                    count > 0.5 * check.groups[split],
                    f"{count:,} of {check.groups[split]:,} groups in {split} have items of only one modality; "
                    "training and retrieval ignore them. Check data.key and data.columns if this is not intended.",
                )
            )
    for split in ("dev", "test"):
        if 0 < (count := check.groups.get(split, 0)) < TINY_DEV:
            width = 0.98 / count**0.5
            advice.append(
                Advice(
                    "splits",
                    False,
                    f"{split} has {count:,} groups: intervals of R@1 are up to ±{width:.2f}, so most differences "
                    f"between methods are not significant. Use {TINY_DEV} or more groups.",
                )
            )
    return advice
