# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of compose_backup share: the lab's engine, projects on it, and folders compared byte for byte with all their metadata.

Nothing here uses the module to learn what is so: containers are asked by `docker`, the database by SQL, files by the kernel.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import socket
import stat
import struct
import subprocess
import time
import typing as t
from pathlib import Path

import pytest
from edge import Call
from harness import lab

MODULE, INFO = "compose_backup", "compose_backup_info"
SECRET = "s3cret-of-the-database-91c4"
PLACES = Path(os.environ.get("REVERSIBLE_BIG") or "/var/tmp")   # projects and backups: on a disk, not in memory
NUMBERS = itertools.count(1)
Result = t.Dict[str, t.Any]


@dataclasses.dataclass
class Engine:
    """The lab's Docker."""

    offer: dict[str, t.Any]

    @property
    def environ(self) -> dict[str, str]:
        return self.offer["environment"]

    def docker(self, *words: t.Any, ok: bool = True, given: str | None = None, **environ: str) -> str:
        done = subprocess.run(["docker", *map(str, words)], env={**os.environ, **self.environ, **environ}, input=given, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=120)
        assert not ok or done.returncode == 0, f"docker {' '.join(map(str, words))}: {done.stdout}{done.stderr}"
        return done.stdout

    def enter(self, *argv: str) -> str:
        """A program in the engine's network."""
        command = [*self.offer["enter"], *argv]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=30)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def forget(self, project: str) -> None:
        """Remove everything of a project: also what a failed test has left of it."""
        for kind in ("container", "volume", "network"):
            every, also = (["-a"], ["-v"]) if kind == "container" else ([], [])
            found = self.docker(kind, "ls", "-q", *every, "--filter", f"label=com.docker.compose.project={project}", ok=False).split()
            if found:
                self.docker(kind, "rm", *(["-f"] if kind != "network" else []), *also, *found, ok=False)

    def volume(self, name: str) -> Path:
        return Path(self.offer["data_root"], "volumes", name, "_data")

    @contextlib.contextmanager
    def stopped(self) -> t.Iterator[None]:
        """As its service would stop it, and start it again."""
        os.kill(self.offer["pid"], 10)
        wait_until(lambda: not Path(self.offer["engine_pidfile"]).exists(), "the engine's end")
        try:
            yield
        finally:
            self.again()

    @contextlib.contextmanager
    def full(self) -> t.Iterator[None]:
        """No room where it puts what it pulls, and what an image is built from."""
        place = Path(self.offer["data_root"], "tmp")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", place], check=True)

    def again(self) -> None:
        """It is started, when it has ended."""
        os.kill(self.offer["pid"], 12)
        wait_until(lambda: self.docker("version", ok=False).count("Server:"), "the engine")


@functools.cache
def engine(version: str = "20.10") -> Engine:
    """It stays up; another version takes its place, and then what was known of it is forgotten."""
    return Engine(json.loads(lab("up", "docker", version)))


SHOP = """\
services:
  db:
    image: reversible-lab/postgres:15
    env_file: [secrets/db.env]
    volumes: [dbdata:/var/lib/postgresql/data]
    healthcheck: {test: [CMD, pg_isready, -q], interval: 1s, timeout: 5s, retries: 60}
  web:
    build: ./web
    image: ${COMPOSE_PROJECT_NAME}/web:${WEB_VERSION}
    init: true
    depends_on: {db: {condition: service_healthy}}
    ports: ["127.0.0.1::80"]
    volumes: ["./files:/www/files", "./settings.conf:/etc/settings.conf:ro"]
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"], interval: 1s, timeout: 5s, retries: 60}
  cache:
    image: 127.0.0.1:5000/lab/cache:1
    init: true
    container_name: ${COMPOSE_PROJECT_NAME}-the-cache
    volumes: [cache:/cache, /scratch]
    command: [sh, -c, "echo cache is ready; exec sleep 100000"]
volumes: {dbdata: {}, cache: {}}
"""
SMALL = """\
services:
  app:
    image: reversible-lab/busybox:1
    init: true
    volumes: ["./data:/data", "box:/box"]
    command: [sh, -c, "echo app says hello; exec sleep 100000"]
volumes: {box: {}}
"""


