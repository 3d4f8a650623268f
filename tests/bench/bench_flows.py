#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the playbooks take, and what their users notice: a shop of three components, deployed and taken back under load.

In one run, so that ratios can be believed where milliseconds cannot: an empty ansible-playbook beside `rollback.yml mode=fast`; deploy_app
beside the same flow by builtin modules (tests/bench/baseline), turn by turn; and a deploy whose probe from outside fails. Processor time (of
Ansible and all that it starts and waits for) stands beside the clock: on a machine that others keep busy it is the better judge, and is then
the one that is taken.

The goals (exit status 1 where one is missed): a fast rollback at most 3 x an empty run and under 3 s; traffic on the old colour within 1 s of
its first task; a deploy at least 3 x faster than the baseline; a failed one back on the old colour within 2 s of the failing probe; no request
fails in any.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from flows import Shop  # noqa: E402  pylint: disable=wrong-import-position
from harness import CORES, Ansible, Run, Running  # noqa: E402  pylint: disable=wrong-import-position
from releases import TOKEN, folder, member, sha, tar, zstd  # noqa: E402  pylint: disable=wrong-import-position

COMPONENTS = ("web", "backend", "stream")
BASELINE = Path(__file__).resolve().parent / "baseline/deploy.yml"
MOST_OF_EMPTY, MOST_ROLLBACK, MOST_UNTIL_BACK, LEAST_OF_BASELINE, MOST_AFTER_PROBE = 3.0, 3.0, 1.0, 3.0, 2.0
# Starts and serves, but its health page is elsewhere: only a probe from outside finds it.
FORGETFUL = '#!/bin/sh\nexec "${0%/*}/web" "$@" --health /healthz\n'


@dataclasses.dataclass
class Took:
    """One run: seconds on the clock and of the processor, and when each of its tasks was seen to end (CLOCK_MONOTONIC, ns)."""

    run: Run
    clock: float
    work: float
    ends: list[tuple[int, str, str]]  # ns, task, status

    def first_began(self) -> int:
        """When the first task began."""
        return self.ends[0][0] - int(self.run.tasks[0].seconds * 1e9)

    def ended(self, name: str) -> int:
        return next(at for at, task, _status in self.ends if task == name)


def timed(start: t.Callable[[], Running]) -> Took:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    running, ends = start(), []
    while True:
        over = running.process.poll() is not None
        text = running.record.read_text(encoding="utf-8") if running.record.exists() else ""
        lines = text[:text.rfind("\n") + 1].splitlines()   # the last one may still be on its way
        now = time.monotonic_ns()
        ends += [(now, task["task"], task["status"]) for task in map(json.loads, lines[len(ends):])]
        if over:
            break
        time.sleep(0.005)
    clock = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(running.wait(), clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ends)


class Bench(Shop):
    core = CORES[-1]

    def __init__(self, place: Path, **shape: t.Any) -> None:
        super().__init__(place, COMPONENTS, inter="500ms", **shape)
        outside = {"name": "health page", "kind": "http", "url": f"{self.url}health", "release": "{{ app_release_sha }}",
                   "release_field": "version", "tries": 1}
        self.vars |= {"app_outside": [outside]}

    def publish_forgetful(self, number: int) -> None:
        app, web = member("./bin/app", FORGETFUL.encode(), mode=0o755), member("./bin/web", Path(self._web).read_bytes(), mode=0o755)
        archive = zstd(tar(folder("./"), folder("./bin"), app, web), "-1")
        for name in COMPONENTS:
            self.registry.publish(sha(number), archive, package=f"shop-{name}")

    def book(self, name: str, **inputs: t.Any) -> Took:
        return timed(lambda: self.start_book(name, **inputs))

    def _ansible(self) -> Ansible:
        here = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        return Ansible(CORES[-1], self.folder, {"lb1": here, "app1": here}, {"ANSIBLE_PIPELINING": "1"})

    def empty(self) -> Took:
        return timed(lambda: self._ansible().start([], "app1"))

    def prepare_baseline(self) -> None:
        """The state that the old way keeps in files, and its template."""
        self.root.parent.mkdir()
        self.state_dir.mkdir()
        (self.state_dir / "active-color").write_text("blue\n")
        (self.folder / "haproxy.cfg.j2").write_text(self.render("{{ color }}"))
        components = [{"name": name, "port": {color: self.ports[color, name][0] for color in ("blue", "green")}} for name in COMPONENTS]
        given = {"components": components,
                 "artifact_url": self.registry.template.replace("{owner}", "acme").replace("{package}", "PACKAGE").replace("{sha}", "SHA"),
                 "artifact_token": TOKEN, "root": str(self.root), "logs": str(self.folder / "log"),
                 "run": str(self.folder), "state": str(self.state_dir),
                 "config": str(self.config), "config_template": str(self.folder / "haproxy.cfg.j2"), "haproxy": str(self.binary),
                 "pidfile": str(self.pidfile), "public": self.url}
        self.variables.write_text(json.dumps(given))

    def baseline(self, number: int) -> Took:
        argv = ["ansible-playbook", str(BASELINE), "-e", f"@{self.variables}", "-e", f"release_sha={sha(number)}"]
        return timed(lambda: self._ansible()._start(argv))


