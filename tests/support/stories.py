# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that the callback plugin `story` has told: nothing that its reader must know is left out."""
from __future__ import annotations

import re
import typing as t

from harness import Run

STORY = {"ANSIBLE_STDOUT_CALLBACK": "reversible.deploy.story"}


def plain(text: str) -> str:
    """Wrapped and indented as may be: core wraps warnings, at hyphens also."""
    return re.sub(r"\s+", "", text)


def must_be_told(result: dict[str, t.Any], failed: bool) -> t.Iterator[str]:
    """Of a task, and of each of its items."""
    items = result.get("results") or []
    if failed and result.get("msg") and not items:
        yield from map(str, result["msg"] if isinstance(result["msg"], list) else [result["msg"]])
    yield from (str(text) for text in result.get("warnings") or [])
    for item in items:
        if isinstance(item, dict):
            yield from must_be_told(item, bool(item.get("failed")))


def tells_all(run: Run) -> None:
    """Each failure with its host and message and each warning is in the output; the hosts that stand for a run are not in the recap."""
    said, (story, _, recap) = plain(run.output), run.output.partition("PLAY RECAP")
    for task in run.tasks:
        failed = task.status in ("failed", "unreachable")
        for text in must_be_told(task.result, failed):
            assert plain(text) in said, f"{task.host}: {task.task}: this is not told: {text}\n{run.output}"
        assert not failed or f"{task.host}: {task.task}" in story or f"{task.host} -> " in story, f"{task.host}: {task.task}\n{run.output}"
    assert recap and "TASK [" not in run.output, run.output
    hosts = set(re.findall(r"(?m)^(\S+) +: ok=", recap))
    assert hosts == {task.host for task in run.tasks if "@" not in task.host}, recap