class Project:
    """A Compose project in a folder of its own, with a backup folder and a state folder beside it."""

    def __init__(self, on: Engine, text: str, prefix: str = "small"):
        self.engine, self.name = on, f"{prefix}{os.getpid()}x{next(NUMBERS)}"
        self.place = PLACES / f"reversible-{self.name}"
        self.folder, self.backups, self.state = self.place / "project", self.place / "backups", self.place / "state"
        self.folder.mkdir(parents=True, mode=0o755)
        self.place.chmod(0o755)
        self.file = self.folder / "compose.yml"
        self.file.write_text(f"name: {self.name}\n{text}")

    # What a person would do

    def compose(self, *words: t.Any, **more: t.Any) -> str:
        return self.engine.docker("compose", "--project-directory", self.folder, *words, COMPOSE_PROJECT_NAME=self.name, **more)

    def up(self) -> "Project":
        self.compose("--progress", "quiet", "up", "-d", "--wait", "--pull", "never", "--no-build")
        return self

    def remove(self) -> None:
        self.engine.forget(self.name)
        shutil.rmtree(self.place, ignore_errors=True)   # a mount of the test may still be in it

    def containers(self) -> list[dict[str, t.Any]]:
        label = f"label=com.docker.compose.project={self.name}"
        found = self.engine.docker("ps", "-aq", "--filter", label, "--filter", "label=com.docker.compose.oneoff=False").split()
        return json.loads(self.engine.docker("inspect", *found)) if found else []

    def states(self) -> dict[str, str]:
        """Each service's state; with its health, where it is looked at."""
        found = {}
        for one in self.containers():
            health = one["State"].get("Health", {}).get("Status")
            found[one["Config"]["Labels"]["com.docker.compose.service"]] = one["State"]["Status"] + (f" {health}" if health else "")
        return found

    def images(self) -> dict[str, str]:
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one["Image"] for one in self.containers()}

    def layers(self) -> dict[str, list[str]]:
        """What runs, by content: on containerd's store, an image that was loaded again has another id."""
        def of(image: str) -> list[str]:
            return json.loads(self.engine.docker("image", "inspect", image))[0]["RootFS"]["Layers"]
        return {service: of(image) for service, image in self.images().items()}

    def sql(self, text: str) -> str:
        return self.compose("exec", "-T", "db", "psql", "-v", "ON_ERROR_STOP=1", "-Atc", text).strip()

    def page(self, path: str = "/") -> str:
        return self.compose("exec", "-T", "web", "wget", "-q", "-O", "-", f"http://127.0.0.1{path}").strip()

    # The module

    def options(self, **more: t.Any) -> Result:
        common = {"project_dir": str(self.folder), "backup_dir": str(self.backups), "state_dir": str(self.state)}
        return {key: value for key, value in {**common, **more}.items() if value is not None}

    def start(self, module: str = MODULE, check_mode: bool = False, diff: bool = False, below: t.Sequence[str] = (),
              environ: t.Mapping[str, str] | None = None, **options: t.Any) -> Call:
        more = {**self.engine.environ, **(environ or {})}
        return Call(module, self.options(**options), check=check_mode, diff=diff, below=below, **more)

    def run(self, module: str = MODULE, **options: t.Any) -> Result:
        return self.start(module, **options).wait(300)

    def ok(self, **options: t.Any) -> Result:
        result = self.run(**options)
        assert not result.get("failed"), result
        return result

    def fails(self, reason: str, /, *words: str, **options: t.Any) -> Result:
        """One clear sentence and a stable reason."""
        result = self.run(**options)
        assert result.get("failed") and result.get("reason") == reason, result
        assert all(word in result["msg"] for word in words), result["msg"]
        assert SECRET not in json.dumps(result)
        return result

    def backup(self, **options: t.Any) -> Result:
        return self.ok(**options)

    def restore(self, **options: t.Any) -> Result:
        return self.ok(**{"state": "restored", "confirm": True, **options})

    def info(self, **options: t.Any) -> Result:
        return self.ok(module=INFO, **options)

    def settled(self) -> dict[str, str]:
        """The states, when no service that has been started is still starting."""
        wait_until(lambda: not [state for state in self.states().values() if "starting" in state], "services to be healthy", 60)
        return self.states()

    @property
    def complete(self) -> list[str]:
        """Backups that a person sees, by name; the module's own files and unfinished ones are none."""
        if not self.backups.exists():
            return []
        return sorted(path.name for path in self.backups.glob("backup-*") if path.is_dir() and not path.name.endswith(".partial"))

    @property
    def unfinished(self) -> list[str]:
        return sorted(path.name for path in self.backups.glob("*.partial"))

    def manifest(self, name: str) -> Result:
        return json.loads((self.backups / name / "manifest.json").read_text())


