# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_pre_deploy on real ZFS: what is refused, and that a refusal changes nothing at all, makes no folder and says what is in the way.

What would stop a rollback half way stands here on the last of its datasets: all of it must be found before the first change.
"""
from __future__ import annotations

import contextlib
import json
import typing as t

import pytest
import zfs
from zfs import Machine, Pool

FIRST, SECOND, THIRD, FOURTH = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t091500z-0003", "20261121t093000z-0004"
NAME = f"pre-deploy-{FIRST}"
ALL = {"confirm": True, "accept": ["newer_snapshots", "own_holds"]}
METHODS = ("swap", "rollback")


@pytest.fixture(scope="module")
def machine() -> Machine:
    return zfs.machine()


@pytest.fixture
def pool(machine: Machine) -> t.Iterator[Pool]:
    with machine.pool() as pool:
        yield pool


def shop(machine: Machine, pool: Pool, **options: t.Any) -> dict[str, t.Any]:
    """An app with a restore point and something newer; the options of the rollback."""
    machine.sh(f"""
        zfs create {pool.at('shop')}; zfs create {pool.at('shop/db')}; zfs create {pool.at('shop/zz')}
        zfs create -s -V 8M {pool.at('shop/volume')}; {pool.wait_for_device('shop/volume')}
        cp /bin/busybox /{pool.at('shop/zz')}; echo old > /{pool.at('shop/zz')}/file
    """)
    wanted = {"datasets": [pool.at("shop")], "recursive": True, "deploy_id": FIRST, **pool.options, **options}
    machine.good(wanted)
    machine.sh(f"echo new > /{pool.at('shop/zz')}/file; zfs snapshot {pool.at('shop/zz')}@newer")
    return {**wanted, "state": "rolled_back"}


@contextlib.contextmanager
def unchanged(pool: Pool, what: t.Any) -> t.Iterator[None]:
    before = pool.fingerprint()
    yield
    assert pool.fingerprint() == before, what


def refuse(machine: Machine, pool: Pool, back: dict[str, t.Any], reason: str, *words: str) -> None:
    """In check mode and in the run, with consent to everything. Who is busy now may have been stopped by then: check mode only tells."""
    with unchanged(pool, (back, reason)):
        checked = machine.module({**ALL, **back, "rollback_id": SECOND}, check=True)
        refused = machine.module({**ALL, **back, "rollback_id": SECOND})
    said = checked["warnings"] + checked["busy"] if reason == "busy" else [checked["msg"]]
    assert all(word in " ".join(said) for word in words), (words, checked)
    assert refused.get("failed") and refused["reason"] == reason and all(word in refused["msg"] for word in words), (words, refused)
    assert reason == "busy" or checked.get("reason") == reason, checked


@contextlib.contextmanager
def prepared(machine: Machine, do: str, undo: str) -> t.Iterator[None]:
    machine.sh(do)
    try:
        yield
    finally:
        machine.sh(undo)


@contextlib.contextmanager
def program(machine: Machine, *argv: str) -> t.Iterator[str]:
    """Whose last act is to sleep, as that process; its pid, once it does."""
    pid = machine.start(*argv)
    try:
        machine.sh(machine.until(f"tr '\\0' ' ' </proc/{pid}/cmdline | grep -q '^\\([^ ]*busybox \\)\\?sleep 600 $'"))
        yield str(pid)
    finally:
        machine.end(pid)


def test_what_zfs_could_not_destroy(machine: Machine, pool: Pool) -> None:
    back = {**shop(machine, pool), "method": "rollback"}
    last = pool.at("shop/zz")
    machine.sh(f"zfs hold backup {last}@newer")
    refuse(machine, pool, back, "held", "backup", f"{last}@newer")
    machine.sh(f"zfs release backup {last}@newer; zfs clone {last}@newer {pool.at('theirs')}")
    refuse(machine, pool, back, "clones", pool.at("theirs"))
    # A swap is not in the way of either: what is newer is parked as it is.
    machine.sh(f"zfs hold backup {last}@newer")
    machine.good({**back, "method": "swap", "rollback_id": SECOND})
    assert pool.read("shop/zz") == "old" and pool.get("theirs", "origin") == [
        f"{last}-parked-{SECOND}@newer".replace("shop/zz-parked-" + SECOND, f"shop-parked-{SECOND}/zz")
    ]
    machine.sh(f"zfs release backup {pool.at(f'shop-parked-{SECOND}')}/zz@newer")


def test_whoever_uses_it(machine: Machine, pool: Pool) -> None:
    back = shop(machine, pool)
    last, place = pool.at("shop/zz"), f"/{pool.at('shop/zz')}"
    users = (
        ("sh", "-c", f"cd {place} && exec sleep 600"),
        ("sh", "-c", f"exec sleep 600 < {place}/file"),
        (f"{place}/busybox", "sleep", "600"),
        # A container: another mount namespace, with the dataset somewhere else; here nobody sees it.
        (
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            f"mkdir -p /run/c && mount -t tmpfs c /run/c && mkdir /run/c/data && mount --bind {place} /run/c/data && umount {place} && "
            "exec sleep 600",
        ),
        # One that does nothing with it, and would keep it mounted.
        ("unshare", "-m", "--propagation", "private", "sleep", "600"),
        ("sh", "-c", f"exec sleep 600 < /dev/zvol/{pool.at('shop/volume')}"),
    )
    for number, argv in enumerate(users):
        with program(machine, *argv) as pid:
            refuse(machine, pool, {**back, "method": METHODS[number % 2]}, "busy", pid)
    # Not by a process: a file system on the volume, on a file of it, or below it; and one that the swap is not about.
    for do, undo, word in (
        (
            f"cd /dev/zvol; mke2fs {pool.at('shop/volume')} >/dev/null; mkdir -p /run/v; mount -t ext4 {pool.at('shop/volume')} /run/v",
            "umount /run/v",
            pool.at("shop/volume"),
        ),
        (
            f"modprobe loop; truncate -s 4M {place}/disk; losetup /dev/loop0 {place}/disk",
            f"losetup -d /dev/loop0; {machine.until('[ ! -e /sys/block/loop0/loop ]')}",
            last,
        ),
        (f"mkdir {place}/below; mount -t tmpfs below {place}/below", f"umount {place}/below", last),
        (f"zfs create -o mountpoint={place}/inner {pool.at('inner')}", f"zfs destroy {pool.at('inner')}", last),
        (
            f"zfs set mountpoint=legacy {last}; mkdir -p /run/l; mount -t zfs {last} /run/l",
            f"umount /run/l; zfs inherit mountpoint {last}; zfs mount {last} 2>/dev/null || true  # setting it has mounted it",
            last,
        ),
    ):
        with prepared(machine, do, undo):
            refuse(machine, pool, {**back, "method": "swap"}, "busy", word)
    # A namespace that follows ours, as those of systemd's services do, is in nobody's way.
    machine.sh("mount --make-rshared /")
    with program(machine, "unshare", "-m", "--propagation", "slave", "sleep", "600"):
        machine.good({**back, "rollback_id": SECOND})
    assert pool.read("shop/zz") == "old"


def test_what_the_snapshot_does_not_cover(machine: Machine, pool: Pool) -> None:
    back = shop(machine, pool)
    for method in METHODS:
        refuse(machine, pool, {**back, "method": method, "deploy_id": "20261121t000000z-0000"}, "no_snapshot")
    machine.sh(f"zfs release reversible {pool.at('shop/zz')}@{NAME}; zfs destroy {pool.at('shop/zz')}@{NAME}")
    for method in METHODS:
        with unchanged(pool, method):
            refused = machine.module({**back, **ALL, "method": method, "rollback_id": SECOND})
        assert refused.get("reason") in ("no_snapshot", "uncovered_children") and pool.at("shop/zz") in refused["msg"], refused


def test_what_is_not_covered_stays_as_it_is(machine: Machine, pool: Pool) -> None:
    back = shop(machine, pool)
    machine.sh(f"echo new > /{pool.at('shop')}/file")
    guids = pool.get("shop/zz", "guid")
    machine.good({**back, "recursive": False, "rollback_id": SECOND})
    assert pool.read("shop/zz") == "new" and pool.get("shop/zz", "guid") == guids and machine.run("ls", f"/{pool.at('shop')}") == ["db", "zz"]


def test_names(machine: Machine, pool: Pool) -> None:
    pool.make("data")
    data, long = pool.at("data"), f"{pool.name}/{'n' * 300}"
    bad: tuple[tuple[dict[str, t.Any], tuple[str, ...]], ...] = (
        ({"datasets": [f"{data}@x"]}, ("bad_options",)),
        ({"datasets": [f"{data}#x"]}, ("bad_options",)),
        ({"datasets": [f"{data}%x"]}, ("bad_options",)),
        ({"datasets": ["-r"]}, ("bad_options",)),
        ({"datasets": ["--", data]}, ("bad_options",)),
        ({"datasets": [f"/{data}"]}, ("bad_options",)),
        ({"datasets": [f"{data}/"]}, ("bad_options",)),
        ({"datasets": [f"{pool.name}/../{data}"]}, ("bad_options",)),
        ({"datasets": [""]}, ("bad_options",)),
        ({"datasets": []}, ("bad_options",)),
        ({"datasets": [f"{data}\n{data}"]}, ("bad_options",)),
        ({"datasets": [long]}, ("bad_options", "name_too_long")),
        ({"datasets": [f"{pool.name}/nowhere"]}, ("no_dataset",)),
        ({"datasets": ["nopool"]}, ("no_pool", "no_dataset")),
        ({"datasets": [data, "nopool/x"]}, ("no_pool", "no_dataset")),
        ({"datasets": [data.upper()]}, ("no_dataset", "no_pool")),
        ({"datasets": [data[:-1]]}, ("no_dataset",)),
        ({"deploy_id": "yesterday"}, ("bad_options",)),
        ({"deploy_id": "-r"}, ("bad_options",)),
        ({"prefix": "a/b"}, ("bad_options",)),
        ({"prefix": "x@"}, ("bad_options",)),
        ({"prefix": "p" * 240}, ("bad_options", "name_too_long")),
        ({"retain": 0}, ("bad_options",)),
        ({"retain": -1}, ("bad_options",)),
        ({"state": "rolled_back", "deploy_id": None}, ("bad_options",)),
        ({"method": "magic"}, ("bad_options",)),
        ({"state_dir": "relative/path"}, ("bad_options",)),
        ({"release": "a\tb"}, ("bad_options",)),
        ({"app": "../../etc"}, ("bad_options",)),
        ({"state": "rolled_back", "accept": ["clones"], "confirm": True}, ("bad_options", "no_snapshot")),
    )
    everything = pool.fingerprint()
    for wrong, reasons in bad:
        refused = machine.module({"datasets": [data], "deploy_id": FIRST, **pool.options, **wrong})
        assert refused.get("failed") and refused.get("reason") in reasons, (wrong, refused)
    assert pool.fingerprint() == everything
    # Long, but a name; the parked one would be longer than ZFS allows.
    deep = pool.at("d" * 120)
    machine.sh(f"zfs create -p {deep}/{'e' * 90}")
    machine.good({"datasets": [deep], "recursive": True, "deploy_id": FIRST, **pool.options})
    refuse(
        machine, pool, {"datasets": [deep], "recursive": True, "deploy_id": FIRST, "state": "rolled_back", **pool.options}, "name_too_long"
    )
    # As user: nothing, and nothing made.
    argv, given = machine.command({"datasets": [data], "deploy_id": FIRST, "state_dir": "/tmp/not-root"})
    said = machine.ask("su", "-s", "/bin/sh", "nobody", "-c", " ".join(argv), given=given)
    assert json.loads(said.out)["reason"] == "permission_denied" and machine.ask("test", "-e", "/tmp/not-root").code == 1, said


def test_places(machine: Machine, pool: Pool) -> None:
    back = shop(machine, pool)
    inside = f"/{pool.at('shop/db')}/state"
    for state in ("rolled_back", "present"):
        with unchanged(pool, state):
            refused = machine.module(
                {
                    **back,
                    **ALL,
                    "state": state,
                    "state_dir": inside,
                    "rollback_id": SECOND,
                    "deploy_id": FIRST if state == "rolled_back" else THIRD,
                }
            )
        assert refused.get("reason") == "state_dir_inside", (state, refused)
    machine.sh(f"zfs create {pool.at(f'shop-parked-{SECOND}')}")
    refuse(machine, pool, {**back, "method": "swap"}, "name_taken", f"shop-parked-{SECOND}")
    machine.sh(f"zfs destroy {pool.at(f'shop-parked-{SECOND}')}")
    machine.good({"datasets": [pool.name], "deploy_id": FIRST, **pool.options, "state_dir": f"{pool.state_dir}-root"})
    refuse(machine, pool, {**back, "datasets": [pool.name], "state_dir": f"{pool.state_dir}-root"}, "pool_root")
    machine.sh(f"rm -rf {pool.state_dir}-root")


def test_read_only_and_full(machine: Machine, pool: Pool) -> None:
    back = {**shop(machine, pool), "datasets": [pool.at("shop/db")], "recursive": False}
    machine.sh(f"zpool export {pool.name}; zpool import -o readonly=on -d /mnt {pool.name}")
    for wrong in ({"state": "present", "deploy_id": THIRD}, {**ALL, "rollback_id": SECOND}, {"state": "absent", "confirm": True}):
        with unchanged(pool, wrong):
            refused = machine.module({**back, **wrong})
        assert refused.get("reason") == "pool_readonly" and pool.name in refused["msg"], refused
    machine.sh(f"zpool export {pool.name}; zpool import -d /mnt {pool.name}")
    # A quota that is reached: a snapshot takes no space, and a swap goes; then the pool itself is full.
    machine.sh(
        f"zfs set quota=8M {pool.at('shop/db')}; zpool sync {pool.name}; "
        f"dd if=/dev/urandom of=/{pool.at('shop/db')}/fill bs=128k 2>/dev/null || true; zpool sync {pool.name}  # until there is no more"
    )
    machine.good({**back, "state": "present", "deploy_id": SECOND})
    machine.good({**back, "rollback_id": THIRD})
    assert machine.run("ls", f"/{pool.at('shop/db')}") == [] and pool.get("shop/db", "quota") == [str(8 << 20)]
    with machine.pool("64M") as full:
        full.make("data")
        full.write("data", "old")
        wanted = {"datasets": [full.at("data")], "deploy_id": FIRST, **full.options}
        machine.good(wanted)
        machine.sh(
            f"dd if=/dev/urandom of=/{full.at('data')}/fill bs=128k 2>/dev/null || true; zpool sync {full.name}; "
            f"dd if=/dev/urandom of=/{full.at('data')}/fill2 bs=4k 2>/dev/null || true  # until there is no more"
        )
        for method in METHODS:
            before = full.fingerprint()
            result = machine.module({**wanted, **ALL, "state": "rolled_back", "method": method, "rollback_id": SECOND})
            # Whether ZFS has room for it is its business; what counts is that it is done in full or not at all.
            if result.get("failed"):
                assert result["reason"] in ("no_space", "command_failed") and full.fingerprint() == before, result
            else:
                assert full.read("data") == "old", result
                break
        else:
            pytest.fail("a full pool has no way back at all")