@dataclasses.dataclass
class Seen:
    kind: str
    times: list[Took]
    note: str = ""

    def median(self, what: str) -> float:
        return statistics.median(getattr(each, what) for each in self.times)

    def line(self) -> str:
        return f"{self.kind:44}{self.median('clock'):8.2f} s{self.median('work'):8.2f} s{len(self.times):5}   {self.note}"


class Failures:
    """What the loads saw; every part of the bench runs under one."""

    def __init__(self) -> None:
        self.requests = self.failed = 0
        self.kinds: dict[str, int] = {}

    def add(self, report: dict[str, t.Any]) -> None:
        self.requests += report["requests"]
        self.failed += report["failed"]
        self.kinds |= report["kinds"]


def good(took: Took, ok: bool = True) -> Took:
    assert (took.run.code == 0) == ok, took.run.output
    return took


def measure(place: Path, rounds: int) -> tuple[list[Seen], Failures, float, float]:
    load_seen = Failures()
    options = {"connections": 4, "pause": 5}
    ours, theirs, empty, back, until_back = [], [], [], [], []
    (place / "ours").mkdir()
    (place / "theirs").mkdir()
    with Bench(place / "ours") as shop, Bench(place / "theirs", method="reload") as old:
        for number in range(1, 3 + rounds):
            for one in (shop, old):
                one.publish(number)
        shop.publish_forgetful(90)
        old.prepare_baseline()
        good(shop.book("deploy_app", release_sha=sha(1)))   # the first of all: binaries are sent, nothing is served yet
        good(old.baseline(1))
        for number in range(2, 2 + rounds):
            with shop.load(**options) as load:
                ours.append(good(shop.book("deploy_app", release_sha=sha(number))))
            load_seen.add(load.report)
            assert shop.serves()[1] == sha(number)
            with old.load(**options):   # what its users notice is not ours to answer for
                theirs.append(good(old.baseline(number)))
            assert old.serves()[1] == sha(number)
            empty.append(good(shop.empty()))
            with shop.load(**options) as load:
                took = good(shop.book("rollback", mode="fast"))
                color = shop.serves()[0]
            assert shop.serves()[1] == sha(1)
            back.append(took)
            load_seen.add(load.report)
            turned = next(first for word, first, _last, _many in load.report["runs"] if word == color)
            until_back.append((turned - took.first_began()) / 1e9)
        before = shop.serves()
        with shop.load(**options) as load:
            took = good(shop.book("deploy_app", release_sha=sha(90)), ok=False)
            assert shop.serves() == before
        load_seen.add(load.report)
        last = max(end for word, _first, end, _many in load.report["runs"] if word != before[0])
        after_probe = (last - took.ended("Probe from outside of the load balancers")) / 1e9
    many = statistics.median(len(each.run.tasks) for each in ours), statistics.median(len(each.run.tasks) for each in theirs)
    seen = [Seen("an empty ansible-playbook", empty), Seen("rollback mode=fast", back, f"{len(back[0].run.tasks)} results of tasks"),
            Seen("deploy_app, three components", ours, f"{many[0]:.0f} results"),
            Seen("the same by builtin modules", theirs, f"{many[1]:.0f} results"),
            Seen("deploy_app, its probe from outside fails", [took])]
    return seen, load_seen, statistics.median(until_back), after_probe


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".reversible-bench-", dir=Path.home()) as name:
        seen, users, until_back, after_probe = measure(Path(name), asked.rounds)
    busy = os.getloadavg()[0] > (os.cpu_count() or 1) + 1
    what = "work" if busy else "clock"
    empty, back, ours, theirs = (each.median(what) for each in seen[:4])
    print(f"ansible-core {CORES[-1]}, both ends on this machine; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'':44}{'clock':>10}{'processor':>10}{'runs':>5}")
    for each in seen:
        print(each.line())
    print(f"{users.requests} requests, {users.failed} failed")
    if busy:
        print("Others kept this machine busy: the processor's time is judged, and what depends on the clock is told without being judged.")
    goals = [("a fast rollback / an empty run", back / empty, MOST_OF_EMPTY, True), ("a fast rollback, seconds", back, MOST_ROLLBACK, True),
             ("the baseline / a deploy", theirs / ours, LEAST_OF_BASELINE, False), ("requests that failed", users.failed, 0, True),
             ("from the first task of a rollback to the old colour, seconds", until_back, MOST_UNTIL_BACK, True),
             ("from the failing probe to the old colour, seconds", after_probe, MOST_AFTER_PROBE, True)]
    missed = 0
    for words, value, bound, is_most in goals:
        met = value <= bound if is_most else value >= bound
        judged = not (busy and words.startswith("from"))
        missed += judged and not met
        verdict = f"{'met' if met else 'missed'}{'' if judged else ' (not judged)'}"
        print(f"{words:62}{value:7.2f}  {'at most' if is_most else 'at least'} {bound:g}: {verdict}")
    if users.kinds:
        print(users.kinds)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
