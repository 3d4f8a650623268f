#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore point of many datasets costs, and how looking grows with the number of snapshots. All in one run, in the lab's ZFS
machine, which is emulated: its seconds are long, and only ratios count.

1. 50 datasets: one call of `zfs snapshot`, 50 calls, and the module in all (it looks, takes, looks again; and it holds them, which
   takes ZFS longer than to take them).
2. The info module on a pool with 100, 1,000 and 2,000 snapshots: calls of zfs, and seconds.
3. ansible-playbook: our one task, and community.general.zfs looped over the same 50 datasets. That module needs Python on its host, and
   the machine has none: it runs here, with a `zfs` that passes each call on by one shared ssh connection. What that way costs is
   measured by the same number of calls of `true`, and taken off.

It fails where a goal is missed: one call at most 0.1 of 50, observing by the same number of calls and at most linear.
"""
from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import zfs  # noqa: E402  (the path comes first)
from harness import CORES, LOCAL, Ansible, alone, lab  # noqa: E402
from zfs import HOST, Machine, Pool  # noqa: E402

DATASETS = 50
COUNTS = (100, 1000, 2000)


def deploy_id(number: int) -> str:
    return f"20261121t{number // 3600:02}{number // 60 % 60:02}{number % 60:02}z-{number:04x}"


def inside(machine: Machine, script: str) -> float:
    """Seconds of a script by the machine's own clock: what ssh takes does not count."""
    before, after = machine.sh(f"cut -d ' ' -f 1 /proc/uptime; {{ {script}; }} >/dev/null; cut -d ' ' -f 1 /proc/uptime")
    return float(after) - float(before)


def module(machine: Machine, options: dict[str, t.Any], **how: t.Any) -> float:
    """Seconds of one run of the module, by the machine's clock."""
    argv, given = machine.command(options, **how)
    machine.run("sh", "-c", "cat > /run/bench.json", given=given)
    took = inside(machine, f"{shlex.join(argv)} < /run/bench.json > /run/bench.out")
    result = json.loads("".join(machine.run("cat", "/run/bench.out")))
    assert not result.get("failed"), result
    return took


