# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_pre_deploy on real ZFS: restore points. Taken at one instant, once; known by our properties alone; removed only if ours.

The way back is in test_zfs_pre_deploy_back.py, what is refused in test_zfs_pre_deploy_refused.py. Most tests run the built module in
the machine itself; one goes through Ansible, which finds no Python there.
"""
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import zfs
from harness import Ansible, Run
from zfs import HOST, Machine, Pool

FIRST, SECOND, THIRD, FOURTH = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t091500z-0003", "20261121t093000z-0004"
NAME = f"pre-deploy-{FIRST}"


@pytest.fixture(scope="module")
def machine() -> Machine:
    return zfs.machine()


@pytest.fixture
def pool(machine: Machine) -> t.Iterator[Pool]:
    with machine.pool() as pool:
        yield pool


def test_through_ansible_without_python(machine: Machine, pool: Pool, edge_core: str, tmp_path: Path) -> None:
    ansible = Ansible(edge_core, tmp_path, {HOST: machine.known | {"ansible_python_interpreter": "/nowhere/python"}})
    pool.make("shop", "shop/db")

    def task(*options: str, **args: t.Any) -> Run:
        wanted = {"datasets": [pool.at("shop")], "recursive": True, "app": "shop-prod", "deploy_id": FIRST, **pool.options, **args}
        return ansible.play([{"reversible.deploy.zfs_pre_deploy": wanted}], HOST, *options)

    before = pool.fingerprint()
    checked = task("--check", "--diff")
    assert checked.code == 0 and checked.only["changed"] is True and pool.fingerprint() == before, checked.output
    assert NAME in json.dumps(checked.only["diff"])
    run = task()
    assert run.code == 0 and run.only["changed"] is True, run.output
    assert (run.only["plan"], run.only["plan_id"]) == (checked.only["plan"], checked.only["plan_id"])
    assert pool.all("snapshot") == [f"shop@{NAME}", f"shop/db@{NAME}"]
    again = task()
    assert again.code == 0 and again.only["changed"] is False and again.only["plan"] == [], again.output
    pool.write("shop/db", "after the deploy")
    back = {"state": "rolled_back", "rollback_id": SECOND}
    checked = task("--check", **back)
    assert checked.code == 0 and checked.only["changed"] is True, checked.output
    run = task(**back, confirm=checked.only["plan_id"])
    assert run.code == 0 and run.only["plan"] == checked.only["plan"], run.output
    assert machine.run("ls", f"/{pool.at('shop/db')}") == []
    seen = ansible.play([{"reversible.deploy.zfs_pre_deploy_info": {"datasets": [pool.at("shop")]}}], HOST)
    assert seen.code == 0 and [point["deploy_id"] for point in seen.only["restore_points"]] == [FIRST], seen.output
    assert [parked["id"] for parked in seen.only["parked"]] == [SECOND]


def test_one_instant_one_call_for_each_pool(machine: Machine, pool: Pool) -> None:
    with machine.pool() as other, machine.watched() as watched:
        pool.make("data", "data/web", "data/db", "data/db/log")
        machine.run("zfs", "create", "-s", "-V", "8M", pool.at("data/volume"))
        other.make("media")
        names = [pool.at("data"), other.at("media")]
        wanted = {
            "datasets": names,
            "recursive": True,
            "exclude": [pool.at("data/db")],
            "deploy_id": FIRST,
            "app": "shop-prod",
            "release": "4f2d1c9",
            **pool.options,
        }
        result = machine.good(wanted, watch=watched)
        assert sorted(result["datasets"]) == sorted([*(pool.at(name) for name in ("data", "data/volume", "data/web")), other.at("media")])
        assert pool.all("snapshot") == [f"{name}@{NAME}" for name in ("data", "data/volume", "data/web")] and other.all("snapshot") == [
            f"media@{NAME}"
        ]
        calls = watched.calls("change")
        assert [len([call for call in calls if call.startswith(f"zfs {verb} ")]) for verb in ("snapshot", "hold")] == [2, 2], calls
        instants = machine.run("zfs", "list", "-Hp", "-o", "createtxg", "-t", "snapshot", "-r", pool.name)
        assert len(instants) == 3 and len(set(instants)) == 1
        held = machine.run(
            "zfs", "holds", "-H", *(f"{pool.at(name)}@{NAME}" for name in ("data", "data/web")), f"{other.at('media')}@{NAME}"
        )
        assert [line.split("\t")[1] for line in held] == ["reversible"] * 3
        # Again, and without our records: the snapshots themselves say whose they are.
        machine.run("rm", "-rf", pool.state_dir)
        before = [*pool.fingerprint(), *other.fingerprint()]
        again = machine.good(wanted)
        assert again["changed"] is False and again["plan"] == []
        assert [*pool.fingerprint(), *other.fingerprint()] == before
        [point] = machine.info(datasets=names, recursive=True)["restore_points"]
        assert (point["deploy_id"], point["app"], point["release"], point["snapshot"], point["ready_to_roll_back"]) == (
            FIRST,
            "shop-prod",
            "4f2d1c9",
            NAME,
            True,
        ), point
        assert {(one["dataset"], one["guid"], one["held"]) for one in point["datasets"]} == {
            (name, machine.run("zfs", "get", "-Hp", "-o", "value", "guid", f"{name}@{NAME}")[0], True) for name in result["datasets"]
        }
        # A dataset that came later makes it incomplete; the rest is not taken again.
        other.make("media/new")
        added = machine.module(wanted)
        assert not added.get("failed") or added["reason"], added
        assert other.all("snapshot")[0] == f"media@{NAME}" and (added.get("failed") or f"media/new@{NAME}" in other.all("snapshot")), added


@pytest.mark.long
def test_fifty_datasets_in_one_call(machine: Machine, pool: Pool) -> None:
    names = [f"many/{number:02}" for number in range(50)]
    machine.sh(f"zfs create {pool.at('many')}; for n in $(seq -w 0 49); do zfs create -o canmount=off {pool.at('many')}/$n; done")
    with machine.watched() as watched:
        machine.good({"datasets": [pool.at(name) for name in names], "deploy_id": FIRST, **pool.options}, watch=watched)
        assert [call.split()[1] for call in watched.calls("change")] == ["snapshot", "hold"]
        assert len(pool.all("snapshot")) == 50
        # Looking costs the same few calls, however many there are.
        assert len(watched.calls("read")) <= 6, watched.calls("read")


def test_a_name_that_is_somebody_elses_is_refused(machine: Machine, pool: Pool) -> None:
    pool.make("one", "two")
    wanted = {"datasets": [pool.at("one"), pool.at("two")], "deploy_id": FIRST, **pool.options}
    # Without our property; with it, but only inherited from the dataset; and a received copy of ours.
    machine.sh(f"zfs snapshot {pool.at('two')}@{NAME}")
    before = pool.fingerprint()
    refused = machine.module(wanted)
    assert refused["reason"] == "name_taken" and f"{pool.at('two')}@{NAME}" in refused["msg"] and pool.fingerprint() == before, refused
    machine.sh(f"zfs destroy {pool.at('two')}@{NAME}")
    machine.good(wanted)
    properties = machine.run("zfs", "get", "-Hp", "-s", "local", "-o", "property,value", "all", f"{pool.at('one')}@{NAME}")
    local = " ".join(f"-o {line.split(chr(9))[0]}='{line.split(chr(9))[1]}'" for line in properties)
    machine.sh(f"zfs create {local.replace(NAME, 'another')} {pool.at('three')}; zfs snapshot {pool.at('three')}@{NAME}")
    machine.sh(f"zfs send -p {pool.at('one')}@{NAME} | zfs receive -u {pool.at('four')}")
    with machine.pool() as other:
        machine.sh(f"zfs send -p {pool.at('one')}@{NAME} | zfs receive -u {other.at('five')}")
        for name, reasons in ((pool.at("three"), {"name_taken", "not_ours"}), (other.at("five"), {"name_taken", "not_ours"})):
            before = [*pool.fingerprint(), *other.fingerprint()]
            refused = machine.module({**wanted, "datasets": [name]})
            assert refused.get("reason") in reasons and [*pool.fingerprint(), *other.fingerprint()] == before, (name, refused)
            gone = machine.module({"datasets": [name], "deploy_id": FIRST, "state": "absent", "confirm": True, **pool.options})
            assert not gone.get("changed") and [*pool.fingerprint(), *other.fingerprint()] == before, gone
    # Ours was destroyed and made again by hand, with all its properties: another guid.
    machine.sh(
        f"zfs release reversible {pool.at('one')}@{NAME}; zfs destroy {pool.at('one')}@{NAME}; zfs snapshot {local} {pool.at('one')}@{NAME}"
    )
    before = pool.fingerprint()
    for state in ("present", "rolled_back", "absent"):
        refused = machine.module({**wanted, "state": state, "confirm": True})
        assert refused.get("reason") in ("guid_moved", "not_ours", "name_taken") and pool.fingerprint() == before, (state, refused)


def test_retention_takes_only_ours_and_never_what_is_needed(machine: Machine, pool: Pool) -> None:
    pool.make("data", "data/db")
    common = {"datasets": [pool.at("data")], "recursive": True, "app": "shop-prod", **pool.options}
    ids = [f"2026112{day}t080000z-000{day}" for day in range(1, 7)]
    for one in ids[:5]:
        machine.good({**common, "deploy_id": one})
    # Another app's, one by hand whose name is as ours, one that somebody holds, one that was cloned, and one in `keep`.
    machine.good(
        {
            **common,
            "datasets": [pool.at("data/db")],
            "app": "other-prod",
            "deploy_id": "20261101t000000z-aaaa",
            "state_dir": f"{pool.state_dir}-other",
        }
    )
    machine.sh(f"""
        zfs snapshot -r {pool.at('data')}@pre-deploy-20261101t000000z-bbbb
        zfs hold backup {pool.at('data/db')}@pre-deploy-{ids[1]}
        zfs clone {pool.at('data')}@pre-deploy-{ids[2]} {pool.at('clone')}
    """)
    wanted = {**common, "deploy_id": ids[5], "retain": 1, "keep": [ids[0]]}
    checked = machine.good(wanted, check=True)
    with machine.watched() as watched:
        result = machine.good(wanted, watch=watched)
        assert result["plan"] == checked["plan"]
        reads, changes = watched.calls("read"), watched.calls("change")
    destroyed = [call for call in changes if call.startswith("zfs destroy")]
    assert destroyed and any(call.startswith("zfs destroy") and "-n" in call for call in reads), (reads, changes)
    assert not any(flag in call.split() for call in destroyed for flag in ("-R", "-Rf", "-f")), destroyed
    left = {name for name in pool.all("snapshot")}
    expected = {f"{name}@pre-deploy-{one}" for name in ("data", "data/db") for one in (ids[0], ids[5], "20261101t000000z-bbbb")}
    assert (
        expected | {f"data/db@pre-deploy-{ids[1]}", f"data@pre-deploy-{ids[2]}", "data/db@pre-deploy-20261101t000000z-aaaa"} <= left
    ), left
    assert not left & {f"{name}@pre-deploy-{one}" for name in ("data", "data/db") for one in ids[3:5]}, left
    warnings = " ".join(result["warnings"])
    assert "backup" in warnings and pool.at("clone") in warnings, warnings
    assert machine.good(wanted)["changed"] is False
    machine.sh(f"rm -rf {pool.state_dir}-other")


def test_absent_needs_consent_and_removes_what_it_said(machine: Machine, pool: Pool) -> None:
    pool.make("data", "data/db", "other")
    common = {"datasets": [pool.at("data")], "recursive": True, **pool.options}
    machine.good({**common, "deploy_id": FIRST})
    machine.good({**common, "deploy_id": SECOND})
    gone = {**common, "deploy_id": FIRST, "state": "absent"}
    before = pool.fingerprint()
    refused = machine.module(gone)
    assert refused["reason"] == "needs_consent" and pool.fingerprint() == before, refused
    checked = machine.good(gone, check=True)
    assert checked["changed"] and any(NAME in json.dumps(loss) for loss in checked["loss"]) and pool.fingerprint() == before, checked
    # Held by somebody else, cloned, kept: none of them may go, and none of the rest either.
    for obstacle, back, reason, extra in (
        (f"zfs hold backup {pool.at('data/db')}@{NAME}", f"zfs release backup {pool.at('data/db')}@{NAME}", "held", {}),
        (f"zfs clone {pool.at('data/db')}@{NAME} {pool.at('clone')}", f"zfs destroy {pool.at('clone')}", "clones", {}),
        ("true", "true", "kept", {"keep": [FIRST]}),
    ):
        machine.sh(obstacle)
        before = pool.fingerprint()
        refused = machine.module({**gone, **extra, "confirm": True})
        assert refused.get("reason") == reason and pool.fingerprint() == before, (reason, refused)
        machine.sh(back)
    result = machine.good({**gone, "confirm": checked["plan_id"]})
    assert result["plan"] == checked["plan"]
    assert pool.all("snapshot") == [f"{name}@pre-deploy-{SECOND}" for name in ("data", "data/db")]
    assert machine.good({**gone, "confirm": True})["changed"] is False


def test_missing_without_hold_and_without_an_id(machine: Machine, pool: Pool) -> None:
    pool.make("data")
    common = {"datasets": [pool.at("data"), pool.at("nowhere"), "nopool/at/all"], **pool.options}
    assert machine.module({**common, "deploy_id": FIRST})["reason"] in ("no_dataset", "no_pool")
    result = machine.good({**common, "deploy_id": FIRST, "missing": "skip", "hold": False})
    assert (result["datasets"], sorted(result["missing"])) == ([pool.at("data")], sorted([pool.at("nowhere"), "nopool/at/all"]))
    assert machine.run("zfs", "list", "-Hp", "-o", "userrefs", f"{pool.at('data')}@{NAME}") == ["0"]
    given = machine.good({"datasets": [pool.at("data")], "prefix": "vor-", **pool.options})
    assert given["snapshot"] == f"vor-{given['deploy_id']}" and f"data@{given['snapshot']}" in pool.all("snapshot")


def test_the_fence(machine: Machine, pool: Pool) -> None:
    pool.make("data")
    common = {"datasets": [pool.at("data")], **pool.options}
    machine.good({**common, "deploy_id": SECOND})
    before = pool.fingerprint()
    assert machine.module({**common, "deploy_id": FIRST})["reason"] == "superseded" and pool.fingerprint() == before
    refused = machine.module({**common, "deploy_id": SECOND, "state": "rolled_back", "rollback_id": FIRST})
    assert refused["reason"] == "superseded" and pool.fingerprint() == before, refused
    # One that is refused for another reason must not stop those that come after.
    refused = machine.module({**common, "datasets": [pool.at("nowhere")], "deploy_id": FOURTH})
    assert refused["reason"] == "no_dataset", refused
    assert machine.good({**common, "deploy_id": THIRD})["changed"] is True