def small(on: Engine, **files: bytes) -> Project:
    """Its service runs; data/ has a few files, and the volume one."""
    project = Project(on, SMALL)
    (project.folder / "data").mkdir()
    for name, content in {"one": b"1\n", "two": b"2\n" * 5000, **files}.items():
        (project.folder / "data" / name).write_bytes(content)
    project.up()
    (on.volume(f"{project.name}_box") / "inside").write_text("in the volume\n")
    return project


def shop(on: Engine) -> Project:
    """A database in a named volume, a web server that was built here with two binds, and an image that came from a registry."""
    on.docker("tag", "reversible-lab/busybox:1", "127.0.0.1:5000/lab/cache:1")
    on.docker("push", "--quiet", "127.0.0.1:5000/lab/cache:1")
    project = Project(on, SHOP, "shop")
    for name in ("web", "secrets", "files"):
        (project.folder / name).mkdir()
    (project.folder / ".env").write_text("WEB_VERSION=1\n")
    (project.folder / "secrets/db.env").write_text(f"POSTGRES_PASSWORD={SECRET}\n")
    (project.folder / "secrets/db.env").chmod(0o600)
    (project.folder / "settings.conf").write_text("colour = blue\n")
    build(project, "1")
    odd_tree(project.folder / "files")
    project.up()
    project.sql("CREATE TABLE orders (id int PRIMARY KEY, what text)")
    project.sql("INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 2000) n")
    (on.volume(f"{project.name}_cache") / "warm").write_bytes(os.urandom(50_000))
    return project


def traced(project: Project, tracing: list[str], **options: t.Any) -> Call:
    """The module below strace, which may kill it or let calls of the kernel fail."""
    return project.start(below=[lab("get", "strace"), "-o", "/dev/null", *tracing], **options)


def build(project: Project, version: str) -> None:
    """The web server's image of a version, built from what stands in the project's folder."""
    lines = ["FROM reversible-lab/busybox:1", "COPY index.html /www/index.html", 'CMD ["httpd", "-f", "-h", "/www"]']
    (project.folder / "web/Dockerfile").write_text("\n".join(lines) + "\n")
    (project.folder / "web/index.html").write_text(f"release {version}\n")
    (project.folder / ".env").write_text(f"WEB_VERSION={version}\n")
    project.engine.docker("build", "--quiet", "--tag", f"{project.name}/web:{version}", project.folder / "web")


def odd_tree(folder: Path) -> None:
    """One of everything that a file system can hold, and that a backup may lose."""
    at = os.fsencode(folder)
    folder.mkdir(exist_ok=True)
    (folder / "plain").write_bytes(random.Random(1).randbytes(300_000))
    for name in (b"new\nline", b"not-utf8-\xff\xfe", "umlaut-ü".encode(), b" space ", b"-rf", b"a" * 255):
        with open(os.path.join(at, name), "wb") as file:
            file.write(name)
    deep = folder.joinpath(*["deep" * 20] * 5)
    deep.mkdir(parents=True)
    (deep / "below").write_text("a path of more than 400 characters\n")
    (folder / "empty").mkdir(mode=0o700)
    (folder / "empty-file").touch()
    os.link(folder / "plain", folder / "hard-link")
    os.link(folder / "plain", folder / "empty" / "another")
    (folder / "link").symlink_to("plain")
    (folder / "dangling").symlink_to("/nowhere/at all")
    os.chown(folder / "link", 77, 88, follow_symlinks=False)
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with open(folder / "sparse", "wb") as file:
        for where in (0, 40 << 20, 199 << 20):
            file.seek(where)
            file.write(b"island")
        file.truncate(200 << 20)
    (folder / "owned").write_text("by someone\n")
    os.chown(folder / "owned", 1234, 4321)
    (folder / "setuid").write_text("#!/bin/sh\n")
    (folder / "setuid").chmod(0o6755)
    (folder / "sticky").mkdir()
    (folder / "sticky").chmod(0o3777)
    os.setxattr(folder / "owned", "user.note", b"\x00binary\xff")
    os.setxattr(folder / "sticky", "trusted.note", b"for root")
    # An access list: version 2, then (tag, permissions, id) of owner, user 1234, group, mask, others.
    entries = [(1, 6, 2**32 - 1), (2, 4, 1234), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder / "owned", "system.posix_acl_access", acl)
    os.setxattr(folder / "sticky", "system.posix_acl_default", acl)
    for name, nanoseconds in (("owned", 1_234_567_890_123_456_789), ("empty", 987_654_321_000_000_001), ("fifo", 1)):
        os.utime(folder / name, ns=(nanoseconds, nanoseconds))
    os.utime(folder / "link", ns=(5_000_000_007, 5_000_000_007), follow_symlinks=False)
    os.utime(folder, ns=(1_600_000_000_500_000_000,) * 2)


