# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about an app's databases, each case in no time; that playbooks ask for it is seen in tests/integration/postgres."""
from __future__ import annotations

import sys
import typing as t

import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT / "collection/plugins"))
from plugin_utils import databases  # noqa: E402  (the path comes first)

A, B = "20261121t084500z-7f3a", "20261122t084500z-7f3a"
APP = [{"database": "shop", "on_host": "db1", "port": 5433}, {"database": "bill", "on_host": "db1"}, {"database": "log"}]


def point(name: str, deploy: str, ready: bool = True) -> dict[str, t.Any]:
    return {"deploy_id": deploy, "database": f"{name}__before_{deploy}", "time": deploy[:8], "bytes": 1, "seconds": 2.0, "ready_to_roll_back": ready,
            "why": [] if ready else ["there are connections to it"], "written": None, "oid": 17, "release": None}


def looked(name: str, *points: dict[str, t.Any], parked: tuple[str, ...] = ()) -> dict[str, t.Any]:
    return {"database_one": {"database": name}, "live": {"oid": 16, "bytes": 5, "sessions": 1}, "restore_points": list(points), "unfinished": None,
            "parked": [{"id": one, "database": f"{name}__failed_{one}"} for one in parked]}


def test_where_databases_are() -> None:
    assert databases.database_hosts(APP, ["app1", "app2"]) == ["db1", "app1"] and databases.database_hosts([], ["app1"]) == []
    assert databases.databases_here(APP, "db1", ["app1"]) == [{"database": "shop", "port": 5433}, {"database": "bill"}]
    assert databases.databases_here(APP, "app1", ["app1"]) == [{"database": "log"}] and databases.databases_here(APP, "app2", ["app1", "app2"]) == []


@pytest.mark.parametrize("capture, hooks, hosts", [("always", {}, ["db1"]), ("migrations", {"migrate": []}, []), ("migrations", {"migrate": [["up"]]}, ["db1"])])
def test_when_they_are_captured(capture: str, hooks: dict[str, t.Any], hosts: list[str]) -> None:
    assert databases.captured_hosts(["db1"], capture, hooks) == hosts


def test_what_was_seen() -> None:
    seen = databases.databases_seen([looked("shop", point("shop", A), point("shop", B, ready=False), parked=(A,)), looked("bill", point("bill", A))], "db1")
    assert seen["rollbacks"]["swap"]["open"] == [f"shop__before_{A}", f"bill__before_{A}"] and seen["rollbacks"]["parked"] == [f"shop__failed_{A}"]
    assert [(one["database"], one["oid"]) for one in seen["databases"]] == [("shop", 16), ("bill", 16)]
    assert databases.unusable_points(seen["databases"]) == [f"the newest restore point of shop, shop__before_{B}, cannot be restored: "
                                                          "there are connections to it"]
    assert databases.retained_ids(seen["databases"], [f"shop__before_{B}", f"shop__failed_{A}", "gone__before_x", B]) == [A, B, "gone__before_x"]
    empty = databases.databases_seen([{**looked("shop"), "live": None}], "db1")
    assert empty["databases"][0]["oid"] is None and databases.unusable_points(empty["databases"]) == [] and databases.retained_ids(empty["databases"], []) == []


def test_what_the_ledger_records() -> None:
    made = [{"database_one": {"database": "shop"}, "deploy_id": A, "restore_point": f"shop__before_{A}"}, {"database_one": {"database": "bill"}}]
    assert databases.databases_captured(made, "db1", A) == {
        "layer": "database", "host": "db1", "deploy_id": A, "points": [{"host": "db1", "name": f"shop__before_{A}", "data": {"database": "shop"}}]}
    where = storage("/d", "tank/pg")["storage"]
    [seen] = databases.databases_captured([{**made[0], "storage": where}], "db1", A)["points"]
    assert seen["data"] == {"database": "shop", "storage": where}
    done = [{"database_one": {"database": "shop"}, "changed": True, "parked": {"id": B, "database": f"shop__failed_{B}"}, "undo": "state: rolled_back"},
            {"database_one": {"database": "bill"}, "changed": False, "after": {"parked": [{"id": A, "database": "a"}, {"id": B, "database": "b"}]}},
            {"database_one": {"database": "log"}, "changed": False, "parked": None, "after": None}]
    back = databases.databases_reverted(done, "db1", B)
    assert [(one["name"], one["data"]) for one in back["points"]] == [
        (f"shop__failed_{B}", {"database": "shop", "parked": B}), ("b", {"database": "bill", "parked": B})] and back["changed"]


