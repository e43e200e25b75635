"""A check as JSON, and as tables and words for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from math import isfinite
from typing import Any

from torch import Tensor

from lightcrl.sheets import Sheet
from lightcrl.studies.check.advice import advise, snippet, unfit
from lightcrl.studies.check.check import Check, Match
from lightcrl.studies.check.leaks import Leaks

# Number of rows in the tables of slots; the JSON has all.
SHOWN = 8


def to_json(check: Check) -> dict[str, Any]:
    """Return all results of a check as plain JSON values; docs/check.md explains the keys."""
    selection = check.selection

    def names(slots: dict[str, tuple[int, ...]]) -> dict[str, list[str]]:
        return {name: [str(check.modalities[name].layout.names[n]) for n in chosen] for name, chosen in slots.items()}

    return {
        "recipe": check.name,
        "seconds": round(check.seconds, 1),
        "groups": check.groups,
        "sampled_groups": check.sampled,
        "groups_of_one_modality": check.alone,
        "groups_repeated": check.repeated,
        "set_aside": dict(Counter(rejection.reason for rejection in check.rejected)),
        "modalities": {
            name: {
                "kind": modality.kind,
                "items": modality.items,
                "sampled": modality.sampled,
                "milliseconds": round(modality.milliseconds, 3),
                "slots": [str(slot) for slot in modality.layout.names],
                "can_choose": modality.layout.free,
                "effective_dimensions": modality.dimensions,
                "sibling_recall@1": modality.siblings,
                "shared_texts": [{"text": text, "groups": count} for text, count in modality.shared],
                "leaks": asdict(modality.leaks),
            }
            for name, modality in check.modalities.items()
        },
        "pairs": {f"{a}-{b}": _pair_json(match) for (a, b), match in check.matches.items()},
        "selection": {
            "ridge": selection.ridge,
            "auto": names(selection.auto),
            "picked": names(selection.picked),
            "found": names(selection.found),
            "changed": selection.changed,
            "recall@1": selection.recall,
            "gain": selection.gain,
            "gain_interval": list(selection.interval),
            "gain_of_one_slot": {
                name: {str(modality.layout.names[n]): gain for (own, n), gain in selection.tried.items() if own == name}
                for name, modality in check.modalities.items()
            },
            "toml": snippet(check),
        },
        "advice": [asdict(advice) for advice in advise(check)],
    }


def _pair_json(match: Match) -> dict[str, Any]:
    values: dict[str, Any] = {"unfit": unfit(match)}
    if (alike := match.likeness) is not None:
        values["likeness"] = {
            "groups": alike.groups,
            "mutual_knn": alike.knn,
            "chance": alike.chance,
            "highest_by_chance": alike.highest_by_chance,
            "cka": alike.cka,
            "mutual_knn_by_slot": _rounded(alike.knn_by_slot),
            "cka_by_slot": _rounded(alike.cka_by_slot),
        }
    if (line := match.baseline) is not None:
        values["closed_form"] = {
            "recall@1": line.recall,
            "interval": list(line.interval),
            "chance": line.chance,
            "groups": line.groups,
            "gallery": line.gallery,
            "recall@1_by_gallery": line.smaller,
            "held_out_correlations": [round(float(value), 4) for value in line.correlations],
        }
    if match.noise is not None:
        values["noise"] = asdict(match.noise)
    if match.prediction is not None:
        need = {name: value if isfinite(value) else None for name, value in asdict(match.prediction.need).items()}
        values["prediction"] = {**asdict(match.prediction), "need": need}
    return values


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in values]


def sheets(check: Check) -> list[Sheet]:
    """Return the tables: the data, the pairs, the slots, the leaks."""
    return [_data(check), _pairs(check), *_slots(check), _leaks(check)]


def _data(check: Check) -> Sheet:
    sampled = " and ".join(f"{count:,} of {check.groups[split]:,} {split}" for split, count in check.sampled.items())
    rows = [
        (
            name,
            f"{modality.items:,}",
            f"{modality.sampled:,}",
            f"{modality.milliseconds:.1f}",
            f"{modality.dimensions:.0f}",
            "" if modality.siblings is None else f"{modality.siblings:.2f}",
        )
        for name, modality in check.modalities.items()
    ]
    headings = ("modality", "items", "examined", "ms per item", "effective\ndimensions", "own group\nis nearest")
    aside = ", ".join(
        f"{count:,} {reason}" for reason, count in Counter(r.reason for r in check.rejected).most_common()
    )
    return Sheet(f"{check.name}: {sampled} groups examined", headings, rows, f"set aside: {aside}" if aside else "")


def _pairs(check: Check) -> Sheet:
    rows = []
    for (a, b), match in check.matches.items():
        alike, line, expected = match.likeness, match.baseline, match.prediction
        rows.append(
            (
                f"{a}, {b}",
                f"{alike.knn:.3f}\n{alike.highest_by_chance:.3f}" if alike else "too few",
                f"{alike.cka:.3f}" if alike else "",
                f"{int((line.correlations > 2 / line.gallery**0.5).sum())}" if line else "",
                f"{line.recall:.3f}\n{line.interval[0]:.3f}-{line.interval[1]:.3f}" if line else "too few",
                f"{expected.recall:.3f}\n{expected.low:.3f}-{expected.high:.3f}" if expected else "",
            )
        )
    headings = (
        "pair",
        "mutual kNN\n(by chance)",
        "CKA",
        "correlated\ndirections",
        "closed-form\nR@1",
        "expected R@1\nafter training",
    )
    lines = [match.baseline for match in check.matches.values() if match.baseline]
    runs = [match.prediction for match in check.matches.values() if match.prediction]
    note = f"closed form among {lines[0].gallery:,} groups" if lines else ""
    if runs:
        note += f"; expected R@1 among {runs[0].gallery:,}, calibrated on {runs[0].runs} runs"
    return Sheet("fit of the encoders", headings, rows, note)


def _slots(check: Check) -> list[Sheet]:
    """Return per modality the slots that agree most with the partners' slots, and their gain over the default."""
    tables = []
    for name, modality in check.modalities.items():
        if not modality.layout.free:
            continue
        agreement: dict[int, list[tuple[float, float]]] = {}
        for pair, match in check.matches.items():
            if name in pair and match.likeness:
                side = pair.index(name)
                partners = check.selection.auto[pair[1 - side]]
                for n in range(len(modality.layout.names)):
                    both = match.likeness.knn_by_slot, match.likeness.cka_by_slot
                    knn, cka = (float((table if side == 0 else table.T)[n, list(partners)].mean()) for table in both)
                    agreement.setdefault(n, []).append((knn, cka))
        means = {
            n: tuple(sum(value) / len(value) for value in zip(*values, strict=True)) for n, values in agreement.items()
        }
        order = sorted(means, key=lambda n: -means[n][0])
        picked, auto = check.selection.picked[name], check.selection.auto[name]
        shown = [*order[:SHOWN], *(n for n in sorted(means) if n in picked and n not in order[:SHOWN])]
        rows = [
            (
                str(modality.layout.names[n]),
                f"{means[n][0]:.3f}",
                f"{means[n][1]:.3f}",
                f"{gain:+.3f}" if (gain := check.selection.tried.get((name, n))) is not None else "",
                "default" if n in auto else "picked" if n in picked else "",
            )
            for n in shown
            if n in means
        ]
        headings = ("layer, pool", "mutual kNN", "CKA", "gain of\nclosed-form R@1", "")
        tables.append(Sheet(f"{name}: slots compared with those of the others", headings, rows))
    return tables


def _leaks(check: Check) -> Sheet:
    def first(leaks: Leaks) -> str:
        twins = [*leaks.exact_first, *leaks.near_first]
        return f"{twins[0].other} = {twins[0].train}" if twins else ""

    rows = [
        (
            name,
            f"{modality.leaks.exact:,}",
            f"{modality.leaks.near:,}",
            f"{modality.leaks.near_expected:,}",
            f"{modality.leaks.threshold:.3f}",
            first(modality.leaks),
        )
        for name, modality in check.modalities.items()
    ]
    headings = ("modality", "same content", "near, sample", "near, all", "cosine from", "such as")
    return Sheet("items of train that are also in dev or test", headings, rows)
