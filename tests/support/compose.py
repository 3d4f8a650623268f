# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of compose_backup share: the lab's engine, and projects on it. Folders are in trees.py.

Nothing here uses the module to learn what is so: of containers the engine is asked, the database by SQL, files by the kernel.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from docker_engine import PROJECT, DockerEngine
from edge import Call
from harness import lab, wait_for
from trees import odd_tree, tree, unlike

MODULE, INFO = "compose_backup", "compose_backup_info"
SECRET = "s3cret-of-the-database-91c4"
# Projects and backups: on a disk, not in memory. A sandbox has a folder of its own there, since its process ids are those of others as well.
PLACES = Path(os.environ.get("REVERSIBLE_BIG") or (os.environ.get("REVERSIBLE_SANDBOX") and os.environ.get("TMPDIR")) or "/var/tmp")
NUMBERS = itertools.count(1)
PATIENCE = 120.0   # seconds, for what takes a moment where nobody else wants the processors
Result = t.Dict[str, t.Any]


@dataclasses.dataclass
class Engine:
    """The lab's Docker."""

    offer: dict[str, t.Any]
    kept: "Kept | None" = None   # the project that tests of a file share, as long as they leave it as it was

    def __post_init__(self) -> None:
        self.api = DockerEngine(self.offer["socket"])

    @property
    def environ(self) -> dict[str, str]:
        return self.offer["environment"]

    def docker(self, *words: t.Any, **more: t.Any) -> str:
        return self.run("docker", *words, **more)

    def compose(self, *words: t.Any, **more: t.Any) -> str:
        """The plugin by itself: docker would start it twice."""
        return self.run(self.offer["standalone"], *words, **more)

    def run(self, *argv: t.Any, ok: bool = True, given: str | None = None, **environ: str) -> str:
        done = subprocess.run([*map(str, argv)], env={**os.environ, **self.environ, **environ}, input=given, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=120)
        assert not ok or done.returncode == 0, f"{' '.join(map(str, argv))}: {done.stdout}{done.stderr}"
        return done.stdout

    def enter(self, *argv: str) -> str:
        """A program in the engine's network."""
        command = [*self.offer["enter"], *argv]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=30)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def is_up(self) -> bool:
        """Whether it is still this one that the lab offers, and it answers."""
        offered = Path(self.offer["socket"]).with_name("offer.json")
        return offered.exists() and json.loads(offered.read_text()) == self.offer and self.api.answers()

    def volume(self, name: str) -> Path:
        return Path(self.offer["data_root"], "volumes", name, "_data")

    @contextlib.contextmanager
    def stopped(self) -> t.Iterator[None]:
        """As its service would stop it, and start it again."""
        os.kill(self.offer["pid"], 10)
        wait_for(lambda: not Path(self.offer["engine_pidfile"]).exists(), "the engine's end", PATIENCE)
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
        # Its parent must have seen the end of one that was killed, or it would not start another.
        wait_for(lambda: not Path(self.offer["engine_pidfile"]).exists() or self.api.answers(), "the engine's end", PATIENCE)
        os.kill(self.offer["pid"], 12)
        wait_for(self.api.answers, "the engine", PATIENCE)


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
        return self.engine.compose("--project-directory", self.folder, *words, COMPOSE_PROJECT_NAME=self.name, **more)

    def up(self) -> "Project":
        self.compose("--progress", "quiet", "up", "-d", "--wait", "--pull", "never", "--no-build")
        return self

    def remove(self) -> None:
        if self.engine.is_up():   # else all that it had is gone with it
            self.engine.api.remove_project(self.name)
        shutil.rmtree(self.place, ignore_errors=True)   # a mount of the test may still be in it

    def containers(self) -> list[dict[str, t.Any]]:
        return self.engine.api.containers(f"{PROJECT}={self.name}", "com.docker.compose.oneoff=False")

    def container_of(self, service: str) -> str:
        """The id of a service's only container."""
        [one] = self.engine.api.containers(f"{PROJECT}={self.name}", "com.docker.compose.oneoff=False", f"com.docker.compose.service={service}")
        return one["Id"]

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
        return {service: self.engine.api.image(image)["RootFS"]["Layers"] for service, image in self.images().items()}

    def inside(self, service: str, *argv: str) -> str:
        """What a program prints in the service's only container."""
        return self.engine.api.run(self.container_of(service), *argv)

    def sql(self, text: str) -> str:
        return self.inside("db", "psql", "-v", "ON_ERROR_STOP=1", "-Atc", text).strip()

    def page(self, path: str = "/") -> str:
        return self.inside("web", "wget", "-q", "-O", "-", f"http://127.0.0.1{path}").strip()

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
        wait_for(lambda: not [state for state in self.states().values() if "starting" in state], "services to be healthy", PATIENCE)
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


