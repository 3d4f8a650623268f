# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_backup's options, and the many shapes of a project, each on one of a single service that starts within a second."""
from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from compose import SMALL, Project, a_project, an_engine  # noqa: F401  (two are fixtures)
from trees import tree, unlike

ID, LATER, BACK = "20261121t084500z-7f3a", "20261121t094500z-0001", "20261121t104500z-aaaa"


def sources(project: Project, name: str) -> set[str]:
    return {Path(mount["source"]).name if mount["kind"] in ("bind", "file") else mount["volume"]["name"]
            for mount in project.manifest(name)["mounts"] if not mount.get("excluded")}


def test_the_plan_is_what_is_done(project: Project) -> None:
    """Check mode changes nothing and makes no folder; the real run carries out the very same plan."""
    planned = project.start(check_mode=True, diff=True, deploy_id=ID).wait()
    assert planned["changed"] and not project.backups.exists() and not project.state.exists()
    done = project.backup(deploy_id=ID, diff=True)
    assert done["plan_id"] == planned["plan_id"] and "diff" in done and "diff" in planned
    assert [step["what"] if isinstance(step, dict) else step for step in done["plan"]][-1].startswith(f"back up project {project.name}")
    again = project.start(check_mode=True, deploy_id=ID).wait()
    assert not again["changed"] and again["plan"] == []
    (project.folder / "data/one").write_text("since\n")
    before = tree(project.place)
    planned = project.start(check_mode=True, state="restored", deploy_id=ID, rollback_id=BACK, confirm=True).wait()
    assert planned["changed"] and planned["loss"] and planned["undo"] != "" and not unlike(before, tree(project.place))
    done = project.restore(deploy_id=ID, rollback_id=BACK)
    assert done["plan"] == planned["plan"] and done["plan_id"] == planned["plan_id"]


def test_a_restore_without_ids_is_one_each_time(project: Project) -> None:
    name = project.backup()["backup"]
    for _ in range(2):
        (project.folder / "data/one").write_text("since\n")
        assert project.restore(name=name)["changed"]
        assert (project.folder / "data/one").read_text() == "1\n"
    assert len(project.info()["parked"]) == 2


@pytest.mark.parametrize("what", ["source", "volume", "target"])
def test_what_is_excluded_is_recorded(project: Project, what: str) -> None:
    given = {"source": str(project.folder / "data"), "volume": f"{project.name}_box", "target": "app:/data"}[what]
    done = project.backup(exclude=[given], deploy_id=ID)
    left, right = ({"data"}, {f"{project.name}_box"})
    assert sources(project, done["backup"]) == (left if what == "volume" else right)
    manifest = project.manifest(done["backup"])
    assert given in json.dumps(manifest["excluded"]) and given in (project.backups / done["backup"] / "manifest.txt").read_text()
    # What is not in the backup is not touched by a restore of it.
    (project.folder / "data/one").write_text("since\n")
    project.restore(deploy_id=ID)
    assert (project.folder / "data/one").read_text() == ("1\n" if what == "volume" else "since\n")
    wrong = project.run(exclude=["nothing-of-this"])
    assert wrong["failed"] and "nothing-of-this" in wrong["msg"], wrong


@pytest.mark.parametrize("consistency, stays, meaning", [("stop", False, "stop"), ("pause", True, "power failure"), ("live", True, "")])
def test_how_services_are_frozen(project: Project, consistency: str, stays: bool, meaning: str) -> None:
    started = project.containers()[0]["State"]["StartedAt"]
    done = project.backup(consistency=consistency)
    assert (project.containers()[0]["State"]["StartedAt"] == started) is stays and project.states() == {"app": "running"}
    said = project.manifest(done["backup"])["consistency"]
    assert said["mode"] == consistency and meaning in said["meaning"] and (done["freeze_ms"] > 0) == (consistency != "live")
    assert said["frozen"] == ([] if consistency == "live" else [f"{project.name}-app-1"])


def test_what_was_stopped_stays_stopped(project: Project) -> None:
    project.compose("stop", "-t", "0")
    project.backup(deploy_id=ID)
    assert project.states() == {"app": "exited"}
    project.compose("up", "-d")
    project.compose("pause")
    done = project.backup(deploy_id=LATER)
    assert project.states() == {"app": "paused"} and done["changed"]
    project.compose("unpause")


