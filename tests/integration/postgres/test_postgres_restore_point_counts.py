# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was written since a restore point, found by comparing rows: counted as by random histories, when time is up, and written as CSV that is given back."""
from __future__ import annotations

import collections
import hashlib
import json
import random
import typing as t
from pathlib import Path

import pytest
from edge import call
from postgres import INFO, VERSIONS, Shop, shop_on

DEPLOY, BACK = "20261121t084500z-7f3a", "20261121t090000z-1c2d"
MORE = '''
CREATE TABLE "Odd ""pair""" ("the key" text, n int, note text, PRIMARY KEY (n, "the key"));
INSERT INTO "Odd ""pair""" SELECT 'k' || n, n % 7, 'x' FROM generate_series(1, 100) n;
CREATE TABLE gone (id int PRIMARY KEY); INSERT INTO gone SELECT generate_series(1, 9);
CREATE TABLE empty (id int PRIMARY KEY, at timestamptz, amount float8, data bytea, price money);
'''
# By table, as SQL names it: how many of the first columns are the key.
KEYS = {"public.orders": 1, "public.lines": 1, "public.parts_2026": 0, 'public."Odd ""pair"""': 2, "public.empty": 1}
COLUMNS = {'public."Odd ""pair"""': 'n, "the key", note', "public.empty": "id, at, amount, data, price"}


def steps(dice: random.Random) -> list[str]:
    """What an application might do, one transaction each; every second one is rolled back."""
    some = dice.randrange(1, 400)
    return [
        f"INSERT INTO orders (word) SELECT 'w' || n FROM generate_series(1, {some}) n",
        f"UPDATE lines SET price = price + 1 WHERE id % {dice.randrange(2, 9)} = 0",
        f"UPDATE lines SET price = price WHERE id < {some}",                          # written, and the same
        f"DELETE FROM lines WHERE id % 11 = {dice.randrange(11)}",
        f"INSERT INTO parts SELECT '2026-06-01', {dice.randrange(5)} FROM generate_series(1, {some % 20})",
        f"DELETE FROM parts WHERE n = {dice.randrange(60)}", "TRUNCATE parts", "TRUNCATE lines", "UPDATE orders SET word = word || '!'",
        f"UPDATE \"Odd \"\"pair\"\"\" SET note = 'y' WHERE n = {dice.randrange(7)}",
        f"UPDATE \"Odd \"\"pair\"\"\" SET \"the key\" = \"the key\" || 'z' WHERE n = {dice.randrange(7)}",
        f"INSERT INTO empty SELECT n, 'epoch', n / 3.0, '\\xff', n FROM generate_series((SELECT coalesce(max(id), 0) + 1 FROM empty), {some}) n",
        "ALTER TABLE orders ADD COLUMN IF NOT EXISTS paid boolean DEFAULT false; UPDATE orders SET paid = true",   # a backfill of what is new
        f"CREATE TABLE IF NOT EXISTS made (n int); INSERT INTO made VALUES ({some})",
    ]


