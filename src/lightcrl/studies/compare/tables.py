"""A comparison as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightcrl.metrics.statistics import Difference, Estimate
from lightcrl.sheets import markdown_table
from lightcrl.studies.compare.outcome import Comparison, Contestant, Growth, remarks, sentences


def markdown(comparison: Comparison) -> str:
    """Return the whole comparison: sentences, the table, differences, costs, tries, scaling."""
    ranked, recipe = comparison.ranked, comparison.recipe
    measures = comparison.measures
    lines = [f"# {recipe.name}: {len(comparison.contestants)} methods compared on {recipe.evaluation.split}", ""]
    lines += [*sentences(comparison), "", *[f"- {member}" for member in remarks(comparison)], ""]
    rows = [
        [member.label, *(with_interval(member.figures[name]) for name in measures if name in member.figures)]
        for member in ranked
    ]
    chances = [comparison.chance.get(name) for name in measures]
    rows.append(["chance", *("" if chance is None else f"{100 * chance:.1f}" for chance in chances)])
    lines += markdown_table(["method, %", *map(heading, measures)], rows)
    versus = comparison.versus
    titles = [f"{heading(name)} minus the best other's" for name in versus]
    lines += markdown_table(
        ["method", *titles, "trained parameters", "seconds", "peak MiB", "batch", "epochs"],
        [[member.label, *(against(member, name) for name in versus), *costs(member)] for member in ranked],
    )
    tried = [
        [member.label, settings(each.options), *_tried(each.dev, at == member.chosen)]
        for member in comparison.contestants
        for at, each in enumerate(member.tries)
    ]
    if tried:
        lines += [
            "## Tuning on dev, first seed",
            "",
            *markdown_table(["method", "options", "dev mean R@1, %", ""], tried),
        ]
    if comparison.growth:
        lines += ["## Recall by number of training groups", "", *_growth(comparison.growth)]
    return "\n".join(lines)


def heading(measure: str) -> str:
    """Return a measure's name for people.

    >>> heading("image_to_text/recall@1"), heading("mean_recall@5"), heading("zero_shot/top1")
    ('image → text R@1', 'mean R@5', 'zero-shot top-1')
    """
    words = measure.replace("_to_", " → ").replace("/recall@", " R@").replace("mean_recall@", "mean R@")
    return words.replace("zero_shot/top1", "zero-shot top-1")


def with_interval(figure: Estimate) -> str:
    """Format an estimate in percent, with the interval over groups and seeds.

    >>> with_interval(Estimate(0.394, None, (0.37, 0.41), (0.365, 0.4151)))
    '39.4 (36.5–41.5)'
    """
    low, high = figure.both
    return f"{100 * figure.mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def against(contestant: Contestant, measure: str) -> str:
    """Format the difference from the best other method, and its verdict."""
    if measure not in contestant.rivals:
        return ""
    rival, gap = contestant.rivals[measure]
    low, high = gap.interval
    return f"{100 * gap.mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) against {rival}: {gap.word}"


def costs(contestant: Contestant) -> list[str]:
    """Format trained parameters, seconds of training, peak memory, batch size and epochs."""
    plan = contestant.cells[0].plan
    return [
        f"{contestant.cells[0].parameters:,}",
        f"{contestant.seconds:.1f}",
        "" if contestant.memory is None else f"{contestant.memory / 2**20:,.0f}",
        f"{plan['batch_size']:,}",
        f"{plan['epochs']:,}",
    ]


def settings(options: Mapping[str, object]) -> str:
    """Format options as `key=value`, or as the defaults."""
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "defaults"


def _growth(growth: Sequence[Growth]) -> list[str]:
    rows = []
    for curve in growth:
        means = [f"{100 * recall:.1f}" for recall in curve.recall.mean(0)]
        rows.append([curve.label, *means, curve.forecast.words if curve.forecast else "too few sizes to fit a curve"])
    titles = [f"{size:,}" for size in growth[0].sizes.tolist()]
    lines = ["Mean R@1 in percent by training groups, mean over seeds; subsets are nested.", ""]
    lines += markdown_table(["method", *titles, "groups for the target"], rows)
    gaps = [
        [curve.label, *(f"{100 * gap.mean:+.1f} ({_ends(gap)})" for gap in curve.gaps)]
        for curve in growth
        if curve.gaps
    ]
    if gaps:
        first = next(curve.label for curve in growth if not curve.gaps)
        lines += [f"Mean R@1 of {first} minus that of the others, in points, paired 95 % intervals.", ""]
        lines += markdown_table(["method", *titles], gaps)
    fits = [fit_words(curve) for curve in growth if curve.forecast]
    return [*lines, *[f"- {curve}" for curve in fits], ""]


def fit_words(growth: Growth) -> str:
    """Describe the quality of the fit."""
    said = growth.forecast
    if said is None:
        return ""
    curve = said.curve
    return (
        f"{growth.label}: R@1 = {curve.end:.2f} / (1 + ({curve.half:,.0f} / n)^{curve.slope:.2f}), error "
        f"{100 * said.error:.1f} points; fitted without the largest size, it misses that by {100 * said.missed:+.1f}"
    )


def _ends(gap: Difference) -> str:
    low, high = gap.interval
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _tried(dev: float | None, chosen: bool) -> tuple[str, str]:
    return ("failed", "") if dev is None else (f"{100 * dev:.1f}", "chosen" if chosen else "")