def test_retain_and_keep(project: Project) -> None:
    made = [project.backup(deploy_id=f"20261121t08450{number}z-0000")["backup"] for number in range(4)]
    done = project.backup(retain=2, keep=[made[0], "20261121t084501z-0000"])
    assert sorted(done["pruned"]) == [made[2]] and project.complete == sorted([made[0], made[1], made[3], done["backup"]])
    assert project.restore(name=made[0])["changed"], "what was linked is still whole"
    wrong = project.run(retain=0)
    assert wrong["failed"] and len(project.complete) == 4


def test_names_that_meet(project: Project) -> None:
    """Three backups within a second have three names."""
    made = [project.backup(consistency="live", logs=0)["backup"] for _ in range(3)]
    assert len(set(made)) == 3 and sorted(made) == project.complete and project.info()["latest"] == made[-1]
    assert [row["name"] for row in project.info()["backups"]] == made[::-1]


@pytest.mark.parametrize("compression, suffix", [("zstd", ".zst"), ("gzip", ".gz")])
def test_compression(project: Project, compression: str, suffix: str) -> None:
    before = tree(project.folder / "data")
    done = project.backup(compression=compression, deploy_id=ID)
    archives = [path.name for path in (project.backups / done["backup"]).rglob("*.tar.*")]
    assert archives and all(name.endswith(suffix) for name in archives)
    (project.folder / "data/one").unlink()
    project.restore(deploy_id=ID)
    assert not unlike(before, tree(project.folder / "data"))


def test_dumps(project: Project) -> None:
    command = ["sh", "-c", "printf 'a\\0binary\\377dump'; echo noise >&2"]
    done = project.backup(dumps=[{"service": "app", "name": "app.bin", "command": command}])
    assert (project.backups / done["backup"] / "dumps/app.bin").read_bytes() == b"a\0binary\xffdump"
    for wrong, words in ((["sh", "-c", "echo half; exit 3"], "3"), (["no-such-program"], "no-such-program")):
        project.fails("bad_dump", "app.bin", words, dumps=[{"service": "app", "name": "app.bin", "command": wrong}])
    assert project.complete == [done["backup"]] and not project.unfinished and project.states() == {"app": "running"}
    for name in ("../escape", "a/b", "", ".."):
        assert project.run(dumps=[{"service": "app", "name": name, "command": ["true"]}])["reason"] == "bad_options"
    assert project.run(dumps=[{"service": "nobody", "name": "x", "command": ["true"]}])["failed"]


def test_files_env_files_profiles_and_the_standalone_program(project: Project) -> None:
    """A project that is told by everything but its folder."""
    place = project.place / "told"
    place.mkdir()
    (place / "base.yml").write_text(f"name: {project.name}\n{SMALL}")
    (place / "over.yml").write_text(
        "services:\n  app: {labels: {colour: \"${COLOUR}\"}}\n  extra: {image: reversible-lab/busybox:1, init: true, profiles: [more], "
        "command: [sleep, \"100000\"], volumes: [\"./extra:/extra\"]}\n")
    (place / "extra").mkdir()
    (place / "data").mkdir()
    (place / "data/one").write_text("told\n")
    (place / "colours.env").write_text("COLOUR=blue\n")
    project.compose("down", "-t", "0")
    files = ["-f", place / "base.yml", "-f", place / "over.yml", "--env-file", place / "colours.env", "--profile", "more"]
    project.engine.docker("compose", *files, "up", "-d", "--pull", "never")
    told = {"project_dir": None, "files": [str(place / "base.yml"), str(place / "over.yml")], "env_files": [str(place / "colours.env")]}
    # Only the standalone program, by its own name on the PATH, and no plugin.
    bare = project.place / "config"
    bare.mkdir()
    environ = {"DOCKER_CONFIG": str(bare), "PATH": f"{Path(project.engine.offer['standalone']).parent}:{project.engine.environ['PATH']}"}
    done = project.backup(**told, profiles=["more"], environ=environ, deploy_id=ID)
    assert sources(project, done["backup"]) == {"data", "extra", f"{project.name}_box"}
    kept = {Path(one["path"]).name for one in project.manifest(done["backup"])["files"]}
    assert kept == {"base.yml", "over.yml", "colours.env"}
    (place / "data/one").write_text("since\n")
    (place / "colours.env").write_text("COLOUR=green\n")
    # By the name of the project alone: its containers' labels say where it lies. And with a plugin that only docker's settings lead to.
    (bare / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [f"{project.engine.offer['docker_config']}/cli-plugins"]}))
    project.restore(project_dir=None, project=project.name, deploy_id=ID, environ={"DOCKER_CONFIG": str(bare)})
    assert (place / "data/one").read_text() == "told\n" and (place / "colours.env").read_text() == "COLOUR=blue\n"
    labels = {one["Config"]["Labels"]["com.docker.compose.service"]: one["Config"]["Labels"].get("colour") for one in project.containers()}
    assert labels == {"app": "blue", "extra": None} and project.states() == {"app": "running", "extra": "running"}


