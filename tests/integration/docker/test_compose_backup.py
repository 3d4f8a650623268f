# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_backup on a real engine: a project with a database, binds, volumes, built and pulled images is backed up, wrecked, put back.

One project serves all tests of this file, each with a backup folder of its own; test_compose_backup_options.py has the small ones.
"""
from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from compose import (  # noqa: F401  (one is a fixture)
    PATIENCE, SECRET, Engine, Project, an_engine, build, docker_as, engine, holding, shop,
)
from harness import CORES, LOCAL, Ansible, lab, listed, wait_for
from trees import readable_by_others, tree, unlike

NAME = re.compile(r"backup-\d{8}-\d{6}(-\d+)?")
DUMP = {"service": "db", "name": "orders.sql", "command": ["pg_dump", "--table", "orders"]}
FIRST, SECOND, BACK, BACK_AGAIN = "20261121t084500z-7f3a", "20261121t094500z-0001", "20261121t104500z-aaaa", "20261121t114500z-bbbb"


@pytest.fixture(scope="module", name="project")
def a_project(on: Engine) -> t.Iterator[Project]:
    project = shop(on)
    try:
        yield project
    finally:
        project.remove()


@pytest.fixture(name="fresh")
def in_a_new_backup_folder(project: Project, request: pytest.FixtureRequest) -> Project:
    """The same project, as if it had never been backed up."""
    project.up()   # the same for each test, whatever became of the one before
    project.backups = project.place / f"backups-{request.node.name[:40].replace('/', '-')}"
    project.state = project.place / f"state-{request.node.name[:40].replace('/', '-')}"
    return project


def sums(folder: Path) -> dict[str, dict[str, t.Any]]:
    """As the manifest is to have them: every file but the manifest's own."""
    files = {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("manifest.")}
    return {str(path.relative_to(folder)): {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
            for path in files}


def unpack(project: Project, name: str, number: int, into: Path) -> None:
    """What manifest.txt tells a person to do: the segments one after the other, by tar alone. (With --acls, tar would leave out lists.)"""
    assert "--numeric-owner --xattrs --xattrs-include='*' -xpf" in (project.backups / name / "manifest.txt").read_text()
    into.mkdir()
    segments = sorted((project.backups / name / "data").glob(f"{number}.*.tar.*"), key=lambda path: int(path.name.split(".")[1]))
    assert segments
    for segment in segments:
        decoded = subprocess.run(["zstd" if segment.suffix == ".zst" else "gzip", "-dc", segment], stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xp", "-C", into], input=decoded.stdout,
                       check=True, stderr=subprocess.PIPE)


def test_a_backup_holds_everything(fresh: Project) -> None:
    before, containers = tree(fresh.folder), {one["Id"] for one in fresh.containers()}
    done = fresh.backup(deploy_id=FIRST, dumps=[DUMP], release="4f2a9c1", logs=5)
    assert fresh.settled() == {"db": "running healthy", "web": "running healthy", "cache": "running"}
    assert {one["Id"] for one in fresh.containers()} == containers, "stopped and started, not recreated"
    assert not unlike(before, tree(fresh.folder)), "a backup changes nothing of the project"
    assert done["changed"] and NAME.fullmatch(done["backup"]) and done["freeze_ms"] > 0 and fresh.complete == [done["backup"]]
    assert (fresh.backups / "last-deployment-backup.txt").read_text().strip().endswith(done["backup"])
    folder, manifest = fresh.backups / done["backup"], fresh.manifest(done["backup"])
    assert manifest["contents"] == sums(folder)
    assert (manifest["format"], manifest["deploy_id"], manifest["project"], manifest["release"]) == (1, FIRST, fresh.name, "4f2a9c1")
    assert {name: one["image_id"] for name, one in manifest["services"].items()} == fresh.images()
    assert "CREATE TABLE public.orders" in (folder / "dumps/orders.sql").read_text()
    assert (folder / "logs/cache.log").read_text().strip().endswith("cache is ready")
    resolved = json.loads((folder / "config/compose.json").read_text())
    assert set(resolved["services"]) == {"db", "web", "cache"} and SECRET in json.dumps(resolved)
    kept = {one["path"] for one in manifest["files"]}
    assert {str(fresh.folder / name) for name in ("compose.yml", ".env", "secrets/db.env")} <= kept
    sources = {mount["source"] for mount in manifest["mounts"]}
    assert {str(fresh.folder / "files"), str(fresh.folder / "settings.conf")} <= sources and len(sources) >= 5, sources
    assert {mount["kind"] for mount in manifest["mounts"]} == {"bind", "file", "volume", "anonymous"}
    tags = {tag for image in manifest["images"] for tag in image["tags"]}
    assert {"reversible-lab/postgres:15", f"{fresh.name}/web:1", "127.0.0.1:5000/lab/cache:1"} <= tags
    assert any("127.0.0.1:5000/lab/cache@sha256:" in digest for image in manifest["images"] for digest in image["repo_digests"])
    assert not readable_by_others(fresh.backups) and not readable_by_others(fresh.state)
    for path in (fresh.backups, *fresh.backups.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0 and path.stat().st_uid == 0, path
    text = (folder / "manifest.txt").read_text()
    assert done["backup"] in text and "tar" in text and SECRET not in text


def test_anyone_can_unpack_it(fresh: Project) -> None:
    before = tree(fresh.folder / "files")
    done = fresh.backup()
    [mount] = [one for one in fresh.manifest(done["backup"])["mounts"] if one["source"] == str(fresh.folder / "files")]
    unpack(fresh, done["backup"], mount["n"], fresh.place / "unpacked")
    differs = unlike(before, tree(fresh.place / "unpacked"))
    assert not differs, differs


def test_what_did_not_change_costs_nothing(fresh: Project) -> None:
    first = fresh.backup()
    with_calls = counting(fresh)
    (fresh.folder / "files/new").write_bytes(b"new" * 1000)
    second = fresh.backup(environ=with_calls.environ)
    assert not with_calls.calls("save"), "no image is new"
    assert second["bytes_new"] < first["bytes_new"] / 4 and second["bytes_linked"] > 0, (first, second)
    old, new = (fresh.backups / done["backup"] / "images" for done in (first, second))
    assert {path.name: path.stat().st_ino for path in old.iterdir()} == {path.name: path.stat().st_ino for path in new.iterdir()}
    # A new release costs its new layer, and no more.
    build(fresh, "1b")
    fresh.up()
    third = fresh.backup()
    layers = {path.name for path in (fresh.backups / third["backup"] / "images").iterdir()} - {path.name for path in new.iterdir()}
    assert 2 <= len(layers) <= 3 and third["bytes_new"] < first["bytes_new"] / 4, (layers, third)
    # What is shared is counted by links, so that any of them can go.
    fresh.ok(state="absent", name=first["backup"], confirm=True)
    assert fresh.manifest(third["backup"])["contents"] == sums(fresh.backups / third["backup"])
    (fresh.folder / "files/new").unlink()
    build(fresh, "1")
    fresh.up()


class Calls(t.NamedTuple):
    environ: dict[str, str]
    log: Path

    def calls(self, word: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line.split()]


def counting(project: Project) -> Calls:
    """A `docker` first on the PATH that writes down what it is told and does it."""
    name = f"counting-{project.backups.name}"
    log = project.place / f"{name}.log"
    log.touch()
    return Calls(docker_as(project, name, f'echo "$*" >>{log}\nexec $docker "$@"\n'), log)


def test_a_deploy_is_backed_up_once(fresh: Project) -> None:
    first = fresh.backup(deploy_id=FIRST)
    again = fresh.backup(deploy_id=FIRST)
    assert not again["changed"] and again["backup"] == first["backup"] and fresh.complete == [first["backup"]]
    fresh.backup(deploy_id=SECOND)
    fresh.fails("superseded", SECOND, deploy_id="20261121t084500z-0000")
    assert len(fresh.complete) == 2


def wreck(project: Project) -> None:
    """A deploy that went wrong in every way."""
    project.sql("DROP TABLE orders")
    build(project, "2")
    project.file.write_text(project.file.read_text().replace("cache is ready", "cache is broken"))
    (project.folder / "secrets/db.env").write_text("POSTGRES_PASSWORD=other\n")
    (project.folder / "settings.conf").write_text("colour = green\n")
    (project.engine.volume(f"{project.name}_cache") / "warm").unlink()
    for path in (project.folder / "files").iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    project.up()
    project.engine.docker("image", "rm", "-f", f"{project.name}/web:1")


def move_tag(project: Project) -> None:
    """The tag means something else now."""
    project.engine.docker("tag", "reversible-lab/postgres:15", "127.0.0.1:5000/lab/cache:1")


def assert_as_before(project: Project, before: dict[str, t.Any]) -> None:
    """All but the build's own folder, which is no part of a backup, and the times of folders in which something was exchanged."""
    differs = unlike(before["folder"], tree(project.folder))
    for name in list(differs):
        if b".parked-" in name or name in (b"", b"secrets") or name.split(b"/")[0] == b"web":
            differs.pop(name)
    assert not differs, differs
    assert not unlike(before["cache"], tree(project.engine.volume(f"{project.name}_cache")))
    assert project.sql("SELECT count(*), max(what) FROM orders") == before["orders"] and project.page() == "release 1"
    assert project.settled() == {"db": "running healthy", "web": "running healthy", "cache": "running"}
    assert project.layers() == before["layers"]
    assert not readable_by_others(project.folder / "secrets")


def facts(project: Project) -> dict[str, t.Any]:
    return {"folder": tree(project.folder), "cache": tree(project.engine.volume(f"{project.name}_cache")),
            "orders": project.sql("SELECT count(*), max(what) FROM orders"), "layers": project.layers()}


def test_everything_is_put_back_and_that_can_be_undone(fresh: Project) -> None:
    before = facts(fresh)
    done = fresh.backup(deploy_id=FIRST)
    wreck(fresh)
    wrecked, images = tree(fresh.folder / "files"), fresh.images()
    restored = fresh.restore(deploy_id=FIRST, rollback_id=BACK)
    assert restored["changed"] and restored["backup"] == done["backup"] and restored["rollback_id"] == BACK
    assert_as_before(fresh, before)
    parked = fresh.folder / f"files.parked-{BACK}"
    assert not unlike({**wrecked, b"": None}, {**tree(parked), b"": None}) and str(parked) in restored["parked"]
    # The same rollback again is none.
    again = fresh.restore(deploy_id=FIRST, rollback_id=BACK)
    assert not again["changed"]
    # Back to what the restore replaced, also when somebody has given its image's tag to another one meanwhile.
    fresh.engine.docker("tag", "reversible-lab/busybox:1", f"{fresh.name}/web:2")
    fresh.restore(undo=BACK, rollback_id=BACK_AGAIN)
    assert fresh.images() == images
    assert fresh.page() == "release 2" and not unlike({**wrecked, b"": None}, {**tree(fresh.folder / "files"), b"": None})
    assert "t" not in fresh.sql("SELECT to_regclass('orders') IS NOT NULL")
    # And again to the backup; at last, everything that is parked is dropped.
    fresh.restore(name=done["backup"], rollback_id="20261121t124500z-cccc")
    assert_as_before(fresh, before)
    assert {one["rollback_id"] for one in fresh.info()["parked"]} >= {BACK_AGAIN, "20261121t124500z-cccc"}
    fresh.ok(state="absent", parked=["all"], confirm=True)
    assert not list(fresh.place.rglob("*.parked-*")) and not fresh.info()["parked"]
    assert_as_before(fresh, before)


def test_a_part_is_put_back_and_the_rest_runs_on(fresh: Project) -> None:
    fresh.backup(deploy_id=FIRST)
    started = {one["Name"]: one["State"]["StartedAt"] for one in fresh.containers() if "-db-" in one["Name"]}
    (fresh.folder / "files/plain").write_bytes(b"broken")
    fresh.sql("INSERT INTO orders VALUES (0, 'stays')")
    try:
        fresh.restore(deploy_id=FIRST, services=["web"])
        assert (fresh.folder / "files/plain").stat().st_size == 300_000
        assert fresh.sql("SELECT what FROM orders WHERE id = 0") == "stays"
        assert started == {one["Name"]: one["State"]["StartedAt"] for one in fresh.containers() if "-db-" in one["Name"]}
    finally:
        fresh.sql("DELETE FROM orders WHERE id = 0")


def test_a_backup_is_proven_by_bringing_it_up(fresh: Project) -> None:
    def there_is() -> list[str]:
        return [fresh.engine.docker(*words, "-q") for words in (("ps", "-a"), ("volume", "ls"), ("network", "ls"))]
    before = there_is()
    done = fresh.backup(verify="restore")
    assert there_is() == before, "nothing is left of it"
    verdict = fresh.manifest(done["backup"])["verify"]["restore"]
    assert verdict["ok"] is True and verdict["why"] is None and {"db", "web"} <= set(verdict["services"]), verdict
    assert fresh.manifest(done["backup"])["contents"] == sums(fresh.backups / done["backup"])
    assert fresh.settled() == {"db": "running healthy", "web": "running healthy", "cache": "running"}


def test_it_says_what_it_does_while_it_does_it(fresh: Project) -> None:
    """Looked at when all is copied and the services are about to start."""
    hold = fresh.place / "hold"
    running = fresh.start(environ=holding(fresh, hold, "container start"), timeout=600)
    wait_for(lambda: hold.exists() or running.process.poll() is not None, "the thaw", PATIENCE)
    seen, from_info = progress(fresh), fresh.info()["progress"]
    hold.unlink()
    assert not running.wait().get("failed")
    assert seen and seen["what"] and seen["bytes"] >= 0 and from_info and from_info["what"], (seen, from_info)
    assert fresh.info()["progress"] is None


def progress(project: Project) -> dict[str, t.Any] | None:
    try:
        return json.loads((project.backups / ".progress.json").read_text())
    except FileNotFoundError:
        return None


def test_no_secret_is_shown(fresh: Project) -> None:
    """Not in results, not in processes' arguments, not in files that others could read; also when Compose itself complains."""
    calls = counting(fresh)
    try:
        with listed(SECRET, 0.05) as seen:
            done = fresh.backup(deploy_id=FIRST, dumps=[DUMP], diff=True, environ=calls.environ)
            again = fresh.restore(deploy_id=FIRST, rollback_id=BACK, diff=True, environ=calls.environ)
            (fresh.folder / ".env").write_text(f"WEB_VERSION=1\nTOKEN={SECRET}\n")
            (fresh.folder / "broken.yml").write_text("services: {db: {ports: [\"${TOKEN}\"]}}\n")
            failed = fresh.run(files=[str(fresh.file), str(fresh.folder / "broken.yml")], environ=calls.environ)
    finally:
        (fresh.folder / "broken.yml").unlink(missing_ok=True)
        (fresh.folder / ".env").write_text("WEB_VERSION=1\n")
    # What it tells the clients is written down to the last word; of all else the process list was looked at now and then.
    assert calls.calls("stop") and SECRET not in calls.log.read_text()
    assert failed["failed"] and failed["reason"] == "compose_invalid"
    assert not seen and not [result for result in (done, again, failed) if SECRET in json.dumps(result)]
    assert not [path for path in readable_by_others(fresh.place) if SECRET in Path(path).read_text(errors="replace")]
    fresh.ok(state="absent", parked=["all"], confirm=True)


def test_by_ansible(fresh: Project, tmp_path: Path) -> None:
    ansible = Ansible(CORES[-1], tmp_path, LOCAL)
    common = {"project_dir": str(fresh.folder), "backup_dir": str(fresh.backups), "state_dir": str(fresh.state)}
    rescued = [
        {"name": "backup", "reversible.deploy.compose_backup": {**common, "deploy_id": FIRST}},
        {"name": "deploy", "ansible.builtin.copy": {"dest": str(fresh.folder / "files/plain"), "content": "broken"}},
        {"name": "back", "reversible.deploy.compose_backup": {
            **common, "state": "restored", "deploy_id": FIRST, "rollback_id": BACK, "confirm": True}},
        {"name": "look", "reversible.deploy.compose_backup_info": common},
    ]
    run = ansible.play(rescued, "local", "--diff", environment=fresh.engine.environ)
    assert run.code == 0 and run.named("backup")["changed"] and run.named("back")["changed"], run.output
    assert run.named("look")["latest"] == run.named("backup")["backup"] and SECRET not in run.output
    assert (fresh.folder / "files/plain").stat().st_size == 300_000
    fresh.ok(state="absent", parked=["all"], confirm=True)


def test_a_project_that_is_gone_is_put_back(fresh: Project) -> None:
    before = facts(fresh)
    done = fresh.backup()
    fresh.compose("down", "-v", "-t", "2")
    move_tag(fresh)
    fresh.engine.docker("image", "rm", "-f", f"{fresh.name}/web:1")
    for path in fresh.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    restored = fresh.restore(name=done["backup"], project=fresh.name)
    build_context = {name for name in before["folder"] if name.split(b"/")[0] == b"web"} | {b"secrets"}
    before["folder"] = {name: what for name, what in before["folder"].items() if name not in build_context and b".parked-" not in name}
    after = tree(fresh.folder)
    after.pop(b"secrets", None)
    assert not unlike({**before["folder"], b"": None}, {**after, b"": None})
    assert fresh.sql("SELECT count(*), max(what) FROM orders") == before["orders"] and fresh.page() == "release 1"
    assert fresh.layers() == before["layers"] and restored["changed"]


@pytest.mark.long
@pytest.mark.parametrize("version", ["26.1", "28-containerd"])
def test_other_engines(version: str) -> None:
    """The last in this file: another engine takes the place of the first, with all that it had."""
    engine.cache_clear()
    on: Engine = engine(version)
    project = shop(on)
    try:
        before = facts(project)
        done = project.backup(deploy_id=FIRST, consistency="pause", verify="restore")
        wreck(project)
        move_tag(project)
        project.restore(deploy_id=FIRST, rollback_id=BACK)
        assert_as_before(project, before)
        assert project.manifest(done["backup"])["contents"] == sums(project.backups / done["backup"])
        project.backup()   # where a loaded image has a new id, it is looked into once
        calls = counting(project)
        assert project.backup(environ=calls.environ)["changed"] and not calls.calls("save")
    finally:
        project.remove()
        lab("down", "docker")
        engine.cache_clear()
