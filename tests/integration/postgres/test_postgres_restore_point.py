# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""postgres_restore_point on real PostgreSQL, while an application writes all the time."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from postgres import ODD_NAME, VERSIONS, App, Server, Shop, quoted, shop_on

DEPLOY, LATER = "20261121t084500z-7f3a", "20261121t085500z-8a4b"
BACK, UNDO = "20261121t090000z-1c2d", "20261121t091500z-2d3e"


@pytest.mark.parametrize("version", VERSIONS)
def test_there_and_back_again(version: str, tmp_path: Path) -> None:
    """Nothing that was acknowledged is lost, no number is given out twice, and what hangs on the database comes along."""
    with shop_on(version, tmp_path, ODD_NAME) as shop, App(shop) as app:
        first, hanging = shop.oid(), shop.hanging_on(shop.name)

        planned = shop.do(check=True, deploy_id=DEPLOY)
        assert planned["changed"] and list(shop.server.databases()) == [shop.name]
        made = shop.do(deploy_id=DEPLOY)
        assert made["plan"] == planned["plan"] and made["plan_id"] == planned["plan_id"]
        app.writes()
        assert app.failed == 0, "the application was disturbed"
        point = made["restore_point"]
        assert set(shop.server.databases()) == {shop.name, point} and not list(shop.work.iterdir())
        assert not shop.do(check=True, deploy_id=DEPLOY)["changed"]
        assert not shop.do(deploy_id=DEPLOY)["changed"]
        with shop.server.opened(point):
            kept = shop.words(point)
            there = shop.hanging_on(point)
        assert kept == shop.words()[:len(kept)], "the copy is of no one moment"
        assert {**there, "comment": hanging["comment"]} == hanging

        [told] = shop.info()["restore_points"]
        assert told["ready_to_roll_back"] and told["deploy_id"] == DEPLOY and told["database"] == point

        before = dict(app.acknowledged)
        planned = shop.do(check=True, state="rolled_back", deploy_id=DEPLOY, rollback_id=BACK)
        assert planned["sessions"] == ["app: till (1)"] and shop.oid() == first
        gone_back = shop.do(state="rolled_back", deploy_id=DEPLOY, rollback_id=BACK)
        assert gone_back["plan"] == planned["plan"] and gone_back["plan_id"] == planned["plan_id"]
        assert shop.oid() == told["oid"] and shop.hanging_on(shop.name) == hanging
        app.writes()
        again = shop.do(state="rolled_back", deploy_id=DEPLOY, rollback_id=BACK)
        assert not again["changed"] and shop.oid() == told["oid"]
        parked = gone_back["parked"]["database"]
        with shop.server.opened(parked):
            late = shop.words(parked)
        assert set(before) <= set(late), "what was acknowledged is not in the parked state"
        assert set(app.acknowledged) <= {*late, *shop.words()}
        assert len(set(app.acknowledged.values())) == len(app.acknowledged), "a number was given out twice"
        shop.refused("restore_point_used", state="rolled_back", deploy_id=DEPLOY, rollback_id=UNDO)

        undone = shop.do(state="rolled_back", parked=BACK, rollback_id=UNDO)
        app.writes()
        assert shop.oid() == first and shop.hanging_on(shop.name) == hanging
        assert shop.words()[:len(late)] == late
        with shop.server.opened(undone["parked"]["database"]):
            assert set(app.acknowledged) <= {*shop.words(), *shop.words(undone["parked"]["database"])}
        assert len(set(app.acknowledged.values())) == len(app.acknowledged), "a number was given out twice"
        # A database that nobody can connect to lets psql end before it has answered.
        assert app.failed >= 2


def test_where_the_files_lie(tmp_path: Path) -> None:
    """By the server's own processes, not by a path that it names: another cluster may have the same."""
    with shop_on("17", tmp_path) as shop:
        own = {"path": str(shop.server.data), **mounted(shop.server.data)}
        space = shop.work.parent / "space"
        space.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "elsewhere", space], check=True)
        shutil.chown(space, shop.server.offer["user"])
        try:
            shop.server.sql(f"CREATE TABLESPACE other LOCATION '{space}'")
            expected = {"data_directory": str(shop.server.data), "places": [own, {"path": str(space), "source": "elsewhere", "filesystem": "tmpfs"}]}
            assert shop.info()["storage"] == expected
            assert shop.do(check=True, deploy_id=DEPLOY)["storage"] == expected
        finally:
            shop.server.sql("DROP TABLESPACE IF EXISTS other")
            subprocess.run(["umount", "-l", space], check=True)


