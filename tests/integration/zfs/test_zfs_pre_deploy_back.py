# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_pre_deploy on real ZFS: the way back by swap, which loses nothing, and by rollback, which says what it loses."""

from __future__ import annotations

import json
import typing as t

import pytest
import zfs
from zfs import Machine, Pool

FIRST, SECOND, THIRD, FOURTH = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t091500z-0003", "20261121t093000z-0004"
NAME = f"pre-deploy-{FIRST}"
MIB = 1 << 20
PROPERTIES = "mountpoint,canmount,compression,quota,reservation,recordsize,atime,xattr,readonly,com.example:owner"


@pytest.fixture(scope="module")
def machine() -> Machine:
    return zfs.machine()


@pytest.fixture
def pool(machine: Machine) -> t.Iterator[Pool]:
    with machine.pool() as pool:
        yield pool


def properties(machine: Machine, name: str) -> list[str]:
    return machine.run("zfs", "get", "-Hp", "-o", "property,value", PROPERTIES, name)


def live(machine: Machine, pool: Pool) -> list[str]:
    """What a person sees of the app's data: names, where they are mounted, their files."""
    return machine.sh(f"""
        grep ' zfs ' /proc/mounts | grep -v parked | grep '^{pool.name}/' | sort
        find /{pool.name} -type f | grep -v parked | sort | xargs md5sum
    """)


def shop(machine: Machine, pool: Pool) -> dict[str, t.Any]:
    """An app with a tree of datasets, each with something of its own, and a restore point."""
    machine.sh(f"""
        zfs create -o compression=lz4 -o com.example:owner=shop -o atime=off {pool.at('shop')}
        zfs create -o quota=64M -o recordsize=16K {pool.at('shop/db')}
        zfs create -o mountpoint=/{pool.name}/elsewhere -o reservation=4M {pool.at('shop/db/log')}
        zfs create -o canmount=noauto -o mountpoint=none {pool.at('shop/off')}
        zfs create -s -V 8M {pool.at('shop/volume')}
        zfs create {pool.at('neighbour')}
        for place in /{pool.at('shop')} /{pool.at('shop/db')} /{pool.name}/elsewhere; do echo old > $place/file; done
        echo same > /{pool.at('neighbour')}/file
        {pool.wait_for_device('shop/volume')}
        echo old | dd of=/dev/zvol/{pool.at('shop/volume')} conv=fsync 2>/dev/null
    """)
    options = {"datasets": [pool.at("shop")], "recursive": True, "app": "shop-prod", "deploy_id": FIRST, **pool.options}
    machine.good(options)
    return options


def fail(machine: Machine, pool: Pool) -> None:
    """What the failed deploy has done: other content, a newer snapshot, a bookmark."""
    machine.sh(f"""
        zfs snapshot {pool.at('shop/db')}@by-hand
        zfs bookmark {pool.at('shop/db')}@by-hand {pool.at('shop/db')}#mark
        for place in /{pool.at('shop')} /{pool.at('shop/db')} /{pool.name}/elsewhere; do echo new > $place/file; done
        dd if=/dev/urandom of=/{pool.at('shop/db')}/grown bs=64k count=64 2>/dev/null
        echo new | dd of=/dev/zvol/{pool.at('shop/volume')} conv=fsync 2>/dev/null
    """)


def volume(machine: Machine, pool: Pool) -> str:
    return machine.sh(f"{pool.wait_for_device('shop/volume')}; head -c 3 /dev/zvol/{pool.at('shop/volume')}")[0]


