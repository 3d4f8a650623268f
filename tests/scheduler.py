# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who does what next: a few workers take stages and files of tests from one queue, what takes longest first.

A file of tests runs in its worker's sandbox. What a kind of test shares is expensive to bring up (an emulated machine, an engine), so the
files of such a kind are one worker's. Invariant: what a test can see of another worker is the machine's load, and nothing else.
"""
from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from jobs import LOGS, ROOT, Failed, Job, Skip, Stage, count_pytest
from sandbox import LAB, Sandbox
from uses import Copy, told

HEARTBEAT = 60   # seconds between signs of life where there is no terminal
UNKNOWN = 60.0   # seconds that something may take which nobody has measured yet
FIRST = 1e6   # before everything else: most of the rest waits for it


class Kind(NamedTuple):
    """A folder of tests, by what they need."""

    about: str
    systems: tuple[str, ...] = ()   # of the lab, which stay up until its last file
    one_worker: bool = False


KINDS = {
    "machine": Kind("what needs no other system than this machine"),
    "haproxy": Kind("HAProxy of each version, the edge, systemd", ("systemd",)),
    "ssh": Kind("targets that are reached by ssh, the fast path", ("ssh", "bare", "bare-aarch64")),
    "docker": Kind("a Docker engine with Compose", ("docker",)),
    "zfs": Kind("OpenZFS in an emulated machine", ("zfs",), one_worker=True),
    "incus": Kind("an Incus with a bridge and a pool", ("incus",), one_worker=True),
    "postgres": Kind("a cluster of PostgreSQL", ("postgres",)),
    "kube": Kind("a Kubernetes API server with its controllers", ("kubernetes",)),
    "flows": Kind("the playbooks behind a real HAProxy"),
}


class Tests(NamedTuple):
    """A file of tests, or what was chosen of it."""

    name: str   # its path in tests/, or a test's id
    paths: tuple[str, ...]
    kind: str
    needs: tuple[str, ...]
    env: dict[str, str]
    command: tuple[str, ...] = ()   # in place of pytest
    stressed: bool = False   # on a machine that is made slow


class Runner:
    def __init__(self, work: list[Stage | Tests], long: bool, seconds: dict[str, float], setting):
        """`setting(job)` gives pytest's path and the environment of every test, once what they need is there."""
        self.work, self.long, self.expected, self.setting = work, long, seconds, setting
        self.waiting = sorted(work, key=lambda one: -self.weight(one))
        self.jobs: dict[str, Job] = {}
        self.outcomes: dict[str, str] = {}
        self.owners: dict[str, int] = {}   # which worker has a kind's files
        self.sandboxes: dict[int, Sandbox] = {}
        self.copies: dict[tuple[Path, str], Copy] = {}
        self.uses: dict[str, set[str]] = {}
        self.left: list[str] = []   # of sandboxes that have ended
        self.changed = threading.Condition()
        self.stopping = False
        self.live = sys.stdout.isatty()

    def weight(self, one: Stage | Tests) -> float:
        """What is waited for by others goes first; then what takes longest, with all that only the same worker may do."""
        if any(one.name in other.needs for other in self.work):
            return FIRST + self.expected.get(one.name, UNKNOWN)
        if isinstance(one, Tests) and KINDS[one.kind].one_worker:
            return sum(self.expected.get(other.name, UNKNOWN) for other in self.work if isinstance(other, Tests) and other.kind == one.kind)
        return self.expected.get(one.name, UNKNOWN)

    def run(self, workers: int) -> None:
        threads = [threading.Thread(target=self.worker, args=(number,), daemon=True) for number in range(workers)]
        try:
            for thread in threads:
                thread.start()
            self.watch(threads)
        except KeyboardInterrupt:
            self.stopping = True
            with self.changed:
                self.changed.notify_all()
            for job in list(self.jobs.values()):
                job.end()
            for thread in threads:
                thread.join(60)
            raise

    def worker(self, number: int) -> None:
        try:
            while (one := self.next(number)) is not None:
                if isinstance(one, Stage):
                    self.do(one, one.do)
                else:
                    self.do(one, lambda job, one=one: self.test(job, one, number))
        finally:
            if number in self.sandboxes:
                self.left += self.sandboxes[number].close()

    def sandbox(self, number: int) -> Sandbox:
        """The worker's own; a new one where the last was ended with a test that did not end."""
        here = self.sandboxes.get(number)
        if here is not None and not here.alive:
            self.left += here.close()
        if here is None or not here.alive:
            self.sandboxes[number] = Sandbox()
        return self.sandboxes[number]

    def next(self, number: int) -> Stage | Tests | None:
        """What this worker does now; waits while all that is left waits for something. None when nothing is left."""
        with self.changed:
            while self.waiting and not self.stopping:
                one = next((one for one in self.waiting if self.may(one, number)), None)
                if one is not None:
                    self.waiting.remove(one)
                    if isinstance(one, Tests) and KINDS[one.kind].one_worker:
                        self.owners[one.kind] = number
                    self.jobs[one.name] = Job(one.name, self.long)
                    return one
                self.changed.wait()
        return None

    def may(self, one: Stage | Tests, number: int) -> bool:
        known = {each.name for each in self.work}
        if any(need in known and need not in self.outcomes for need in one.needs):
            return False
        if isinstance(one, Stage):
            return not (one.cargo and any(isinstance(other, Stage) and other.cargo and self.runs(other.name) for other in self.work))
        return self.owners.get(one.kind, number) == number

    def runs(self, name: str) -> bool:
        return name in self.jobs and name not in self.outcomes

    def test(self, job: Job, one: Tests, number: int) -> None:
        """A file of tests; after the last of its kind, what those shared goes down: an idle machine would still take the processor."""
        pytest, env = self.setting(job)
        sandbox = self.sandbox(number)
        options = ["-rfEs", "--color", "no", "-p", "no:cacheprovider", "--durations", "15", "--durations-min", "1"]
        argv = [*(one.command or (str(pytest), *options)), *one.paths]
        if one.stressed:
            argv = [str(ROOT / "tests/stress.py"), *argv]
        job.write(f"$ {' '.join(argv)}")
        job.sandbox = sandbox
        start = job.path.stat().st_size
        env = {**env, **one.env}
        copy = self.copy(sandbox, env["REVERSIBLE_STAGED"])
        said = sandbox.place / "uses"
        said.unlink(missing_ok=True)   # by the tests before: not all say anything
        env |= {"REVERSIBLE_STAGED": str(copy.path), "REVERSIBLE_USES": str(said)}
        copy.begin()
        status, job.processor = sandbox.run(argv, env, job.path, 7200 if self.long else 2400, job.path.with_suffix(".lab"))
        self.uses[one.name] = copy.used() | told(said)
        output = job.text_from(start)
        left = any(isinstance(other, Tests) and other.kind == one.kind for other in self.waiting)
        if KINDS[one.kind].one_worker and not left and sandbox.alive:
            sandbox.run([LAB, "down", *KINDS[one.kind].systems], {}, Path(os.devnull), 120)
        if status is None:
            raise Failed("it did not end in time, or was ended")
        failure = Failed(f"exit {status}") if status else None
        if not one.command:
            job.take(count_pytest, output, failure)
        elif failure:
            raise failure
        else:
            job.passed = 1
            job.skips += re.findall(r"(?m)^LEFT OUT: (.*)$", output)

    def copy(self, sandbox: Sandbox, staged: str) -> Copy:
        """The sandbox's own copy of a collection."""
        key = (sandbox.place, staged)
        if key not in self.copies:
            self.copies[key] = Copy(Path(staged), sandbox.place)
        return self.copies[key]

    def do(self, one: Stage | Tests, what) -> None:
        job, counts = self.jobs[one.name], isinstance(one, Tests) or one.counts
        try:
            for need in one.needs:
                if self.outcomes.get(need, "ok") != "ok":
                    raise Skip(f"it needs the stage {need}, which did not pass")
            what(job)
            outcome = "FAIL" if job.failed else "ok"
            if counts and not (job.passed or job.failed or job.skips):
                job.passed = 1
        except Skip as skip:
            outcome = "skip"
            job.skips.append(str(skip))
        except Exception as error:   # a fault of a stage itself must not end the worker
            outcome, job.message = "FAIL", f"{error}" if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            job.failed = max(job.failed, 1)
        job.took = job.seconds()
        with self.changed:
            self.say(f"{outcome:4}  {one.name:52} {job.took:5.0f} s  {job.processor:5.0f} s of processor  {counted(job)}")
            if outcome == "FAIL":
                self.say(job.evidence())
            self.outcomes[one.name] = outcome
            self.changed.notify_all()

    def watch(self, threads: list) -> None:
        """One line of what runs now, rewritten on a terminal, and repeated now and then elsewhere."""
        last = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            with self.changed:
                running = [job.progress(self.expected.get(name)) for name, job in list(self.jobs.items()) if name not in self.outcomes]
                done = f"{len(self.outcomes)} of {len(self.work)} done"
                if self.live:
                    print(f"\r\x1b[K      {done}; {', '.join(running)}"[:shutil.get_terminal_size((110, 24)).columns], end="", flush=True)
                elif time.monotonic() - last > HEARTBEAT:
                    last = time.monotonic()
                    print(f"      {done}; running: {', '.join(running)}; logs in {LOGS.relative_to(ROOT)}/", flush=True)

    def say(self, text: str) -> None:
        print(("\r\x1b[K" if self.live else "") + text, flush=True)

    def close(self) -> int:
        passed, failed = (sum(getattr(job, kind) for job in self.jobs.values()) for kind in ("passed", "failed"))
        for path in self.left:
            print(f"left behind by the tests: {path}")
        failed += len(self.left)
        skips = [(name, reason) for name, job in self.jobs.items() for reason in job.skips]
        if skips:
            print("\nskipped:")
            for name, reason in skips:
                print(f"  {name}: {reason}")
        print(f"\n{passed} passed, {failed} failed, {len(skips)} skipped", flush=True)
        return 1 if failed or not passed else 0


def counted(job: Job) -> str:
    return ", ".join(f"{number} {word}" for number, word in
                     ((job.passed, "passed"), (job.failed, "failed"), (len(job.skips), "skipped")) if number)


def files_of_tests(folders: tuple[str, ...] = ("integration", "faults")) -> list[tuple[str, str]]:
    """The path in tests/ of each file of tests, and its kind."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / "tests" / folder).glob("*/test_*.py")):
            found.append((str(path.relative_to(ROOT / "tests")), path.parent.name))
    unknown = {kind for _path, kind in found} - set(KINDS)
    if unknown:
        sys.exit(f"tests/scheduler.py knows no kind of tests called {', '.join(sorted(unknown))}")
    return found
