"""Columns of text: cells in, aligned lines out. Pure; the lines carry styles that a pipe does not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from hsu_cluster.cli.text import shown

GAP = 3
"""Spaces between two columns."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a table and how a terminal shows it."""

    text: str
    style: str = ""


Row = tuple[Cell, ...]


def row(*values: object) -> Row:
    """Return a row; plain values become cells, `None` and empty text become `-`."""
    return tuple(value if isinstance(value, Cell) else cell(value) for value in values)


def cell(value: object, style: str = "") -> Cell:
    """Return a cell with escaped text; `None` and empty text become `-`."""
    return Cell(shown(value) if value not in (None, "") else "-", style)


def columns(titles: Sequence[str], rows: Sequence[Row]) -> list[Text]:
    """Return the title line and one line for each row; a column where every row has `-` is left out.

    The first column always stays. The last one is not padded, so that lines end where their text ends.
    """
    kept = [index for index in range(len(titles)) if index == 0 or any(entry[index].text != "-" for entry in rows)]
    if not rows:
        kept = list(range(len(titles)))
    head = tuple(Cell(title, "bold") for title in titles)
    widths = {index: max(cell_len(entry[index].text) for entry in (head, *rows)) for index in kept}
    return [_line(entry, kept, widths) for entry in (head, *rows)]


def _line(entry: Row, kept: Sequence[int], widths: dict[int, int]) -> Text:
    line = Text()
    for index in kept:
        part = entry[index]
        line.append(part.text, style=part.style)
        if index != kept[-1]:
            line.append(" " * (widths[index] - cell_len(part.text) + GAP))
    line.rstrip()
    return line


def pairs(entries: Sequence[tuple[str, object]], *, indent: int = 0) -> list[Text]:
    """Return `name:  value` lines with aligned values; entries without a value are left out."""
    told = [(name, value if isinstance(value, Cell) else cell(value)) for name, value in entries]
    told = [(name, value) for name, value in told if value.text != "-"]
    width = max((len(name) for name, _ in told), default=0) + 1
    return [
        Text.assemble(" " * indent, (f"{name}:".ljust(width), "bold"), "  ", (value.text, value.style))
        for name, value in told
    ]