def test_swap_and_its_undo(machine: Machine, pool: Pool) -> None:
    options = shop(machine, pool)
    tree = [pool.at(name) for name in ("shop", "shop/db", "shop/db/log", "shop/off", "shop/volume")]
    before, had = live(machine, pool), {name: properties(machine, name) for name in tree}
    fail(machine, pool)
    failed = live(machine, pool)
    back = {**options, "state": "rolled_back", "rollback_id": SECOND}
    everything = pool.fingerprint()
    checked = machine.good(back, check=True, diff=True)
    assert pool.fingerprint() == everything and checked["changed"] is True and checked["loss"] == [], checked
    # Written a moment ago and not yet on the disk: it counts all the same.
    aside = {one["dataset"]: one for one in checked["set_aside"]}
    assert 4 * MIB <= aside[pool.at("shop/db")]["written"] < 8 * MIB and "by-hand" in json.dumps(
        aside[pool.at("shop/db")]["newer_snapshots"]
    ), aside
    result = machine.good({**back, "confirm": checked["plan_id"]})
    assert (result["plan"], result["plan_id"], result["loss"]) == (checked["plan"], checked["plan_id"], [])
    assert live(machine, pool) == before and volume(machine, pool) == "old"
    assert {name: properties(machine, name) for name in tree} == had
    # The parked tree: whole, as it failed, mounted nowhere, also not by those who mount everything.
    [parked] = result["parked"]
    assert parked["dataset"] == pool.at("shop") and parked["id"] == SECOND and SECOND in parked["parked"]
    machine.sh("zfs mount -a")
    assert (
        live(machine, pool) == before
        and machine.run("zfs", "list", "-Hp", "-o", "mounted", "-t", "filesystem", "-r", parked["parked"]) == ["no"] * 4
    )
    assert f"{parked['parked']}/db@by-hand" in machine.run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", "-r", parked["parked"])
    # Promoted: the live one owns the restore point and depends on nothing that is parked.
    assert machine.run("zfs", "get", "-H", "-o", "value", "origin", *tree) == ["-"] * 5
    assert [f"{name}@{NAME}" in machine.run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", name) for name in tree] == [True] * 5
    # Done is done, whatever was written since.
    pool.write("shop", "precious")
    again = machine.good({**back, "confirm": True})
    assert again["changed"] is False and pool.read("shop") == "precious"
    # And back again: the parked state is live, and what was live is parked.
    undone = machine.good(
        {
            "datasets": [pool.at("shop")],
            "recursive": True,
            "app": "shop-prod",
            **pool.options,
            "state": "rolled_back",
            "parked": SECOND,
            "rollback_id": THIRD,
        }
    )
    assert live(machine, pool) == failed and volume(machine, pool) == "new" and undone["changed"] is True
    assert {name: properties(machine, name) for name in tree} == had
    assert f"{pool.at('shop/db')}@by-hand" in machine.run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", "-r", pool.name)
    assert f"{pool.at('shop/db')}#mark" in machine.run("zfs", "list", "-H", "-o", "name", "-t", "bookmark", "-r", pool.name)
    assert [one["id"] for one in machine.info(datasets=[pool.at("shop")])["parked"]] == [THIRD]


@pytest.mark.long
def test_a_parked_state_costs_space_and_can_be_cleared(machine: Machine, pool: Pool) -> None:
    options = shop(machine, pool)
    fail(machine, pool)
    machine.good({**options, "state": "rolled_back", "rollback_id": SECOND})
    [parked] = machine.info(datasets=[pool.at("shop")])["parked"]
    assert (parked["id"], parked["live"]) == (SECOND, pool.at("shop")) and 4 * MIB <= parked["bytes"] < 64 * MIB, parked
    before = live(machine, pool)
    clear = {"datasets": [pool.at("shop")], "recursive": True, "app": "shop-prod", **pool.options, "state": "absent", "parked": SECOND}
    everything = pool.fingerprint()
    refused = machine.module(clear)
    assert refused["reason"] == "needs_consent" and pool.fingerprint() == everything, refused
    checked = machine.good(clear, check=True)
    assert checked["loss"] and pool.fingerprint() == everything
    result = machine.module({**clear, "confirm": True})
    assert result.get("reason") == "needs_consent" and "newer_snapshots" in json.dumps(result), result  # somebody's own snapshot is in it
    result = machine.good({**clear, "confirm": True, "accept": ["newer_snapshots"]})
    assert result["plan"] == checked["plan"] and live(machine, pool) == before
    assert not [name for name in pool.all() if "parked" in name] and volume(machine, pool) == "old"
    assert machine.good({**clear, "confirm": True})["changed"] is False
    # What is left is whole: it can be gone back to once more, now in place.
    pool.write("shop/db", "newest")
    machine.good({**options, "state": "rolled_back", "method": "rollback", "rollback_id": THIRD, "confirm": True})
    assert live(machine, pool) == before


def test_rollback_in_place_says_and_takes_exactly_what_it_destroys(machine: Machine, pool: Pool) -> None:
    options = shop(machine, pool)
    before = live(machine, pool)
    machine.good({**options, "deploy_id": SECOND})  # a newer one of ours, which is held
    fail(machine, pool)
    machine.sh(f"zfs snapshot {pool.at('neighbour')}@untouched; zfs bookmark {pool.at('shop/db')}@{NAME} {pool.at('shop/db')}#older")
    guids = machine.run("zfs", "get", "-Hp", "-o", "value", "guid", *(pool.at(name) for name in ("shop", "shop/db", "neighbour")))
    back = {**options, "state": "rolled_back", "method": "rollback", "rollback_id": THIRD}
    everything = pool.fingerprint()
    checked = machine.good(back, check=True)
    assert pool.fingerprint() == everything and "none" in json.dumps(checked["undo"]), checked["undo"]
    said = json.dumps(checked["loss"])
    assert "by-hand" in said and f"pre-deploy-{SECOND}" in said and "mark" in said and "untouched" not in said and "older" not in said, said
    written = max(loss.get("bytes") or 0 for loss in checked["loss"])
    assert 4 * MIB <= written < 8 * MIB, checked["loss"]
    for consent, reason in (
        ({}, "needs_consent"),
        ({"confirm": True}, "needs_consent"),
        ({"confirm": True, "accept": ["newer_snapshots"]}, "needs_consent"),
        ({"confirm": True, "accept": ["own_holds"]}, "needs_consent"),
        ({"confirm": True, "accept": ["newer_snapshots", "own_holds"], "max_loss": "1M"}, "over_max_loss"),
    ):
        refused = machine.module({**back, **consent})
        assert refused.get("reason") == reason and pool.fingerprint() == everything, (consent, refused)
    result = machine.good({**back, "confirm": True, "accept": ["newer_snapshots", "own_holds"], "max_loss": "100M"})
    assert result["plan"] == checked["plan"] and live(machine, pool) == before and volume(machine, pool) == "old"
    assert machine.run("zfs", "get", "-Hp", "-o", "value", "guid", *(pool.at(name) for name in ("shop", "shop/db", "neighbour"))) == guids
    left = pool.all("snapshot,bookmark")
    assert sorted(left) == sorted(
        [
            *(f"{name}@{NAME}" for name in ("shop", "shop/db", "shop/db/log", "shop/off", "shop/volume")),
            "neighbour@untouched",
            "shop/db#older",
        ]
    ), left
    pool.write("shop", "precious")
    assert (
        machine.good({**back, "confirm": True, "accept": ["newer_snapshots", "own_holds"]})["changed"] is False
        and pool.read("shop") == "precious"
    )


def test_what_a_newer_snapshot_holds_is_counted_once(machine: Machine, pool: Pool) -> None:
    """It was written since, too: the sum is what ZFS then gives back, and that is what max_loss is about."""
    data = pool.make("data")
    options = {"datasets": [data], "deploy_id": FIRST, **pool.options}
    machine.good(options)

    def fill() -> str:
        return f"dd if=/dev/urandom of=/{data}/big bs=64k count=80 conv=fsync 2>/dev/null"

    machine.sh(f"{fill()}; zfs snapshot {data}@by-hand; {fill()}; zpool sync {pool.name}")
    # Its content was replaced, so that it alone holds what was written before it.
    held = int(machine.run("zfs", "get", "-Hp", "-o", "value", "used", f"{data}@by-hand")[0])
    assert 5 * MIB <= held < 6 * MIB, held
    [before] = pool.get("data", "used")
    back = {**options, "state": "rolled_back", "method": "rollback", "rollback_id": SECOND, "accept": ["newer_snapshots"]}
    checked = machine.good(back, check=True)
    said = sum(loss["bytes"] for loss in checked["loss"])
    assert "by-hand" in json.dumps(checked["loss"]) and 10 * MIB <= said < 11 * MIB, checked["loss"]
    refused = machine.module({**back, "confirm": True, "max_loss": "9M"})
    assert refused.get("reason") == "over_max_loss", refused
    machine.good({**back, "confirm": True, "max_loss": "12M"})
    machine.run("zpool", "sync", pool.name)
    [after] = pool.get("data", "used")
    assert abs(int(before) - int(after) - said) < MIB, (before, after, said)


def test_the_plans_id_stands_for_what_is_there(machine: Machine, pool: Pool) -> None:
    options = shop(machine, pool)
    fail(machine, pool)
    back = {**options, "state": "rolled_back", "rollback_id": SECOND}
    seen = machine.good(back, check=True)["plan_id"]
    pool.write("shop", "more was written")
    assert machine.good(back, check=True)["plan_id"] == seen  # sizes move every second; they are no identity
    in_place = machine.good({**back, "method": "rollback"}, check=True)["plan_id"]
    machine.sh(f"zfs snapshot {pool.at('shop/off')}@unforeseen")
    everything = pool.fingerprint()
    refused = machine.module({**back, "method": "rollback", "confirm": in_place})
    assert refused["reason"] == "plan_moved" and pool.fingerprint() == everything, refused
    # Another dataset under the same name: with a snapshot of the same name.
    machine.sh(f"""
        zfs destroy {pool.at('shop/off')}@unforeseen
        zfs rename {pool.at('shop/off')} {pool.at('moved')}; zfs create -o canmount=noauto -o mountpoint=none {pool.at('shop/off')}
    """)
    everything = pool.fingerprint()
    for method in ("swap", "rollback"):
        refused = machine.module({**back, "method": method, "confirm": seen if method == "swap" else in_place})
        assert (
            refused.get("reason") in ("plan_moved", "no_snapshot", "guid_moved", "uncovered_children") and pool.fingerprint() == everything
        ), refused


def test_children_that_came_later_and_replication(machine: Machine, pool: Pool) -> None:
    options = shop(machine, pool)
    fail(machine, pool)
    machine.sh(f"""
        zfs create {pool.at('shop/db/new')}; echo child > /{pool.at('shop/db/new')}/file
        zfs snapshot {pool.at('shop/db')}@syncoid_backup_2026-11-21:09:00:00
        zfs snapshot {pool.at('shop')}@zrepl_20261121_090000_000
        zfs snapshot {pool.at('shop')}@{pool.name}-20261121090000
        zfs bookmark {pool.at('shop')}@zrepl_20261121_090000_000 {pool.at('shop')}#zrepl_CURSOR_G_6f1d_J_push
    """)
    back = {**options, "state": "rolled_back", "rollback_id": SECOND}
    for method in ("swap", "rollback"):
        checked = machine.good({**back, "method": method}, check=True)
        warnings = " ".join(checked["warnings"])
        assert "syncoid" in warnings and "zrepl" in warnings and pool.at("shop/db/new") in warnings, (method, warnings)
    result = machine.good(back)
    assert pool.at("shop/db/new") not in machine.run("zfs", "list", "-H", "-o", "name", "-t", "filesystem")
    [parked] = result["parked"]
    assert pool.at("shop/db/new") in json.dumps(result["set_aside"]) and f"{parked['parked']}/db/new" in machine.run(
        "zfs", "list", "-H", "-o", "name", "-t", "filesystem"
    )
    machine.good({**options, "deploy_id": None, "parked": SECOND, "state": "rolled_back", "rollback_id": THIRD})
    assert pool.read("shop/db/new") == "child" and pool.read("shop/db") == "new"


def test_encrypted_and_received(machine: Machine, pool: Pool) -> None:
    machine.sh(f"""
        echo 12345678 > /run/key
        zfs create -o encryption=on -o keyformat=passphrase -o keylocation=file:///run/key {pool.at('secret')}
        zfs create {pool.at('secret/in')}
        echo old > /{pool.at('secret/in')}/file
        zfs create -o compression=gzip -o com.example:owner=them {pool.at('source')}; zfs snapshot {pool.at('source')}@sent
        zfs send -p {pool.at('source')}@sent | zfs receive {pool.at('copy')}
        echo old > /{pool.at('copy')}/file
    """)
    options = {"datasets": [pool.at("secret"), pool.at("copy")], "recursive": True, "deploy_id": FIRST, **pool.options}
    machine.good(options)
    machine.sh(
        f"echo new > /{pool.at('secret/in')}/file; echo new > /{pool.at('copy')}/file; "
        f"zfs unmount {pool.at('secret')}; zfs unload-key {pool.at('secret')}"
    )
    everything = pool.fingerprint()
    refused = machine.module({**options, "state": "rolled_back", "rollback_id": SECOND})
    assert refused["reason"] == "key_unavailable" and pool.at("secret") in refused["msg"] and pool.fingerprint() == everything, refused
    machine.sh(f"zfs mount -l {pool.at('secret')}; zfs mount {pool.at('secret/in')}")
    # ZFS forgets the key of what was promoted: one that somebody has to type in would leave the app without its data.
    machine.sh(f"zfs set keylocation=prompt {pool.at('secret')}")
    everything = pool.fingerprint()
    refused = machine.module({**options, "state": "rolled_back", "rollback_id": SECOND})
    assert refused["reason"] == "key_unavailable" and pool.fingerprint() == everything, refused
    machine.sh(f"zfs set keylocation=file:///run/key {pool.at('secret')}")
    machine.good({**options, "state": "rolled_back", "rollback_id": SECOND})
    assert (pool.read("secret/in"), pool.read("copy")) == ("old", "old")
    assert pool.get("copy", "compression", "com.example:owner") == ["gzip", "them"]
    assert pool.get("secret/in", "encryptionroot", "keystatus") == [pool.at("secret"), "available"]
    # The parked state can go, and the key still opens what is live.
    machine.good(
        {
            "datasets": options["datasets"],
            "recursive": True,
            **pool.options,
            "state": "absent",
            "parked": SECOND,
            "confirm": True,
            "accept": ["newer_snapshots"],
        }
    )
    machine.sh(
        f"zfs unmount {pool.at('secret')}; zfs unload-key {pool.at('secret')}; "
        f"zfs mount -l {pool.at('secret')}; zfs mount {pool.at('secret/in')}; rm /run/key"
    )
    assert pool.read("secret/in") == "old"
