# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about the rehearsal of migrations, each case in no time; that a deploy asks for it is seen in tests/integration/flows."""
from __future__ import annotations

import sys
import typing as t

import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT / "collection/plugins"))
from plugin_utils import rehearsal  # noqa: E402  (the path comes first)

SHOP, ENV, HOOKS = {"database": "shop", "clone_owner": "try"}, {"PGDATABASE": "{shop}"}, {"migrate": [["up"]]}
ADDED = {"kind": "columns", "name": "public.orders.paid", "first": None, "second": "boolean"}
NOTED = {"kind": "revisions", "name": "public.alembic_version", "first": "a", "second": "b"}


def plan(mode: str = "migrations", databases: t.Any = (SHOP,), env: t.Any = None, hooks: t.Any = None, check: bool = False) -> dict[str, t.Any]:
    return rehearsal.rehearsal_plan(mode, list(databases), ENV if env is None else env, hooks or HOOKS, check)


@pytest.mark.parametrize("wanted", [
    {"mode": "never"}, {"check": True}, {"databases": ()}, {"hooks": {"migrate": []}}, {"hooks": {"smoke": [["x"]]}}], ids=str)
def test_nothing_to_rehearse(wanted: dict[str, t.Any]) -> None:
    told = plan(**wanted)
    assert not told["goes"] and not told["skipped"] and not told["refused"]


@pytest.mark.parametrize("wanted, lacks", [
    ({"env": {}}, "Set app_rehearse_env"), ({"env": {"URL": "x"}}, "{shop}"), ({"databases": ({"database": "shop"},)}, "Set clone_owner in the entry of shop"),
    ({"databases": (SHOP, {"database": "bill", "clone_owner": "try"})}, "{bill}"), ({"hooks": {"migrate": ["up.yml"]}}, "up.yml is a file of tasks"),
    ({"hooks": {"migrate": [["up"]], "downgrade": ["down.yml"]}}, "down.yml")], ids=str)
def test_what_is_to_be_set(wanted: dict[str, t.Any], lacks: str) -> None:
    told = plan(**wanted)
    assert not told["goes"] and lacks in told["skipped"] and not told["refused"]
    told = plan(mode="always", **wanted)
    assert not told["goes"] and lacks in told["refused"] and not told["skipped"]


def test_what_is_rehearsed() -> None:
    assert plan()["goes"] and not plan()["downgrades"]
    assert plan(mode="always", hooks=HOOKS | {"downgrade": [["down"]]})["downgrades"]
    clones = rehearsal.databases_cloned([{"database_one": SHOP, "restore_point": "p", "clone": "c"}, {"database_one": SHOP}])
    assert clones == [{"database": "shop", "point": "p", "clone": "c"}]
    assert rehearsal.rehearsal_env({"URL": "pg:///{shop}?{x}", "N": 5}, clones) == {"URL": "pg:///c?{x}", "N": "5"}


def test_no_room() -> None:
    full = {"failed": True, "reason": "no_space", "msg": "the disk is full"}
    assert "the disk is full" in rehearsal.no_room_to_rehearse({"results": [{"failed": False}, full]}, "migrations")
    assert not rehearsal.no_room_to_rehearse(full, "always") and not rehearsal.no_room_to_rehearse({"msg": "x"}, "migrations")
    assert not rehearsal.no_room_to_rehearse({"results": [full, {"failed": True, "reason": "no_role"}]}, "migrations")


def one(*differences: dict[str, t.Any], live: str = "d", checks: t.Sequence[dict[str, t.Any]] = ()) -> dict[str, t.Any]:
    return {"db1": [{"database": "shop", "differences": list(differences), "more": 0, "checks": list(checks), "live": live}]}


def shown(downgrades: bool = False, **seen: t.Any) -> dict[str, t.Any]:
    whole = {"before": one(), "migrated": one(ADDED, NOTED), "after": one(NOTED), "seconds": {"migrate": 41.2, "downgrade": 0.1}, "failure": ""}
    return rehearsal.rehearsal_verdict(plan(hooks=HOOKS | ({"downgrade": [["down"]]} if downgrades else {})), whole | seen)


def test_what_it_has_shown() -> None:
    told = shown(after=one(ADDED, NOTED))
    assert told["ok"] and told["says"] == ("The migration works on your data: 41 s. Irreversible: there is no hook downgrade, so the restore point is the only "
                                           "way back.")
    told = shown(downgrades=True)
    assert told["ok"] and told["says"] == "The migration works on your data: 41 s; the downgrade is proven: 1 s."
    told = shown(downgrades=True, after=one(ADDED))
    assert not told["ok"] and "columns: public.orders.paid is additional" in told["says"] and "not touched" in told["says"]
    assert shown(migrated=one())["ok"] and "nothing to migrate" in shown(migrated=one())["says"]


def test_what_stops_a_deploy() -> None:
    check = {"name": "all paid", "passed": False, "expected": "0", "got": None, "error": None}
    for seen, words in (
            ({"failure": "the hook migrate: up ended with 1"}, "up ended with 1"),
            ({"migrated": one(ADDED, checks=[check])}, "shop on db1: all paid: expected 0, got null"),
            ({"migrated": one(ADDED, checks=[check | {"error": "canceled"}])}, "canceled")):
        told = shown(**seen)
        assert not told["ok"] and not told["live"] and words in told["says"] and "not touched" in told["says"], told
    # A hook that has reached the live database, whatever else was seen.
    for seen in ({"after": one(live="e")}, {"migrated": one(ADDED, live="e")}, {"after": one(live="e"), "failure": "x"}):
        told = shown(**seen)
        assert not told["ok"] and told["live"] and "LIVE DATABASE shop on db1" in told["says"] and "not touched" not in told["says"], told
    told = shown(after={}, failure="unreachable")
    assert not told["ok"] and "not known" in told["says"] and "not touched" not in told["says"]
    assert "not touched" in shown(before={}, migrated={}, after={}, failure="no room")["says"]


def test_what_was_compared() -> None:
    schema = {"differences": [ADDED], "more": 0, "digests": ["a", "b"]}
    found = rehearsal.clones_compared([{"database_one": SHOP, "schema": schema, "checks": None}],
                                      [{"database_one": SHOP, "schema": schema | {"digests": ["x", "x"]}}])
    assert found == [{"database": "shop", "differences": [ADDED], "more": 0, "checks": [], "live": "x"}]