def docker_as(project: Project, name: str, script: str) -> dict[str, str]:
    """The environment of a run whose `docker` is this shell script, in a folder of that name; in it, "$docker" is the real one."""
    folder = project.place / name
    folder.mkdir()
    _script(folder / "docker", f"docker={project.engine.offer['path']}/docker\n{script}")
    return {"PATH": f"{folder}:{project.engine.environ['PATH']}"}


def plugin_as(project: Project, name: str, script: str) -> dict[str, str]:
    """The same with docker's plugin for Compose, which is "$compose" in it."""
    folder = project.place / name
    (folder / "cli-plugins").mkdir(parents=True)
    _script(folder / "cli-plugins/docker-compose", f"compose={project.engine.offer['standalone']}\n{script}")
    return {"DOCKER_CONFIG": str(folder)}


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


def holding(project: Project, hold: Path, at: str = "container stop") -> dict[str, str]:
    """The environment of a run that stands still before it tells the engine that for the first time: the file `hold` is made then, and lets it
    go on by its end."""
    return docker_as(project, "holding", f"""\
case "$*" in *"{at}"*)
    if mkdir {hold}.begun 2>/dev/null; then
        touch {hold}
        while [ -e {hold} ]; do sleep 0.05; done
    fi ;;
esac
exec $docker "$@"
""")


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


# Fixtures; a file of tests takes them from here.


def offered(version: str = "20.10") -> t.Iterator[Engine]:
    if not engine(version).is_up():   # another file, or another parameter, may have had another version
        engine.cache_clear()
    on = engine(version)
    yield on
    if on.kept:
        on.kept.project.remove()
        on.kept = None


@pytest.fixture(name="on", scope="module")
def an_engine() -> t.Iterator[Engine]:
    yield from offered()


@pytest.fixture(name="on", scope="module", params=["20.10", "28"] if os.environ.get("REVERSIBLE_LONG") else ["20.10"])
def each_engine(request: pytest.FixtureRequest) -> t.Iterator[Engine]:
    """What an engine starts by itself, and what it remembers of a restart, differs more between versions than what it answers."""
    yield from offered(request.param)


class Kept:
    """A small project, and how it was when it was new."""

    def __init__(self, on: Engine) -> None:
        self.project = small(on)
        self.new = self.look()

    def look(self) -> t.Any:
        project = self.project
        box = project.engine.volume(f"{project.name}_box")
        containers = [(one["Id"], one["State"]["Status"]) for one in project.engine.api.containers(f"{PROJECT}={project.name}")]
        return containers, tree(project.folder), tree(box) if box.exists() else None

    def is_as_new(self) -> bool:
        """Nothing of the test before is left, which includes its backups and records, and the project is exactly as it was."""
        project = self.project
        for path in project.place.iterdir():
            if path != project.folder:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
        return os.listdir(project.place) == [project.folder.name] and project.folder.exists() and self.look() == self.new


@pytest.fixture(name="project")
def a_project(on: Engine) -> Project:
    """A small one whose service runs: that of the test before, if it is as if there had been none."""
    if on.kept and not on.kept.is_as_new():
        on.kept.project.remove()
        on.kept = None
    on.kept = on.kept or Kept(on)
    return on.kept.project


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