def mounted(path: Path) -> dict[str, str]:
    words = ["findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "--nofsroot", "--target", str(path)]
    source, kind = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return {"source": source, "filesystem": kind}


def test_what_was_written_since_is_estimated(tmp_path: Path) -> None:
    with shop_on("17", tmp_path) as shop:
        shop.do(deploy_id=DEPLOY)
        shop.server.sql("""INSERT INTO orders (word) VALUES ('a'), ('b'); UPDATE lines SET price = 7 WHERE id < 4; DELETE FROM parts WHERE n = 1;
                           SELECT pg_stat_force_next_flush()""", shop.name)
        [told] = shop.info()["restore_points"]
        assert told["written"]["tables"] == {"public.orders": [2, 0, 0], "public.lines": [0, 3, 0], "public.parts_2026": [0, 0, 1]}
        planned = shop.do(check=True, state="rolled_back", deploy_id=DEPLOY)
        assert (planned["written"]["inserted"], planned["written"]["updated"], planned["written"]["deleted"]) == (2, 3, 1)
        assert planned["written"]["wal_bytes"] > 0 and not planned["loss"]
        shop.server.sql("SELECT pg_stat_reset()", shop.name)
        assert shop.info()["restore_points"][0]["written"] is None


def test_sequences_go_on(tmp_path: Path) -> None:
    """Whatever way they count, and also those that have never given out a number when the restore point was made."""
    with shop_on("15", tmp_path) as shop:
        shop.server.sql("CREATE SEQUENCE fresh; CREATE SEQUENCE round MAXVALUE 9 CYCLE; SELECT setval('round', 8)", shop.name)
        shop.do(deploy_id=DEPLOY)
        shop.server.sql("SELECT nextval('fresh'), nextval('down'), nextval('round'), nextval('round'), nextval('lines_id_seq')", shop.name)
        shop.server.sql("CREATE SEQUENCE later; SELECT nextval('later')", shop.name)
        shop.do(state="rolled_back", deploy_id=DEPLOY)
        values = "SELECT nextval('fresh'), nextval('down'), nextval('round'), nextval('lines_id_seq')"
        assert shop.server.sql(values, shop.name) == "2|-16|2|202"


def test_names_of_any_kind(tmp_path: Path) -> None:
    long = "ü" * 31 + "x"
    with shop_on("17", tmp_path, long) as shop:
        one, other = shop.do(deploy_id=DEPLOY)["restore_point"], shop.do(deploy_id=LATER)["restore_point"]
        assert len({one, other}) == 2 and max(len(name.encode()) for name in (one, other)) <= 63
        parked = shop.do(state="rolled_back", deploy_id=DEPLOY, rollback_id=BACK)["parked"]["database"]
        assert set(shop.server.databases()) == {long, parked, other}
        # Back from there to another restore point: what is live is one of ours, too.
        shop.do(state="rolled_back", deploy_id=LATER, rollback_id=UNDO)


def test_removing(tmp_path: Path) -> None:
    with shop_on("15", tmp_path) as shop:
        ids = [f"20261121t08450{number}z-7f3a" for number in range(4)]
        points = [shop.do(deploy_id=one)["restore_point"] for one in ids[:3]]
        shop.do(deploy_id=ids[3], retain=2, keep=[ids[0]])
        assert [told["deploy_id"] for told in shop.info()["restore_points"]] == [ids[0], ids[2], ids[3]]

        shop.refused("needs_consent", checks=[False], state="absent", deploy_id=ids[2])
        shop.refused("kept", state="absent", deploy_id=ids[2], keep=[ids[2]], confirm="true")
        # Made again by somebody else, it is not ours.
        shop.server.sql(f"DROP DATABASE {quoted(points[2])}")
        shop.server.sql(f"CREATE DATABASE {quoted(points[2])}")
        assert not shop.do(state="absent", deploy_id=ids[2], confirm="true")["changed"]
        assert points[2] in shop.server.databases()

        shop.server.sql(f"ALTER DATABASE {quoted(points[0])} ALLOW_CONNECTIONS true; ")
        with Sitting(shop.server, points[0]):
            shop.refused("sessions", state="absent", deploy_id=ids[0], confirm="true")
            assert not shop.do(state="absent", retain=1)["changed"]
        shop.do(state="absent", retain=1)
        assert [told["deploy_id"] for told in shop.info()["restore_points"]] == [ids[3]]
        planned = shop.do(check=True, state="absent", deploy_id=ids[3])
        assert {loss["accept"] for loss in planned["loss"]} == {None, "last_way_back"}
        shop.refused("needs_consent", checks=[False], state="absent", deploy_id=ids[3], confirm="true")
        shop.do(state="absent", deploy_id=ids[3], confirm=planned["plan_id"])
        assert not shop.info()["restore_points"]


class Sitting:
    """Somebody who is connected."""

    def __init__(self, server: Server, database: str) -> None:
        argv = server.client(database, "-f", "-")
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def __enter__(self) -> None:
        self.process.stdin.write("SELECT 1;\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "1\n"

    def __exit__(self, *_why: object) -> None:
        self.process.communicate()


def test_what_is_refused(tmp_path: Path) -> None:
    """Each with nothing changed, in check mode and without it."""
    with shop_on("15", tmp_path) as shop:
        server, name = shop.server, quoted(shop.name)
        shop.refused("no_database", database="nothing", deploy_id=DEPLOY)
        shop.refused("not_superuser", user="app", deploy_id=DEPLOY)
        shop.refused("unreachable", host="/nowhere", deploy_id=DEPLOY)
        for make, undo, reason in (
            ("CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw", "DROP EXTENSION postgres_fdw CASCADE", "not_carried"),
            ("CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER noted ON ddl_command_end "
             "EXECUTE FUNCTION noted()", "DROP FUNCTION noted CASCADE", "not_carried"),
            ("CREATE SUBSCRIPTION feed CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)", "DROP SUBSCRIPTION feed",
             "not_carried"),
            ("UPDATE pg_extension SET extversion = '1.7' WHERE extname = 'hstore'",
             "UPDATE pg_extension SET extversion = '1.8' WHERE extname = 'hstore'", "extension"),
        ):
            server.sql(make, shop.name)
            shop.refused(reason, deploy_id=DEPLOY)
            server.sql(undo, shop.name)
        server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        shop.refused("not_accepting", deploy_id=DEPLOY)
        server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        point = f"{shop.name}__before_{DEPLOY}"
        server.sql(f"CREATE DATABASE {quoted(point)}")
        shop.refused("name_taken", deploy_id=DEPLOY)
        server.sql(f"DROP DATABASE {quoted(point)}")
        shop.refused("no_restore_point", state="rolled_back", deploy_id=DEPLOY)

        shop.do(deploy_id=DEPLOY)
        back = {"state": "rolled_back", "deploy_id": DEPLOY, "rollback_id": BACK}
        server.sql("BEGIN; INSERT INTO orders (word) VALUES ('late'); PREPARE TRANSACTION 'late'", shop.name)
        assert "late" in shop.refused("prepared_transactions", **back)["msg"]
        assert not shop.info()["restore_points"][0]["ready_to_roll_back"]
        server.sql("ROLLBACK PREPARED 'late'", shop.name)
        server.sql("SELECT pg_create_logical_replication_slot('feed', 'test_decoding')", shop.name)
        assert "feed" in shop.refused("needs_consent", checks=[False], **back)["msg"]
        server.sql("SELECT pg_drop_replication_slot('feed')")
        server.sql(f"ALTER DATABASE {quoted(point)} ALLOW_CONNECTIONS true")
        with Sitting(server, point):
            shop.refused("sessions", **back)
        server.sql("DROP TABLE lines CASCADE", point)
        done = shop.start(**back).wait()
        assert done["reason"] == "restore_point_changed" and "as it was before" in done["msg"], done
        assert shop.open() and not shop.unfinished() and server.sql(f"SELECT datallowconn FROM pg_database WHERE datname = '{point}'") == "f"
        # Somebody has restored something else under the name.
        server.sql(f"ALTER DATABASE {name} RENAME TO other")
        server.sql(f"CREATE DATABASE {name}")
        shop.refused("live_moved", **back)


def test_programs_and_room(tmp_path: Path) -> None:
    with shop_on("15", tmp_path) as shop:
        folder = shop.work.parent / "programs"
        folder.mkdir()
        os.symlink(f"{shop.server.offer['programs']}/psql", folder / "psql")
        (folder / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.9'\n")
        (folder / "pg_dump").chmod(0o755)
        assert "14.9" in shop.refused("other_major", programs=str(folder), deploy_id=DEPLOY)["msg"]
        small = shop.work.parent / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", small], check=True)
        try:
            shop.refused("no_space", work_dir=str(small), deploy_id=DEPLOY)
        finally:
            subprocess.run(["umount", small], check=True)
