# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""postgres_restore_point reads and restores as a superuser what a role without rights has made: nothing that this role has written may run then."""
from __future__ import annotations

import contextlib
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest
from harness import wait_for
from postgres import Shop, shop_on

DEPLOY = "20261121t084500z-7f3a"
# What the owner would have a superuser do.
DEED = """
CREATE FUNCTION deed() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN ALTER ROLE owner SUPERUSER; END IF;
  RETURN 1;
END $$;
CREATE FUNCTION plus(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN n + public.deed() - 1; END $$;
CREATE FUNCTION is_one(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN public.deed() = 1; END $$;
CREATE OPERATOR public.=== (FUNCTION = is_one, LEFTARG = int, RIGHTARG = int);
CREATE TYPE small AS ENUM ('a');
CREATE FUNCTION number_of(small) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN public.deed(); END $$;
CREATE TABLE numbers (id int PRIMARY KEY);
INSERT INTO numbers VALUES (1);
CREATE VIEW looks AS SELECT deed() AS x;
"""
RUN_IN_A_RESTORE = {
    "a check": ("CREATE TABLE t (n int CHECK (plus(n) > 0)); INSERT INTO t VALUES (1)", "DROP TABLE t", "owner"),
    "an operator": ("CREATE TABLE t (n int CHECK (n OPERATOR(public.===) 1)); INSERT INTO t VALUES (1)", "DROP TABLE t", "owner"),
    "a domain": ("CREATE DOMAIN d AS int CHECK (plus(VALUE) > 0); CREATE TABLE t (n d); INSERT INTO t VALUES (1)", "DROP TABLE t; DROP DOMAIN d", "owner"),
    "a generated column": ("CREATE TABLE t (n int, m int GENERATED ALWAYS AS (plus(n)) STORED); INSERT INTO t VALUES (1)", "DROP TABLE t", "owner"),
    "a partition key": ("CREATE TABLE t (n int) PARTITION BY LIST (plus(n)); CREATE TABLE u PARTITION OF t FOR VALUES IN (1); INSERT INTO t VALUES (1)",
                        "DROP TABLE t", "owner"),
    "a partition that is attached": ("CREATE TABLE t (n int, CONSTRAINT c CHECK (plus(1) > 0)) PARTITION BY LIST (n); CREATE TABLE u (LIKE t INCLUDING ALL); "
                                     "ALTER TABLE t ATTACH PARTITION u FOR VALUES IN (1)", "DROP TABLE t", "owner"),
    "a cast of a foreign key": ("CREATE CAST (small AS int) WITH FUNCTION number_of(small) AS IMPLICIT; CREATE TABLE t (n small REFERENCES numbers); "
                                "INSERT INTO t VALUES ('a')", "DROP TABLE t; DROP CAST (small AS int)", "owner"),
    "an index": ("CREATE TABLE t (n int); CREATE INDEX ON t (n) WHERE plus(1) > 0", "DROP TABLE t", "owner"),
    "statistics": ("CREATE TABLE t (n int); CREATE STATISTICS s ON plus(1), n FROM t", "DROP TABLE t", "owner"),
    "a query": ("CREATE TABLE t (n int CHECK (query_to_xml('SELECT public.deed()', true, true, '') IS NOT NULL)); INSERT INTO t VALUES (1)",
                "DROP TABLE t", "any query"),
    "a view": ("CREATE TABLE t (n int CHECK (table_to_xml('public.looks'::regclass, true, true, '') IS NOT NULL)); INSERT INTO t VALUES (1)",
               "DROP TABLE t", "any query"),
}
# Functions of PostgreSQL and of its extensions, and what no restore runs with a superuser's rights.
HARMLESS = """
CREATE TABLE fine (
  n int CHECK (n > 0 AND n IN (1, 2, 3)), word text CHECK (word ~ '^[a-z]' AND length(lower(word)) < 50 AND word <> ''),
  at timestamptz CHECK (at <= clock_timestamp() AND date_trunc('day', at) <= now()), pairs hstore CHECK (pairs ? 'a'),
  loud text GENERATED ALWAYS AS (upper(word) || '!') STORED, words tsvector GENERATED ALWAYS AS (to_tsvector('english', word)) STORED, m int DEFAULT deed());
INSERT INTO fine (n, word, at, pairs) VALUES (1, 'x', now(), 'a=>1');
CREATE INDEX ON fine (plus(n)) WHERE plus(n) > 0;
CREATE STATISTICS of_fine ON plus(n), word FROM fine;
CREATE MATERIALIZED VIEW kept AS SELECT deed() AS x;
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.deed(); RETURN NEW; END $$;
CREATE TRIGGER noted BEFORE INSERT ON fine FOR EACH ROW EXECUTE FUNCTION noted();
"""


def is_superuser(shop: Shop) -> bool:
    return shop.server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'owner'") == "t"


@pytest.mark.parametrize("version", ("15", "17"))
def test_a_restore_runs_no_function_of_others(version: str, tmp_path: Path) -> None:
    with shop_on(version, tmp_path) as shop:
        server = shop.server
        server.sql(DEED, shop.name, user="owner")
        for what, (make, undo, words) in RUN_IN_A_RESTORE.items():
            server.sql(make, shop.name, user="owner")
            refused = shop.refused("untrusted_function", deploy_id=DEPLOY)
            assert words in refused["msg"] and not is_superuser(shop), (what, refused)
            server.sql(undo, shop.name, user="owner")
        server.sql(f"{HARMLESS} CREATE TABLE t (n int CHECK (plus(n) > 0)); INSERT INTO t VALUES (1)", shop.name, user="owner")
        # What the message says helps: then only a superuser can change it.
        server.sql("ALTER FUNCTION plus OWNER TO postgres; ALTER FUNCTION deed OWNER TO postgres", shop.name)
        server.sql("CREATE OR REPLACE FUNCTION deed() RETURNS int LANGUAGE sql AS 'SELECT 1'", shop.name)
        shop.do(deploy_id=DEPLOY)
        assert not is_superuser(shop)


