# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones of a restore point on real PostgreSQL, to try a migration in: who can reach what, how schemas are compared, and checks that write nothing."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from postgres import ODD_NAME, VERSIONS, Server, Shop, shop_on

DEPLOY, LATER = "20261121t084500z-7f3a", "20261121t085500z-8a4b"
ROLE = 'try "it"'
QUOTED = '"try ""it"""'


def cloned(shop: Shop, deploy: str = DEPLOY) -> str:
    return shop.do(state="cloned", deploy_id=deploy, clone_owner=ROLE)["clone"]


def connects(server: Server, database: str, user: str, *words: str) -> bool:
    return subprocess.run(server.client(database, *(words or ("-c", "SELECT 1")), user=user), capture_output=True, check=False, cwd="/").returncode == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_clone_of_its_own(version: str, tmp_path: Path) -> None:
    with shop_on(version, tmp_path, ODD_NAME) as shop:
        server = shop.server
        server.sql(f"CREATE ROLE {QUOTED} LOGIN")
        server.sql("CREATE SCHEMA deep; CREATE DOMAIN deep.price AS numeric; "
                   "CREATE AGGREGATE deep.total(int) (SFUNC = int4pl, STYPE = int); "
                   "CREATE TYPE deep.pair AS (a int, b int); CREATE PROCEDURE deep.work() LANGUAGE sql AS ''; "
                   "CREATE STATISTICS deep.st ON id, word FROM orders",
                   shop.name)
        point = shop.do(deploy_id=DEPLOY)["restore_point"]
        before, hanging = server.databases(), shop.hanging_on(shop.name)
        planned = shop.do(check=True, state="cloned", deploy_id=DEPLOY, clone_owner=ROLE)
        assert planned["changed"] and server.databases() == before
        made = shop.do(state="cloned", deploy_id=DEPLOY, clone_owner=ROLE)
        assert made["plan"] == planned["plan"] and made["plan_id"] == planned["plan_id"]
        clone = made["clone"]
        assert len(clone.encode()) <= 63 and clone.endswith(f"__rehearsal_{DEPLOY}")
        assert set(server.databases()) == {shop.name, point, clone} and shop.closed(point)
        assert not cloned_again(shop)

        # Its role is the owner of all in it, and of nothing else; it can connect to it alone.
        assert connects(server, clone, ROLE) and not connects(server, shop.name, ROLE) and not connects(server, point, ROLE)
        assert not connects(server, clone, "app"), "who uses the live database does not find the clone"
        assert shop.hanging_on(shop.name) == hanging and before.items() <= server.databases().items()
        done = server.sql("ALTER TABLE orders ADD COLUMN paid boolean; DROP VIEW dear; ALTER TYPE kind ADD VALUE 'b'; DROP FUNCTION twice(int); "
                          "ALTER SEQUENCE down INCREMENT -7; DROP SCHEMA deep CASCADE; SELECT lo_unlink(oid) FROM pg_largeobject_metadata; "
                          "INSERT INTO public.orders (word) VALUES ('rehearsed'); SELECT count(*) FROM orders", clone, ROLE)
        assert done.endswith("201") and "rehearsed" not in shop.words()
        [told] = shop.info()["clones"]
        assert (told["database"], told["deploy_id"], told["owner"]) == (clone, DEPLOY, ROLE)

        removed = shop.do(state="absent", clone=DEPLOY)
        assert removed["changed"] and server.databases() == before and shop.hanging_on(shop.name) == hanging
        assert not shop.do(state="absent", clone=DEPLOY)["changed"]


def cloned_again(shop: Shop) -> bool:
    return shop.do(state="cloned", deploy_id=DEPLOY, clone_owner=ROLE)["changed"]


def test_roles_that_could_reach_the_live_database(tmp_path: Path) -> None:
    """Each is refused before anything is made, and the message says what to do."""
    with shop_on("17", tmp_path) as shop:
        wanted = {"state": "cloned", "deploy_id": DEPLOY, "clone_owner": ROLE}
        shop.refused("no_restore_point", **wanted)
        shop.do(deploy_id=DEPLOY)
        assert "CREATE ROLE" in shop.refused("no_role", **wanted)["msg"]
        shop.server.sql(f"CREATE ROLE {QUOTED}")
        shop.refused("no_role", **wanted)
        shop.refused("role_can_connect", **{**wanted, "clone_owner": "postgres"})
        shop.refused("role_can_connect", **{**wanted, "clone_owner": "owner"})
        shop.server.sql(f"ALTER ROLE {QUOTED} LOGIN CREATEROLE")
        assert "CREATEROLE" in shop.refused("role_can_connect", **wanted)["msg"]
        shop.server.sql(f"ALTER ROLE {QUOTED} NOCREATEROLE; GRANT app TO {QUOTED}")
        assert "member of app" in shop.refused("role_can_connect", **wanted)["msg"]
        shop.server.sql(f"REVOKE app FROM {QUOTED}; GRANT CONNECT ON DATABASE shop TO PUBLIC")
        assert "FROM PUBLIC" in shop.refused("role_can_connect", **wanted)["msg"]
        shop.server.sql(f"REVOKE CONNECT ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO {QUOTED}")
        shop.refused("role_can_connect", **wanted)
        shop.server.sql(f"REVOKE CONNECT ON DATABASE shop FROM {QUOTED}")
        shop.server.sql(f'CREATE DATABASE "shop__rehearsal_{DEPLOY}"')
        shop.refused("name_taken", **wanted)
        assert not shop.do(state="absent", clone=DEPLOY)["changed"], "a database with that name which is not ours"
        assert f"shop__rehearsal_{DEPLOY}" in shop.server.databases()
        shop.server.sql(f'DROP DATABASE "shop__rehearsal_{DEPLOY}"')
        assert cloned(shop)


