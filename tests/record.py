# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each stage and each file of tests took, as a table in tests/README.md: written by a whole run, and read to begin with the longest."""
from __future__ import annotations

import re

from jobs import ROOT

README = ROOT / "tests/README.md"
BEGIN, END = "<!-- the table is written by tests/run.py --record -->\n", "<!-- end of the table -->\n"
ROW = re.compile(r"(?m)^\| `([^`]+)` \| (\d+) \| (\d+) \| (\d+) \|$")


def expected() -> dict[str, float]:
    """Seconds by the clock that each took when it was last written down."""
    return {name: float(seconds) for name, seconds, _processor, _tests in ROW.findall(README.read_text())}


def table(runner, minutes: float, processor: float) -> None:
    rows = sorted(runner.jobs.values(), key=lambda job: -job.processor)
    lines = [f"In all {minutes:.1f} minutes and {processor:.0f} seconds of processor time.\n", "| | seconds | of processor | tests |", "|---|---|---|---|"]
    lines += [f"| `{job.name}` | {job.took:.0f} | {job.processor:.0f} | {job.passed + job.failed} |" for job in rows]
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.split(END)[1])
