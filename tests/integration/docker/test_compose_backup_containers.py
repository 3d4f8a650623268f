# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore does with containers: replicas, jobs that have ended, paused and stopped ones, networks of others, and what is lost with them."""
from __future__ import annotations

import time
import typing as t

import pytest
from compose import PATIENCE, Project, a_project, an_engine, refused  # noqa: F401  (two are fixtures)
from docker_engine import PROJECT
from harness import wait_for

ID, BACK, AGAIN = "20261121t084500z-7f3a", "20261121t104500z-aaaa", "20261121t114500z-bbbb"
MIB = 1 << 20
SLEEPS = "{image: 'reversible-lab/busybox:1', init: true, command: [sleep, '100000']"
RESTORED = {"state": "restored", "deploy_id": ID}


def with_services(project: Project, services: str) -> None:
    """The project has these as well."""
    text = project.file.read_text()
    project.file.write_text(text.replace("volumes: {box: {}}", f"{services}\nvolumes: {{box: {{}}}}"))


def replicas(project: Project, service: str) -> dict[str, dict[str, t.Any]]:
    """By their numbers."""
    labels = (f"{PROJECT}={project.name}", "com.docker.compose.oneoff=False", f"com.docker.compose.service={service}")
    return {one["Config"]["Labels"]["com.docker.compose.container-number"]: one for one in project.engine.api.containers(*labels)}


def started(project: Project) -> dict[str, str]:
    return {one["Id"]: one["State"]["StartedAt"] for one in project.containers()}


def losses(project: Project, **options: t.Any) -> dict[str, int | None]:
    planned = project.start(check_mode=True, **{**RESTORED, **options}).wait()
    return {one["what"]: one["bytes"] for one in planned["loss"]}


# What is lost


def test_a_loss_is_what_was_written_since(project: Project) -> None:
    """Not all that is there: what is as it was in the backup is not lost."""
    large = project.folder / "data/large"
    large.write_bytes(b"x" * 20 * MIB)
    # A file that has just changed counts as written.
    wait_for(lambda: time.time() - large.stat().st_ctime > 3, "the large file to be older than what a change time tells apart", PATIENCE)
    backup = project.backup(deploy_id=ID)["backup"]
    (project.folder / "data/since").write_bytes(b"y" * 3 * MIB)
    seen = losses(project)
    data = seen[f"what was written to {project.folder}/data since {backup}"]
    assert data is not None and 3 * MIB <= data < 4 * MIB, seen
    assert None not in seen.values(), seen
    project.fails("over_max_loss", **RESTORED, confirm=True, max_loss="2M")
    assert (project.folder / "data/since").exists()
    done = project.restore(deploy_id=ID, rollback_id=BACK, max_loss="4M")
    assert done["changed"] and not (project.folder / "data/since").exists()
    # What is parked, and a backup, have a size as well.
    options = {"state": "absent", "parked": [BACK], "name": backup}
    planned = project.start(check_mode=True, **options).wait()
    assert sorted(one["bytes"] > 20 * MIB for one in planned["loss"]) == [False, True], planned["loss"]   # 20 MiB of the same byte compress
    project.fails("over_max_loss", **options, confirm=True, accept=["last_backup"], max_loss="2M")
    undone = losses(project, deploy_id=None, undo=BACK)
    assert (undone[f"what was written to {project.folder}/data since that restore"] or 0) > 20 * MIB, undone


def test_what_a_container_has_in_its_own_layer_is_named_as_lost(project: Project) -> None:
    """Only where it is replaced by another one."""
    backup = project.backup(deploy_id=ID)["backup"]
    write = ["exec", "-T", "app", "dd", "if=/dev/zero", "of=/in-no-mount", "bs=64k", "count=32"]
    sentence = f"what {project.name}-app-1 has written outside of its mounts"
    project.compose(*write)
    assert sentence not in losses(project), "the very container goes on"
    project.restore(deploy_id=ID, rollback_id=BACK)
    project.compose("exec", "-T", "app", "test", "-e", "/in-no-mount")
    project.file.write_text(project.file.read_text().replace("    init: true\n", "    init: true\n    environment: {NEW: '1'}\n"))
    project.up()
    planned = project.start(check_mode=True, **RESTORED).wait()
    project.compose(*write)
    seen = losses(project)
    assert project.start(check_mode=True, **RESTORED).wait()["plan_id"] == planned["plan_id"], "a plan that was seen stays the same"
    assert 2 * MIB <= (seen[sentence] or 0) < 3 * MIB, seen
    planned = project.fails("needs_consent", **RESTORED)
    assert sentence in str(planned["loss"]) and "in-no-mount" not in project.compose("exec", "-T", "app", "ls", "/data")
    project.restore(name=backup, deploy_id=None, rollback_id=AGAIN)
    project.compose("exec", "-T", "app", "test", "!", "-e", "/in-no-mount")