def with_socket(folder: Path) -> socket.socket:
    """A socket in a folder; it is no data."""
    line = socket.socket(socket.AF_UNIX)
    line.bind(str(folder / "socket"))
    return line


def tree(folder: Path) -> dict[bytes, tuple[t.Any, ...]]:
    """All that is to be the same after a restore, by path: content and metadata, hard links, and how much of the disk a file takes."""
    top, found = os.fsencode(folder), {}
    links: dict[tuple[int, int], list[bytes]] = {}
    stack = [b""]
    while stack:
        name = stack.pop()
        path = os.path.join(top, name) if name else top
        seen = os.lstat(path)
        kind = stat.S_IFMT(seen.st_mode)
        if kind == stat.S_IFSOCK:
            continue
        content: t.Any = None
        if kind == stat.S_IFDIR:
            stack += [os.path.join(name, entry) for entry in os.listdir(path)]
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFREG:
            with open(path, "rb") as file:
                content = (seen.st_size, hashlib.file_digest(file, "sha256").hexdigest(), _is_sparse(seen))
            links.setdefault((seen.st_dev, seen.st_ino), []).append(name)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = seen.st_rdev
        attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
        found[name] = (oct(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, content, tuple(sorted(attributes.items())))
    for names in links.values():
        for name in names:
            found[name] += (tuple(sorted(names)),)
    return found


def _is_sparse(seen: os.stat_result) -> bool:
    """Whether it takes less than half of its size: extents may be cut otherwise, holes may not be filled."""
    return seen.st_blocks * 1024 < seen.st_size


def unlike(before: dict[bytes, t.Any], after: dict[bytes, t.Any]) -> dict[bytes, t.Any]:
    """Where two trees differ, for the message of an assert."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def readable_by_others(folder: Path) -> list[str]:
    """What somebody else than root could read in a folder that he can reach, going by modes alone."""
    found = []
    for here, folders, files in os.walk(folder):
        if os.lstat(here).st_mode & 0o001 == 0:
            folders[:] = []
            continue
        found += [str(Path(here, name)) for name in files if _others_read(os.lstat(Path(here, name)).st_mode)]
    return found


def _others_read(mode: int) -> bool:
    return stat.S_ISREG(mode) and bool(mode & 0o004)


def wait_until(look: t.Callable[[], t.Any], what: str, seconds: float = 30) -> t.Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


# Fixtures; a file of tests takes them from here.


@pytest.fixture(name="on", scope="module")
def an_engine() -> Engine:
    engine.cache_clear()   # another file may have had another version
    return engine()


@pytest.fixture(name="project")
def a_project(on: Engine) -> t.Iterator[Project]:
    project = small(on)
    try:
        yield project
    finally:
        project.remove()


def refused(it: Project, reason: str, /, *words: str, **options: t.Any) -> None:
    """Nothing of the project is changed by it, and no folder is made."""
    before, states, folders = tree(it.folder), it.states(), (it.backups.exists(), it.state.exists())
    backups = it.complete
    it.fails(reason, *words, **options)
    differs = unlike(before, tree(it.folder))
    assert not differs and it.states() == states and it.complete == backups, differs
    assert (it.backups.exists(), it.state.exists()) == folders
    rubbish = [path for path in it.place.rglob("*") if ".restoring-" in path.name or ".parked-" in path.name or path.suffix == ".partial"]
    assert not rubbish, rubbish
