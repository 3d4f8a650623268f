# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_backup on a bad day: full disks, an engine that dies, containers that do what they like, and very much of everything.

Nothing is lost, services run again, one clear sentence. Each test has a project of one service, which starts within a second.
"""
from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest
from compose import (  # noqa: F401  (two are fixtures)
    PATIENCE, SMALL, Engine, Project, a_project, docker_as, each_engine, holding, plugin_as, refused, traced,
)
from harness import wait_for
from trees import tree, unlike, with_socket

ID, BACK = "20261121t084500z-7f3a", "20261121t104500z-aaaa"
LONG = bool(os.environ.get("REVERSIBLE_LONG"))


# Disks


@pytest.fixture(name="tight")
def a_small_disk(project: Project) -> t.Iterator[Project]:
    """Its backups lie on a disk of 24 MiB; the images alone take one."""
    project.backups.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", project.backups], check=True)
    try:
        yield project
    finally:
        subprocess.run(["umount", "--lazy", project.backups], check=True)


def test_no_space_is_seen_before_anything_stops(tight: Project) -> None:
    (tight.folder / "data/large").write_bytes(os.urandom(40 << 20))
    started = tight.containers()[0]["State"]["StartedAt"]
    tight.fails("no_space", str(tight.backups), min_free="1M")
    assert tight.containers()[0]["State"]["StartedAt"] == started and not tight.complete and not tight.unfinished
    (tight.folder / "data/large").unlink()
    tight.fails("no_space", min_free="1G")
    assert tight.backup(min_free="1M")["changed"]


def test_a_restore_finds_room_for_its_records_on_a_full_disk(project: Project) -> None:
    project.state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", project.state], check=True)
    try:
        project.backup(deploy_id=ID)
        reserve, whole = project.state / ".reserve", 512
        assert reserve.stat().st_blocks == whole
        (project.folder / "data/two").write_text("since\n")
        with contextlib.suppress(OSError), open(project.state / "filler", "wb") as filler:
            while filler.write(b"x" * 4096):
                filler.flush()
        project.fails("no_space", str(project.state), deploy_id=BACK)
        assert reserve.stat().st_blocks == whole, "what is no way back leaves it"
        assert project.ok(state="restored", deploy_id=ID, rollback_id=BACK, confirm=True)["changed"]
        assert (project.folder / "data/two").read_bytes() == b"2\n" * 5000 and reserve.stat().st_blocks < whole
    finally:
        subprocess.run(["umount", "--lazy", project.state], check=True)


@pytest.mark.parametrize("consistency", ["stop", "pause"])
def test_no_space_in_the_middle(tight: Project, consistency: str) -> None:
    (tight.folder / "data/large").write_bytes(os.urandom(10 << 20))
    first = tight.backup(min_free="0")["backup"]
    (tight.folder / "data/large").write_bytes(os.urandom(9 << 20))
    filler = tight.backups / "filler"
    # It is full as soon as the services stand still.
    full = docker_as(tight, "filling", f"""\