def test_what_a_job_has_left_in_its_own_layer_is_named_as_lost(project: Project) -> None:
    """It does not run, and its container is replaced all the same."""
    write = "command: [dd, if=/dev/zero, of=/in-no-mount, bs=64k, count=32]"
    with_services(project, f"  job: {{image: 'reversible-lab/busybox:1', {write}}}")

    def run() -> None:
        project.compose("up", "-d", "--pull", "never")
        wait_for(lambda: project.states() == {"app": "running", "job": "exited"}, "the job's end", PATIENCE)

    run()
    project.backup(deploy_id=ID)
    sentence = f"what {project.name}-job-1 has written outside of its mounts"
    assert sentence not in losses(project), "the very container stays"
    project.file.write_text(project.file.read_text().replace("  job: {", "  job: {environment: {NEW: '1'}, "))
    run()
    assert 2 * MIB <= (losses(project)[sentence] or 0) < 3 * MIB
    project.restore(deploy_id=ID)
    assert project.states() == {"app": "running", "job": "created"}


# What belongs to others


@pytest.mark.parametrize("kind", ["network", "volume"])
def test_what_is_external_is_looked_for_before_anything_stops(project: Project, kind: str) -> None:
    theirs = f"{project.name}-of-others"
    project.engine.docker(kind, "create", theirs)
    use = ", volumes: ['theirs:/theirs']}"
    if kind == "network":
        use = f", networks: [theirs]}}\nnetworks: {{theirs: {{external: true, name: {theirs}}}}}"
    with_services(project, f"  more: {SLEEPS}{use}")
    if kind == "volume":
        text = project.file.read_text().replace("volumes: {box: {}}", f"volumes: {{box: {{}}, theirs: {{external: true, name: {theirs}}}}}")
        project.file.write_text(text)
    try:
        project.up()
        project.backup(deploy_id=ID, exclude=[theirs] if kind == "volume" else [])
        project.compose("rm", "-sf", "more")
        project.engine.docker(kind, "rm", theirs)
        before = started(project)
        refused(project, f"{kind}_missing", theirs, f"docker {kind} create {theirs}", **RESTORED, confirm=True)
        assert started(project) == before
        project.engine.docker(kind, "create", theirs)
        project.restore(deploy_id=ID)
        assert project.states() == {"app": "running", "more": "running"}
    finally:
        project.compose("down", "-t", "0")
        project.engine.docker(kind, "rm", theirs, ok=False)


def test_nothing_serves_again_where_nothing_served(project: Project) -> None:
    """A port that another container has taken, and a project that did not run."""
    project.file.write_text(project.file.read_text().replace("    init: true\n", '    init: true\n    ports: ["127.0.0.1:18098:80"]\n'))
    project.up()
    project.backup(deploy_id=ID)
    taker = f"{project.name}-taker"
    try:
        did_not_run = (["down", "-t", "0"], "no service ran before, and none runs now", "run again")
        for stop, words, absent in (did_not_run, (None, "its services run again", "none runs now")):
            if stop:
                project.compose(*stop)
            else:
                project.file.write_text(project.file.read_text().replace("18098", "18097"))
                project.up()
            project.engine.docker("run", "-d", "--name", taker, "-p", "127.0.0.1:18098:80", "reversible-lab/busybox:1", "sleep", "1000")
            failed = project.fails("restore_failed_put_back", words, **RESTORED, confirm=True)
            assert absent not in failed["msg"], failed["msg"]
            assert ("running" in project.states().values()) == (not stop), project.states()
            project.engine.docker("rm", "-f", taker)
    finally:
        project.engine.docker("rm", "-f", taker, ok=False)


# Replicas


@pytest.mark.parametrize("meanwhile", ["nothing", "down", "down, and of the image", "scaled down", "made again"])
def test_each_replica_has_its_own_volume_again(project: Project, meanwhile: str) -> None:
    with_services(project, f"  twin: {SLEEPS}, scale: 2, volumes: [/own]}}")
    if "of the image" in meanwhile:
        (project.place / "Dockerfile").write_text("FROM reversible-lab/busybox:1\nVOLUME /own\nVOLUME /box\n")
        project.engine.docker("build", "--quiet", "--tag", f"{project.name}/twin:1", "-f", project.place / "Dockerfile", project.folder)
        twin = SLEEPS.replace("reversible-lab/busybox:1", f"{project.name}/twin:1")
        text = project.file.read_text().replace(f"{SLEEPS}, scale: 2, volumes: [/own]", f"{twin}, scale: 2, volumes: ['box:/box']")
        project.file.write_text(text)
    project.up()

    def words() -> dict[str, str]:
        return {number: project.engine.api.run(one["Id"], "cat", "/own/word").strip() for number, one in replicas(project, "twin").items()}

    for number, one in replicas(project, "twin").items():
        project.engine.api.run(one["Id"], "sh", "-c", f"echo good {number} >/own/word")
    project.backup(deploy_id=ID)
    {"nothing": lambda: None, "scaled down": lambda: project.compose("up", "-d", "--pull", "never", "--scale", "twin=1"),
     "made again": lambda: [project.compose("down", "-t", "0"), project.up()],
     }.get(meanwhile, lambda: project.compose("down", "-t", "0"))()
    here, volumes = replicas(project, "twin"), project.engine.docker("volume", "ls", "-q")
    for number, one in here.items():
        project.engine.api.run(one["Id"], "sh", "-c", f"echo bad {number} >/own/word")
    project.restore(deploy_id=ID, rollback_id=BACK)
    assert words() == {"1": "good 1", "2": "good 2"}
    assert project.states() == {"app": "running", "twin": "running"}
    assert project.engine.docker("volume", "ls", "-q") == volumes, "none is made for it, and none is removed"
    # Nobody would make them again, or has an unknown container.
    before = started(project)
    project.compose("up", "-d", "--pull", "never", "--no-build")
    assert started(project) == before
    if here:
        project.restore(deploy_id=None, undo=BACK, rollback_id=AGAIN)
        assert words() == {number: f"bad {number}" for number in here}


