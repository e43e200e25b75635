"""A comparison as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightcrl.metrics.statistics import Estimate
from lightcrl.sheets import markdown_table
from lightcrl.studies.compare.outcome import Comparison, Contestant, Growth, remarks, sentences


def markdown(comparison: Comparison) -> str:
    """The whole comparison: words, the table, differences, costs, what was tried, scaling."""
    ranked, recipe = comparison.ranked, comparison.recipe
    measures = comparison.measures
    lines = [f"# {recipe.name}: {len(comparison.contestants)} methods compared on {recipe.evaluation.split}", ""]
    lines += [*sentences(comparison), "", *[f"- {one}" for one in remarks(comparison)], ""]
    rows = [
        [one.label, *(with_interval(one.figures[name]) for name in measures if name in one.figures)] for one in ranked
    ]
    chances = [comparison.chance.get(name) for name in measures]
    rows.append(["chance", *("" if chance is None else f"{100 * chance:.1f}" for chance in chances)])
    lines += markdown_table(["method, %", *map(heading, measures)], rows)
    versus = comparison.versus
    titles = [f"{heading(name)} minus the best other's" for name in versus]
    lines += markdown_table(
        ["method", *titles, "trained parameters", "seconds", "peak MiB", "batch", "epochs"],
        [[one.label, *(against(one, name) for name in versus), *costs(one)] for one in ranked],
    )
    tried = [
        [one.label, settings(each.options), *_tried(each.dev, at == one.chosen)]
        for one in comparison.contestants
        for at, each in enumerate(one.tries)
    ]
    if tried:
        lines += [
            "## Tried on dev, first seed",
            "",
            *markdown_table(["method", "options", "dev mean R@1, %", ""], tried),
        ]
    if comparison.growth:
        lines += ["## Fewer training groups", "", *_growth(comparison.growth)]
    return "\n".join(lines)


def heading(measure: str) -> str:
    """A measure's name for people.

    >>> heading("image_to_text/recall@1"), heading("mean_recall@5"), heading("zero_shot/top1")
    ('image → text R@1', 'mean R@5', 'zero-shot top-1')
    """
    words = measure.replace("_to_", " → ").replace("/recall@", " R@").replace("mean_recall@", "mean R@")
    return words.replace("zero_shot/top1", "zero-shot top-1")


def with_interval(found: Estimate) -> str:
    """In percent, with the interval over groups and seeds.

    >>> with_interval(Estimate(0.394, None, (0.37, 0.41), (0.365, 0.4151)))
    '39.4 (36.5–41.5)'
    """
    low, high = found.both
    return f"{100 * found.mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def against(one: Contestant, measure: str) -> str:
    """The difference to the best other method, and its word."""
    if measure not in one.rivals:
        return ""
    rival, found = one.rivals[measure]
    low, high = found.interval
    return f"{100 * found.mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) against {rival}: {found.word}"


def costs(one: Contestant) -> list[str]:
    """Trained parameters, seconds of training, peak memory, batch size, epochs."""
    plan = one.cells[0].plan
    return [
        f"{one.cells[0].parameters:,}",
        f"{one.seconds:.1f}",
        "" if one.memory is None else f"{one.memory / 2**20:,.0f}",
        f"{plan['batch_size']:,}",
        f"{plan['epochs']:,}",
    ]


def settings(options: Mapping[str, object]) -> str:
    """Options as `key=value`; none are the defaults."""
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "defaults"


def _growth(growth: Sequence[Growth]) -> list[str]:
    rows = []
    for one in growth:
        means = [f"{100 * recall:.1f}" for recall in one.recall.mean(0)]
        rows.append([one.label, *means, one.forecast.words if one.forecast else "too few sizes to fit a curve"])
    titles = [f"{size:,}" for size in growth[0].sizes.tolist()]
    lines = ["Mean R@1 in percent by training groups, mean over seeds; subsets are nested.", ""]
    lines += markdown_table(["method", *titles, "what it would take"], rows)
    fits = [fit_words(one) for one in growth if one.forecast]
    return [*lines, *[f"- {one}" for one in fits], ""]


def fit_words(one: Growth) -> str:
    """How well the curve fits."""
    said = one.forecast
    if said is None:
        return ""
    return (
        f"{one.label}: R@1 = {said.curve.end:.2f} / (1 + ({said.curve.half:,.0f} / n)^{said.curve.slope:.2f}), error "
        f"{100 * said.error:.1f} points; fitted without the largest size, it misses that by {100 * said.missed:+.1f}"
    )


def _tried(dev: float | None, chosen: bool) -> tuple[str, str]:
    return ("failed", "") if dev is None else (f"{100 * dev:.1f}", "chosen" if chosen else "")
