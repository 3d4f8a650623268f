# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that only compute are done in the process of the run (ansible_server.py). ansible-core forks for each result of each host, also for
one that is skipped; three of four tasks of a flow are of that kind, and the fork, with the memory that it copies, takes most of their time.

Invariant: the result is that of a fork. A task is done here only while it evaluates its conditions and, if it is one of ONLY_COMPUTES, its
templates, on copies of all that ansible-core changes. As soon as it wants more (any other action, a lookup, to wait), what it has done here is
forgotten, and it is forked as ever.
"""
from __future__ import annotations

import contextlib
import copy
import io
import sys
import types
import typing as t

ONLY_COMPUTES = frozenset(f"ansible.builtin.{name}" for name in ("assert", "debug", "fail", "include_role", "include_tasks", "set_fact",
                                                                 "validate_argument_spec"))
ONLY_READ = frozenset(f"{collection}{name}" for collection in ("", "ansible.builtin.") for name in ("env", "vars", "varnames"))


class NeedsFork(BaseException):
    """Not an Exception: ansible-core makes a failed result of those."""


class Messages:
    """What a worker would send to the run: results, and calls of callbacks."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple, dict]] = []

    def __getattr__(self, name: str) -> t.Callable[..., None]:
        if not name.startswith("send_"):
            raise NeedsFork(name)
        return lambda *args, **named: self.sent.append((name, args, named))


class Instead:
    """A module or an object, with other values for some of its names."""

    def __init__(self, of: t.Any, **values: t.Any) -> None:
        self._of = of
        vars(self).update(values)

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._of, name)


def install() -> None:
    """From now on, in this process and its children."""
    from ansible.executor.process import worker as module
    from ansible.playbook.task import Task
    from ansible.plugins.loader import lookup_loader

    is_inline = False
    fork, validate, look_up = module.WorkerProcess.start, Task.post_validate, lookup_loader.get

    def start(self: t.Any) -> None:
        nonlocal is_inline
        task = self._task
        if task.retries is not None or task.until or task.async_val or task.timeout or (task.loop_control and task.loop_control.pause):
            return fork(self)
        messages = Messages()
        is_inline = True
        try:
            run(module, self, messages)
            is_done = True
        except (NeedsFork, Exception):   # what fails here fails in a worker as well, which then says so
            is_done = False
        finally:
            is_inline = False
        if not is_done:
            return fork(self)
        for name, args, named in messages.sent:
            getattr(self._final_q, name)(*args, **named)
        return None

    def validated(self: t.Any, *args: t.Any, **named: t.Any) -> t.Any:
        """Called once it is known that the task is not skipped."""
        if is_inline and self.action not in ONLY_COMPUTES:
            raise NeedsFork(self.action)
        return validate(self, *args, **named)

    def looked_up(name: str, *args: t.Any, **named: t.Any) -> t.Any:
        if is_inline and name not in ONLY_READ:
            raise NeedsFork(name)
        return look_up(name, *args, **named)

    module.WorkerProcess.start, Task.post_validate, lookup_loader.get = start, validated, looked_up


def run(module: types.ModuleType, worker: t.Any, messages: Messages) -> None:
    """What a worker does once it is a process. It changes the task, the variables and the host that it was given."""
    twin = copy.copy(worker)
    twin._task = worker._task.copy(exclude_parent=True, exclude_tasks=True)
    twin._task._parent = worker._task._parent   # which no worker changes: the items of a loop share it
    twin._task_vars, twin._host, twin._play_context = dict(worker._task_vars), copy.copy(worker._host), worker._play_context.copy()
    twin._final_q, twin._new_stdin = messages, None
    contexts = getattr(getattr(module, "_task", None), "TaskContext", None)
    if contexts is None:
        context: t.Any = contextlib.nullcontext()
    elif hasattr(contexts, "create"):
        context = contexts.create(task=twin._task, task_vars=twin._task_vars, host_name=twin._host.name)
    else:
        context = contexts(twin._task)
    # A worker makes what is displayed a message, and looks whether anything was printed.
    before = {name: getattr(module, name) for name in ("display", "sys")}
    module.display = Instead(module.display, set_queue=lambda queue: None)
    module.sys = Instead(sys, stdout=io.StringIO(), stderr=io.StringIO())
    try:
        with context:
            twin._run()
    finally:
        vars(module).update(before, current_worker=None)