def test_a_way_back_gives_each_replica_its_own_volume(project: Project) -> None:
    """What is restored wants a port that is taken: the volumes of those that ran before are with them again."""
    with_services(project, f"  twin: {SLEEPS}, scale: 2, volumes: [/own]}}")
    plain = project.file.read_text()
    with_port = plain.replace("    init: true\n", '    init: true\n    ports: ["127.0.0.1:18096:80"]\n')
    project.file.write_text(with_port.replace("scale: 2", "scale: 2, stdin_open: true"))
    project.up()
    project.backup(deploy_id=ID)
    project.compose("down", "-t", "0")
    project.file.write_text(plain)
    project.up()
    for number, one in replicas(project, "twin").items():
        project.engine.api.run(one["Id"], "sh", "-c", f"echo mine {number} >/own/word")
    taker = f"{project.name}-taker"
    project.engine.docker("run", "-d", "--name", taker, "-p", "127.0.0.1:18096:80", "reversible-lab/busybox:1", "sleep", "1000")
    try:
        project.fails("restore_failed_put_back", "its services run again", **RESTORED, confirm=True)
        seen = {number: project.engine.api.run(one["Id"], "cat", "/own/word").strip() for number, one in replicas(project, "twin").items()}
        assert seen == {"1": "mine 1", "2": "mine 2"} and project.states() == {"app": "running", "twin": "running"}
    finally:
        project.engine.docker("rm", "-f", taker, ok=False)


# What did not run


@pytest.mark.parametrize("gone", [False, True])
def test_a_job_that_had_ended_is_not_run_again(project: Project, gone: bool) -> None:
    """It would change the data that has just been put back. A service that waits for it starts all the same."""
    with_services(project, "  job: {image: 'reversible-lab/busybox:1', volumes: ['./data:/data'], command: [sh, -c, 'echo ran >>/data/runs']}\n"
                  f"  after: {SLEEPS}, depends_on: {{job: {{condition: service_completed_successfully}}}}}}")
    project.compose("up", "-d", "--pull", "never")
    wait_for(lambda: project.states() == {"app": "running", "job": "exited", "after": "running"}, "the job's end", PATIENCE)
    project.backup(deploy_id=ID)
    (project.folder / "data/one").write_text("since\n")
    if gone:
        project.compose("down", "-t", "0")
    project.restore(deploy_id=ID)
    assert (project.folder / "data/runs").read_text() == "ran\n" and (project.folder / "data/one").read_text() == "1\n"
    assert project.states() == {"app": "running", "job": "created" if gone else "exited", "after": "running"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_stopped_container_is_there_again_and_a_paused_one_is_paused(project: Project, gone: bool) -> None:
    with_services(project, f"  idle: {SLEEPS}}}\n  held: {SLEEPS}, volumes: ['box:/box']}}")
    project.up()
    project.compose("stop", "-t", "0", "idle")
    project.compose("pause", "held")
    project.backup(deploy_id=ID)
    if gone:
        project.compose("unpause", "held")
        project.compose("down", "-t", "0")
    done = project.restore(deploy_id=ID)
    assert project.states() == {"app": "running", "idle": "created" if gone else "exited", "held": "paused"}
    assert any("paused" in step for step in done["plan"]), done["plan"]
    project.compose("start", "idle")
    project.compose("unpause", "held")


def test_a_way_back_pauses_again_what_was_paused(project: Project) -> None:
    project.file.write_text(project.file.read_text().replace("    init: true\n", '    init: true\n    ports: ["127.0.0.1:18095:80"]\n'))
    with_services(project, f"  held: {SLEEPS}, volumes: ['box:/box']}}")
    project.up()
    project.backup(deploy_id=ID)
    project.file.write_text(project.file.read_text().replace("18095", "18094"))
    project.up()
    project.compose("pause", "held")
    taker = f"{project.name}-taker"
    project.engine.docker("run", "-d", "--name", taker, "-p", "127.0.0.1:18095:80", "reversible-lab/busybox:1", "sleep", "1000")
    try:
        project.fails("restore_failed_put_back", "its services run again", **RESTORED, confirm=True)
        assert project.states() == {"app": "running", "held": "paused"}
    finally:
        project.engine.docker("rm", "-f", taker, ok=False)
        project.compose("unpause", "held")
