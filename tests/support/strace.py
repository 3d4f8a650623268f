# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that strace kills at the nth call of the kernel: the same moment each time, however busy the machine is.

The kill comes before the call is carried out. What happens between two calls that change something cannot be distinguished afterwards, so
each such call once is every moment there is.
"""
from __future__ import annotations

import functools
import signal
import typing as t

from harness import lab

MANY = 500   # more than any run makes of one call


@functools.cache
def _strace() -> str:
    return lab("get", "strace")


def killed_at(call: str, number: int) -> list[str]:
    """The words before a program that have it killed there. Calls of its first thread count, and not those of programs that it starts."""
    return [_strace(), "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]


def was_killed(code: int) -> bool:
    """strace ends as what it ran did. Anything but the kill and an answer is a failure of the test itself."""
    assert code in (0, 1, -signal.SIGKILL), code
    return code == -signal.SIGKILL


def moments(calls: t.Iterable[str], kill: t.Callable[[list[str]], bool], every: int = 1) -> t.Iterator[str]:
    """Kill it at the first of these calls, the second (or `every` so many further), until there are no more; a word for each moment.

    `kill` runs the program below the words it is given, and says whether it was killed. The run that comes to its end is no moment."""
    for call in calls:
        for number in range(1, MANY, every):
            if not kill(killed_at(call, number)):
                break
            yield f"{call} {number}"
        else:
            raise AssertionError(f"more than {MANY} times {call}")
