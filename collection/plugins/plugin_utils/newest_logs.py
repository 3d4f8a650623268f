# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest lines of an app's logs, as the playbook `logs` shows them. Pure: no I/O.

Invariant: what is shown is bounded, holds nothing that moves a terminal's cursor, and none of the secrets that the app's own variables give its components:
by the same names as everywhere (censor.py), and passwords in URLs.
"""
from __future__ import annotations

import typing as t

from .censor import Secrets

Result = t.Mapping[str, t.Any]

LONGEST_LINE = 500       # characters
MOST = 64 * 1024         # characters of each log, its end


def newest_logs(results: t.Sequence[Result], lines: int, *hidden: t.Any) -> dict[str, list[str]]:
    """Of what each reading task has returned: `lines`, a heading for each log and then its lines, and `unread`, the names of the logs that cannot be
    read; their headings say why. `hidden`: variables that hold secrets, as dictionaries."""
    given = {str(number): each for number, each in enumerate(hidden)}
    secrets = Secrets({name: {"no_log": True, "type": "dict"} for name in given}, given, lambda: b"")
    shown: list[str] = []
    unread: list[str] = []
    for name, text, failure in (log for one in results for log in _logs(one)):
        shown.append(f"== {name}" + (f": CANNOT BE READ: {secrets.hide(failure)}" if failure else "" if text.strip() else ": empty"))
        shown += _newest(secrets.hide(text), lines)
        unread += [name] if failure else []
    return {"lines": shown, "unread": unread}


def _logs(one: Result) -> t.Iterator[tuple[str, str, str]]:
    if one.get("skipped"):
        return
    item = one.get(str(one.get("ansible_loop_var") or "")) or {}
    named = item if isinstance(item, t.Mapping) else {}
    name = str(one.get("name") or named.get("unit") or named.get("instance") or named.get("name") or item or "log")
    logs = one.get("logs")
    if isinstance(logs, t.Mapping):
        for unit, text in logs.items():
            yield str(unit), "\n".join(map(str, text)) if isinstance(text, (list, tuple)) else str(text), ""
    elif one.get("unreachable") or one.get("failed") or one.get("rc") != 0:
        yield name, "", str(one.get("stderr") or one.get("msg") or "no answer").strip()
    else:
        yield name, "\n".join(str(one[each]) for each in ("stdout", "stderr") if one.get(each)), ""


def _newest(text: str, lines: int) -> list[str]:
    newest, room = [], MOST
    for line in reversed([line for line in text.splitlines() if line.strip()][-lines:]):
        plain = "".join(char if char.isprintable() or char == "\t" else "?" for char in line)
        plain = plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]} ..."
        room -= len(plain)
        if room < 0:
            break
        newest.append(plain)
    return newest[::-1]
