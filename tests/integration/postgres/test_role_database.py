# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role database on real PostgreSQL, without Python on the target: its README's own playbooks, the plan with its cost, a drill, and what is kept."""
from __future__ import annotations

import json
import re
import typing as t

import pytest
import yaml
from harness import PIPELINING, ROOT, Ansible, Run
from postgres import Shop, shop_on

FIRST, SECOND, BACK = "20261121t084500z-7f3a", "20261122t084500z-8a4b", "20261121t091500z-a2f0"
DRILL = "20261123t084500z-9b5c"


@pytest.fixture(name="shop")
def a_shop(tmp_path) -> t.Iterator[Shop]:
    with shop_on("17", tmp_path) as shop:
        yield shop


@pytest.fixture(name="ansible")
def an_ansible(one_core: str, tmp_path) -> Ansible:
    return Ansible(one_core, tmp_path, {"db": {"ansible_connection": "local", "ansible_python_interpreter": "/nowhere/python"}}, PIPELINING)


def readme(shop: Shop) -> list[str]:
    """Its playbooks as they stand there, but for where the lab's cluster is, and without sudo."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "roles/database/README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2, "the README has one playbook for the way there and one for the way back"
    here = json.dumps([{**shop.place, "work_dir": str(shop.work)}])
    assert all("[{database: shop}]" in block for block in blocks)
    return [block.replace("[{database: shop}]", here).replace("become: true", "become: false") for block in blocks]


def book(ansible: Ansible, text: str, *options: str) -> Run:
    path = ansible.folder / "readme.yml"
    path.write_text(text, encoding="utf-8")
    return ansible._start(["ansible-playbook", *options, str(path)]).wait()


def enter(ansible: Ansible, shop: Shop, entry: str, *options: str, fact: str = "", **wanted: t.Any) -> Run:
    inputs = {"app_name": "shop", "app_env": "staging", "deploy_id": FIRST, "database_each": [{**shop.place, "work_dir": str(shop.work)}]} | wanted
    tasks = [{"ansible.builtin.include_role": {"name": "reversible.deploy.database", "tasks_from": entry}, "vars": inputs}]
    return ansible.play([*tasks, {"name": "the fact", "ansible.builtin.debug": {"var": fact or "inventory_hostname"}}], "db", *options)


def test_what_the_readme_says(shop: Shop, ansible: Ansible) -> None:
    there, back = readme(shop)
    assert yaml.safe_load(there) and yaml.safe_load(back)
    first = shop.oid()
    for options in (["--check"], [], []):
        done = book(ansible, there, *options)
        assert done.code == 0, done.output
        assert len(shop.server.databases()) == (1 if options else 2), shop.server.databases()
    before = shop.words()
    shop.write("of the bad release")
    for options in (["--check"], [], []):
        done = book(ansible, back, *options)
        assert done.code == 0, done.output
        assert (shop.oid() == first) == bool(options), done.output
    assert shop.words() == before
    with shop.server.opened(f"shop__failed_{BACK}"):
        assert shop.words(f"shop__failed_{BACK}") == [*before, "of the bad release"]


def test_the_plan_a_drill_and_what_is_kept(shop: Shop, ansible: Ansible) -> None:
    """Of two restore points only the newest and what is named stays; a drill leaves nothing, and finds a way back that is none."""
    for deploy in (FIRST, SECOND):
        done = enter(ansible, shop, "capture", deploy_id=deploy, fact="app_captured")
        assert done.code == 0, done.output
        assert [one["name"] for one in done.named("the fact")["app_captured"]["points"]] == [f"shop__before_{deploy}"]
    there = shop.server.databases()

    shop.server.sql("INSERT INTO orders (word) VALUES ('a'), ('b'); SELECT pg_stat_force_next_flush()", "shop")
    planned = enter(ansible, shop, "plan", deploy_id=SECOND, database_rollback_id=DRILL, fact="database_back")
    assert planned.code == 0, planned.output
    assert planned.named("the fact")["database_back"][0]["written"]["tables"] == {"public.orders": [2, 0, 0]}
    assert shop.server.databases() == there

    drilled = enter(ansible, shop, "drill", deploy_id=DRILL, fact="database_drilled")
    assert drilled.code == 0, drilled.output
    [proof] = drilled.named("the fact")["database_drilled"]
    assert (proof["copy"], proof["newest"], proof["removed"]) == (f"shop__before_{DRILL}", SECOND, True)
    assert shop.server.databases() == there

    # FIRST is named, as the ledger names it.
    kept = enter(ansible, shop, "retire", database_retain=1, database_keep=[f"shop__before_{FIRST}"])
    assert kept.code == 0 and shop.server.databases() == there, kept.output
    planned = enter(ansible, shop, "retire", "--check", database_retain=1)
    assert planned.code == 0 and shop.server.databases() == there, planned.output
    retired = enter(ansible, shop, "retire", database_retain=1)
    assert retired.code == 0, retired.output
    assert set(shop.server.databases()) == {"shop", f"shop__before_{SECOND}"}

    # A transaction that somebody has prepared would stay with the parked database: going back is refused, and a drill says so beforehand.
    shop.server.sql("BEGIN; INSERT INTO orders (word) VALUES ('late'); PREPARE TRANSACTION 'late'", "shop")
    closed = enter(ansible, shop, "drill", deploy_id=DRILL)
    assert closed.code == 2, closed.output
    assert f"the newest restore point of shop, shop__before_{SECOND}, cannot be restored: shop has prepared transactions" in closed.output
    assert set(shop.server.databases()) == {"shop", f"shop__before_{SECOND}"}


def test_a_drill_of_a_database_without_a_restore_point_leaves_one(shop: Shop, ansible: Ansible) -> None:
    done = enter(ansible, shop, "drill", deploy_id=DRILL)
    assert done.code == 0, done.output
    assert set(shop.server.databases()) == {"shop", f"shop__before_{DRILL}"}


def test_what_is_refused(shop: Shop, ansible: Ansible) -> None:
    there = shop.server.databases()
    nothing = enter(ansible, shop, "observe", database_each=[])
    assert nothing.code == 2 and "name it in app_databases" in nothing.output, nothing.output
    typo = enter(ansible, shop, "capture", database_each=[{**shop.place, "databse": "shop"}])
    assert typo.code == 2 and "databse" in typo.output, typo.output
    gone = enter(ansible, shop, "capture", database_each=[{**shop.place, "database": "shoq"}])
    assert gone.code == 2 and "shoq" in gone.output, gone.output
    assert shop.server.databases() == there


def test_a_clone_is_compared_and_removed(shop: Shop, ansible: Ansible) -> None:
    shop.server.sql("CREATE ROLE rehearsal LOGIN")
    made = enter(ansible, shop, "capture", deploy_id=FIRST)
    assert made.code == 0, made.output
    there, clone = shop.server.databases(), f"shop__rehearsal_{FIRST}"
    check = {"name": "orders", "sql": "SELECT count(*) > 0 FROM public.orders"}
    each = [{**shop.place, "work_dir": str(shop.work), "clone_owner": "rehearsal", "checks": [check]}]
    done = enter(ansible, shop, "clone", fact="database_cloned", database_each=each)
    assert done.code == 0, done.output
    cloned = done.named("the fact")["database_cloned"]
    assert cloned == [{"database": "shop", "point": f"shop__before_{FIRST}", "clone": clone}] and clone in shop.server.databases()
    shop.server.sql("ALTER TABLE public.orders ADD COLUMN paid boolean", clone, "rehearsal")
    looked = enter(ansible, shop, "check_clone", fact="database_compared", database_each=each, database_cloned=cloned)
    assert looked.code == 0, looked.output
    [one] = looked.named("the fact")["database_compared"]
    assert [part["name"] for part in one["differences"]] == ["public.orders.paid"] and [part["passed"] for part in one["checks"]] == [True], one
    gone = enter(ansible, shop, "remove_clone", database_each=each)
    assert gone.code == 0 and shop.server.databases() == there, gone.output
