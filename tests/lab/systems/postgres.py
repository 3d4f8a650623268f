# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""postgres: one cluster of PostgreSQL on a private socket, run by an account of its own."""
from __future__ import annotations

import json
import pwd
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from labkit import Fail, daemon, run
from things.haproxy import patchelf
from things.postgres import SUITES, root

HELP = f"[{'|'.join(SUITES)}] a cluster of PostgreSQL on a private socket, of the account rd-postgres"
OPTIONS = tuple(SUITES)
PACKAGES: list[str] = []
CACHES: list[str] = []   # see things/postgres.py

USER = "rd-postgres"
PROGRAMS = ("initdb", "postgres", "pg_ctl", "psql", "pg_dump", "pg_restore")
# Not in the state folder, nor in the cache: the account must reach its programs and its data by a path of root's alone.
PUBLIC = Path("/var/lib/reversible-lab/postgres")
# Nothing is written through to the disk: a test that kills the server loses no write, since the machine goes on.
SETTINGS = """\
listen_addresses = ''
unix_socket_directories = '{socket}'
fsync = off
full_page_writes = off
wal_level = logical
max_wal_size = 256MB
shared_buffers = 32MB
max_connections = 60
max_prepared_transactions = 5
max_worker_processes = 6
autovacuum_naptime = 1h
jit = off
timezone = UTC
log_timezone = UTC
"""


def prepare() -> None:
    """Nothing of the host: all comes from the cache. PostgreSQL of each version is a thing."""
    patchelf()


def up(folder: Path, version: str = "15") -> str:
    if status(folder)[0] == "up" and _offer(folder)["version"] == version:
        return _text(folder)
    down(folder)
    if PUBLIC.exists() or _uid():
        raise Fail(f"{PUBLIC} or the account {USER} is there already, of another lab: end it there first")
    folder.mkdir(mode=0o700)
    PUBLIC.mkdir(parents=True, mode=0o755)
    (PUBLIC / "owner").write_text(str(folder))
    run(["useradd", "--system", "--no-create-home", "--home-dir", PUBLIC / "home", "--shell", "/bin/sh", USER])
    place = PUBLIC / version
    run(["cp", "-a", root(version), place])
    programs = place / f"usr/lib/postgresql/{version}/bin"
    libraries = sorted({path.parent for path in place.glob("**/lib*.so.*")})
    loader = sorted(place.glob("**/ld-linux*.so.*"))[0]
    for program in PROGRAMS:
        # The host's C library may be older than what this was built for: it gets its own, by absolute paths.
        run([patchelf(), "--set-interpreter", loader, "--force-rpath", "--set-rpath", ":".join(map(str, libraries)), programs / program])
    for name in ("home", "socket", "data"):
        (PUBLIC / name).mkdir(mode=0o755)
        shutil.chown(PUBLIC / name, USER, USER)
    run([*_as_user(), programs / "initdb", "--no-sync", "--auth=peer", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres",
         "-D", PUBLIC / "data"])
    (PUBLIC / "data/pg_ident.conf").write_text(f"lab {USER} postgres\n")
    (PUBLIC / "data/pg_hba.conf").write_text("local all postgres peer map=lab\nlocal all all trust\nlocal replication all trust\n")
    with open(PUBLIC / "data/postgresql.conf", "a", encoding="utf-8") as settings:
        settings.write(SETTINGS.format(socket=PUBLIC / "socket"))
    offer = {
        "version": version, "user": USER, "programs": str(programs), "socket": str(PUBLIC / "socket"), "data": str(PUBLIC / "data"),
        "environment": {"PGHOST": str(PUBLIC / "socket"), "PGUSER": "postgres"},
        # By these words a command is the account's; and the server itself, for a test that has killed it.
        "as_user": [str(word) for word in _as_user()],
        "server": [str(word) for word in [*_as_user(), programs / "postgres", "-D", PUBLIC / "data"]],
    }
    (folder / "offer.json").write_text(json.dumps(offer, indent=2) + "\n")
    daemon.start(folder, "postgres", offer["server"])
    daemon.wait_for(lambda: status(folder)[0] == "up", "postgres", folder, "postgres")
    return _text(folder)


def down(folder: Path) -> None:
    if _owner() not in ("", str(folder)):
        return   # the account is another lab's (its REVERSIBLE_LAB differs)
    daemon.stop(folder, "postgres", signal.SIGINT)
    if _owner() and _uid():
        # Also a server that a test has started again, and its clients.
        daemon.end(_processes(), signal.SIGKILL)
        run(["userdel", USER])
    for place in (PUBLIC if _owner() else folder, folder):
        if place.exists():
            shutil.rmtree(place)
    with suppress(OSError):
        PUBLIC.parent.rmdir()


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "offer.json").exists():
        return "down", ""
    offer = _offer(folder)
    asked = run([*offer["as_user"], f"{offer['programs']}/psql", "-XAtw", "-h", offer["socket"], "-U", "postgres", "-c", "SHOW server_version",
                 "postgres"], ok=tuple(range(256)))
    if asked.returncode != 0:
        return "broken", f"postgres does not answer in {offer['socket']}: {asked.stderr.strip()}"
    return "up", f"{asked.stdout.strip()} in {offer['socket']}"


def _as_user() -> list:
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--", "env", f"HOME={PUBLIC}/home"]


def _owner() -> str:
    """The state folder of the lab that has made the account."""
    return (PUBLIC / "owner").read_text() if (PUBLIC / "owner").exists() else ""


def _uid() -> int:
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:
        return 0


def _processes() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid == _uid():
                found.add(int(path.name))
    return found


def _offer(folder: Path) -> dict:
    return json.loads(_text(folder))


def _text(folder: Path) -> str:
    return (folder / "offer.json").read_text()