@contextlib.contextmanager
def held_up(shop: Shop, change: str) -> t.Iterator[Path]:
    """The owner has changed a table and holds everybody up until that is committed, when we wait for it. What they would write is given."""
    server, deed = shop.server, shop.server.data / "deed"
    server.sql(f"""
        CREATE TABLE bait (id int);
        CREATE FUNCTION writes() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
          COPY (SELECT current_user) TO '{deed}'; RETURN true; EXCEPTION WHEN insufficient_privilege THEN RETURN true;
        END $$;
        CREATE FUNCTION calls(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT public.writes()); END $$""", shop.name, user="owner")
    client = subprocess.Popen(server.client(shop.name, "-f", "-", user="owner"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    client.stdin.write(f"BEGIN; LOCK TABLE bait; {change}; SELECT 'ready';\n")
    client.stdin.flush()
    assert client.stdout.readline() == "ready\n"
    ended = threading.Event()

    def commits() -> None:
        waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'shop' AND query LIKE '%bait%'"
        wait_for(lambda: server.sql(waits) == "t" or ended.is_set(), "somebody waits for the table")
        client.communicate("COMMIT;\n")

    waiting = threading.Thread(target=commits)
    waiting.start()
    try:
        yield deed
    finally:
        ended.set()
        waiting.join()
        deed.unlink(missing_ok=True)


VIEW = "ALTER TABLE bait RENAME TO gone; CREATE VIEW bait AS SELECT 1 AS id WHERE writes()"


def test_a_view_in_the_place_of_a_table_is_not_dumped(tmp_path: Path) -> None:
    """It comes when the tables are listed already."""
    with shop_on("15", tmp_path) as shop, held_up(shop, VIEW) as deed:
        done = shop.start(deploy_id=DEPLOY).wait()
        assert done.get("failed") and "as it was before" in done["msg"], done
        assert not deed.exists(), "it ran with the rights of a superuser"
        assert set(shop.server.databases()) == {shop.name} and not shop.unfinished()


def test_an_index_that_comes_late_is_not_evaluated(tmp_path: Path) -> None:
    """Nobody plans a query of a table of the live database for a capture."""
    with shop_on("15", tmp_path) as shop, held_up(shop, "CREATE INDEX ON bait (id) WHERE calls(1)") as deed:
        deed.unlink(missing_ok=True)   # the owner's own: it may not write it
        shop.do(deploy_id=DEPLOY)
        assert not deed.exists(), "it ran with the rights of a superuser"


def test_a_view_in_the_place_of_a_table_is_not_compared(tmp_path: Path) -> None:
    with shop_on("15", tmp_path) as shop:
        shop.do(deploy_id=DEPLOY)
        with held_up(shop, VIEW) as deed:
            [told] = shop.info(count="exact")["restore_points"]
            assert "is restricted" in told["written"]["estimates"]["public.bait"], told
            assert not deed.exists(), "it ran with the rights of a superuser"


def test_functions_of_others_are_not_run_by_a_comparison(tmp_path: Path) -> None:
    with shop_on("17", tmp_path) as shop:
        shop.do(deploy_id=DEPLOY)
        shop.server.sql(f"{DEED} CREATE TABLE t (n int); CREATE INDEX ON t (n) WHERE plus(1) > 0", shop.name, user="owner")
        [told] = shop.info(count="exact")["restore_points"]
        assert not is_superuser(shop) and not told["written"]["exact"] and "plus(integer)" in told["written"]["estimates"]["*"], told


def test_the_owner_cannot_enter_a_copy_that_is_being_restored(tmp_path: Path) -> None:
    """They could give it a constraint that runs what they like, before the rows come."""
    with shop_on("15", tmp_path) as shop:
        server, goes_on = shop.server, shop.server.data / "goes_on"
        goes_on.touch()
        server.sql(f"""
            CREATE FUNCTION waits(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
              WHILE pg_catalog.pg_stat_file('{goes_on}', true) IS NULL LOOP PERFORM pg_catalog.pg_sleep(0.02); END LOOP; RETURN true;
            END $$;
            CREATE TABLE slow (n int CHECK (waits(n))); INSERT INTO slow VALUES (1)""", shop.name)
        goes_on.unlink()
        copy = f"shop__before_{DEPLOY}"
        try:
            running = shop.start(deploy_id=DEPLOY)
            copies = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{copy}' AND query LIKE 'COPY%slow%'"
            wait_for(lambda: server.sql(copies) == "1" or running.process.poll() is not None, "rows are restored")
            enter = server.client(shop.name, "-c", f'ALTER DATABASE "{copy}" CONNECTION LIMIT 5', user="owner")
            said = subprocess.run(enter, capture_output=True, text=True, check=False, cwd="/")
        finally:
            goes_on.touch()
        done = running.wait()
        goes_on.unlink()
        assert "must be owner" in said.stderr, said
        assert not done.get("failed") and shop.hanging_on(copy)["owner"] == "owner", done
