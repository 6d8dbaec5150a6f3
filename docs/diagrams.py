"""Draw docs/data-path.svg and docs/rooms.svg: boxes with text, and arrows between them."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
TEXT = "Helvetica, Arial, sans-serif"
CODE = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"
RECORD, STEP, GIVEN = "#e3eefb", "#e6f4ea", "#fff4d6"  # grounds of boxes
LINE = 19  # between lines of text
# What may be imported by what comes after it: a heading where rooms stand together, and the rooms.
FLOORS = (
    ("words and algebra", ("options, names, shown", "kernels/")),
    ("text and files", ("formulas/", "storage/")),
    ("sums of groups", ("cells/",)),
    ("formulas to matrices", ("design/",)),
    ("fits", ("model, lmm, within",)),
    ("tests", ("inference/",)),
    ("other covariances", ("kinship/", "multitrait/")),
    ("counts with a truth", ("simulate/",)),
    ("uses of the models", ("benchmark/", "subject_level/", "de")),
    ("figures, exports", ("plots/", "io/")),
    ("tables in a notebook", ("notebook/",)),
    ("pages", ("report/",)),
    ("other programs' names", ("compat/",)),
    ("what Snakemake runs", ("workflow/",)),
    ("commands", ("cli/",)),
)


class Box(NamedTuple):
    """A rectangle with a heading and lines of code in it."""

    x: float
    y: float
    width: float
    height: float
    ground: str
    heading: str
    code: tuple[str, ...] = ()

    @property
    def middle(self) -> tuple[float, float]:
        """Its centre."""
        return self.x + self.width / 2, self.y + self.height / 2

    def svg(self) -> str:
        """Text of the picture."""
        x, middle = self.middle
        first = middle - LINE * (len(self.code) + bool(self.heading) - 1) / 2 + 5
        lines = [(self.heading, f'font-weight="{600 if self.code else 400}"')] * bool(self.heading)
        lines += [(line, f'font-family="{CODE}" font-size="13"') for line in self.code]
        rows = [
            f'<text x="{x:g}" y="{first + LINE * place:g}" text-anchor="middle" {style}>'
            f"{escape(text)}</text>"
            for place, (text, style) in enumerate(lines)
        ]
        rectangle = (
            f'<rect x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" height="{self.height:g}" '
            f'rx="8" fill="{self.ground}" stroke="#555"/>'
        )
        return "\n".join([rectangle, *rows])


def path(*points: tuple[float, float]) -> str:
    """Return an arrow along points."""
    line = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{line}" fill="none" stroke="#555" stroke-width="1.4" '
        'marker-end="url(#tip)"/>'
    )


def right(first: Box, second: Box) -> str:
    """Return an arrow from the right edge of a box to the left one of another."""
    return path((first.x + first.width, first.middle[1]), (second.x, second.middle[1]))


def down(first: Box, second: Box) -> str:
    """Return an arrow from the lower edge of a box to the upper one of another below it."""
    return path((first.middle[0], first.y + first.height), (first.middle[0], second.y))


def picture(title: str, width: int, height: int, parts: list[str]) -> str:
    """Text of an SVG file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="{TEXT}" font-size="14">\n<title>{escape(title)}</title>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def data_path() -> str:
    """Picture of what becomes of cells."""
    cells = Box(15, 20, 175, 62, GIVEN, "cells", (".h5ad, AnnData",))
    simulate = Box(15, 112, 175, 62, STEP, "simulated cells", ("simulate_counts",))
    groups = Box(250, 20, 200, 62, RECORD, "sums of groups", ("GroupStatistics",))
    sums = Box(510, 20, 210, 62, RECORD, "X'X, Z'X, Z'Z, Y'X …", ("SummaryStatistics",))
    fit = Box(780, 20, 205, 62, RECORD, "a model per gene", ("LMMFit",))
    formula = Box(510, 122, 210, 42, GIVEN, "formula")
    tests = Box(780, 214, 205, 62, RECORD, "estimates, p-values", ("TestTable",))
    contrasts = Box(510, 224, 210, 42, GIVEN, "contrasts")
    truth = Box(15, 306, 175, 62, RECORD, "what was simulated", ("truth",))
    evaluate = Box(510, 306, 210, 62, STEP, "error rates, power", ("evaluate",))
    report = Box(780, 398, 205, 42, GIVEN, "page, tables, figures")
    others = Box(250, 398, 470, 42, GIVEN, "the same of other methods: MixedLM, edgeR, dreamlet")
    boxes = [cells, simulate, groups, sums, fit, formula, tests, contrasts, truth]
    boxes += [evaluate, report, others]
    arrows = [
        right(cells, groups),
        path((190, 143), (220, 143), (220, 60), (250, 60)),
        right(groups, sums),
        path((615, 122), (615, 82)),
        right(sums, fit),
        down(fit, tests),
        right(contrasts, tests),
        down(simulate, truth),
        right(truth, evaluate),
        path((830, 276), (830, 337), (720, 337)),
        path((615, 398), (615, 368)),
        path((720, 355), (800, 355), (800, 398)),
        path((930, 276), (930, 398)),
    ]
    note = '<text x="220" y="42" text-anchor="middle" font-size="12" fill="#555">one pass</text>'
    return picture("The path of data", 1000, 455, [*(box.svg() for box in boxes), *arrows, note])


def rooms() -> str:
    """Picture of the order in which rooms may import from each other."""
    columns, width, height = 5, 176, 100
    boxes = [
        Box(
            15 + place % columns * (width + 22),
            15 + place // columns * (height + 34),
            width,
            height,
            (RECORD, STEP, GIVEN)[place // columns],
            heading,
            floor,
        )
        for place, (heading, floor) in enumerate(FLOORS)
    ]
    arrows = [
        right(before, after) if after.y == before.y else path(*turned(before, after))
        for before, after in pairwise(boxes)
    ]
    end = max(box.y + box.height for box in boxes)
    size = (columns * (width + 22) + 8, int(end) + 15)
    return picture("The rooms of the package", *size, [box.svg() for box in boxes] + arrows)


def turned(before: Box, after: Box) -> list[tuple[float, float]]:
    """Points of an arrow from the end of a row to the start of the next."""
    between = (before.y + before.height + after.y) / 2
    start, end = before.middle[0], after.middle[0]
    return [(start, before.y + before.height), (start, between), (end, between), (end, after.y)]


def main() -> None:
    """Draw both."""
    (FOLDER / "data-path.svg").write_text(data_path())
    (FOLDER / "rooms.svg").write_text(rooms())


if __name__ == "__main__":
    main()