def taking(machine: Machine, pool: Pool, rounds: int) -> list[str]:
    names = [pool.at(f"many/{number:02}") for number in range(DATASETS)]
    machine.sh(
        f"zfs create -o canmount=off {pool.at('many')}; for n in $(seq -w 0 {DATASETS - 1}); do zfs create {pool.at('many')}/$n; done"
    )
    ways: dict[str, t.Callable[[int], float]] = {
        "one call of zfs snapshot": lambda turn: inside(machine, f"zfs snapshot {' '.join(f'{name}@one{turn}' for name in names)}"),
        f"{DATASETS} calls of zfs snapshot": lambda turn: inside(
            machine, f"for n in {' '.join(names)}; do zfs snapshot $n@each{turn}; done"
        ),
        "the module, in all": lambda turn: module(
            machine, {"datasets": names, "deploy_id": deploy_id(turn + 1), "app": "bench", **pool.options}
        ),
        "the module again (no change)": lambda turn: module(
            machine, {"datasets": names, "deploy_id": deploy_id(turn + 1), "app": "bench", **pool.options}
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way(turn))
    print(f"\n{DATASETS} datasets ({rounds} rounds; median, min, max; seconds in the machine)")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    one, each, _ours, _again = median
    for name, values in seconds.items():
        print(
            f"  {name:32} {median[name]:7.2f} {min(values):7.2f} {max(values):7.2f}   "
            f"x {median[name] / median[each]:.3f} of {DATASETS} calls"
        )
    with machine.watched() as watched:
        machine.good({"datasets": names, "deploy_id": deploy_id(3000), "app": "bench", **pool.options}, watch=watched)
        verbs = [call.split()[1] for call in watched.calls("change")]
        print(f"  the module calls: {len(verbs)} that change ({', '.join(verbs)}), {len(watched.calls('read'))} that read")
    return [f"one call took {median[one] / median[each]:.3f} of {DATASETS} calls, more than 0.1"] if median[one] > 0.1 * median[each] else []


def looking(machine: Machine, rounds: int) -> list[str]:
    print(f"\nlooking at all snapshots of a pool ({rounds} rounds; the median)")
    figures: list[tuple[int, float, int, int]] = []
    with machine.pool("512M") as pool:
        names = [pool.at(f"data{number}") for number in range(10)]
        machine.sh("; ".join(f"zfs create {name}" for name in names))
        made = 0
        for count in COUNTS:
            # One call for ten of them: making them is not what is measured.
            machine.sh(
                f"for n in $(seq {made + 1} {count // len(names)}); do "
                f"zfs snapshot $(for d in {' '.join(names)}; do echo $d@s$n; done); done"
            )
            made = count // len(names)
            asked = {"datasets": [pool.name]}
            took = statistics.median(module(machine, asked, module="zfs_pre_deploy_info") for _round in range(rounds))
            with machine.watched() as watched:
                machine.good(asked, module="zfs_pre_deploy_info", watch=watched)
                lists = [call for call in watched.calls() if call.startswith("zfs list")]
                calls = len(watched.calls())
            figures.append((count, took, len(lists), calls))
            print(f"  {count:5} snapshots: {took:6.2f} s, {len(lists)} calls of zfs list, {calls} calls in all")
    (few, first, *_), (many, last, lists, calls) = figures[0], figures[-1]
    missed = [f"{lists} calls of zfs list"] if lists > 2 else []
    missed += ["the number of calls grows with the snapshots"] if calls != figures[0][3] else []
    # Linear: what is per call stays, so that growing by less than the number is expected.
    return missed + ([f"{many} snapshots took {last / first:.1f} times what {few} took"] if last > first * many / few * 1.2 else [])


def against_others(machine: Machine, pool: Pool, core: str) -> list[str]:
    names = [pool.at(f"many/{number:02}") for number in range(DATASETS)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bin_folder = place / "bin"
        bin_folder.mkdir()
        # Python here, ZFS there: a stand-in on the PATH of the tasks.
        for name in ("zfs", "zpool"):
            (bin_folder / name).write_text(f'#!/bin/sh\necho {name} "$*" >> {place}/calls\nexec {shlex.join(machine.ssh)} {name} "$@"\n')
            (bin_folder / name).chmod(0o755)
        (place / "calls").touch()
        ansible = Ansible(core, place, {**LOCAL, HOST: machine.known | {"ansible_python_interpreter": "/nowhere/python"}})
        ours = {"datasets": names, "deploy_id": deploy_id(4000), "app": "bench", **pool.options}
        start = time.perf_counter()
        run = ansible.play([{"reversible.deploy.zfs_pre_deploy": ours}], HOST)
        our_time = time.perf_counter() - start
        assert run.code == 0 and run.only["changed"], run.output
        theirs = Ansible(core, place, LOCAL, environ={"ANSIBLE_COLLECTIONS_PATH": lab("get", "community-general")})
        task = {
            "community.general.zfs": {"name": "{{ item }}@looped", "state": "present"},
            "loop": names,
            "environment": {"PATH": f"{bin_folder}:{os.environ['PATH']}"},
        }
        start = time.perf_counter()
        run = theirs.play([task], "local")
        their_time = time.perf_counter() - start
        assert run.code == 0, run.output[-2000:]
        calls = len((place / "calls").read_text().splitlines())
        start = time.perf_counter()
        for _call in range(calls):
            machine.run("true")
        way = time.perf_counter() - start
    print(f"\nansible-playbook (core {core}), {DATASETS} datasets: the same restore point, in seconds of this machine's clock")
    print(f"  reversible.deploy.zfs_pre_deploy   1 task item,  {our_time:7.1f} s")
    print(
        f"  community.general.zfs, looped     {DATASETS} task items, {their_time:7.1f} s, {calls} calls of zfs; "
        f"{way:.1f} s of it are the way to the machine, without: {their_time - way:.1f} s"
    )
    print("  (theirs are not atomic, not held, and have no plan)")
    return ["community.general.zfs was faster"] if their_time - way < our_time else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", default=CORES[-1], help="the version of ansible-core; none: without Ansible")
    asked = parser.parse_args()
    missed = []
    with alone():
        machine = zfs.machine()
        with machine.pool() as pool:
            missed += taking(machine, pool, asked.rounds)
            missed += looking(machine, asked.rounds)
            if asked.core != "none":
                missed += against_others(machine, pool, asked.core)
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "All goals are met."))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
