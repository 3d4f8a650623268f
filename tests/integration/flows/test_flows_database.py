# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An app in two colours with its database on real PostgreSQL: captured by deploys, taken back with the code as one, and forth; what fails, what is killed.

All tests have one shop and one server, since they are long to make: each begins with what is there, and leaves a release that serves. The newest run leads
back to another colour, until a database alone has gone back.
"""
from __future__ import annotations

import contextlib
import json
import typing as t

import postgres
import pytest
from flows import Shop
from harness import CORES, Run
from releases import sha

NEWEST = CORES[-1]


class Store(Shop):
    """The shop, whose database is on a host of its own."""

    def __init__(self, place: t.Any, data: postgres.Shop) -> None:
        self.data, self.number = data, 0
        super().__init__(place)
        self.more_hosts["db1"] = self.host("db1")
        self.vars["app_databases"] = [{**data.place, "on_host": "db1", "work_dir": str(data.work), "swap_timeout": 3}]

    def good(self, book: str, *options: str, **inputs: t.Any) -> Run:
        run = self.run(book, *options, **inputs)
        assert run.code == 0, run.output
        return run

    def next_release(self, migration: str = "", **inputs: t.Any) -> tuple[int, Run]:
        """Deploy one more, with a migration of this SQL; its number."""
        self.number += 1
        self.publish(self.number)
        hooks = {"app_hooks": {"migrate": [self.data.server.client(self.data.name, "-c", migration)]}} if migration else {}
        return self.number, self.deploy(self.number, **hooks | inputs)

    def columns(self) -> list[str]:
        return self.data.server.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped", self.data.name)

    def copies(self) -> set[str]:
        """The restore points and parked states that are there."""
        return set(self.data.server.databases()) - {self.data.name}

    def newest(self) -> dict[str, t.Any]:
        return self.ledger()["deploys"][0]

    @property
    def now(self) -> tuple[str, str]:
        """The order that was written last, and the release that serves."""
        return self.data.words()[-1], self.serves()[1]


@pytest.fixture(scope="module", name="store")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Store]:
    place = tmp_path_factory.mktemp("store")
    with postgres.shop_on("17", place) as data, Store(place, data) as store:
        for _ in range(2):
            _number, run = store.next_release()
            assert run.code == 0, run.output
        yield store


def test_back_with_its_plan_and_forth_again(store: Store) -> None:
    before = store.now
    number, run = store.next_release("ALTER TABLE orders ADD COLUMN paid boolean DEFAULT false")
    assert run.code == 0 and store.serves()[1] == sha(number), run.output
    told = " ".join(run.output.split())
    assert "WARNING: The migrations are not rehearsed on a copy of the data first. Set app_rehearse_env" in told, run.output
    deploy = store.newest()
    [point] = deploy["restore_points"]["database"]
    assert point["name"] in store.copies() and point["data"]["database"] == "shop", point
    assert [place["path"] for place in point["data"]["storage"]["places"]] == [str(store.data.server.data)], point
    for word in ("a", "b", "c"):
        store.data.write(word)

    unasked = store.run("rollback", core=NEWEST, to=deploy["deploy_id"])
    assert unasked.code == 2 and store.now == ("c", sha(number)), unasked.output
    said = " ".join(unasked.output.split())
    assert "public.orders: 3 inserted rows since; no longer live, and kept in shop__failed_" in said and "stop it before the databases are swapped" in said, said
    plan = unasked.output.split("The plan: ")[1][:17]
    back = store.good("rollback", to=deploy["deploy_id"], confirm=plan)
    assert store.now == before and "paid" not in store.columns()
    done = [task.task for task in back.tasks]
    swap, flip = done.index("Swap the names of the database and of what is gone back to"), done.index("Flip this load balancer")
    assert max(at for at, task in enumerate(done) if task == "Stop the processes") < swap < flip, done

    # What was live then is all there, and comes back with its release.
    store.good("rollback", core=NEWEST, to=store.newest()["deploy_id"], confirm=True)
    assert store.now == ("c", sha(number)) and "paid" in store.columns()


def psql_told_by_its_environment(store: Store, statement: str, *words: str) -> list[str]:
    """A migration as an app's own tool is: it connects to where the environment says, and to the live database otherwise."""
    client = store.data.server.client("x")
    at = client.index("-U")
    return [*client[:at], *words, "-c", statement] if words else [
        "/bin/sh", "-c", 'PGDATABASE="${TRY:-shop}" PGUSER="${TRY_AS:-postgres}" exec "$@"', "migrate", *client[:at], "-c", statement]


