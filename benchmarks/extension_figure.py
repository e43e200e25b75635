"""The figure of docs/extending_a_space.md: what is trained, what is frozen, and what an index keeps.

python benchmarks/extension_figure.py            # writes docs/extending_a_space.svg
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

OUTPUT = Path(__file__).parents[1] / "docs" / "extending_a_space.svg"
INK, FROZEN, NEW, PAPER = "#1a1d21", "#e6eaee", "#0b6599", "#ffffff"
ROWS = (("pictures", 30, False), ("captions", 100, False), ("sounds (new)", 170, True))
HEIGHT = 250


def box(x: int, y: int, width: int, height: int, words: str, new: bool, note: str = "") -> str:
    """A box with one or two lines of words; blue if it is trained, grey if it is frozen."""
    fill, ink = (NEW, PAPER) if new else (FROZEN, INK)
    lines = [words, note] if note else [words]
    middle = y + height / 2 - 8 * (len(lines) - 1)
    spans = "".join(
        f'<text x="{x + width / 2}" y="{middle + 5 + 16 * number}" fill="{ink}" text-anchor="middle" '
        f'font-size="{13 if number == 0 else 11}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}"/>{spans}'


def arrow(x1: int, y1: float, x2: int, y2: float, dashed: bool = False) -> str:
    """A line with a head at its end."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{x1} {y1} L{x2} {y2}" stroke="{INK}" stroke-width="1.4"{dash} marker-end="url(#head)"/>'


def draw() -> str:
    """Return the figure as SVG."""
    parts = []
    for name, y, new in ROWS:
        middle = y + 25
        parts += [
            box(10, y, 120, 50, name, False, "frozen encoder"),
            box(170, y, 140, 50, "stem, pool, context", new, "trained" if new else "frozen"),
            arrow(130, middle, 168, middle),
            arrow(310, middle, 348, 125),
        ]
    parts += [
        box(350, 85, 120, 80, "shared block", False, "frozen"),
        arrow(470, 125, 508, 125),
        box(510, 55, 150, 140, "one space", False, "old vectors: same bits"),
        arrow(660, 125, 698, 125, dashed=True),
        box(700, 85, 130, 80, "index", False, "built before, stays"),
        f'<rect x="170" y="228" width="14" height="14" rx="3" fill="{NEW}"/>'
        f'<text x="190" y="240" font-size="12" fill="{INK}">trained by the extension</text>'
        f'<rect x="350" y="228" width="14" height="14" rx="3" fill="{FROZEN}"/>'
        f'<text x="370" y="240" font-size="12" fill="{INK}">frozen, equal to the bit before and after</text>',
    ]
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>'
    )
    words = "A new modality: only its stem, pool and context are trained; everything else is frozen."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 {HEIGHT}" role="img" '
        f'font-family="Helvetica, Arial, sans-serif"><title>{words}</title>{head}'
        f'<rect width="840" height="{HEIGHT}" fill="{PAPER}"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    OUTPUT.write_text(draw(), encoding="utf-8")
