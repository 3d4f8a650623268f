# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For the tests: writes each task's result, and how long it took, as a line of JSON to the file that REVERSIBLE_RECORD names.

And makes the file that REVERSIBLE_STRIKE_FILE names, before any host begins with the first task
of the name in REVERSIBLE_STRIKE."""
from __future__ import annotations

DOCUMENTATION = """
name: recorder
type: notification
short_description: writes results for the tests
description: Writes each task's result as a line of JSON.
"""

import json
import os
import time

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "recorder"

    def __init__(self):
        super().__init__()
        self.started, self.struck = {}, False

    def v2_playbook_on_task_start(self, task, is_conditional):
        if not self.struck and task.get_name().rpartition(" : ")[2] == os.environ.get("REVERSIBLE_STRIKE"):
            self.struck = True
            with open(os.environ["REVERSIBLE_STRIKE_FILE"], "w", encoding="utf-8"):
                pass

    def v2_runner_on_start(self, host, task):
        self.started[host.get_name(), task._uuid] = time.monotonic()

    def record(self, status, result):
        now = time.monotonic()
        # 2.19 and later have public names, and warn of the old ones
        host, task, data = (
            (result.host, result.task, result.result) if hasattr(result, "result") else (result._host, result._task, result._result)
        )
        line = {
            "status": status,
            "host": host.get_name(),
            "task": task.get_name().rpartition(" : ")[2],
            "seconds": now - self.started.get((host.get_name(), task._uuid), now),
            "result": data,
        }
        with open(os.environ["REVERSIBLE_RECORD"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result):
        self.record("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.record("failed", result)

    def v2_runner_on_skipped(self, result):
        self.record("skipped", result)

    def v2_runner_on_unreachable(self, result):
        self.record("unreachable", result)