@pytest.fixture(name="rehearsing")
def a_store_that_rehearses(store: Store) -> t.Iterator[Store]:
    store.data.server.sql("CREATE ROLE try LOGIN")
    [entry] = store.vars["app_databases"]
    entry["clone_owner"] = "try"
    store.vars["app_rehearse_env"] = {"TRY": "{shop}", "TRY_AS": "try"}
    yield store
    del entry["clone_owner"], store.vars["app_rehearse_env"]
    entry.pop("checks", None)
    store.data.server.sql("DROP ROLE try")


def clones(store: Store) -> list[str]:
    return [name for name in store.data.server.databases() if "__rehearsal_" in name]


def test_a_migration_is_rehearsed_on_a_copy(rehearsing: Store) -> None:
    store, there, back = rehearsing, "ALTER TABLE public.orders ADD COLUMN sent boolean", "ALTER TABLE public.orders DROP COLUMN sent"
    hooks = {"migrate": [psql_told_by_its_environment(store, there)], "downgrade": [psql_told_by_its_environment(store, back)]}
    store.vars["app_databases"][0]["checks"] = [{"name": "sent is there", "sql": "SELECT count(sent) FROM public.orders", "expect": 0}]
    number, run = store.next_release(app_hooks=hooks)
    said = " ".join(run.output.split())
    assert run.code == 0 and "The migration works on your data: " in said and "the downgrade is proven: " in said, run.output
    assert store.serves()[1] == sha(number) and "sent" in store.columns() and not clones(store)
    phases = [phase["phase"] for phase in store.newest()["phases"]]
    assert phases.index("rehearse") < phases.index("migrate"), phases

    # Now it fails on what is in the data, not with what an empty database holds.
    before, columns = store.now, store.columns()
    migration = "ALTER TABLE public.orders ADD COLUMN later int; ALTER TABLE public.orders ADD CHECK (length(word) > 100)"
    _number, run = store.next_release(app_hooks={"migrate": [psql_told_by_its_environment(store, migration)]})
    said = " ".join(run.output.split())
    assert run.code == 2 and "is violated by some row" in said and "the live databases were not touched" in said, run.output
    assert "ITS MIGRATIONS" not in said and "as before. Nothing was lost." in said, said
    assert store.now == before and store.columns() == columns and not clones(store) and store.newest()["outcome"] == "failed_reverted"

    # A downgrade that does not lead back, and a check that does not hold.
    idle = {"downgrade": [psql_told_by_its_environment(store, "SELECT 1")]}
    for more, words in (idle, "columns: public.orders.later is additional"), ({}, "sent is there: expected 1"):
        store.vars["app_databases"][0]["checks"][0]["expect"] = 0 if more else 1
        migrate = [psql_told_by_its_environment(store, "ALTER TABLE public.orders ADD COLUMN later int")]
        _number, run = store.next_release(app_hooks={"migrate": migrate, **more})
        said = " ".join(run.output.split())
        assert run.code == 2 and words in said and store.columns() == columns and not clones(store), run.output


def test_a_hook_that_connects_to_the_live_database(rehearsing: Store) -> None:
    """As the role of the clone it cannot; as somebody else it is seen, and the deploy stops."""
    store = rehearsing
    before, columns = store.now, store.columns()
    statement = "ALTER TABLE public.orders ADD COLUMN astray int"
    as_role = psql_told_by_its_environment(store, statement, "-U", "try", "-d", "shop")
    _number, run = store.next_release(app_hooks={"migrate": [as_role]})
    said = " ".join(run.output.split())
    assert run.code == 2 and "permission denied for database" in said and "were not touched" in said and store.columns() == columns, run.output
    as_other = psql_told_by_its_environment(store, statement, "-U", "postgres", "-d", "shop")
    _number, run = store.next_release(app_hooks={"migrate": [as_other]})
    said = " ".join(run.output.split())
    assert run.code == 2 and "A HOOK HAS CHANGED THE LIVE DATABASE shop on db1" in said and "were not touched" not in said, run.output
    assert store.now == before and not clones(store)
    store.data.server.sql("ALTER TABLE orders DROP COLUMN astray", "shop")


