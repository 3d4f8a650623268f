# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the demo looks: a table that grows by a row for each step. Colour and the line that moves are for terminals only; a file gets plain
text."""
from __future__ import annotations

import os
import sys
import typing as t

LIVE = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
COLOURS = LIVE and not os.environ.get("NO_COLOR")
CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "blue": "34"}
WIDTHS = (45, 8, 10, 7, 17, 15)


def tint(text: str, *how: str) -> str:
    codes = ";".join(CODES[each] for each in how if each in CODES)
    return f"\x1b[{codes}m{text}\x1b[0m" if COLOURS and codes else text


def title(text: str) -> None:
    print(f"\n{tint(text, 'bold')}\n", flush=True)


def text(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def columns(cells: t.Sequence[str], *how: str) -> str:
    """The first to the left, the others to the right; the last in the colour that it names."""
    padded = [cells[0].ljust(WIDTHS[0]), *(cell.rjust(width) for cell, width in zip(cells[1:-1], WIDTHS[1:-1], strict=True))]
    last = tint(cells[-1].rjust(WIDTHS[-1]), *(how or cells[-1].split()[:1]))
    return "".join(tint(cell, *how) for cell in padded) + last


def head(cells: t.Sequence[str]) -> None:
    text(columns(cells, "dim"), tint("-" * sum(WIDTHS), "dim"))


def row(cells: t.Sequence[str], notes: t.Sequence[str], good: bool) -> None:
    clear()
    text(columns(cells) if good else columns(cells, "red"))
    for note in notes:
        text(tint(f"    {note}", "dim"))


def moving(line: str) -> None:
    """What is under way, on a line that is written over."""
    if LIVE:
        print(f"\r\x1b[K{tint(line[: sum(WIDTHS)], 'dim')}", end="", flush=True)


def clear() -> None:
    if LIVE:
        print("\r\x1b[K", end="", flush=True)
