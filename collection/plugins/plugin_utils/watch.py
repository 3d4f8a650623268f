# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the progress of a long task while it runs.

The binary writes one line into a file beside itself (ansible_module::tell), whose name we choose. When a task has run for some
seconds, a thread reads that line every few seconds, over a second use of the same connection, and shows it on stderr: stdout belongs
to the callbacks. A task that is short costs no round trip.

Invariants: the task never waits for the watching (but for a look that is under way when it ends), and nothing that goes wrong with
the watching reaches it: the first trouble ends the watching. The thread has copies of the action, the connection and the become
plugin, since each of these keeps in itself what it is about. Nothing is shown after the end: a worker that ended while it held
the lock of core's queue would stop all others.

REVERSIBLE_PROGRESS on the controller is the number of seconds between two looks; 0 turns it off.
"""
from __future__ import annotations

import contextlib
import contextvars
import copy
import os
import secrets
import threading
import time
import typing as t

from ansible import constants as C
from ansible.utils.display import Display

from ansible_collections.reversible.deploy.plugins.plugin_utils.censor import Secrets
from ansible_collections.reversible.deploy.plugins.plugin_utils.target_cache import progress_script, read_answer

display = Display()

EVERY = 5.0       # seconds
SELDOM = 60.0     # the longest pause between two looks while the binary reports nothing
LAST_LOOK = 5.0   # how long the end waits for a look that is running
LONGEST = 200     # characters that are shown
ARGUMENT = "_ansible_reversible_progress"
# Transports that run every command in a process of its own. Over ssh only with ControlPersist, so that no look needs a login.
TRANSPORTS = ("ssh", "local")


@contextlib.contextmanager
def watched(action: t.Any, args: dict[str, t.Any], title: str, hidden: Secrets) -> t.Iterator[dict[str, t.Any]]:
    """Shows the progress of the binary until the block ends. The binary must be run with the returned arguments."""
    watch = None
    with contextlib.suppress(Exception):
        if _is_wanted(action, args):
            made = Watch(action, title, hidden)
            made.begin()
            watch = made
    try:
        yield {**args, ARGUMENT: watch.name} if watch else args
    finally:
        if watch:
            watch.end()


def _is_wanted(action: t.Any, args: dict[str, t.Any]) -> bool:
    """Not at -vvv, where core would show these commands among those of the task."""
    quiet = display.verbosity < 3 and not C.DEFAULT_DEBUG
    plain = not args.get("_ansible_check_mode") and not args.get("_ansible_no_log")
    return _every() > 0 and quiet and plain and action._connection.transport in TRANSPORTS


class Watch:
    """A thread that reads the progress again and again."""

    def __init__(self, action: t.Any, title: str, hidden: Secrets) -> None:
        self._connection, self._title, self._secrets = action._connection, title, hidden
        self.name = secrets.token_hex(8)
        self._ended = threading.Event()
        self._telling = threading.Lock()
        self._shown = ""
        self._every = _every()
        self._action = copy.copy(action)
        self._action._connection = copy.copy(action._connection)
        if action._connection.become:
            self._action._connection.set_become_plugin(copy.copy(action._connection.become))
        # core keeps what is about the current task in context variables, which threads do not inherit
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._look_on,), name="watch", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(LAST_LOOK)
        with self._telling:   # from here on nothing is shown any more
            self._shown = ""

    def _look_on(self) -> None:
        pause = self._every
        with contextlib.suppress(Exception):
            while not self._ended.wait(pause):
                began = time.monotonic()
                line = self._read()
                if line is None:
                    return
                # A target that is slow to answer has enough to do.
                least = max(self._every, 10 * (time.monotonic() - began))
                pause = max(least, min(2 * pause, SELDOM)) if not line else least
                self._show(line)

    def _read(self) -> str | None:
        """The reported line, which may be empty; None if it cannot be read."""
        if self._connection.transport == "ssh" and not getattr(self._connection, "_persistent", False):
            return None
        nonce = secrets.token_hex(8)
        done = self._action._low_level_execute_command(progress_script(nonce, self.name), in_data=b"\n")
        answer = read_answer(nonce, done["stdout"])
        return answer.text if answer and answer.word == "progress" else None

    def _show(self, line: str) -> None:
        line = "".join(c if c.isprintable() else "?" for c in self._secrets.hide(line)[:LONGEST])
        with self._telling:
            if line and line != self._shown and not self._ended.is_set():
                self._shown = line
                display.display(f"{self._title}: {line}", color=C.COLOR_VERBOSE, stderr=True)


def _every() -> float:
    try:
        return float(os.environ.get("REVERSIBLE_PROGRESS", EVERY))
    except ValueError:
        return EVERY