def test_a_rehearsal_that_is_killed(rehearsing: Store) -> None:
    store = rehearsing
    store.number += 1
    store.publish(store.number)
    hooks = {"migrate": [psql_told_by_its_environment(store, "ALTER TABLE public.orders ADD COLUMN killed int")]}
    columns = store.columns()
    killed = store.killed("Note when it begins", "deploy_app", release_sha=sha(store.number), app_hooks=hooks)
    assert len(clones(store)) == 1 and store.columns() == columns
    run = store.deploy(store.number, app_hooks=hooks, take_over=killed)
    said = " ".join(run.output.split())
    assert run.code == 0 and "Irreversible" in said and "killed" in store.columns() and not clones(store), run.output


def test_a_rollback_that_is_killed_is_finished(store: Store) -> None:
    deploy, serves = store.newest()["deploy_id"], store.serves()
    store.data.write("since")
    killed = store.killed("Swap the names of the database and of what is gone back to", "rollback", to=deploy, confirm=True)
    assert store.newest()["outcome"] is None
    run = store.run("rollback", to=deploy, confirm=True, take_over=killed)
    assert run.code == 0, run.output
    assert store.serves() != serves and "since" not in store.data.words() and f"shop__failed_{killed}" in store.copies(), store.copies()
    # What was parked by the first is recorded by the second.
    assert [point["data"]["parked"] for point in store.newest()["restore_points"]["database"]] == [killed]


def test_a_swap_that_fails_leaves_what_served(store: Store) -> None:
    store.data.write("stays")
    before, pids, copies = store.now, set(store.app_pids()), store.copies()
    with postgres.stuck_session(store.data.server, store.data.name):
        run = store.run("rollback", to=store.newest()["deploy_id"], confirm=True)
    assert run.code == 2 and store.now == before and store.copies() == copies, run.output
    said = run.output.split("TASK [Show what happened and what to do]")[1]
    assert store.newest()["outcome"] == "failed_reverted" and "did not end within 3 s" in said and "'plan_id'" not in said, said
    assert set(store.app_pids()) != pids, "what served was stopped, and started again"


def test_a_gate_that_fails_leaves_the_database(store: Store) -> None:
    serves, word = store.serves(), f"of deploy {store.number + 1}"
    migration = f"INSERT INTO public.orders (word) VALUES ('{word}')"
    hooks = {"migrate": [store.data.server.client(store.data.name, "-c", migration)], "smoke": [["/bin/false"]]}
    number, run = store.next_release(app_hooks=hooks)
    said = " ".join(run.output.split())
    assert run.code == 2 and store.serves() == serves and store.data.words()[-1] == word, run.output
    assert store.newest()["outcome"] == "failed_reverted" and sha(number) not in store.serves()
    assert "The databases (shop) stay as they are" in said and f"-e to={store.newest()['deploy_id']}" in said, said

    # That way is open: the database alone, since the code is back.
    store.good("rollback", core=NEWEST, mode="database", confirm=True)
    assert word not in store.data.words() and store.serves() == serves


def test_a_drill_and_what_is_kept(store: Store) -> None:
    before, copies = store.now, store.copies()
    drill = store.good("restore_test", core=NEWEST)
    assert store.now == before and store.copies() == copies
    assert "can be restored (it was restored" in drill.output, drill.output

    # What the ledger names stays, whatever is wanted.
    _number, run = store.next_release(database_retain=1)
    assert run.code == 0, run.output
    kept = store.copies()
    [point] = store.newest()["restore_points"]["database"]
    assert point["name"] in kept and len(kept) < len(copies) + 1, (copies, kept)


def test_only_before_migrations(store: Store) -> None:
    store.vars["app_database_capture"] = "migrations"
    with contextlib.ExitStack() as stack:
        stack.callback(store.vars.pop, "app_database_capture")
        copies = store.copies()
        _number, run = store.next_release()
        assert run.code == 0 and store.copies() == copies and "database" not in store.newest()["restore_points"], run.output
        _number, run = store.next_release("SELECT 1")
        assert run.code == 0 and len(store.newest()["restore_points"]["database"]) == 1, run.output
        status = store.folder / "status.json"
        store.good("status", core=NEWEST, status_file=str(status))
        told = json.loads(status.read_text())
        assert [point["open"] for point in told["restore_points"] if point["layer"] == "database"][:1] == [True], told["restore_points"]
