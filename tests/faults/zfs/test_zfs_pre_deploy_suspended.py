# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_pre_deploy and a pool whose disk has gone: what hangs in ZFS must not hang the task, and the machine's other pools go on.

In a machine of its own: what waits for such a pool cannot be killed. The disk is a file on a tmpfs that has no space left.
"""
from __future__ import annotations

import os
import subprocess
import tempfile
import time
import typing as t

import pytest
from harness import ROOT, SKIP
from zfs import Machine, Pool

FIRST, SECOND, THIRD = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t091500z-0003"


@pytest.fixture(scope="module")
def machine() -> t.Iterator[Machine]:
    import yaml  # comes with the lab's pytest

    with tempfile.TemporaryDirectory(prefix="rl-suspended-", dir="/run") as folder:

        def lab(door: str) -> str:
            done = subprocess.run(
                [ROOT / "tests/lab/lab", door, "zfs"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env={**os.environ, "REVERSIBLE_LAB": folder},
            )
            if done.returncode == SKIP:
                pytest.skip(done.stderr.strip().splitlines()[-1])  # the lab's own reason
            assert done.returncode == 0, done.stderr
            return done.stdout

        try:
            yield Machine(yaml.safe_load(lab("up"))["zfs"]["hosts"])
        finally:
            lab("down")


def timed(machine: Machine, options: dict[str, t.Any], **how: t.Any) -> tuple[dict[str, t.Any], float]:
    start = time.monotonic()
    return machine.module(options, **how), time.monotonic() - start


def test_a_pool_that_is_suspended(machine: Machine) -> None:
    broken, well = Pool(machine, "broken"), Pool(machine, "well")
    broken.file = "/disk/broken.img"
    machine.sh("mkdir /disk; mount -t tmpfs -o size=48m disk /disk")
    for pool in (broken, well):
        pool.create("256M", {})
        pool.make("data")
        pool.write("data", "old")
        machine.good({"datasets": [pool.at("data")], "deploy_id": FIRST, **pool.options})
    # No more space on the disk; what is written next is not taken any more, and the pool waits for ever.
    machine.sh("""
        dd if=/dev/zero of=/disk/fill bs=64k 2>/dev/null || true  # until it is full
        (dd if=/dev/urandom of=/broken/data/more bs=128k count=64; sync) >/dev/null 2>&1 &
    """)
    # At once, before ZFS itself says so: a change hangs, and comes to its end all the same.
    options = {"datasets": [broken.at("data")], **broken.options}
    result, seconds = timed(machine, {**options, "deploy_id": SECOND, "task_timeout": 5})
    assert result.get("reason") in ("timed_out", "pool_suspended") and seconds < 120, (seconds, result)
    machine.sh(
        "n=0; until zpool list -H -o health broken | grep -q SUSPENDED || [ $n -gt 100 ]; do sleep 0.3; n=$((n+1)); done; "
        "zpool list -H -o health broken | grep SUSPENDED"
    )
    for wanted in (
        {"deploy_id": SECOND},
        {"deploy_id": FIRST, "state": "rolled_back", "rollback_id": THIRD, "confirm": True},
        {"deploy_id": FIRST, "state": "rolled_back", "method": "rollback", "rollback_id": THIRD, "confirm": True},
        {"deploy_id": FIRST, "state": "absent", "confirm": True},
    ):
        for check in (True, False):
            result, seconds = timed(machine, {**options, **wanted}, check=check)
            assert result.get("reason") in ("pool_suspended", "unfinished") and "broken" in result["msg"] and seconds < 60, (
                wanted,
                seconds,
                result,
            )
    # Whoever does not use it is not stopped by it.
    good = {"datasets": [well.at("data")], **well.options}
    assert machine.good({**good, "deploy_id": SECOND})["changed"] is True
    well.write("data", "new")
    assert (
        machine.good({**good, "deploy_id": FIRST, "state": "rolled_back", "rollback_id": THIRD})["changed"] is True
        and well.read("data") == "old"
    )
    info, seconds = timed(machine, {}, module="zfs_pre_deploy_info")
    assert (
        not info.get("failed")
        and {pool["name"]: pool["health"] for pool in info["pools"]} == {"broken": "SUSPENDED", "well": "ONLINE"}
        and seconds < 60
    ), info
    # The disk is back.
    machine.sh(
        "rm /disk/fill; zpool clear broken; n=0; "
        "until zpool list -H -o health broken | grep -q ONLINE || [ $n -gt 100 ]; do sleep 0.3; n=$((n+1)); done; zpool sync broken"
    )
    result, _seconds = timed(machine, {**options, "deploy_id": SECOND})
    assert not result.get("failed"), result
    assert f"data@pre-deploy-{SECOND}" in broken.all("snapshot")
