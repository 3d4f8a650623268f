# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-playbook prints of a run: phases with their times, what changed on which host, and each failure once, as text.

Invariant: no failure and no warning is left out, and nothing is shown that Ansible's default callback would not show. What is left out are tasks that
changed nothing, skipped tasks and banners; with -v all is printed by the default callback itself.
"""
from __future__ import annotations

DOCUMENTATION = """
name: story
type: stdout
short_description: Print the phases and changes of a deploy instead of a list of tasks
version_added: 0.1.0
author:
  - The reversible.deploy authors (!UNKNOWN)
description:
  - Prints the phases of a run with their times, one line for each task that changed something on a host, what playbooks say, and each failure once, as text
    with its host, its cause and what to do.
  - Leaves out tasks that changed nothing, skipped tasks, and from the recap the two hosts that stand for a run of this collection's playbooks. A run that has
    failed on these is named all the same.
  - With C(-v) everything is printed as by P(ansible.builtin.default#callback).
  - No failure and no warning is left out. A failure that is not of this collection's modules may have more to it than its message; C(-v) shows all of it.
requirements:
  - set as stdout callback in the configuration
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

EXAMPLES = """
ansible.cfg: |
  [defaults]
  stdout_callback = reversible.deploy.story
"""

import copy
import re
import time
import typing as t

from ansible import constants as C
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.callback.default import CallbackModule as Default

# The two hosts that stand for a run: `whole_run` refuses an inventory that has such names.
STANDS_FOR_A_RUN = re.compile(r"(?:deploy|way-back)@(.+)")
# What tells more about a failure than its message, in this order.
EVIDENCE = ("reason", "cmd", "rc", "stdout", "stderr", "module_stdout", "module_stderr", "censored")
WORTH_SHOWING = 1.0   # seconds that a task takes
# Before ansible-core 2.19 the result of a loop has the warnings of its items, and those of a skipped task are not shown.
WARNS_OF_EACH = hasattr(Default, "_handle_warnings_and_exception")


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "reversible.deploy.story"

    def __init__(self) -> None:
        super().__init__()
        self._begun = self._phase_begun = time.monotonic()
        self._phases: list[tuple[str, float]] = []
        self._phase = ""
        self._announced = False   # a phase in which there is nothing to show has no heading
        self._since: dict[tuple[str, str], float] = {}
        self._shown_at: dict[str, str] = {}   # where each message of a failure stands, and all that was shown of one
        self._warned: set[str] = set()

    def _as_default(self) -> bool:
        return self._display.verbosity > 0

    # ---------------------------------------------------------------- phases

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        if self._as_default():
            return super().v2_playbook_on_play_start(play)
        self._play = play
        self._end_phase()
        self._phase, self._announced = play.get_name().strip() or "(a play without a name)", False

    def _end_phase(self) -> None:
        now = time.monotonic()
        if self._phase:
            self._phases.append((self._phase, now - self._phase_begun))
        self._phase_begun = now

    def _say(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        """A line of the story; the first of a phase has its heading before it."""
        if not self._announced and self._phase:
            self._announced = True
            offset = self._phase_begun - self._begun
            self._display.display(f"\n{_clock(offset)}  {self._phase}", color=C.COLOR_HIGHLIGHT)
        self._display.display(text, color=color, stderr=stderr)

    def _task_start(self, task: t.Any, prefix: str | None = None) -> None:
        if self._as_default():
            super()._task_start(task, prefix)

    def _print_task_banner(self, task: t.Any) -> None:
        """Of what only the default callback prints, such as differences."""
        if self._as_default():
            return super()._print_task_banner(task)
        self._last_task_banner = task._uuid
        self._say(f"       {task.get_name().strip()}:")

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        super().v2_runner_on_start(host, task)
        self._since[host.get_name(), task._uuid] = time.monotonic()

    def _took(self, result: t.Any) -> str:
        host, task, _data = _parts(result)
        seconds = time.monotonic() - self._since.get((host.get_name(), task._uuid), time.monotonic())
        return f" ({_span(seconds)})" if seconds >= WORTH_SHOWING else ""

    # ---------------------------------------------------------------- what went well

    def v2_runner_on_ok(self, result: t.Any) -> None:
        if self._as_default():
            return super().v2_runner_on_ok(result)
        _host, task, data = _parts(result)
        self._warn(result)
        changed, items = bool(data.get("changed")), data.get("results") if task.loop else None
        if changed:
            word = "would change" if task.check_mode is True else "changed"
            number = sum(bool(item.get("changed")) for item in items if isinstance(item, dict)) if isinstance(items, list) else 0
            count = f", {number} of {len(items)}" if number else ""
            self._say(f"       {word}: {self.host_label(result)}: {_name(result)}{count}{self._took(result)}", color=C.COLOR_CHANGED)
        if items is None and self._run_is_verbose(result):
            self._say_text(result)

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        if self._as_default():
            return super().v2_runner_item_on_ok(result)
        if WARNS_OF_EACH:
            self._warn(result)
        if self._run_is_verbose(result):
            self._say_text(result)

    def _say_text(self, result: t.Any) -> None:
        """What a playbook says by ansible.builtin.debug or another task that always shows its result."""
        _host, task, data = _parts(result)
        self._clean_results(data, task.action)
        message = data.get("msg")
        beside = {"msg", "changed", "failed", "ansible_loop_var", data.get("ansible_loop_var", "item")}
        only = not [key for key in data if not key.startswith("_ansible_") and key not in beside]
        if only and message is not None and not isinstance(message, dict):
            text = "\n".join(to_text(line) for line in message) if isinstance(message, (list, tuple)) else to_text(message)
        else:
            text = self._dump_results(data)
        stands = STANDS_FOR_A_RUN.fullmatch(self.host_label(result))
        self._say(_indented(text if stands else f"{self.host_label(result)}: {text}"), color=C.COLOR_OK)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        if self._as_default():
            return super().v2_runner_on_skipped(result)
        if WARNS_OF_EACH:
            self._warn(result)

    def v2_runner_item_on_skipped(self, result: t.Any) -> None:
        if self._as_default():
            return super().v2_runner_item_on_skipped(result)
        if WARNS_OF_EACH:
            self._warn(result)

    def v2_playbook_on_include(self, included_file: t.Any) -> None:
        if self._as_default():
            super().v2_playbook_on_include(included_file)

    # ---------------------------------------------------------------- what failed

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        if self._as_default():
            return super().v2_runner_on_failed(result, ignore_errors)
        _host, task, data = _parts(result)
        self._warn(result)
        if task.loop and data.get("results"):   # each item has shown its own
            self._say(f"       FAILED: {self.host_label(result)}: {_name(result)}: see its items above", color=C.COLOR_ERROR, stderr=self._to_stderr())
        else:
            self._show_failure("FAILED", result, _name(result))
        if ignore_errors:
            self._say("       ... ignored, as its task says", color=C.COLOR_SKIP)

    def v2_runner_item_on_failed(self, result: t.Any) -> None:
        if self._as_default():
            return super().v2_runner_item_on_failed(result)
        self._warn(result)
        self._show_failure("FAILED", result, f"{_name(result)} (item={self._get_item_label(_parts(result)[2])})")

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        if self._as_default():
            return super().v2_runner_on_unreachable(result)
        self._warn(result)
        self._show_failure("UNREACHABLE", result, _name(result))
        if _parts(result)[1].ignore_unreachable:
            self._say("       ... ignored, as its task says", color=C.COLOR_SKIP)

    def _show_failure(self, word: str, result: t.Any, name: str) -> None:
        data, where = _parts(result)[2], f"{self.host_label(result)}: {name}"
        message = "\n".join(map(to_text, data["msg"])) if isinstance(data.get("msg"), (list, tuple)) else to_text(data.get("msg") or "")
        lines = [message] if message else []
        lines += [f"{key}: {_plain(data[key])}" for key in EVIDENCE if data.get(key) not in (None, "", [])]
        traceback = to_text(data.get("exception") or "").strip().splitlines()
        if traceback and traceback[-1] not in "\n".join(lines) and not traceback[-1].startswith("(traceback unavailable"):
            lines.append(f"exception: {traceback[-1]} (-vvv shows all of it)")
        text = "\n".join(lines) if lines else self._dump_results(data)
        before = where if "censored" in data else self._shown_at.setdefault(text, where)
        if message and text != message:   # what gives a failure on has its message alone
            self._shown_at[message] = before
        self._say(f"\n{word}: {where}{self._took(result)}", color=C.COLOR_ERROR, stderr=self._to_stderr())
        # An earlier host, or the same error once more when a play gives it on: where it stands is enough.
        self._say(_indented(f"the same as on {before}" if before != where else text), color=C.COLOR_ERROR, stderr=self._to_stderr())

    def _warn(self, result: t.Any) -> None:
        """As the default callback, which shows each warning once, after the host and the task. An exception stands once, with its failure."""
        data = _parts(result)[2]
        warnings = {repr(one) for one in [*(data.get("warnings") or []), *(data.get("deprecations") or [])]}
        if C.ACTION_WARNINGS and warnings - self._warned:
            self._warned |= warnings
            self._say(f"       warned: {self.host_label(result)}: {_name(result)}", color=C.COLOR_WARN)
        self._handle_warnings(data)

    def _to_stderr(self) -> bool:
        return bool(self.get_option("display_failed_stderr"))

    # ---------------------------------------------------------------- the end

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        if self._as_default():
            return super().v2_playbook_on_stats(stats)
        self._end_phase()
        self._display.display("")
        for name, seconds in self._phases:
            if seconds >= WORTH_SHOWING:
                self._display.display(f"{_span(seconds):>10}  {name}")
        self._display.display(f"{_span(time.monotonic() - self._begun):>10}  in all")
        shown, failed = copy.copy(stats), set()
        shown.processed = {host: number for host, number in stats.processed.items() if not STANDS_FOR_A_RUN.fullmatch(host)}
        for host in set(stats.processed) - set(shown.processed):
            counts = stats.summarize(host)
            if counts["failures"] or counts["unreachable"]:
                failed.add(STANDS_FOR_A_RUN.fullmatch(host)[1])
        super().v2_playbook_on_stats(shown)
        for run in sorted(failed):
            self._display.display(f"The run of {run} FAILED: see above.", color=C.COLOR_ERROR)


def _parts(result: t.Any) -> tuple[t.Any, t.Any, dict[str, t.Any]]:
    """Host, task and data of a result. ansible-core 2.19 and newer have public names for them."""
    if hasattr(result, "result"):
        return result.host, result.task, result.result
    return result._host, result._task, result._result


def _name(result: t.Any) -> str:
    return to_text(result.task_name or _parts(result)[1].get_name()).strip().rpartition(" : ")[2]


def _plain(value: t.Any) -> str:
    text = " ".join(to_text(word) for word in value) if isinstance(value, (list, tuple)) else to_text(value).rstrip()
    return f"\n{_indented(text, 2)}" if "\n" in text else text


def _indented(text: str, by: int = 7) -> str:
    return "\n".join(" " * by + line if line else "" for line in text.split("\n"))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:>2}:{int(seconds) % 60:02}"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02} s"
