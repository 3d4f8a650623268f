#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make test`: everything that must hold. Its last line says how many tests passed, failed and were skipped.

Stages (stages.py: building, linting, packing) and files of tests are done by a few workers (scheduler.py), each file in a sandbox of its
own (sandbox.py). Each has a log of its own. Invariant: nothing is left out without being counted and named.
"""
from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time

from crates import Crates
from jobs import LOGS, ROOT, Job, Stage
from record import expected, table
from scheduler import Runner, Tests, files_of_tests
from stages import BOTH, CACHE, INSTALLED, STAGES, entry, needs, prepare, setting
from uses import changed_files, known, lacking, touched, workspace, write

MINUTES = 5   # what `make test-changed` may take
READY = ("prepare", "collection")   # what every test needs
# What runs on another collection than the others: that with the binaries of both architectures, and that which the archive has installed.
ELSEWHERE = {"integration/ssh/test_other_architecture.py": ("both", BOTH), "integration/machine/test_every_module.py": ("archive", INSTALLED)}
# Left to `make test-long`, beside the tests that are marked so: a machine of its own for one test.
LONG = ("faults/zfs/test_zfs_pre_deploy_suspended.py",)
# What `make test-long` repeats on a machine that is made slow: flips, flows, kills and the ledger, and ZFS under a clock that steps.
STRESSED = ("integration/haproxy/test_haproxy_color_switch.py", "integration/haproxy/test_haproxy_color_switch_gates.py",
            "integration/haproxy/test_haproxy_color_switch_reload.py", "integration/haproxy/test_haproxy_hold.py", "faults/haproxy/test_haproxy_killed.py",
            "integration/flows/test_flows.py", "faults/flows/test_flows_faults.py", "integration/machine/test_deploy_ledger.py",
            "faults/machine/test_deploy_ledger_faults.py", "faults/machine/test_health_gate_faults.py", "faults/zfs/test_zfs_pre_deploy_faults.py")
ROUNDS = 3   # about an hour
SHORT = {"REVERSIBLE_LONG": "", "REVERSIBLE_CLOCK": "steps"}


def tests(name: str, path: str, kind: str) -> Tests:
    needs, env = READY, {}
    if path in ELSEWHERE:
        stage, folder = ELSEWHERE[path]
        needs, env = (*READY, stage), {"REVERSIBLE_STAGED": str(folder)}
    return Tests(name, (str(ROOT / "tests" / path),), kind, needs, env)


def everything(long: bool) -> list[Stage | Tests]:
    found = [tests(path, path, kind) for path, kind in files_of_tests() if long or path not in LONG]
    stressed = [Tests(f"stress/{number}/{path}", (str(ROOT / "tests" / path),), path.split("/")[1], READY, SHORT, stressed=True)
                for number in range(1, ROUNDS + 1) for path in STRESSED]
    demo = Tests("demo", (), "machine", READY, {}, (str(ROOT / "tests/demo"),))
    return [*STAGES, *found, demo, *(stressed if long else ())]


def chosen(words: list[str], work: list[Stage | Tests]) -> list[Stage | Tests]:
    """The stages of these names, the files of tests below these paths (in the repository or in tests/), single tests of them; and what those need."""
    found: dict[str, Stage | Tests] = {}
    for word in words:
        path, _, test = word.removeprefix(f"{ROOT}/").removeprefix("tests/").partition("::")
        matching = [one for one in work if one.name == path or isinstance(one, Tests) and one.name.startswith(f"{path.rstrip('/')}/")]
        if not matching:
            sys.exit(f"there is neither a stage nor a test called {word}; the stages are: {' '.join(stage.name for stage in STAGES)}; "
                     "tests are named by their path, or path::test")
        for one in matching:
            if test and isinstance(one, Tests):
                one = one._replace(name=f"{one.name}::{test}", paths=(f"{one.paths[0]}::{test}",))
            found[one.name] = one
    known = {stage.name: stage for stage in STAGES}
    needed = [name for one in found.values() for name in one.needs]
    while needed:
        name = needed.pop()
        if name not in found:
            found[name] = known[name]
            needed += known[name].needs
    return [*(stage for stage in STAGES if stage.name in found), *(one for one in found.values() if isinstance(one, Tests))]


def changed(work: list[Stage | Tests], seconds: dict[str, float], workers: int) -> list[Stage | Tests]:
    """What a change touches, as far as it fits into the time; says what it leaves out. What cargo does, only one does at a time."""
    base, files = changed_files()
    uses, packages, anything = touched(files)
    there, tests = known(), [one for one in work if isinstance(one, Tests)]
    hit = [one for one in tests if there.get(one.name, {f"tests/{one.name}"}) & uses or f"tests/{one.name}" in files]
    hit.sort(key=lambda one: (f"tests/{one.name}" not in files, len(there.get(one.name, ()))))   # what uses little is nearest to the change
    yaml = any(re.match(r"(roles|playbooks|molecule)/.*[.]yml$", file) for file in files)
    words = ["fmt", "tree", "yamllint", "changelog", "docs", *(["syntax"] if yaml else [])]
    Job.crates = tuple(sorted(packages))
    costs = {one.name: seconds.get(one.name, 60.0) for one in work}
    costs["cargo-test"] *= len(packages) / len(workspace())
    planned, left = chosen(words, work), []
    for name in (*(("clippy", "cargo-test") if packages else ()), *(("ansible-lint",) if yaml else ()), *(one.name for one in hit)):
        more = chosen([*words, name], work)
        cargo = sum(costs[one.name] for one in more if isinstance(one, Stage) and one.cargo)
        if cargo <= MINUTES * 60.0 and sum(costs[one.name] for one in more) <= MINUTES * 60.0 * (workers - 1):
            words, planned = [*words, name], more
        else:
            left.append(name)
    print(f"{len(files)} files differ from {base[:10]}. They touch {len(hit)} of {len(tests)} files of tests.")
    for text, names in (("left out for want of time", left), ("changed files of which no test is known, or which any test may use", anything)):
        if names:
            print(f"  {text}: {', '.join(names)}")
    print("`make test` runs everything.\n")
    return planned


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run.py", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", action="append", help="a stage, a folder or file of tests, or FILE::TEST; with what it needs")
    parser.add_argument("--long", action="store_true", help="wider: every ansible-core in full, all kills, long fuzzing")
    parser.add_argument("--changed", action="store_true", help=f"what differs from the main branch touches, in at most {MINUTES} minutes")
    parser.add_argument("--list", action="store_true", help="list the stages and the files of tests")
    parser.add_argument("--record", action="store_true", help="write what each took into tests/README.md, and what it used into tests/uses.json")
    asked = parser.parse_args()
    work = everything(asked.long)
    if asked.list:
        for one in work:
            print(f"{one.name:56} {one.about if isinstance(one, Stage) else ''}".rstrip())
        return 0
    if os.geteuid() != 0:
        sys.exit("make test must run as root: it makes namespaces and starts real systems in them")
    LOGS.mkdir(parents=True, exist_ok=True)
    print(needs(), flush=True)
    prepare()
    workers, seconds = (os.cpu_count() or 1) + 2, expected()
    if asked.changed:
        work = changed(work, seconds, workers)
    elif asked.only:
        work = chosen(asked.only, work)
    groups = Crates.here(CACHE) if any(isinstance(one, Stage) and one.cargo for one in work) else []
    for crates in groups:
        if crates.take(entry):
            print(f"the registry's crates are in the lab's cache, built: {crates.name}", flush=True)
    runner = Runner(work, asked.long, seconds, setting)
    started, load = time.monotonic(), os.getloadavg()[0]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runner.run(workers)
    for crates in groups:
        if all(runner.outcomes.get(name) == "ok" for name in crates.stages):
            crates.keep(entry)
    minutes, processor = (time.monotonic() - started) / 60, sum(job.processor for job in runner.jobs.values())
    print(f"\n{minutes:.1f} minutes, {processor:.0f} s of processor; load before {load:.1f}; logs in {LOGS.relative_to(ROOT)}/")
    if asked.record:
        table(runner, minutes, processor)
        write(runner.uses)
    elif not asked.changed and not asked.only:
        for line in lacking(runner.uses):
            print(f"tests/uses.json does not know (tests/run.py --record writes it): {line}")
    return runner.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nmake test: interrupted")