def test_clones_of_killed_runs_go(tmp_path: Path) -> None:
    """Another clone removes them, also with sessions; and so does what prunes, but then one that is used stays."""
    with shop_on("17", tmp_path) as shop:
        shop.server.sql(f"CREATE ROLE {QUOTED} LOGIN")
        for deploy in (DEPLOY, LATER):
            shop.do(deploy_id=deploy)
        first = cloned(shop)
        with subprocess.Popen(shop.server.client(first, "-f", "-", user=ROLE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
                              stderr=subprocess.DEVNULL) as session:
            session.stdin.write("SELECT 'in';\n")
            session.stdin.flush()
            assert session.stdout.readline() == "in\n"
            shop.do(state="absent", retain=9)
            assert first in shop.server.databases()
            second = cloned(shop, LATER)
            assert first not in shop.server.databases() and second in shop.server.databases()
            session.communicate()
        shop.do(state="absent", retain=9)
        assert set(shop.server.databases()) == {"shop", f"shop__before_{DEPLOY}", f"shop__before_{LATER}"}


def test_schemas_are_compared(tmp_path: Path) -> None:
    with shop_on("15", tmp_path) as shop:
        shop.server.sql(f"CREATE ROLE {QUOTED} LOGIN")
        shop.server.sql("CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('a1')", shop.name)
        point = shop.do(deploy_id=DEPLOY)["restore_point"]
        clone = cloned(shop)

        def compared(first: str) -> dict:
            return shop.info(compare_schema=[first, clone])["schema"]

        before = compared(point)
        assert before["same"] and before["differences"] == [] and before["digests"][0] == before["digests"][1]
        assert shop.closed(point) and compared(shop.name)["same"]
        for change, kind, name in (
            ("ALTER TABLE public.orders ADD paid boolean", "columns", "public.orders.paid"),
            ("ALTER TABLE public.lines DROP CONSTRAINT lines_price_check", "constraints", "public.lines.lines_price_check"),
            ("CREATE INDEX words ON public.orders (word)", "indexes", "public.words"),
            ("ALTER SEQUENCE public.down INCREMENT -7", "sequences", "public.down"),
            ("CREATE OR REPLACE FUNCTION public.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 3'", "functions", "public.twice(n integer)"),
            ("ALTER TYPE public.kind ADD VALUE 'c'", "types", "public.kind"),
            ("CREATE TABLE public.made (id int)", "tables", "public.made"),
            ("DROP EXTENSION hstore", "extensions", "hstore"),
            ("UPDATE public.alembic_version SET version_num = 'a2'", "revisions", "public.alembic_version"),
        ):
            shop.server.sql(change, clone)
            now = compared(point)
            assert not now["same"] and (kind, name) in {(one["kind"], one["name"]) for one in now["differences"]}, (change, now)
            assert now["digests"][0] == before["digests"][0] != now["digests"][1]
        assert shop.closed(point)


def test_checks_write_nothing(tmp_path: Path) -> None:
    with shop_on("17", tmp_path) as shop:
        shop.server.sql(f"CREATE ROLE {QUOTED} LOGIN")
        shop.do(deploy_id=DEPLOY)
        clone = cloned(shop)
        words, outside = shop.words(), tmp_path / "written"
        checks = [
            {"name": "count", "sql": "SELECT count(*) FROM public.orders;", "expect": 200},
            {"name": "yes", "sql": "SELECT count(*) > 5 FROM public.lines"},
            {"name": "none", "sql": "SELECT word FROM public.orders WHERE id < 0", "expect": "null"},
            {"name": "owner", "sql": "SELECT current_user || ' ' || current_database()", "expect": f"{ROLE} {clone}"},
            {"name": "odd", "sql": "SELECT E'it''s \\\\ \\n' || $x$ '; $x$", "expect": "it's \\ \n '; "},
            {"name": "wrong", "sql": "SELECT 1", "expect": 2},
            {"name": "path", "sql": "SELECT count(*) FROM orders"},
            {"name": "writes", "sql": "INSERT INTO public.orders (word) VALUES ('checked') RETURNING true"},
            {"name": "commits", "sql": "COMMIT; DELETE FROM public.orders"},
            {"name": "shell", "sql": f"\\! touch {outside}\n"},
            {"name": "slow", "sql": "SELECT pg_sleep(30)"},
        ]
        done = {one["name"]: one for one in shop.info(checks=checks, checks_on=clone, checks_timeout=1)["checks"]}
        assert [name for name, one in done.items() if one["passed"]] == ["count", "yes", "none", "owner", "odd"], done
        assert done["wrong"]["got"] == "1" and "read-only" in done["writes"]["error"] and "statement timeout" in done["slow"]["error"], done
        assert "does not exist" in done["path"]["error"] and not outside.exists()
        assert shop.words() == words == shop.words(clone)
        assert shop.info(checks=[{"name": "live", "sql": "SELECT current_database()", "expect": "shop"}])["checks"][0]["passed"]
