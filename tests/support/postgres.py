# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of PostgreSQL for tests, and an application that writes all the time and knows which commits were acknowledged to it."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import typing as t
from pathlib import Path

from edge import Call, call
from harness import lab, wait_for

MODULE, INFO = "postgres_restore_point", "postgres_restore_point_info"
VERSIONS = ("15", "17")
# All that a name may be: it holds what ends a string, an identifier, a connection string and an argument list.
ODD_NAME = "-My \"Shop\" it's; \\ ü=x :y"


class Server:
    """The lab's cluster. Databases that a test has made are gone after it."""

    def __init__(self, version: str) -> None:
        self.offer = json.loads(lab("up", "postgres", version))
        self.version, self.data = version, Path(self.offer["data"])
        self.options = {"host": self.offer["socket"], "user": "postgres", "os_user": self.offer["user"], "programs": self.offer["programs"]}

    def client(self, database: str, *words: str, user: str = "postgres") -> list[str]:
        """psql, as the account that owns the cluster."""
        name = database.replace("\\", "\\\\").replace("'", "\\'")
        psql = [f"{self.offer['programs']}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.offer["socket"], "-U", user]
        return [*self.offer["as_user"], *psql, f"--dbname=dbname='{name}'", *words]

    def sql(self, statements: str, database: str = "postgres", user: str = "postgres") -> str:
        done = subprocess.run(self.client(database, "-f", "-", user=user), input=statements, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, f"{statements}: {done.stderr}"
        return done.stdout.strip()

    def rows(self, query: str, database: str = "postgres") -> list[str]:
        return self.sql(query, database).splitlines()

    def databases(self) -> dict[str, int]:
        """Those that are not there from the beginning, with their OIDs."""
        found = json.loads(self.sql("SELECT json_object_agg(datname, oid::bigint) FROM pg_database WHERE oid >= 16384") or "{}")
        return {name: int(oid) for name, oid in found.items()}

    @contextlib.contextmanager
    def opened(self, name: str) -> t.Iterator[None]:
        """A database that refuses connections, looked into."""
        self.sql(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true")
        try:
            yield
        finally:
            self.sql(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS false")

    @contextlib.contextmanager
    def locked(self, database: str, table: str) -> t.Iterator[None]:
        """A table that nobody else can read."""
        client = subprocess.Popen(self.client(database, "-f", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
        client.stdin.write(f"BEGIN; LOCK TABLE {quoted(table)}; SELECT 'locked';\n")
        client.stdin.flush()
        assert client.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            client.communicate()

    def kill(self) -> None:
        """All of it at once, as when the machine loses its power."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        family = [pid, *(int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        for one in family:
            with contextlib.suppress(ProcessLookupError):   # a session that has just ended
                os.kill(one, signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{one}/exe").exists() for one in family), "the server is gone")

    def start(self) -> None:
        with open(self.data.parent / "again.log", "ab") as log:
            # Its own process, which the lab ends by its account.
            subprocess.Popen(self.offer["server"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
        wait_for(self.answers, "the server")

    def answers(self) -> bool:
        return subprocess.run(self.client("postgres", "-c", "SELECT 1"), capture_output=True, check=False, cwd="/").returncode == 0

    def clean(self) -> None:
        if not self.answers():
            self.start()
        for gid, database in (row.split("|", 1) for row in self.rows("SELECT gid, database FROM pg_prepared_xacts")):
            self.sql(f"ROLLBACK PREPARED '{gid}'", database)
        self.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        for name in self.databases():
            self.sql(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
        for role in self.rows("SELECT rolname FROM pg_roles WHERE oid >= 16384"):
            self.sql(f"DROP ROLE {quoted(role)}")


@contextlib.contextmanager
def stuck_session(server: Server, database: str) -> t.Iterator[None]:
    """A session that does not end when it is told to: its process is stopped."""
    client = subprocess.Popen(server.client(database, "-f", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/")
    client.stdin.write("SELECT pg_backend_pid();\n")
    client.stdin.flush()
    backend = int(client.stdout.readline())
    os.kill(backend, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(backend, signal.SIGCONT)
        client.kill()
        client.communicate()


def quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


TABLES = """
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, word text NOT NULL);
CREATE TABLE lines (id serial PRIMARY KEY, order_id bigint REFERENCES orders, price numeric CHECK (price > 0)) ;
CREATE TABLE parts (day date NOT NULL, n int) PARTITION BY RANGE (day);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE SEQUENCE down INCREMENT -5;
CREATE VIEW dear AS SELECT * FROM lines WHERE price > 100;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM orders;
CREATE TYPE kind AS ENUM ('a', 'it''s');
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
ALTER TABLE lines ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON lines USING (price > 0);
CREATE EXTENSION hstore;
INSERT INTO orders (word) SELECT 'old ' || n FROM generate_series(1, 200) n;
INSERT INTO lines (order_id, price) SELECT id, id FROM orders;
INSERT INTO parts SELECT '2026-05-01', n FROM generate_series(1, 50) n;
SELECT nextval('down'), nextval('down');
SELECT lo_from_bytea(0, 'large');
"""


class Shop:
    """A database with something of everything, its owner, and where the module keeps its records."""

    def __init__(self, server: Server, folder: Path, name: str = "shop") -> None:
        self.server, self.name, self.state_dir = server, name, folder / "state"
        self.place = {**server.options, "database": name, "state_dir": str(self.state_dir)}
        self.work = folder / "work"
        self.work.mkdir()
        server.sql(f"CREATE ROLE owner LOGIN; CREATE ROLE app LOGIN; CREATE DATABASE {quoted(name)} OWNER owner CONNECTION LIMIT 40")
        server.sql(f'''
            COMMENT ON DATABASE {quoted(name)} IS 'the shop''s';
            REVOKE CONNECT ON DATABASE {quoted(name)} FROM PUBLIC;
            GRANT CONNECT ON DATABASE {quoted(name)} TO app WITH GRANT OPTION;
            ALTER DATABASE {quoted(name)} SET search_path = "$user", public, "My ""schema""";
            ALTER DATABASE {quoted(name)} SET default_transaction_read_only = off;
            ALTER ROLE app IN DATABASE {quoted(name)} SET shop.motto = 'it''s, ok';
        ''')
        server.sql(f"{TABLES} GRANT ALL ON ALL TABLES IN SCHEMA public TO app", name)

    def options(self, **more: t.Any) -> dict[str, t.Any]:
        return {**self.place, "work_dir": str(self.work), **more}

    def do(self, *, check: bool = False, **more: t.Any) -> dict[str, t.Any]:
        """A run that must go well."""
        done = call(MODULE, self.options(**more), check=check)
        assert not done.get("failed"), done
        return done

    def refused(self, reason: str, *, checks: t.Sequence[bool] = (True, False), **more: t.Any) -> dict[str, t.Any]:
        """A run that must change nothing, in check mode as well where that asks the same."""
        before = (self.server.databases(), self.hanging_on(self.name))
        for check in checks:
            done = call(MODULE, self.options(**more), check=check)
            assert done.get("failed") and done["reason"] == reason, done
        assert (self.server.databases(), self.hanging_on(self.name)) == before
        assert not list(self.work.iterdir()) and not self.unfinished()
        return done

    def start(self, below: t.Sequence[str] = (), **more: t.Any) -> Call:
        return Call(MODULE, self.options(**more), below=below)

    def info(self, **more: t.Any) -> dict[str, t.Any]:
        done = call(INFO, {**self.place, **more})
        assert not done.get("failed"), done
        return done

    def unfinished(self) -> bool:
        return bool(list(self.state_dir.glob("*/intent*")))

    def oid(self) -> int:
        return self.server.databases()[self.name]

    def open(self) -> bool:
        return self.server.sql(f"SELECT datallowconn FROM pg_database WHERE oid = {self.oid()}") == "t"

    def closed(self, name: str) -> bool:
        return self.server.sql(f"SELECT NOT datallowconn FROM pg_database WHERE datname = $name${name}$name$") == "t"

    def tables(self) -> list[str]:
        return self.server.rows("SELECT relname FROM pg_class WHERE relkind = 'r'", self.name)

    def hanging_on(self, name: str) -> dict[str, t.Any]:
        """What is a database's own and in no dump; its rights without who gave them."""
        text = self.server.sql(f"""
            SELECT json_build_object('owner', datdba::regrole, 'limit', datconnlimit, 'comment', shobj_description(d.oid, 'pg_database'),
              'grants', (SELECT json_agg(DISTINCT g.grantee || ' ' || g.privilege_type || ' ' || g.is_grantable) FROM aclexplode(datacl) g),
              'settings', (SELECT json_agg(setrole || ' ' || setconfig::text ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid))
            FROM pg_database d WHERE datname = $name${name}$name$""")
        return json.loads(text)

    def words(self, name: str = "") -> list[str]:
        return self.server.rows("SELECT word FROM public.orders ORDER BY id", name or self.name)

    def write(self, word: str) -> int:
        return int(self.server.sql(f"INSERT INTO public.orders (word) VALUES ('{word}') RETURNING id", self.name))


class App:
    """Writes one order after the other, by the name of the database, and connects again when it is cut off."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.acknowledged: dict[str, int] = {}   # by its word, the number that it got
        self.failed = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> App:
        self.thread.start()
        self.writes(3)
        return self

    def __exit__(self, *_why: object) -> None:
        self.ended.set()
        self.thread.join()

    def writes(self, more: int = 5) -> None:
        """Waits until so many more are acknowledged."""
        goal = len(self.acknowledged) + more
        wait_for(lambda: len(self.acknowledged) >= goal, "the application writes")

    def _run(self) -> None:
        number = 0
        while not self.ended.is_set():
            argv = ["env", "PGAPPNAME=till", *self.shop.server.client(self.shop.name, "-f", "-", user="app")]
            psql = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/")
            with contextlib.suppress(OSError):
                while not self.ended.wait(0.004):
                    number += 1
                    psql.stdin.write(f"INSERT INTO public.orders (word) VALUES ('new {number}') RETURNING id;\n")
                    psql.stdin.flush()
                    line = psql.stdout.readline()
                    if not line:
                        break
                    self.acknowledged[f"new {number}"] = int(line)
            if not self.ended.is_set():
                self.failed += 1
            with contextlib.suppress(OSError):
                psql.stdin.close()
            psql.wait()


@contextlib.contextmanager
def shop_on(version: str, folder: Path, name: str = "shop") -> t.Iterator[Shop]:
    server = Server(version)
    server.clean()
    # Reached by the account of the clients: pytest's own folders are closed to others.
    place = Path(server.offer["data"]).parent / f"test-{folder.name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o755)
    try:
        yield Shop(server, place, name)
    finally:
        server.clean()
        shutil.rmtree(place)