$docker "$@" || exit
case "$*" in *"container stop"*|*"container pause"*) dd if=/dev/zero of={filler} bs=64k 2>/dev/null || true ;; esac
""")
    result = tight.run(consistency=consistency, min_free="0", environ=full)
    assert result["failed"] and result["reason"] == "no_space", result
    assert tight.states() == {"app": "running"} and tight.complete == [first]
    filler.unlink()
    done = tight.backup(min_free="0")
    assert tight.complete == sorted([first, done["backup"]]) and not tight.unfinished


def test_no_space_for_both_states(project: Project) -> None:
    """A restore needs room for what it puts back beside what is there."""
    disk = project.folder / "data"
    shutil.move(disk / "one", project.place / "one")
    project.compose("down", "-t", "0")
    holder = project.place / "disk"
    holder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", holder], check=True)
    try:
        (holder / "data").mkdir()
        (holder / "data/large").write_bytes(os.urandom(10 << 20))
        project.file.write_text(project.file.read_text().replace("./data:/data", f"{holder}/data:/data"))
        project.up()
        project.backup(deploy_id=ID)
        before, started = tree(holder), project.containers()[0]["State"]["StartedAt"]
        project.fails("no_space", str(holder), state="restored", deploy_id=ID, confirm=True)
        assert not unlike(before, tree(holder)) and project.containers()[0]["State"]["StartedAt"] == started
    finally:
        project.compose("down", "-t", "0")
        subprocess.run(["umount", "--lazy", holder], check=True)


def test_no_space_in_the_middle_of_a_restore(project: Project) -> None:
    """It is staged while the services run: they go on, and nothing of it stays."""
    project.backup(deploy_id=ID)
    (project.folder / "data/two").write_text("since\n")
    before, started = tree(project.folder), project.containers()[0]["State"]["StartedAt"]
    options = {"state": "restored", "deploy_id": ID, "rollback_id": BACK, "confirm": True}
    beside = project.folder / f"data.restoring-{BACK}/two"
    result = traced(project, ["-f", "-P", str(beside), "-e", "trace=write", "-e", "inject=write:error=ENOSPC"], **options).wait()
    assert result["failed"] and result["reason"] == "no_space" and "cannot restore two" in result["msg"], result
    assert not unlike({**before, b"": None}, {**tree(project.folder), b"": None}) and not list(project.place.rglob("*.restoring-*"))
    assert project.containers()[0]["State"]["StartedAt"] == started and project.states() == {"app": "running"}
    assert project.ok(**options)["changed"] and (project.folder / "data/two").read_bytes() == b"2\n" * 5000


def test_what_was_put_beside_and_cannot_be_removed(project: Project) -> None:
    """It is not forgotten: the next run removes it."""
    backup = project.backup(deploy_id=ID)["backup"]
    started = project.containers()[0]["State"]["StartedAt"]
    options = {"state": "restored", "deploy_id": ID, "rollback_id": BACK, "confirm": True}
    beside = project.folder / f"data.restoring-{BACK}"
    tracing = ["-f", "-P", str(beside / "two"), "-P", str(beside), "-e", "trace=write,unlinkat",
               "-e", "inject=write:error=ENOSPC", "-e", "inject=unlinkat:error=EIO"]
    result = traced(project, tracing, **options).wait()
    assert result["failed"] and result["reason"] == "no_space" and "could not be removed" in result["msg"], result
    assert beside.exists() and project.info()["unfinished"], "what lies there is known"
    assert project.containers()[0]["State"]["StartedAt"] == started
    project.ok(state="thawed")
    assert not beside.exists() and project.info()["unfinished"] is None and project.complete == [backup]
    assert project.ok(**options)["changed"]


def test_a_source_that_cannot_be_renamed(project: Project) -> None:
    data = project.folder / "data"
    project.compose("down", "-t", "0")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", data], check=True)
    try:
        (data / "file").write_text("on a disk of its own\n")
        project.up()
        done = project.backup(deploy_id=ID)
        assert done["changed"] and "is mounted there" in str(done["warnings"]), done   # said when it is made, and when it is looked at
        [told] = project.info()["backups"]
        assert not told["ready_to_restore"] and "is mounted there" in str(told["why"]), told
        project.fails("mount_point", str(data), state="restored", deploy_id=ID, confirm=True)
        assert project.states() == {"app": "running"} and (data / "file").exists()
    finally:
        project.compose("down", "-t", "0")
        subprocess.run(["umount", "--lazy", data], check=True)


# The engine


def test_no_engine(project: Project) -> None:
    refused(project, "engine_unreachable", environ={"DOCKER_HOST": f"unix://{project.place}/nothing.sock"})
    project.backup(deploy_id=ID)
    with project.engine.stopped():
        for options in ({}, {"state": "restored", "deploy_id": ID, "confirm": True}):
            result = project.run(**options)
            assert result["failed"] and result["reason"] == "engine_unreachable", result
        assert len(project.complete) == 1 and project.info()["latest"]


def test_another_machine_s_engine(project: Project) -> None:
    refused(project, "engine_remote", docker_host="tcp://192.0.2.1:2375")
    refused(project, "engine_remote", environ={"DOCKER_HOST": "ssh://root@192.0.2.1"})


@pytest.mark.parametrize("state", ["present", "restored"])
def test_an_engine_that_dies_while_services_are_frozen(project: Project, state: str) -> None:
    """It ends as soon as it has stopped the services. Nothing can be started then; the next run does."""
    project.backup(deploy_id=ID)
    (project.folder / "data/one").write_text("since\n")
    on = project.engine
    deadly = docker_as(project, "deadly", f"""\
