"""A comparison as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightcrl.metrics.statistics import Difference, Estimate
from lightcrl.sheets import Cell, Row, Sheet, markdown_sheet
from lightcrl.studies.compare.outcome import Comparison, Contestant, Growth, remarks, sentences


def markdown(comparison: Comparison) -> str:
    """Return the whole comparison: sentences, the table, differences, costs, tries, scaling."""
    recipe = comparison.recipe
    lines = [f"# {recipe.name}: {len(comparison.contestants)} methods compared on {recipe.evaluation.split}", ""]
    lines += [*sentences(comparison), "", *[f"- {member}" for member in remarks(comparison)], ""]
    lines += markdown_sheet(recall_sheet(comparison)) + markdown_sheet(difference_sheet(comparison))
    if tries := tried_sheet(comparison):
        lines += markdown_sheet(tries)
    if comparison.growth:
        lines += markdown_sheet(growth_sheet(comparison.growth))
        if gaps := gap_sheet(comparison.growth):
            lines += markdown_sheet(gaps)
        lines += [*[f"- {fit_words(curve)}" for curve in comparison.growth if curve.forecast], ""]
    return "\n".join(lines)


def recall_sheet(comparison: Comparison) -> Sheet:
    """Return the figures of every method, the best first, and chance."""
    measures, ranked = comparison.measures, comparison.ranked
    rows: list[Row] = [
        (
            member.label,
            *(
                percent(member.figures[name], own=name == measures[0]) if name in member.figures else ""
                for name in measures
            ),
        )
        for member in ranked
    ]
    chances = [comparison.chance.get(name) for name in measures]
    rows.append(("chance", *("" if chance is None else f"{100 * chance:.1f}" for chance in chances)))
    seeds = f"{len(comparison.seeds)} seed{'s' * (len(comparison.seeds) > 1)}"
    title = f"Figures on {comparison.recipe.evaluation.split} in per cent, means over {seeds}, with 95 % intervals"
    return Sheet(title, ("method", *map(heading, measures)), rows, looks={len(ranked): "faint"})


def difference_sheet(comparison: Comparison) -> Sheet:
    """Return the difference of every method from the best other, and its cost of training."""
    versus = comparison.versus
    rows = [(member.label, *(against(member, name) for name in versus), *costs(member)) for member in comparison.ranked]
    title = "Difference from the best other method in points, paired by groups; and cost of training"
    titles = [f"{heading(name)} minus the best other's" for name in versus]
    return Sheet(title, ("method", *titles, "trained parameters", "seconds", "peak MiB", "batch", "epochs"), rows)


def tried_sheet(comparison: Comparison) -> Sheet | None:
    """Return the options that every method tried; None if none did."""
    rows = [
        (member.label, settings(each.options), *_tried(each.dev, at == member.chosen))
        for member in comparison.contestants
        for at, each in enumerate(member.tries)
    ]
    headings = ("method", "options", "dev mean R@1, %", "")
    return Sheet("Tuning on dev, first seed", headings, rows, words=frozenset({0, 1, 3})) if rows else None


def heading(measure: str) -> str:
    """Return a measure's name for people.

    >>> heading("image_to_text/recall@1"), heading("mean_recall@5"), heading("zero_shot/top1")
    ('image → text R@1', 'mean R@5', 'zero-shot top-1')
    """
    words = measure.replace("_to_", " → ").replace("/recall@", " R@").replace("mean_recall@", "mean R@")
    return words.replace("zero_shot/top1", "zero-shot top-1")


def percent(figure: Estimate, own: bool = False) -> Cell:
    """Return an estimate in per cent, with the interval over groups and seeds.

    >>> str(percent(Estimate(0.394, None, (0.37, 0.41), (0.365, 0.4151))))
    '39.4 (36.5–41.5)'
    """
    low, high = figure.both
    return Cell(f"{100 * figure.mean:.1f}", f"{100 * low:.1f}–{100 * high:.1f}", own=own)


def against(contestant: Contestant, measure: str) -> str | Cell:
    """Return the difference from the best other method, and its verdict."""
    if measure not in contestant.rivals:
        return ""
    rival, gap = contestant.rivals[measure]
    return Cell(f"{100 * gap.mean:+.1f}", _ends(gap), f"against {rival}: {gap.word}")


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


def growth_sheet(growth: Sequence[Growth]) -> Sheet:
    """Return mean R@1 by number of training groups, and the number that the target takes."""
    rows = [
        (
            curve.label,
            *(f"{100 * recall:.1f}" for recall in curve.recall.mean(0)),
            curve.forecast.words if curve.forecast else "too few sizes to fit a curve",
        )
        for curve in growth
    ]
    sizes = [f"{size:,}" for size in growth[0].sizes.tolist()]
    title = "Mean R@1 in per cent by number of training groups, mean over seeds; subsets are nested"
    return Sheet(title, ("method", *sizes, "groups for the target"), rows)


def gap_sheet(growth: Sequence[Growth]) -> Sheet | None:
    """Return the difference of the first method from the others by number of training groups; None without any."""
    rows: list[Row] = [
        (curve.label, *(Cell(f"{100 * gap.mean:+.1f}", _ends(gap)) for gap in curve.gaps))
        for curve in growth
        if curve.gaps
    ]
    if not rows:
        return None
    first = next(curve.label for curve in growth if not curve.gaps)
    title = f"Mean R@1 of {first} minus that of the others, in points, paired 95 % intervals"
    return Sheet(title, ("method", *(f"{size:,}" for size in growth[0].sizes.tolist())), rows)


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