def storage(path: str, source: str, filesystem: str = "ext4") -> dict[str, t.Any]:
    return {"database": "shop", "storage": {"data_directory": "/d", "places": [{"path": path, "source": source, "filesystem": filesystem}]}}


DATASET = {"dataset": [{"host": "node", "data": {"datasets": ["tank/pg", "tank/shop"]}}]}
CONTAINER = {"container": [{"host": "ct1", "data": {"holds": {"vmid": 101}}}]}
COMPOSE = {"compose": [{"host": "db1", "data": {"holds": {"sources": ["", "/var/lib/docker/volumes/shop_db/_data", "/srv/shop/db/"]}}}]}
NONE_KNOWN = {"container": [{"host": "ct1", "data": {}}], "compose": [{"host": "db1"}], "dataset": [{"host": "db1", "data": {"parked": "x"}}]}


@pytest.mark.parametrize("data, others, holder", [
    (storage("/d", "tank/pg", "zfs"), DATASET, "the dataset tank/pg"), (storage("/d", "tank/pg"), DATASET, ""), (storage("/d", "tank/pg/x", "zfs"), DATASET, ""),
    (storage("/d", "/dev/mapper/pve-vm--101--disk--0"), CONTAINER, "the container 101"),
    (storage("/d", "rpool/data/subvol-101-disk-1", "zfs"), CONTAINER, "the container 101"), (storage("/d", "rpool/data/subvol-1101-disk-1", "zfs"), CONTAINER, ""),
    (storage("/var/lib/docker/volumes/shop_db/_data/17", "/dev/sda"), COMPOSE, "/var/lib/docker/volumes/shop_db/_data of the Compose project"),
    (storage("/srv/shop/db", "/dev/sda"), COMPOSE, "/srv/shop/db/ of the Compose project"), (storage("/srv/shop/db2", "/dev/sda"), COMPOSE, ""),
    (storage("/d", "/dev/sda"), NONE_KNOWN, ""), ({"database": "shop"}, {**DATASET, **CONTAINER, **COMPOSE}, ""), ({"database": "shop", "storage": None}, DATASET, ""),
])
def test_what_holds_a_database(data: dict[str, t.Any], others: dict[str, t.Any], holder: str) -> None:
    layers = {"database": [{"host": "db1", "data": {"database": "log"}}, {"host": "db1", "data": data}], **others}
    assert databases.held_by_another_layer(layers) == (f"the database shop lies in {holder}" if holder else "")
    assert databases.held_by_another_layer(others) == ""


def test_a_database_in_the_container_that_is_its_host() -> None:
    layers = {"database": [{"host": "ct1", "data": storage("/d", "/dev/loop0")}], **CONTAINER}
    assert databases.held_by_another_layer(layers) == "the database shop lies in the container 101"


WRITTEN = {"inserted": 5, "updated": 0, "deleted": 2, "tables": {"public.lines": [1, 0, 0], "public.orders": [4, 0, 2]}, "wal_bytes": 1}