$docker "$@"; rc=$?
case "$*" in *"container stop"*) kill -9 "$(cat {on.offer["engine_pidfile"]})" ;; esac
exit $rc
""")
    options = {} if state == "present" else {"state": "restored", "deploy_id": ID, "rollback_id": BACK, "confirm": True}
    try:
        result = project.run(environ=deadly, **options)
    finally:
        on.again()
    assert result["failed"] and len(project.complete) == 1, result
    assert project.states() == {"app": "exited"} and project.info()["unfinished"]
    thawed = project.ok(state="thawed")
    assert project.states() == {"app": "running"} and thawed["changed"]
    assert (project.folder / "data/one").read_text() == "since\n"
    assert not project.ok(state="thawed")["changed"] and project.info()["unfinished"] is None
    assert project.backup()["changed"] and not project.unfinished


# Containers that do what they like


def test_sockets_devices_and_fifos(project: Project) -> None:
    data = project.folder / "data"
    os.mkfifo(data / "fifo")
    os.mknod(data / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    line = with_socket(data)
    before = tree(data)
    done = project.backup(deploy_id=ID)
    line.close()
    assert "socket" in json.dumps(project.manifest(done["backup"])) or "socket" in json.dumps(done.get("warnings"))
    project.restore(deploy_id=ID)
    assert not unlike(before, tree(data))


@pytest.mark.parametrize("consistency", ["stop", "live"])
def test_a_file_that_cannot_be_read(project: Project, consistency: str) -> None:
    """As on a disk that goes bad: the backup fails and names it, and nothing of it counts."""
    bad = project.folder / "data/two"
    calls = "read,pread64,readv,copy_file_range"
    errors = ["-f", "-P", str(bad), "-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO"]
    result = traced(project, errors, consistency=consistency).wait()
    assert result["failed"] and result["reason"] == "unreadable", result
    assert str(bad.parent) in result["msg"] and "cannot copy two: it cannot be read (Input/output error" in result["msg"], result["msg"]
    assert project.states() == {"app": "running"} and not project.complete
    assert project.backup()["changed"] and not project.unfinished


def test_a_file_that_changes_while_it_is_read(project: Project) -> None:
    """Frozen it is whole; live it is named."""
    project.compose("down", "-t", "0")
    # It takes far longer to read than the writer sleeps, however busy the machine is.
    (project.folder / "data/moving").write_bytes(random.randbytes(64 << 20))
    writer = "while sleep 0.01; do echo $$RANDOM 1<> /data/moving; done"
    project.file.write_text(project.file.read_text().replace('"echo app says hello; exec sleep 100000"', json.dumps(writer)))
    before = (project.folder / "data/moving").stat().st_ctime_ns
    project.up()
    wait_for(lambda: (project.folder / "data/moving").stat().st_ctime_ns != before, "the writer", PATIENCE)
    for consistency in ("pause", "stop"):
        done = project.backup(consistency=consistency)
        manifest = project.manifest(done["backup"])
        assert not manifest["consistency"]["changed_while_read"] and manifest["consistency"]["mode"] == consistency
        assert project.states() == {"app": "running"}
    done = project.backup(consistency="live")
    assert "moving" in json.dumps(project.manifest(done["backup"])["consistency"]["changed_while_read"])
    assert "moving" in json.dumps(done["warnings"])


def test_a_container_that_swaps_its_folders_for_links(project: Project) -> None:
    """Root is never led out of the mount: nothing of the victim's is in the backup, and nothing of it is changed."""
    victim, data = project.place / "victim", project.folder / "data"
    (victim / "sub").mkdir(parents=True)
    (victim / "sub/file").write_text("the victim's own\n")
    before = tree(victim)
    (data / "sub").mkdir()
    (data / "sub/file").write_text("the container's\n")
    stop = threading.Event()

    def swap() -> None:
        # As root of the container would in its own mount; from here, since it must be quick.
        while not stop.is_set():
            for step in (lambda: os.rename(data / "sub", data / "aside"), lambda: os.symlink(victim / "sub", data / "sub"),
                         lambda: os.unlink(data / "sub"), lambda: os.rename(data / "aside", data / "sub")):
                with contextlib.suppress(OSError):   # a restore may just have exchanged all of it
                    step()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        names = []
        for _ in range(8 if LONG else 3):
            done = project.run(consistency="live")
            assert not done.get("failed") or done["reason"] in ("unreadable", "changing"), done
            names += [done["backup"]] if not done.get("failed") else []
        for name in names:
            assert not stolen(project, name, b"the victim's own")
            project.run(state="restored", name=name, confirm=True)
            assert not unlike(before, tree(victim)), "the victim was changed"
    finally:
        stop.set()
        thread.join()


