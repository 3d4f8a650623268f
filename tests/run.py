#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make test`: runs the stages of stages.py and says in its last line how many tests passed, failed and were skipped.

Lanes run side by side: one that cargo keeps busy, one of Python tools and of the documentation, and five of tests, which mostly wait: with
Docker, with ZFS, of the playbooks, on this machine itself, and on machines reached by ssh. Each stage has a log of its own. Invariant: nothing
is left out without being counted and named.
"""
from __future__ import annotations

import argparse
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "target" / "test-logs"
LAB_BESIDE = "/run/reversible-lab-"   # with a name: whoever tests holds a lab for himself
HEARTBEAT = 60   # seconds between signs of life where there is no terminal
DURATION = re.compile(r" *[0-9.]+s (call|setup|teardown) ")   # pytest's list of them stands between a failure and the log's end


_held: list = []
_holding = threading.Lock()
labs: set[str] = set()   # which of them this run has used


class Failed(Exception):
    """A stage found something wrong; the message says what, the log has the rest."""


class Skip(Exception):
    """This machine cannot run that stage; the message says why."""


class Job:
    """One stage's run: its commands, its log and its counts."""

    def __init__(self, name: str, long: bool):
        self.name, self.long = name, long
        self.passed = self.failed = 0
        self.skips: list[str] = []
        self.notes: list[str] = []   # what a person should see of a failure even when the log's end does not show it
        self.path = LOGS / f"{name}.log"
        self.started = time.monotonic()
        self.process: subprocess.Popen | None = None
        self.path.write_text("")

    def seconds(self) -> float:
        return time.monotonic() - self.started

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
            try:
                status = self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.end()
                raise Failed(f"no end within {timeout:g} s: {' '.join(argv)}") from None
        with self.path.open("rb") as log:
            log.seek(start)
            output = log.read().decode(errors="replace")
        if status not in ok:
            raise CommandFailed(f"exit {status}: {' '.join(argv)[:200]}", output)
        return output

    def end(self) -> None:
        """End what runs now, with its children; they share a session of their own."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def tests(self, count, *argv, **options) -> None:
        """Run a test runner; `count` adds what its output says to our counts, also when it failed."""
        try:
            output, failure = self.run(*argv, **options), None
        except CommandFailed as error:
            output, failure = error.output, error
        before = self.passed + self.failed
        count(self, output)
        if failure is not None:
            raise failure
        if self.passed + self.failed == before and not self.skips:
            raise Failed("it ran no test")


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


class Runner:
    def __init__(self, stages: list, long: bool):
        self.stages, self.long = stages, long
        self.jobs: dict[str, Job] = {}
        self.outcomes: dict[str, str] = {}
        self.changed = threading.Condition()
        self.stopping = False
        self.live = sys.stdout.isatty()

    def run(self) -> None:
        lanes = sorted({stage.lane for stage in self.stages})
        threads = [threading.Thread(target=self.lane, args=(lane,), daemon=True) for lane in lanes]
        try:
            for thread in threads:
                thread.start()
            self.watch(threads)
        except KeyboardInterrupt:
            self.stopping = True
            for job in list(self.jobs.values()):
                job.end()
            raise

    def lane(self, lane: str) -> None:
        for stage in self.stages:
            if stage.lane == lane:
                with self.changed:
                    waited = [name for name in stage.needs + stage.after if any(name == other.name for other in self.stages)]
                    self.changed.wait_for(lambda: all(name in self.outcomes for name in waited))
                if not self.stopping:
                    self.one(stage)

    def one(self, stage) -> None:
        self.jobs[stage.name] = job = Job(stage.name, self.long)
        message = ""
        try:
            for need in stage.needs:
                if self.outcomes.get(need, "ok") != "ok":
                    raise Skip(f"it needs the stage {need}, which did not pass")
            stage.do(job)
            outcome = "FAIL" if job.failed else "ok"
            if stage.counts and not (job.passed or job.failed or job.skips):
                job.passed = 1
        except Skip as skip:
            outcome = "skip"
            job.skips.append(str(skip))
        except Exception as error:   # a fault of a stage itself must not end the lane
            outcome, message = "FAIL", f"{error}" if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            job.failed = max(job.failed, 1)
        counts = ", ".join(f"{number} {word}" for number, word in
                           ((job.passed, "passed"), (job.failed, "failed"), (len(job.skips), "skipped")) if number)
        with self.changed:
            self.say(f"{outcome:4}  {stage.name:20} {job.seconds():6.0f} s  {counts}")
            if outcome == "FAIL":
                tail = [line for line in job.path.read_text(errors="replace").splitlines() if not DURATION.match(line)][-60:]
                self.say("\n".join([*(f"      {line}" for line in [message, *job.notes]), *(f"      | {line}" for line in tail), f"      log: {job.path.relative_to(ROOT)}"]))
            self.outcomes[stage.name] = outcome
            self.changed.notify_all()

    def watch(self, threads: list) -> None:
        """One line of what runs now, rewritten on a terminal, and repeated now and then elsewhere."""
        last = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            running = [f"{name} {job.seconds():.0f} s" for name, job in list(self.jobs.items()) if name not in self.outcomes]
            with self.changed:
                if self.live:
                    print(f"\r\x1b[K      {', '.join(running)}"[:110], end="", flush=True)
                elif time.monotonic() - last > HEARTBEAT:
                    last = time.monotonic()
                    print(f"      running: {', '.join(running)}", flush=True)

    def say(self, text: str) -> None:
        print(("\r\x1b[K" if self.live else "") + text, flush=True)

    def close(self) -> int:
        passed, failed = (sum(getattr(job, kind) for job in self.jobs.values()) for kind in ("passed", "failed"))
        skips = [(name, reason) for name, job in self.jobs.items() for reason in job.skips]
        if skips:
            print("\nskipped:")
            for name, reason in skips:
                print(f"  {name}: {reason}")
        print(f"\n{passed} passed, {failed} failed, {len(skips)} skipped", flush=True)
        return 1 if failed or not passed else 0


def chosen(stages: list, only: str) -> list:
    """One stage, or those whose names begin so, with what they need."""
    names = [stage.name for stage in stages if stage.name == only] or [s.name for s in stages if s.name.startswith(only)]
    if not names:
        sys.exit(f"no stage is called {only}; there are: {' '.join(stage.name for stage in stages)}")
    known = {stage.name: stage for stage in stages}
    for name in names:
        names += [need for need in known[name].needs if need not in names]
    return [stage for stage in stages if stage.name in names]


def systems_up() -> set[str]:
    """What runs of the lab: what a person has brought up stays up, what the tests did goes down with them."""
    lines = subprocess.run([ROOT / "tests/lab/lab", "status"], stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()
    return {line.split()[0] for line in lines if line.split()[1:2] == ["up"]}


def hold_labs() -> None:
    """For this run alone, as long as it lives: it brings them down at its end."""
    with _holding:
        if not _held:
            file = open(f"{LAB_BESIDE}lock", "w")   # noqa: SIM115 (held until this process ends)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failed("another `make test` runs on this machine and uses its lab: begin again when it has ended") from None
            _held.append(file)


def main() -> int:
    from stages import STAGES, needs, prepare
    parser = argparse.ArgumentParser(prog="make test", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="STAGE", help="this stage, or those that begin so, with what they need")
    parser.add_argument("--long", action="store_true", help="wider: every ansible-core in full, long fuzzing")
    parser.add_argument("--list", action="store_true", help="list the stages")
    asked = parser.parse_args()
    if asked.list:
        for stage in STAGES:
            print(f"{stage.name:20} {stage.about}")
        return 0
    stages = chosen(STAGES, asked.only) if asked.only else STAGES
    LOGS.mkdir(parents=True, exist_ok=True)
    print(needs(), flush=True)
    prepare()
    runner = Runner(stages, asked.long)
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with_lab = any(stage.lane == "targets" for stage in stages)
    up_before = systems_up() if with_lab else set()
    try:
        runner.run()
    finally:
        for name in sorted(systems_up() - up_before) if with_lab and _held else ():   # else they are another run's
            subprocess.run([ROOT / "tests/lab/lab", "down", name], check=False)
        for name in sorted(labs):
            subprocess.run([ROOT / "tests/lab/lab", "down"], env={**os.environ, "REVERSIBLE_LAB": LAB_BESIDE + name}, check=False)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes; logs in {LOGS.relative_to(ROOT)}/")
    return runner.close()


if __name__ == "__main__":
    sys.modules["run"] = sys.modules["__main__"]   # stages.py uses what is defined here
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nmake test: interrupted")