def rows(shop: Shop, database: str) -> dict[str, dict[t.Any, collections.Counter[str]]]:
    """By table and key, every row; this test's own way to look."""
    found = {}
    for table, key in KEYS.items():
        columns = COLUMNS.get(table, "id, word" if table == "public.orders" else "*")
        lines = [json.loads(line) for line in shop.server.rows(f"SELECT to_json(array(SELECT value FROM json_each_text(row_to_json(t)))) FROM "
                                                               f"(SELECT {columns} FROM {table}) t", database)]
        by_key: dict[t.Any, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for line in lines:
            by_key[tuple(line[:key or None])][str(line)] += 1
        found[table] = by_key
    return found


def expected(now: dict[str, t.Any], then: dict[str, t.Any]) -> dict[str, list[int]]:
    told = {}
    for table in KEYS:
        inserted = updated = deleted = 0
        for key in now[table].keys() | then[table].keys():
            ours, theirs = now[table].get(key, {}), then[table].get(key, {})
            if KEYS[table] and ours and theirs:
                updated += ours != theirs
            else:
                more = sum(ours.values()) - sum(theirs.values())
                inserted, deleted = inserted + max(more, 0), deleted + max(-more, 0)
        if inserted or updated or deleted:
            told[table] = [inserted, updated, deleted]
    return told


@pytest.mark.parametrize("version", VERSIONS)
def test_random_histories(version: str, tmp_path: Path) -> None:
    dice = random.Random(f"{version} histories")
    with shop_on(version, tmp_path) as shop:
        shop.server.sql(MORE, shop.name)
        point = shop.do(deploy_id=DEPLOY)["restore_point"]
        with shop.server.opened(point):
            then = rows(shop, point)
        assert shop.info(count="exact")["restore_points"][0]["written"]["tables"] == {}
        for number in range(20):
            done = dice.choices(steps(dice), k=dice.randrange(1, 5))
            shop.server.sql("".join(f"BEGIN; {one}; {dice.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])};\n" for one in done), shop.name)
            [told] = shop.info(count="exact")["restore_points"]
            written, wanted = told["written"], expected(rows(shop, shop.name), then)
            made = shop.server.sql("SELECT count(*) FROM made", shop.name) if "made" in shop.tables() else "0"
            assert written["tables"] == wanted | ({"public.made": [int(made), 0, 0]} if made != "0" else {}), (number, done)
            assert written["exact"] and not written["estimates"] and written["inserted"] == sum(table[0] for table in written["tables"].values())
        shop.server.sql("DROP TABLE gone", shop.name)
        assert shop.info(count="exact")["restore_points"][0]["written"]["tables"]["public.gone"] == [0, 0, 9]
        assert shop.closed(point)


def test_a_plan_tells_it_and_nobody_else_gets_in(tmp_path: Path) -> None:
    with shop_on("17", tmp_path) as shop:
        point = shop.do(deploy_id=DEPLOY)["restore_point"]
        shop.server.sql("INSERT INTO orders (word) VALUES ('a'); UPDATE orders SET word = 'b' WHERE id < 3; DELETE FROM parts WHERE n = 1", shop.name)
        back = {"state": "rolled_back", "deploy_id": DEPLOY, "rollback_id": BACK}
        bare = shop.do(check=True, count="none", **back)
        told = shop.do(check=True, count="exact", **back)
        assert bare["written"] is None and bare["plan_id"] == told["plan_id"]
        assert told["written"]["tables"] == {"public.orders": [1, 2, 0], "public.parts_2026": [0, 0, 1]} and shop.closed(point)
        shop.do(**back)
        # Of a parked state it is what is no longer live when that is back.
        shop.write("c")
        again = shop.do(check=True, count="exact", state="rolled_back", parked=BACK)
        assert again["written"]["tables"] == {"public.orders": [1, 2, 1], "public.parts_2026": [1, 0, 0]}, again["written"]


def test_when_time_is_up_or_somebody_is_at_work(tmp_path: Path) -> None:
    with shop_on("15", tmp_path) as shop:
        point = shop.do(deploy_id=DEPLOY)["restore_point"]
        shop.server.sql("INSERT INTO orders (word) VALUES ('a'); SELECT pg_stat_force_next_flush()", shop.name)
        written = shop.info(count="exact", count_timeout=0.0001)["restore_points"][0]["written"]
        assert not written["exact"] and "not within" in written["estimates"]["public.orders"] and written["tables"]["public.orders"] == [1, 0, 0], written
        # A table that somebody has locked is named, and the others are counted.
        with shop.server.locked(shop.name, "lines"):
            written = shop.info(count="exact", count_timeout=2)["restore_points"][0]["written"]
        assert list(written["estimates"]) == ["public.lines"] and written["tables"] == {"public.orders": [1, 0, 0]}, written
        assert shop.closed(point)


# What ends an answer of psql, but for a number that nobody knows; and all that CSV must keep apart.
ODD_VALUES = ["reversible.deploy:answered 1 false 00000 \n",
              "\nreversible.deploy:answered:00 1 false 00000 \n", "", "\\N", '"quoted", with\r\nlines\n\n', "ü'\t", None]


def give_back(shop: Shop, folder: Path, table: str, part: dict[str, t.Any]) -> None:
    """Rows of a file into the live database; those that are there are replaced."""
    data = (folder / part["file"]).read_bytes().decode()   # read_text() would take CR away
    assert hashlib.sha256(data.encode()).hexdigest() == part["sha256"]
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in part["columns"])
    key = ", ".join(f'"{name}"' for name in part["key"])
    delete = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM given);" if part["kind"] == "updated_before" else ""
    shop.server.sql(f"""SET session_replication_role = replica; CREATE TEMP TABLE given (LIKE {table});
COPY given ({columns}) FROM STDIN WITH (FORMAT csv, HEADER, NULL '\\N');
{data}\\.
{delete}INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM given""", shop.name)


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_are_written_and_given_back(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    with shop_on(version, tmp_path) as shop:
        shop.server.sql("""CREATE TABLE odd (id int PRIMARY KEY, text text, twice int GENERATED ALWAYS AS (id * 2) STORED);
                           CREATE TABLE bare (text text)""", shop.name)
        point = shop.do(deploy_id=DEPLOY)["restore_point"]
        values = ", ".join("(NULL)" if one is None else f"($v${one}$v$)" for one in ODD_VALUES * 2)
        shop.server.sql(f"""INSERT INTO odd SELECT row_number() OVER (), column1 FROM (VALUES {values}) v; INSERT INTO bare VALUES {values};
            UPDATE orders SET word = 'changed' WHERE id < 4; INSERT INTO orders (word) SELECT 'new' FROM generate_series(1, 12000);
            INSERT INTO parts SELECT '2026-05-01', 1 FROM generate_series(1, 3); CREATE TABLE made (n int); INSERT INTO made VALUES (1), (1)""", shop.name)
        before = shop.info(rows_dir=str(folder))["rows"]
        kinds = {table: {part["kind"]: part["rows"] for part in parts} for table, parts in before["tables"].items()}
        assert kinds == {"public.odd": {"inserted": 14}, "public.bare": {"inserted": 14}, "public.made": {"inserted": 2}, "public.parts_2026": {"inserted": 3},
                         "public.orders": {"inserted": 12000, "updated": 3, "updated_before": 3}}, kinds
        assert before["missing"] == {} and before["beside"] == point and shop.closed(point)
        assert json.loads((folder / "manifest.json").read_text())["tables"] == before["tables"]
        assert (folder.stat().st_mode & 0o777, {path.stat().st_mode & 0o777 for path in folder.iterdir()}) == (0o700, {0o600})
        again = call(INFO, {**shop.place, "rows_dir": str(folder)})
        assert again["failed"] and again["reason"] == "exists", again

        shop.do(state="rolled_back", deploy_id=DEPLOY, rollback_id=BACK)
        after = tmp_path / "after"
        written = shop.info(rows_dir=str(after), rows_of=BACK)["rows"]
        shop.server.sql("CREATE TABLE made (n int)", shop.name)
        for table, parts in written["tables"].items():
            for part in parts:
                if part["kind"] in ("deleted", "updated_before"):
                    give_back(shop, after, table, part)
        told = shop.do(check=True, count="exact", state="rolled_back", parked=BACK)["written"]
        assert told["exact"] and told["tables"] == {}, told


def test_rows_that_cannot_be_written(tmp_path: Path) -> None:
    with shop_on("17", tmp_path) as shop:
        shop.do(deploy_id=DEPLOY)
        shop.write("a")
        unknown = call(INFO, {**shop.place, "rows_dir": str(tmp_path / "a"), "rows_of": BACK})
        assert unknown["failed"] and unknown["reason"] == "no_restore_point" and not (tmp_path / "a").exists(), unknown
        late = shop.info(rows_dir=str(tmp_path / "b"), count_timeout=0.0001)["rows"]
        assert late["tables"] == {} and "not within" in late["missing"]["public.orders"]
        assert not call(INFO, {**shop.place, "rows_dir": str(tmp_path / "c")}, check=True).get("failed") and not (tmp_path / "c").exists()
