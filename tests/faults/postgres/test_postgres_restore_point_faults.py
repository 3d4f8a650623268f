# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""postgres_restore_point when something goes wrong half way: the module, one of its clients or the server is killed, or a session does not end.

Whatever happens, one complete database has the name; the next run finishes or takes back what was begun, and leaves nothing half-made.
"""
from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import typing as t
from pathlib import Path

import pytest
from edge import Call
from harness import lab, wait_for
from postgres import INFO, MODULE, App, Server, Shop, quoted, shop_on, stuck_session

DEPLOY, LATER = "20261121t084500z-7f3a", "20261121t085500z-8a4b"
BACK, UNDO = "20261121t090000z-1c2d", "20261121t091500z-2d3e"
# What the module tells its clients, and what it notes, is written in between these.
CHANGES = "write,fsync,fdatasync,unlink,renameat2,mkdirat"
ROLLBACK = {"state": "rolled_back", "deploy_id": DEPLOY, "rollback_id": BACK}
LONG = bool(os.environ.get("REVERSIBLE_LONG"))


def killed_at_changes(shop: Shop, options: dict[str, t.Any], prepare: t.Callable[[], t.Any], many: int, module: str = MODULE) -> t.Iterator[str]:
    """A run that strace killed before one of its changes, evenly apart; before which, as in `write 3`. With much time before each."""
    log = shop.work.parent / "changes.log"

    def run(*tracing: str) -> int:
        prepare()
        below = [lab("get", "strace"), "-o", str(log), "-e", f"trace={CHANGES}", *tracing]
        running = Call(module, options, below=below)
        running.process.communicate(timeout=120)
        return running.process.returncode

    assert run() == 0 and run() == 0   # the first makes folders, too
    calls = re.findall(r"(?m)^(\w+)\(", log.read_text())
    many, killed = len(calls) if LONG else many, 0
    for at in (number * (len(calls) - 1) // (many - 1) for number in range(many)):
        kind, number = calls[at], calls[:at + 1].count(calls[at])
        code = run("-e", f"inject={kind}:signal=SIGKILL:when={number}")
        # Where sessions end sooner than in the run that was counted, the last of its changes do not come.
        assert code in (0, -signal.SIGKILL)
        if code:
            killed += 1
            yield f"{kind} {number}"
    assert killed > many * 2 // 3, f"killed {killed} times of {many}"


def nothing_is_left(shop: Shop, databases: set[str]) -> None:
    assert set(shop.server.databases()) == databases
    assert not shop.unfinished() and not list(shop.work.iterdir())
    closed = shop.server.rows("SELECT datname FROM pg_database WHERE oid >= 16384 AND NOT datallowconn")
    assert set(closed) == databases - {shop.name}


def reopened(shop: Shop) -> None:
    """Whoever is killed in a swap leaves a client behind that opens the database: no next run is needed for that."""
    wait_for(shop.open, f"{shop.name} accepts connections")


@pytest.mark.parametrize("version", ("15", "17") if LONG else ("17",))
def test_a_capture_that_is_killed(version: str, tmp_path: Path) -> None:
    with shop_on(version, tmp_path) as shop:
        first = shop.oid()

        def removed() -> None:
            shop.do(state="absent", deploy_id=DEPLOY, confirm="true", accept=["last_way_back"])
            nothing_is_left(shop, {shop.name})

        options = shop.options(deploy_id=DEPLOY)
        for number, moment in enumerate(killed_at_changes(shop, options, removed, many=9)):
            assert shop.oid() == first and shop.open(), moment
            # The same task again; or another, and then nothing is left of the first unless it was whole.
            if number % 2:
                shop.do(deploy_id=DEPLOY)
                nothing_is_left(shop, {shop.name, f"shop__before_{DEPLOY}"})
            else:
                shop.do(state="absent", retain=9)
                whole = {f"shop__before_{told['deploy_id']}" for told in shop.info()["restore_points"]}
                nothing_is_left(shop, {shop.name, *whole})


@pytest.mark.parametrize("version", ("15", "17") if LONG else ("17",))
def test_a_clone_that_is_killed(version: str, tmp_path: Path) -> None:
    """Whole or not there, whatever runs next; the live database and the restore point are never touched."""
    with shop_on(version, tmp_path) as shop:
        shop.server.sql("CREATE ROLE rehearsal LOGIN")
        shop.do(deploy_id=DEPLOY)
        both, clone = shop.server.databases(), f"shop__rehearsal_{DEPLOY}"
        wanted = {"state": "cloned", "deploy_id": DEPLOY, "clone_owner": "rehearsal"}

        def removed() -> None:
            shop.do(state="absent", clone=DEPLOY)
            assert shop.server.databases() == both and not shop.unfinished()

        for number, moment in enumerate(killed_at_changes(shop, shop.options(**wanted), removed, many=12)):
            assert both.items() <= shop.server.databases().items() and shop.open() and shop.closed(f"shop__before_{DEPLOY}"), moment
            match number % 3:
                case 0:
                    shop.do(**wanted)
                    assert [told["database"] for told in shop.info()["clones"]] == [clone], moment
                    assert shop.server.rows("SELECT count(*) FROM public.orders", clone) == ["200"], moment
                case 1:
                    shop.do(state="absent", clone=DEPLOY)
                    assert shop.server.databases() == both, moment
                case 2:
                    # Whatever deploys next, without a rehearsal: nothing is left of it.
                    shop.do(state="absent", retain=9)
                    assert shop.server.databases() == both, moment
            assert not shop.unfinished()


def test_a_clone_that_the_server_goes_on_with(tmp_path: Path) -> None:
    """A CREATE DATABASE does not end with its client: the next run ends it, and no clone appears later."""
    with shop_on("17", tmp_path) as shop:
        shop.server.sql("CREATE ROLE rehearsal LOGIN")
        shop.do(deploy_id=DEPLOY)
        both, wanted = shop.server.databases(), {"state": "cloned", "deploy_id": DEPLOY, "clone_owner": "rehearsal"}
        making = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE %' AND state = 'active'"
        # It waits for the lock of its template, as it would with a large one for the disk.
        with held_database(shop.server, f"shop__before_{DEPLOY}"):
            running = shop.start(**wanted)
            wait_for(lambda: shop.server.rows(making), "the clone is being made")
            running.kill()
            assert shop.unfinished() and shop.server.rows(making)
            shop.do(state="absent", clone=DEPLOY)
            assert not shop.server.rows(making) and not shop.unfinished()
        assert shop.server.databases() == both


@contextlib.contextmanager
def held_database(server: Server, name: str) -> t.Iterator[None]:
    """A lock on a database, as whoever renames it has it."""
    client = subprocess.Popen(server.client("postgres", "-f", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    client.stdin.write(f"BEGIN; ALTER DATABASE {quoted(name)} RENAME TO held; ALTER DATABASE held RENAME TO {quoted(name)}; SELECT 'held';\n")
    client.stdin.flush()
    assert client.stdout.readline() == "held\n"
    try:
        yield
    finally:
        client.communicate("ROLLBACK;\n")


@pytest.mark.parametrize("version", ("15", "17") if LONG else ("15",))
def test_a_rollback_that_is_killed(version: str, tmp_path: Path) -> None:
    """The application writes on; in the end each acknowledged order is in one of both databases, and no number was given out twice."""
    with shop_on(version, tmp_path) as shop, App(shop) as app:
        shop.do(deploy_id=DEPLOY)
        first, point = shop.oid(), f"shop__before_{DEPLOY}"
        other = shop.server.databases()[point]

        def back_at_first() -> None:
            """Whatever was done, the first database is live and the restore point is what it was."""
            if shop.oid() != first:
                [told] = [told for told in shop.info()["parked"] if told["oid"] == first]
                shop.do(state="rolled_back", parked=told["id"])
                [told] = shop.info()["parked"]
                assert told["oid"] == other
                # As a new restore point, by hand: a capture would cost more than all of this.
                shop.server.sql(f"ALTER DATABASE {quoted(told['database'])} RENAME TO {quoted(point)}")
                shop.server.sql(f"COMMENT ON DATABASE {quoted(point)} IS 'reversible.deploy: restore point {DEPLOY} of shop'")
                [record] = shop.state_dir.glob("*/databases")
                lines = record.read_text().splitlines()
                made = next(line for line in lines if f'"oid":{other}' in line and '"restore_point"' in line)
                # Nor has the first database been parked: a rollback with the id of one that was taken back would find that recorded.
                record.write_text("".join(f"{line}\n" for line in [*lines, made] if f'"oid":{first}' not in line))
                (record.parent / "rollbacks.done").unlink(missing_ok=True)

        options = shop.options(**ROLLBACK)
        swapped = 0
        for moment in killed_at_changes(shop, options, back_at_first, many=12):
            reopened(shop)
            assert shop.oid() in (first, other), moment
            app.writes(1)
            done = shop.do(**ROLLBACK)
            assert shop.oid() == other, moment
            swapped += done["changed"]
            nothing_is_left(shop, {shop.name, f"shop__failed_{BACK}"})
            assert not shop.do(**ROLLBACK)["changed"], moment
        assert swapped
        back_at_first()
        app.writes()
        with shop.server.opened(point):
            assert set(app.acknowledged) <= {*shop.words(), *shop.words(point)}
        assert len(set(app.acknowledged.values())) == len(app.acknowledged), "a number was given out twice"


def test_a_comparison_that_is_killed(tmp_path: Path) -> None:
    """Nobody can connect to the restore point afterwards, whenever that was."""
    with shop_on("17", tmp_path) as shop:
        point = shop.do(deploy_id=DEPLOY)["restore_point"]
        shop.write("since")
        options = {**shop.place, "count": "exact"}
        for moment in killed_at_changes(shop, options, lambda: None, many=8, module=INFO):
            wait_for(lambda: shop.closed(point), f"{point} refuses connections after {moment}")
        wait_for(lambda: not shop.server.rows(f"SELECT pid FROM pg_stat_activity WHERE datname = '{point}'"), "its sessions end")
        nothing_is_left(shop, {shop.name, point})
        assert shop.do(**ROLLBACK)["changed"]


@contextlib.contextmanager
def stuck_in_the_swap(server: Server, shop: Shop, **options: t.Any) -> t.Iterator[Call]:
    """A rollback that waits for a session that does not end: its process is stopped."""
    with stuck_session(server, shop.name):
        running = shop.start(**{**ROLLBACK, **options})
        wait_for(lambda: not shop.open() or running.process.poll() is not None, "the database is closed")
        yield running


def children_of(pid: int) -> dict[int, str]:
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):   # a thread, or a child, may just have ended
            for child in task.read_text().split():
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def test_sessions_that_do_not_end(tmp_path: Path) -> None:
    """Everything is as it was before, and the application goes on."""
    with shop_on("17", tmp_path) as shop, App(shop) as app:
        shop.do(deploy_id=DEPLOY)
        first = shop.oid()
        with stuck_in_the_swap(shop.server, shop, swap_timeout=0.5) as running:
            done = running.wait()
            assert done["reason"] == "sessions" and "as it was before" in done["msg"] and "swap_timeout" in done["msg"], done
            assert shop.oid() == first
            nothing_is_left(shop, {shop.name, f"shop__before_{DEPLOY}"})
            app.writes()


def test_whoever_is_killed_while_nobody_may_connect(tmp_path: Path) -> None:
    """The module, the client that would open again, both, the server: and what a person does next."""
    with shop_on("15", tmp_path) as shop, App(shop) as app:
        shop.do(deploy_id=DEPLOY)
        first, both = shop.oid(), {shop.name, f"shop__before_{DEPLOY}"}

        with stuck_in_the_swap(shop.server, shop, swap_timeout=60) as running:
            running.kill()
            reopened(shop)
            app.writes()
        shop.do(state="absent", retain=9)   # another task: it is put in order all the same
        assert shop.oid() == first
        nothing_is_left(shop, both)

        with stuck_in_the_swap(shop.server, shop, swap_timeout=60) as running:
            [door] = [pid for pid, words in children_of(running.pid).items() if "ALLOW_CONNECTIONS true" in words]
            os.kill(door, signal.SIGKILL)
            done = running.wait()
            assert done.get("failed") and "as it was before" in done["msg"], done
            nothing_is_left(shop, both)
            app.writes()

        with stuck_in_the_swap(shop.server, shop, swap_timeout=60) as running:
            family = [running.pid, *children_of(running.pid)]
            for pid in family:
                os.kill(pid, signal.SIGSTOP)   # so that none sees another end
            for pid in reversed(family):
                os.kill(pid, signal.SIGKILL)
            running.process.communicate()
            assert not shop.open() and shop.unfinished()
            assert shop.info()["unfinished"]
        told = shop.do(check=True, state="absent", retain=9)
        assert told["plan"] == [f"let {shop.name} accept connections again", f"close shop__before_{DEPLOY} to connections"]
        shop.do(state="absent", retain=9)
        nothing_is_left(shop, both)
        app.writes()

        with stuck_in_the_swap(shop.server, shop, swap_timeout=60) as running:
            shop.server.kill()
            done = running.wait()
            assert done.get("failed") and "run the same task again" in done["msg"], done
        shop.server.start()
        assert shop.oid() == first
        shop.do(**ROLLBACK)
        assert shop.oid() != first
        app.writes()
        with shop.server.opened(f"shop__failed_{BACK}"):
            assert set(app.acknowledged) <= {*shop.words(), *shop.words(f"shop__failed_{BACK}")}


def test_two_at_once(tmp_path: Path) -> None:
    """On one database the second waits; on another one, also with the same folder of records, it neither waits nor puts in order what is begun."""
    with shop_on("17", tmp_path) as shop:
        shop.do(deploy_id=DEPLOY)
        shop.server.sql("CREATE DATABASE other")
        with stuck_in_the_swap(shop.server, shop, swap_timeout=60) as running:
            second = shop.start(deploy_id=LATER, lock_timeout=0.1).wait()
            assert second["reason"] == "lock_held", second
            shop.do(database="other", deploy_id=LATER)
            assert not shop.open() and shop.unfinished()
        assert not running.wait().get("failed")


def test_a_server_that_is_killed_in_a_capture(tmp_path: Path) -> None:
    with shop_on("17", tmp_path) as shop:
        shop.server.sql("INSERT INTO orders (word) SELECT repeat('x', 200) FROM generate_series(1, 20000)", shop.name)
        for client in ("pg_dump", "pg_restore"):
            running = shop.start(deploy_id=DEPLOY)
            wait_for(lambda name=client: any(f"/{name} --no-password" in words for words in children_of(running.pid).values()), client)
            shop.server.kill()
            done = running.wait()
            assert done.get("failed") and "run the same task again" in done["msg"], done
            shop.server.start()
        shop.do(deploy_id=DEPLOY)
        nothing_is_left(shop, {shop.name, f"shop__before_{DEPLOY}"})


def test_a_client_that_is_killed_in_a_capture(tmp_path: Path) -> None:
    with shop_on("15", tmp_path) as shop:
        shop.server.sql("INSERT INTO orders (word) SELECT repeat('x', 200) FROM generate_series(1, 20000)", shop.name)
        for client in ("pg_dump", "pg_restore"):
            running = shop.start(deploy_id=DEPLOY)
            found: list[int] = []
            wait_for(lambda name=client: found.extend(pid for pid, words in children_of(running.pid).items() if f"/{name} --no-password" in words) or found, client)
            os.kill(found[0], signal.SIGKILL)
            done = running.wait()
            assert done.get("failed") and "as it was before" in done["msg"], done
            nothing_is_left(shop, {shop.name})


def test_a_server_that_answers_before_it_has_written(tmp_path: Path) -> None:
    """With `synchronous_commit = off` a crash loses what was answered last. What our record says is not among it."""
    with shop_on("15", tmp_path) as shop:
        server = shop.server
        server.sql("ALTER SYSTEM SET synchronous_commit = off")
        server.sql("SELECT pg_reload_conf()")
        try:
            for options in ({"deploy_id": DEPLOY}, ROLLBACK):
                writer = int(server.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"))
                os.kill(writer, signal.SIGSTOP)
                shop.do(**options)
                there = server.databases()
                server.kill()
                server.start()
                assert server.databases() == there
                nothing_is_left(shop, set(there))
                assert shop.open() and not shop.do(**options)["changed"]
            assert shop.info()["parked"][0]["id"] == BACK
        finally:
            server.sql("ALTER SYSTEM RESET synchronous_commit")
            server.sql("SELECT pg_reload_conf()")


def test_a_server_that_has_lost_a_rollback(tmp_path: Path) -> None:
    """It was restored from a backup of before: the same rollback does not say that it is done."""
    with shop_on("15", tmp_path) as shop:
        server = shop.server
        backup = server.data.with_name("older")
        shop.do(deploy_id=DEPLOY)
        first = shop.oid()
        server.kill()
        subprocess.run(["cp", "-a", server.data, backup], check=True)
        server.start()
        try:
            shop.do(**ROLLBACK)
            assert not shop.do(**ROLLBACK)["changed"]
            server.kill()
            shutil.rmtree(server.data)
            backup.rename(server.data)
            server.start()
            assert shop.oid() == first
            shop.refused("rollback_lost", **ROLLBACK)
            shop.do(**{**ROLLBACK, "rollback_id": UNDO})
            assert shop.oid() != first
        finally:
            shutil.rmtree(backup, ignore_errors=True)   # it is in the place of the other by then, unless something failed