def test_what_is_no_data(project: Project) -> None:
    """Sockets, kernel file systems and memory are recorded as what they are, and nobody is surprised."""
    told = project.place / "of-the-machine"   # as /etc/localtime might be
    told.write_text("not the project's\n")
    extra = ["/proc/uptime:/uptime:ro", f"{project.engine.offer['socket']}:/var/run/docker.sock", f"{told}:/etc/told:ro"]
    mounts = f"volumes: {json.dumps(['./data:/data', 'box:/box', *extra])}"
    text = project.file.read_text().replace('volumes: ["./data:/data", "box:/box"]', mounts)
    project.file.write_text(text.replace("    init: true\n", "    init: true\n    tmpfs: [/memory]\n"))
    project.up()
    done = project.backup(deploy_id=ID, exclude=[str(told)])
    not_data = {entry["source"] for entry in project.manifest(done["backup"])["not_data"]}
    assert {"/proc/uptime", project.engine.offer["socket"]} <= not_data and str(told) not in not_data
    before = told.stat().st_ino
    (project.folder / "data/one").write_text("since\n")
    project.restore(deploy_id=ID)
    assert told.stat().st_ino == before and project.states() == {"app": "running"}
    assert (project.folder / "data/one").read_text() == "1\n"


def test_scale_and_what_is_shared_between_services(project: Project) -> None:
    text = project.file.read_text().replace("volumes: {box: {}}", "")
    twin = "{image: 'reversible-lab/busybox:1', init: true, scale: 2, volumes: ['box:/box'], command: [sleep, '100000']}"
    project.file.write_text(f"{text}  twin: {twin}\nvolumes: {{box: {{}}}}\n")
    project.up()
    done = project.backup(services=["app"], deploy_id=ID)
    frozen = project.manifest(done["backup"])["consistency"]["frozen"]
    all_three = [f"{project.name}-{name}" for name in ("app-1", "twin-1", "twin-2")]
    assert sorted(frozen) == all_three, "they can all write to the volume"
    (project.engine.volume(f"{project.name}_box") / "inside").write_text("since\n")
    project.restore(deploy_id=ID)
    assert (project.engine.volume(f"{project.name}_box") / "inside").read_text() == "in the volume\n"
    assert len(project.containers()) == 3 and project.states() == {"app": "running", "twin": "running"}


def test_a_volume_that_is_no_folder_of_the_engine_s(project: Project) -> None:
    """A volume with options of the driver is backed up; to restore it is refused, with the reason."""
    where = project.place / "else"
    where.mkdir()
    (where / "file").write_text("elsewhere\n")
    project.compose("down", "-v", "-t", "0")
    options = f"{{driver: local, driver_opts: {{type: none, o: bind, device: {where}}}}}"
    project.file.write_text(project.file.read_text().replace("volumes: {box: {}}", f"volumes: {{box: {options}}}"))
    project.up()
    project.backup(deploy_id=ID)
    failed = project.fails("unsupported_volume", f"{project.name}_box", state="restored", deploy_id=ID, confirm=True)
    assert "driver options" in failed["msg"] and (where / "file").read_text() == "elsewhere\n"
    assert project.states() == {"app": "running"}


