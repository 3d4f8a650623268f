# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of ansible-playbook or ansible: while it goes on, and what it leaves."""
from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import typing as t
from pathlib import Path

from ansible_forks import ForkedProcess


@dataclasses.dataclass
class Task:
    """The result of one task on one host."""

    status: str  # ok, failed, skipped, unreachable
    host: str
    task: str
    seconds: float
    result: dict[str, t.Any]

    def __getitem__(self, key: str) -> t.Any:
        return self.result[key]

    @property
    def msg(self) -> str:
        return str(self.result.get("msg"))


@dataclasses.dataclass
class Run:
    """One run of ansible-playbook or ansible."""

    code: int
    output: str
    tasks: list[Task]

    def named(self, name: str) -> Task:
        found = [task for task in self.tasks if task.task == name]
        assert len(found) == 1, f"{len(found)} results for {name!r}:\n{self.output}"
        return found[0]

    @property
    def only(self) -> Task:
        assert len(self.tasks) == 1, f"{len(self.tasks)} results:\n{self.output}"
        return self.tasks[0]

    @property
    def trips(self) -> int:
        """How often the target was asked to do something (at -vvv)."""
        return len(re.findall(r"^<.*?> (?:SSH: )?EXEC |^<.*?> PUT ", self.output, re.MULTILINE))

    @property
    def reason(self) -> str:
        """Why the ordinary way was taken (at -vv), or nothing."""
        match = re.search(r"taking the ordinary way: (.*)", self.output)
        return match[1] if match else ""


@dataclasses.dataclass
class Running:
    """A run that goes on while the test does something."""

    process: subprocess.Popen | ForkedProcess
    output: t.TextIO
    record: Path

    def wait(self, seconds: float = 300) -> Run:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            raise
        finally:
            self.output.seek(0)
            text = self.output.read()
            self.output.close()
        lines = self.record.read_text(encoding="utf-8").splitlines() if self.record.exists() else []
        return Run(self.process.returncode, text, [Task(**json.loads(line)) for line in lines])
