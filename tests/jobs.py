#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One piece of work of `make test`: its commands, its log, its counts of tests, and the processor time that it took."""
from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "target" / "test-logs"
DURATION = re.compile(r" *[0-9.]+s (call|setup|teardown) ")   # pytest's list of them stands between a failure and the log's end
# Of the lab's `prepare`, of xtask, of cargo: which of how many is begun, and what was begun last.
PROGRESS = re.compile(r"(?m)^(?:lab: )?(\d+ of \d+: .*|(?:still )?building .*|\s*Compiling \S+)")


class Failed(Exception):
    """A stage found something wrong; the message says what, the log has the rest."""


class Skip(Exception):
    """This machine cannot run that stage; the message says why."""


class Stage(NamedTuple):
    """A piece of work that other tools do: building, linting, packing."""

    name: str
    about: str
    do: Callable[[Job], None]
    needs: tuple[str, ...] = ()
    cargo: bool = False   # one of them at a time: they would only wait for each other's lock
    counts: bool = True   # as a test, where it counts none itself


class Job:
    """One stage's run, or one file of tests: its commands, its log and its counts."""

    crates: tuple[str, ...] = ()   # of which the Rust tests are run; all, when there are none

    def __init__(self, name: str, long: bool = False):
        self.name, self.long = name, long
        self.passed = self.failed = 0
        self.skips: list[str] = []
        self.notes: list[str] = []   # what a person should see of a failure even when the log's end does not show it
        self.path = LOGS / f"{re.sub(r'[^A-Za-z0-9_.-]+', '.', name)[:200]}.log"
        self.started = time.monotonic()
        self.processor = 0.0
        self.took = 0.0
        self.message = ""
        self.process: subprocess.Popen | None = None
        self.sandbox = None   # where it runs, when it does in one
        self.ended = threading.Event()   # told to end: what begins later ends at once
        self.path.write_text("")

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def progress(self, expected: float | None) -> str:
        with self.path.open("rb") as log:
            log.seek(max(0, self.path.stat().st_size - 65536))
            return progress(self.name, self.seconds(), expected, log.read().decode(errors="replace"))

    def write(self, text: str) -> None:
        with self.path.open("a") as log:
            log.write(text + "\n")

    def run(self, *argv, env: dict | None = None, cwd: Path = ROOT, timeout: float = 1800, ok=(0,)) -> str:
        """Run a command into the log and return what it wrote; another exit than `ok` fails the stage."""
        argv = [str(word) for word in argv]
        environment = {**os.environ, "CARGO_TERM_COLOR": "never", **{key: str(value) for key, value in (env or {}).items() if value is not None}}
        for key in (key for key, value in (env or {}).items() if value is None):
            environment.pop(key, None)
        self.write(f"$ {' '.join(argv)}")
        start = self.path.stat().st_size
        with self.path.open("ab") as log:
            try:
                self.process = subprocess.Popen(argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                                stderr=subprocess.STDOUT, start_new_session=True)
            except OSError as error:
                raise Failed(f"{argv[0]}: {error.strerror}") from error
        if self.ended.is_set():
            self.end()
        status = self._wait(self.process, timeout)
        output = self.text_from(start)
        if status is None:
            raise Failed(f"no end within {timeout:g} s: {' '.join(argv)}")
        if status not in ok:
            raise CommandFailed(f"exit {status}: {' '.join(argv)[:200]}", output)
        return output

    def _wait(self, process: subprocess.Popen, timeout: float) -> int | None:
        """How it ended, with its processor time added to ours; nothing when it did not, and was ended."""
        handle = os.pidfd_open(process.pid)
        in_time = bool(select.select([handle], [], [], timeout)[0])
        for how in () if in_time else (signal.SIGTERM, signal.SIGKILL):
            os.killpg(process.pid, how)
            if select.select([handle], [], [], 30)[0]:
                break
        os.close(handle)
        _pid, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.processor += used.ru_utime + used.ru_stime
        return process.returncode if in_time else None

    def evidence(self) -> str:
        """What is said of a failure: what failed, what was expected and seen, the end of the log, and where all of it is."""
        tail = [line for line in self.path.read_text(errors="replace").splitlines() if not DURATION.match(line)][-60:]
        lines = [f"      {line}" for line in [self.message, *self.notes]] + [f"      | {line}" for line in tail]
        lab = self.path.with_suffix(".lab")
        beside = f"; logs of its lab: {lab.relative_to(ROOT)}/" if lab.exists() else ""
        return "\n".join([*lines, f"      log: {self.path.relative_to(ROOT)}{beside}"])

    def text_from(self, start: int) -> str:
        with self.path.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def end(self) -> None:
        """End what runs now, with its children; they share a session of their own."""
        self.ended.set()
        if self.sandbox is not None:
            self.sandbox.end()
        if self.process is not None and self.process.returncode is None:
            try:
                os.killpg(self.process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def tests(self, count: Callable[[Job, str], None], *argv, **options) -> None:
        """Run a test runner; `count` adds what its output says to our counts, also when it failed."""
        try:
            output, failure = self.run(*argv, **options), None
        except CommandFailed as error:
            output, failure = error.output, error
        self.take(count, output, failure)

    def take(self, count: Callable[[Job, str], None], output: str, failure: Exception | None) -> None:
        before = self.passed + self.failed
        count(self, output)
        if failure is not None:
            raise failure
        if self.passed + self.failed == before and not self.skips:
            raise Failed("it ran no test")


def progress(name: str, seconds: float, expected: float | None, log: str) -> str:
    """What a stage is at: for how long, how long it took when that was last written down, and the log's newest line of progress."""
    line = f"{name} {seconds:.0f} s" + (f" of some {expected:.0f}" if expected else "")
    found = PROGRESS.findall(log)
    return f"{line} ({found[-1].strip()})" if found else line


class CommandFailed(Failed):
    def __init__(self, message: str, output: str):
        super().__init__(message)
        self.output = output


def count_cargo(job: Job, output: str) -> None:
    """nextest's summary, or the closing lines of `cargo test`."""
    summary = re.findall(r"(?m)^\s*Summary \[.*?\] .*? run: (.*)$", output)
    for line in summary or re.findall(r"(?m)^test result: \w+\. (.*)$", output):
        found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|ignored|timed out)", line)}
        job.passed += found.get("passed", 0)
        job.failed += found.get("failed", 0) + found.get("timed out", 0)
        job.skips += ["a test that is marked as ignored"] * (found.get("skipped", 0) + found.get("ignored", 0))
    failed = re.findall(r"(?m)^\s+(?:FAIL|TIMEOUT|ABORT|SIG[A-Z]+) +\[.*?\] (?:\(.*?\) )?(.*)$|^test (.*) \.\.\. FAILED$", output)
    job.notes += sorted({f"failed: {nextest or cargo}" for nextest, cargo in failed})


def count_pytest(job: Job, output: str) -> None:
    """pytest's closing line; with -rfEs it also names the failures, and each skip's reason."""
    closing = [line for line in output.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    if not closing:
        return
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)", closing[-1])}
    job.passed += found.get("passed", 0) + found.get("xpassed", 0)
    job.failed += sum(found.get(word, 0) for word in ("failed", "error", "errors"))
    job.notes += re.findall(r"(?m)^(?:FAILED|ERROR) \S+::.*$", output)
    reasons = []
    for number, reason in re.findall(r"(?m)^SKIPPED \[(\d+)\] (.*)$", output):
        reasons += [reason] * int(number)
    missing = found.get("skipped", 0) + found.get("xfailed", 0) - len(reasons)
    job.skips += reasons + ["pytest gave no reason"] * missing


def count_sanity(job: Job, output: str) -> None:
    """ansible-test names each sanity test as it begins, and at the end says how many of them failed."""
    ran = len(re.findall(r"(?m)^Running sanity test", output))
    failed = sum(int(number) for number in re.findall(r"The (\d+) sanity test\(s\) listed below", output))
    job.passed += ran - failed
    job.failed += failed
    job.notes += re.findall(r"(?m)^ERROR: \S+:\d+:\d+: .*$", output)
