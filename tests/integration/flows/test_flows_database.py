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
