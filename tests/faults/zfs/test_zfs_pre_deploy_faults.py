# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_pre_deploy when things go wrong, on real ZFS: killed between any two steps and run again, a step that fails or hangs, two at once,
records that cannot be written. A pool that is suspended is in test_zfs_pre_deploy_suspended.py.
"""
from __future__ import annotations

import itertools
import json
import os
import subprocess
import typing as t

import pytest
import zfs
from harness import wait_for
from zfs import Machine, Pool, Watched

FIRST, SECOND, THIRD, FOURTH = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t091500z-0003", "20261121t093000z-0004"
# Than every id of an app: an older one would be refused as superseded, whatever was left.
LATER = "20261121t120000z-0005"
NAME = f"pre-deploy-{FIRST}"
ALL = {"confirm": True, "accept": ["newer_snapshots", "own_holds"]}
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return zfs.machine()


@pytest.fixture
def pool(machine: Machine) -> t.Iterator[Pool]:
    with machine.pool() as pool:
        yield pool


@pytest.fixture
def watched(machine: Machine) -> t.Iterator[Watched]:
    with machine.watched() as watched:
        yield watched


class App:
    """Two datasets with a restore point, a state that was written after it, and something newer."""

    def __init__(self, pool: Pool, name: str) -> None:
        self.pool, self.name = pool, name
        # With records of its own: the fence of one app is not that of another.
        self.options: dict[str, t.Any] = {
            "datasets": [pool.at(name)],
            "recursive": True,
            "deploy_id": FIRST,
            "state_dir": f"{pool.state_dir}-{name}",
        }
        # Each has an id of its own: what was done under one is not done again.
        self.swap_id = f"20261121t095000z-{name[-3:]:0>4}"
        self.back = {**self.options, **ALL, "state": "rolled_back", "rollback_id": self.swap_id}

    def script(self) -> str:
        place = f"/{self.pool.at(self.name)}"
        made = f"zfs create -o compression=lz4 {place[1:]}; zfs create -o quota=64M {place[1:]}/db"
        return f"{made}; echo old > {place}/file; echo old > {place}/db/file\n"

    def fail(self) -> str:
        place = f"/{self.pool.at(self.name)}"
        return f"echo new > {place}/file; echo new > {place}/db/file; zfs snapshot {place[1:]}/db@newer\n"

    def is_now(self, word: str) -> None:
        """Whole, mounted, with its properties, and with this content."""
        place = self.pool.at(self.name)
        said = self.pool.machine.sh(
            f"cat /{place}/file /{place}/db/file; zfs get -Hp -o value compression {place}; "
            f"zfs get -Hp -o value quota,mounted {place}/db; zfs get -H -o value origin {place} {place}/db"
        )
        assert said == [word, word, "lz4", str(64 << 20), "yes", "-", "-"], said


def apps(machine: Machine, pool: Pool, count: int) -> list[App]:
    """As many new apps, with one call for all of their restore points."""
    made = [App(pool, f"app{next(NUMBERS):03}") for _one in range(count)]
    machine.sh("".join(app.script() for app in made))
    machine.good({**made[0].options, **pool.options, "datasets": [pool.at(app.name) for app in made]})
    machine.sh("".join(app.fail() for app in made))
    return made


def struck(machine: Machine, watched: Watched, options: dict[str, t.Any], count: int, when: str = "after") -> dict[str, t.Any] | None:
    """Run with that fault; nothing if it was killed, else its result."""
    watched.strike(count, when)
    argv, given = machine.command(options, watch=watched)
    # By a shell, which tells a kill as a number: ssh could not tell it from a lost connection.
    said = machine.ask("sh", "-c", '"$@"; exit $?', "sh", *argv, given=given)
    watched.peace()
    return json.loads(said.out) if said.out else None


Task = t.Callable[[App], dict[str, t.Any]]
Proof = t.Callable[[App], None]


def everywhere(
    machine: Machine, pool: Pool, watched: Watched, task: Task, proof: Proof, before: t.Callable[[list[App]], t.Any] = len
) -> int:
    """Kill the task before its first changing call and after each one but the last (at every sixth of these moments, when there is little
    time); then the same task must finish. The number of all these moments.

    A first run, that is not killed, shows how many calls there are."""
    [pilot] = apps(machine, pool, 1)
    before([pilot])
    watched.peace()
    machine.good(task(pilot), watch=watched)
    calls = watched.calls("change")
    proof(pilot)
    moments = [(1, "before"), *((count, "after") for count in range(1, len(calls)))]
    some = moments if os.environ.get("REVERSIBLE_LONG") else moments[::6]
    made = apps(machine, pool, len(some))
    before(made)
    for app, moment in zip(made, some):
        wanted = task(app)
        assert struck(machine, watched, wanted, *moment) is None, (moment, calls)
        result = machine.module(wanted)
        assert not result.get("failed"), (moment, calls, result)
        proof(app)
        again = machine.good(wanted)
        assert again["changed"] is False, (moment, calls, again)
    return len(moments)


def test_a_swap_that_is_killed_anywhere(machine: Machine, pool: Pool, watched: Watched) -> None:
    def proof(app: App) -> None:
        app.is_now("old")
        parked = pool.at(f"{app.name}-parked-{app.swap_id}")
        assert machine.run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", "-r", parked) == [f"{parked}/db@newer"]
        machine.sh(f"mkdir -p /run/look; mount -t zfs -o zfsutil,ro {parked}/db /run/look; grep new /run/look/file; umount /run/look")

    assert everywhere(machine, pool, watched, lambda app: app.back, proof) > 6


def test_an_undo_that_is_killed_anywhere(machine: Machine, pool: Pool, watched: Watched) -> None:
    swaps = iter((SECOND, THIRD))
    parked = ""

    def swap(made: list[App]) -> None:
        nonlocal parked
        parked = next(swaps)  # what was done under one id is not done again
        machine.good(
            {**made[0].back, "state_dir": f"{pool.state_dir}-swaps", "datasets": [pool.at(app.name) for app in made], "rollback_id": parked}
        )

    def undo(app: App) -> dict[str, t.Any]:
        return {
            **app.options,
            "deploy_id": None,
            "state": "rolled_back",
            "parked": parked,
            "rollback_id": f"20261121t100000z-{app.name[-3:]:0>4}",
        }

    def proof(app: App) -> None:
        app.is_now("new")
        assert f"{app.name}/db@newer" in pool.all("snapshot")

    everywhere(machine, pool, watched, undo, proof, swap)


def test_a_rollback_in_place_that_is_killed_anywhere(machine: Machine, pool: Pool, watched: Watched) -> None:
    def proof(app: App) -> None:
        app.is_now("old")
        assert f"{app.name}/db@newer" not in pool.all("snapshot") and f"{app.name}/db@{NAME}" in pool.all("snapshot")

    everywhere(machine, pool, watched, lambda app: {**app.back, "method": "rollback"}, proof)


def test_taking_that_is_killed_anywhere(machine: Machine, pool: Pool, watched: Watched) -> None:
    def task(app: App) -> dict[str, t.Any]:
        return {**app.options, "deploy_id": FOURTH, "retain": 1}

    def proof(app: App) -> None:
        names = [f"{pool.at(app.name)}{child}@pre-deploy-{FOURTH}" for child in ("", "/db")]
        assert [line.split("\t")[1] for line in machine.run("zfs", "holds", "-H", *names)] == ["reversible"] * 2
        assert [name for name in pool.all("snapshot") if name.startswith(f"{app.name}@")] == [f"{app.name}@pre-deploy-{FOURTH}"]

    everywhere(machine, pool, watched, task, proof)


def test_removing_that_is_killed_anywhere(machine: Machine, pool: Pool, watched: Watched) -> None:
    def proof(app: App) -> None:
        app.is_now("new")
        assert [name for name in pool.all("snapshot") if name.startswith(app.name)] == [f"{app.name}/db@newer"]

    everywhere(machine, pool, watched, lambda app: {**app.options, "state": "absent", "confirm": True}, proof)


def test_what_a_kill_leaves_is_told_and_is_finished_by_the_same_task_only(machine: Machine, pool: Pool, watched: Watched) -> None:
    first, other = apps(machine, pool, 2)
    assert struck(machine, watched, first.back, 3) is None
    assert machine.info(datasets=first.options["datasets"], state_dir=first.options["state_dir"])["unfinished"]
    for wanted in (
        {**first.back, "rollback_id": LATER},
        {**first.options, "deploy_id": LATER},
        {**first.options, "state": "absent", "confirm": True},
    ):
        before = pool.fingerprint()
        refused = machine.module(wanted)
        assert refused.get("reason") == "unfinished" and pool.fingerprint() == before, refused
    assert machine.good(first.back)["changed"] is True
    first.is_now("old")
    other.is_now("new")
    assert machine.info(datasets=first.options["datasets"], state_dir=first.options["state_dir"])["unfinished"] is None


def test_a_step_that_fails_puts_all_back_or_is_finished_later(machine: Machine, pool: Pool, watched: Watched) -> None:
    [pilot] = apps(machine, pool, 1)
    watched.peace()
    machine.good(pilot.back, watch=watched)
    calls = watched.calls("change")
    promoted = next(at for at, call in enumerate(calls) if call.startswith("zfs promote"))
    chosen = range(len(calls)) if os.environ.get("REVERSIBLE_LONG") else range(0, len(calls), 4)
    for at, app in zip(chosen, apps(machine, pool, len(chosen))):
        result = struck(machine, watched, app.back, at + 1, "fail")
        assert result is not None and result.get("failed") and "injected" in json.dumps(result), (calls[at], result)
        if at <= promoted:
            app.is_now("new")
            assert not machine.ask("zfs", "list", f"{pool.at(app.name)}-parked-{app.swap_id}").code == 0, (calls[at], pool.all())
        assert machine.good(app.back)["changed"] is True, calls[at]
        app.is_now("old")


def test_a_step_that_hangs(machine: Machine, pool: Pool, watched: Watched) -> None:
    app, other = apps(machine, pool, 2)
    result = struck(machine, watched, {**app.back, "task_timeout": 2}, 2, "hang")
    assert result is not None and result["reason"] == "timed_out", result
    machine.good(app.back)
    app.is_now("old")
    other.is_now("new")


def test_two_at_once(machine: Machine, pool: Pool) -> None:
    [app] = apps(machine, pool, 1)
    argv, given = machine.command(app.back)
    both = [subprocess.Popen([*machine.ssh, " ".join(argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _run in range(2)]
    for process in both:
        process.stdin.write(given)
        process.stdin.close()
    results = [json.loads(process.stdout.read()) for process in both]
    assert [process.wait(60) for process in both] == [0, 0] and sorted(result["changed"] for result in results) == [False, True], results
    app.is_now("old")


def test_who_will_not_wait_is_told_who_works_there(machine: Machine, pool: Pool, watched: Watched) -> None:
    first, second = apps(machine, pool, 2)
    watched.strike(1, "hang")
    argv, given = machine.command(first.back, watch=watched)
    with subprocess.Popen([*machine.ssh, " ".join(argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as working:
        working.stdin.write(given)
        working.stdin.close()
        # As long as any command may take there; one that ends before it is distinguished below.
        wait_for(lambda: watched.calls("change") or working.poll() is not None, "the first change", zfs.ANSWER)
        before = pool.fingerprint()
        refused = machine.module({**second.options, "deploy_id": FOURTH, "lock_timeout": 0.5})
        assert refused["reason"] == "lock_held" and SECOND[:8] in refused["msg"] and pool.fingerprint() == before, refused
        watched.peace()
        said, complaint = working.stdout.read(), working.stderr.read()
        assert said, f"it ended with {working.wait(60)} and no result: {complaint.decode(errors='replace')}\ncalls: {watched.calls()}"
        assert json.loads(said)["changed"] is True
    first.is_now("old")


def test_records_that_cannot_be_written_or_read(machine: Machine, pool: Pool, watched: Watched) -> None:
    [app] = apps(machine, pool, 1)
    place = "/run/small"
    machine.sh(f"mkdir -p {place}; mount -t tmpfs -o size=64k,mode=0755 small {place}; mkdir -m 0700 {place}/state")
    back = {**app.back, "state_dir": f"{place}/state"}
    try:
        for do, undo in (
            (f"dd if=/dev/zero of={place}/fill bs=4k 2>/dev/null || true  # until it is full", f"rm {place}/fill"),
            (f"mount -o remount,ro {place}", f"mount -o remount,rw {place}"),
        ):
            machine.sh(do)
            before = pool.fingerprint()
            for method in ("swap", "rollback"):
                refused = machine.module({**back, "method": method})
                assert refused.get("failed") and place in json.dumps(refused) and pool.fingerprint() == before, refused
            machine.sh(undo)
        assert struck(machine, watched, back, 3) is None
        [intent] = machine.sh(f"ls {place}/state/intent.*")
        machine.sh(f"cp {intent} /run/intent; head -c 40 /run/intent > {intent}")
        before = pool.fingerprint()
        refused = machine.module(back)
        assert refused.get("failed") and intent in refused["msg"] and pool.fingerprint() == before, refused
        machine.sh(f"cat /run/intent > {intent}")
        machine.good(back)
        app.is_now("old")
    finally:
        machine.sh(f"umount -l {place}")