def stolen(project: Project, name: str, words: bytes) -> bool:
    for path in (project.backups / name / "data").glob("*.tar.zst"):
        if words in subprocess.run(["zstd", "-dc", path], stdout=subprocess.PIPE, check=True).stdout:
            return True
    return False


def test_a_restore_that_fails_puts_the_state_before_it_back(project: Project) -> None:
    """The recorded configuration wants a port that another container has taken meanwhile."""
    plain = project.file.read_text()
    project.file.write_text(plain.replace("    init: true\n", '    init: true\n    ports: ["127.0.0.1:18099:80"]\n'))
    project.up()
    project.backup(deploy_id=ID)
    project.file.write_text(plain)
    project.up()
    (project.folder / "data/one").write_text("the new state\n")
    taker = f"{project.name}-taker"
    project.engine.docker("run", "-d", "--name", taker, "-p", "127.0.0.1:18099:80", "reversible-lab/busybox:1", "sleep", "1000")
    before = tree(project.folder)
    try:
        failed = project.fails("restore_failed_put_back", state="restored", deploy_id=ID, confirm=True, rollback_id=BACK)
        assert failed["restored_back"] is True
        project.engine.docker("rm", "-f", taker)
        now = {name: entry for name, entry in tree(project.folder).items() if b".parked-" not in name}
        assert not unlike({**before, b"": None}, {**now, b"": None}) and project.states() == {"app": "running"}
        # What had been in place is kept, since something may have run on it.
        assert f"{project.folder}/data.parked-" in str(failed["parked"]) and f"{project.folder}/data.parked-" in failed["msg"], failed
        # It was not done: the same id may try again.
        project.restore(deploy_id=ID, rollback_id=BACK)
        assert (project.folder / "data/one").read_text() == "1\n"
    finally:
        project.engine.docker("rm", "-f", taker, ok=False)


def test_a_volume_that_another_project_uses(project: Project, on: Engine) -> None:
    text = SMALL.replace("volumes: {box: {}}", f"volumes: {{box: {{external: true, name: {project.name}_box}}}}")
    other = Project(on, text)
    (other.folder / "data").mkdir()
    other.up()
    try:
        other.backup(deploy_id=ID)
        other.fails("shared_mount", f"{project.name}_box", project.name, state="restored", deploy_id=ID, confirm=True)
        assert project.states() == other.states() == {"app": "running"}
    finally:
        other.remove()