@pytest.mark.parametrize("plan, costs", [
    ({"plan": [], "written": WRITTEN}, []),
    ({"plan": ["swap"], "written": WRITTEN, "parked": {"database": "shop__failed_x"}, "sessions": ["shop: till (2)"]},
     ["no longer live, and kept in shop__failed_x: about 5 inserted, 2 deleted rows of shop since (an estimate), in public.orders, public.lines",
      "ended, and to connect again: shop: till (2)"]),
    ({"plan": ["swap"], "written": None, "parked": None, "sessions": []},
     ["no longer live, and kept: what was written to shop since is not counted: PostgreSQL's counters say nothing about it"]),
    ({"plan": ["swap"], "written": {"inserted": 0, "updated": 0, "deleted": 0, "tables": {}}},
     ["no longer live, and kept: nothing that was written to shop since is known"]),
    ({"plan": ["swap"], "written": {"inserted": 7, "updated": 0, "deleted": 0, "tables": {f"t{n}": [n, 0, 0] for n in range(7)}}},
     ["no longer live, and kept: about 7 inserted rows of shop since (an estimate), in t6, t5, t4, t3, t2 and 2 more"]),
    ({"plan": ["swap"], "written": {**WRITTEN, "exact": True, "estimates": {}}, "parked": {"database": "shop__failed_x"}},
     ["public.orders: 4 inserted, 2 deleted rows since; no longer live, and kept in shop__failed_x",
      "public.lines: 1 inserted row since; no longer live, and kept in shop__failed_x"]),
    ({"plan": ["swap"], "written": {**WRITTEN, "exact": False, "estimates": {"public.orders": "not within 60 s"}}},
     ["public.orders: about 4 inserted, 2 deleted rows since; no longer live, and kept", "public.lines: 1 inserted row since; no longer live, and kept",
      "public.orders was not compared row by row: not within 60 s"]),
    ({"plan": ["swap"], "written": {**WRITTEN, "tables": {}, "exact": False, "estimates": {"*": "the server is gone"}}},
     ["shop was not compared row by row: the server is gone"]),
    ({"plan": ["swap"], "written": {**WRITTEN, "tables": {}, "exact": True, "estimates": {}}}, ["nothing was written to shop since"]),
    ({"plan": ["swap"], "written": {**WRITTEN, "tables": {f"t{n:02}": [1, n, 0] for n in range(22)}, "exact": True, "estimates": {}}},
     [f"t{n:02}: 1 inserted, {n} updated rows since; no longer live, and kept" for n in range(21, 1, -1)]
     + ["2 more tables: 2 inserted, 1 updated rows since; no longer live, and kept"]),
])
def test_what_going_back_costs(plan: dict[str, t.Any], costs: list[str]) -> None:
    assert databases.database_costs(plan, "shop") == costs


@pytest.mark.parametrize("layers, color, flips, outcome, stopped", [
    (["dataset", "color"], "blue", True, "done", ""),               # no database
    (["database", "color"], "blue", True, "done", "green"),         # users have noticed: green serves, and blue did before
    (["database", "color"], "green", False, "failed_reverted", "blue"),  # it never served, and may run there
    (["database"], "green", False, None, "blue"),
    (["database"], "green", False, "done", ""),                     # the release stays, and blue is the way back
    (["database"], "", False, None, ""),                            # in place
])
def test_which_colour_must_not_meet_them(layers: list[str], color: str, flips: bool, outcome: str | None, stopped: str) -> None:
    record = [{"deploy_id": A, "outcome": outcome}, {"deploy_id": B, "outcome": None}]
    goal = {"color": color, "flips": flips}
    assert databases.color_stopped(record, A, dict.fromkeys(layers, []), goal, "green") == stopped


def test_whether_one_was_swapped() -> None:
    now = [{"database": "shop", "oid": 1}, {"database": "bill", "oid": 2}]
    assert databases.no_database_swapped({"shop": "1", "bill": 2}, now) and not databases.no_database_swapped({"shop": 3}, now)
    assert not databases.no_database_swapped({"gone": 1}, now) and not databases.no_database_swapped({}, now)


def test_a_drill_never_takes_the_only_way_back() -> None:
    made = [{"database_one": {"database": name, "port": 1}, "restore_point": f"{name}__before_{B}", "steps": [{"seconds": 1.25}, {"seconds": 2}]}
            for name in ("shop", "bill")]
    before = databases.databases_seen([looked("shop", point("shop", A)), looked("bill")], "db1")["databases"]
    told = databases.drill_results(made, before)
    assert [(one["database"], one["removed"], one["newest"], one["seconds"]) for one in told] == [("shop", True, A, 3.2), ("bill", False, "", 3.2)]


def test_of_two_points_of_one_second_the_newer_deploy_is_the_newest() -> None:
    points = [{"time": "2026-11-21T08:45:00Z", "deploy_id": name} for name in ("20261121t084500z-7f3a", "20261121t084500z-8a4b")]
    for order in (points, points[::-1]):
        assert databases.newest_point({"restore_points": order}) == points[1]