def test_a_mount_below_a_mount(project: Project) -> None:
    """What the container sees below its bind is part of it."""
    inner = project.folder / "data/inner"
    inner.mkdir()
    project.compose("down", "-t", "0")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", inner], check=True)
    try:
        (inner / "deep").write_text("deep\n")
        project.up()
        done = project.backup()
        out = b"".join(subprocess.run(["zstd", "-dc", path], stdout=subprocess.PIPE, check=True).stdout
                       for path in (project.backups / done["backup"] / "data").glob("*.tar.zst"))
        assert b"inner/deep" in out
    finally:
        project.compose("down", "-t", "0")
        subprocess.run(["umount", "--lazy", inner], check=True)


def test_info_without_an_engine(project: Project) -> None:
    done = project.backup(deploy_id=ID, release="4f2a9c1")
    told = project.info(project_dir=None, project=project.name, environ={"DOCKER_HOST": "unix:///nowhere"}, check=True)
    [row] = told["backups"]
    assert (row["name"], row["deploy_id"], row["release"], row["project"]) == (done["backup"], ID, "4f2a9c1", project.name)
    assert row["ready_to_restore"] and not row["why"] and row["bytes"] == done["bytes"] and row["bytes_new"] == done["bytes_new"]
    assert told["latest"] == done["backup"] and not told["parked"] and told["unfinished"] is None and told["progress"] is None


def test_parked_state_is_dropped_by_retain(project: Project) -> None:
    name = project.backup()["backup"]
    for number in range(3):
        project.restore(name=name, rollback_id=f"20261121t10450{number}z-aaaa")
    assert len(project.info()["parked"]) == 3
    time.sleep(0.01)
    project.backup(retain=2)
    left = [one["rollback_id"] for one in project.info()["parked"]]
    assert left == ["20261121t104502z-aaaa", "20261121t104501z-aaaa"], left
    assert len(list(project.folder.glob("data.parked-*"))) == 2
    project.ok(state="absent", parked=["20261121t104501z-aaaa"], confirm=True)
    assert os.listdir(project.folder).count("data.parked-20261121t104502z-aaaa") == 1 and len(project.info()["parked"]) == 1


def test_a_secret_in_the_environment_of_the_task(project: Project) -> None:
    """A variable of the compose file comes from the task's environment, and is written down for root alone."""
    with_token = "    init: true\n    environment: {TOKEN: '${TOKEN:?}'}\n"
    project.file.write_text(project.file.read_text().replace("    init: true\n", with_token))
    environ = {"TOKEN": "t0ken-4711"}
    project.compose("up", "-d", "--pull", "never", **environ)
    done = project.backup(environ=environ, deploy_id=ID)
    assert "t0ken-4711" not in json.dumps(done)
    # Whoever restores need not know it.
    project.restore(deploy_id=ID)
    assert "TOKEN=t0ken-4711" in project.containers()[0]["Config"]["Env"]
    missing = project.run()
    assert missing["failed"] and missing["reason"] == "compose_invalid" and "TOKEN" in missing["msg"], missing


def test_a_backup_that_does_not_come_up(project: Project) -> None:
    """What a person has left out is needed to start: the proof says so, and nothing points to such a backup."""
    good = project.backup()["backup"]
    text = project.file.read_text().replace('"echo app says hello; exec sleep 100000"', '"test -e /data/one || exit 7; exec sleep 100000"')
    project.file.write_text(text)
    project.up()
    failed = project.fails("not_verified", "could not be started", verify="restore", exclude=["app:/data"], retain=1)
    verdict = project.manifest(failed["backup"])["verify"]["restore"]
    assert verdict["ok"] is False and "app" in verdict["why"] and verdict == failed["verdict"]
    assert project.complete == sorted([good, failed["backup"]]) and project.info()["latest"] == good
    assert project.states() == {"app": "running"} and not project.engine.docker("ps", "-aq", "--filter", "label=com.docker.compose.project="
                                                                                f"reversible-proof-{project.name}").strip()