def test_two_at_once(project: Project) -> None:
    """The first stands still in its middle until the others have come."""
    hold = project.place / "hold"
    first = project.start(environ=holding(project, hold))
    wait_for(lambda: project.unfinished and hold.exists(), "the first", PATIENCE)
    late = project.run(lock_timeout=0)
    assert late["failed"] and late["reason"] == "lock_held", late
    both = [first, project.start()]
    hold.unlink()
    results = [call.wait() for call in both]
    assert not [result for result in results if result.get("failed")], results
    assert sorted(result["backup"] for result in results) == project.complete and len(project.complete) == 2
    assert project.states() == {"app": "running"}


def test_what_is_backed_up_is_read_when_the_lock_is_held(project: Project) -> None:
    """Another task on the project has changed its files between a first look at them and the lock."""
    hold, first = project.place / "hold", project.place / "first"
    slow = plugin_as(project, "slow", f"""\
case "$*" in *" config "*) if mkdir {first} 2>/dev/null; then
    $compose "$@" || exit
    touch {hold}
    while [ -e {hold} ]; do sleep 0.05; done
    exit
fi ;; esac
exec $compose "$@"
""")
    running = project.start(environ=slow)
    wait_for(lambda: hold.exists() or running.process.poll() is not None, "the first look", PATIENCE)
    project.file.write_text(project.file.read_text().replace("app says hello", "app says something else"))
    hold.unlink()
    done = running.wait()
    assert not done.get("failed"), done
    folder = project.backups / done["backup"] / "config"
    kept = [path.read_text() for path in (folder / "files").iterdir()]
    assert "something else" in (folder / "compose.json").read_text() and any("something else" in text for text in kept)


# Size


def test_many_small_files(project: Project) -> None:
    count = 1_000_000 if LONG else 20_000
    data = project.folder / "data"
    for number in range(count):
        if number % 1000 == 0:
            (data / f"d{number // 1000}").mkdir()
        (data / f"d{number // 1000}/{number}").write_bytes(b"%d" % number)
    before = tree(data)
    done = measured(project, deploy_id=ID)
    assert done.megabytes < 100, f"{done.megabytes} MB for {count} files"
    shutil.rmtree(data / "d0")
    (data / "d1/1000").write_text("changed")
    back = measured(project, state="restored", deploy_id=ID, confirm=True)
    assert back.megabytes < 100 and not unlike(before, tree(data))


def test_ten_gigabytes_of_nothing(project: Project) -> None:
    with open(project.folder / "data/sparse", "wb") as file:
        file.truncate(10 << 30)
        file.seek(5 << 30)
        file.write(b"an island")
    done = measured(project, deploy_id=ID)
    assert done.megabytes < 100 and done.read < 100 and done.result["bytes"] < 10 << 20, done
    (project.folder / "data/sparse").unlink()
    project.restore(deploy_id=ID)
    seen = (project.folder / "data/sparse").stat()
    assert seen.st_size == 10 << 30 and seen.st_blocks < 1000
    with open(project.folder / "data/sparse", "rb") as file:
        file.seek(5 << 30)
        assert file.read(9) == b"an island"


class Measured(t.NamedTuple):
    result: dict[str, t.Any]
    megabytes: float
    read: float   # megabytes as well


def measured(project: Project, **options: t.Any) -> Measured:
    """The module alone: the most memory that it had, and how much it read, as long as it was there to be asked."""
    call = project.start(timeout=3600, **options)
    peak = read = 0
    while call.process.poll() is None:
        try:
            peak, read = figure(call.pid, "status", "VmHWM") or peak, figure(call.pid, "io", "rchar")
        except OSError:   # it has just ended
            break
        time.sleep(0.005)
    result = call.wait()
    assert not result.get("failed"), result
    return Measured(result, peak / 1000, read / 1e6)


def figure(pid: int, file: str, name: str) -> int:
    """What the kernel says of a process; 0 when it is just ending."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
