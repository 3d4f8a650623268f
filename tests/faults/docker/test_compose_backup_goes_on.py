# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore that was killed, and then life goes on: somebody starts the project by hand, or the engine does, and users write.

Nothing that was written is lost, whatever is run next, and the module ends in a working state. Kills are exact: at a call of the kernel
by strace, or at a command by a `docker` on the PATH that kills its caller.
"""
from __future__ import annotations

import collections
import itertools
import os
import re
import typing as t
from pathlib import Path

import pytest
from compose import Engine, Project, each_engine, small, traced, tree, unlike  # noqa: F401  (a fixture)
from docker_engine import PROJECT
from harness import lab

LONG = bool(os.environ.get("REVERSIBLE_LONG"))
# What changes something, begins a command, or asks the engine.
CALLS = "renameat2,rename,mkdirat,unlinkat,unlink,fsync,fdatasync,pipe2,connect"
USERS = "written by users\n"
ALWAYS = "    init: true\n    restart: always\n"
IDS = (f"20261130t{number // 60:02}{number % 60:02}00z-{number:04x}" for number in itertools.count(1))


@pytest.fixture(name="project")
def a_project_that_the_engine_starts(on: Engine) -> t.Iterator[Project]:
    project = small(on)
    try:
        project.file.write_text(project.file.read_text().replace("    init: true\n", ALWAYS))
        project.up()
        yield project
    finally:
        project.remove()


class Killed:
    """A restore of a good backup over a bad state, killed; and what must hold afterwards."""

    def __init__(self, project: Project):
        self.project, self.box = project, project.engine.volume(f"{project.name}_box")
        (self.box / "inside").write_text("good\n")
        (project.folder / "data/one").write_text("good\n")
        self.backup = project.backup()["backup"]
        self.worsen()

    def worsen(self) -> None:
        (self.project.folder / "data/one").write_text("bad\n")
        (self.box / "inside").write_text("bad\n")

    def options(self) -> dict[str, t.Any]:
        return {"state": "restored", "name": self.backup, "confirm": True, "rollback_id": next(IDS)}

    def calls(self) -> list[tuple[str, int, str]]:
        """What a whole restore asks of the kernel, in its order: the call, for the how many-th time, and the line."""
        log = self.project.place / "calls"
        call = self.project.start(below=[lab("get", "strace"), "-o", log, "-e", f"trace={CALLS}"], **self.options())
        assert not call.wait().get("failed")
        lines = [line for line in log.read_text().splitlines() if re.match(r"[a-z0-9]+\(", line)]
        self.clean()
        counted: collections.Counter[str] = collections.Counter()
        found = []
        for line in lines:
            name = line.split("(")[0]
            counted[name] += 1
            found.append((name, counted[name], line))
        return found

    def at_call(self, name: str, number: int, options: dict[str, t.Any]) -> bool:
        """Whether it came so far. strace counts each call by itself."""
        call = traced(self.project, ["-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={number}"], **options)
        call.process.communicate(timeout=120)
        assert call.process.returncode in (0, -9, 137), call.process.returncode
        return call.process.returncode != 0

    def at_command(self, words: str, options: dict[str, t.Any], carried_out: bool = True) -> None:
        """When it runs a docker with these words. That command has been carried out then, or never is."""
        folder = self.project.place / "deadly"
        folder.mkdir(exist_ok=True)
        real = Path(self.project.engine.offer["path"], "docker")
        first = f'{real} "$@" >/dev/null 2>&1;' if carried_out else ""
        (folder / "docker").write_text(f'#!/bin/sh\ncase " $* " in *" {words} "*) {first} kill -9 "$PPID"; exit 1 ;; esac\nexec {real} "$@"\n')
        (folder / "docker").chmod(0o755)
        call = self.project.start(environ={"PATH": f"{folder}:{self.project.engine.environ['PATH']}"}, **options)
        call.process.communicate(timeout=120)
        assert call.process.returncode == -9, call.process.returncode

    # What happens next

    def started_by_hand(self) -> None:
        self.project.compose("--progress", "quiet", "up", "-d", "--pull", "never", "--no-build")
        assert self.project.states() == {"app": "running"}

    def started_by_the_engine(self) -> None:
        with self.project.engine.stopped():
            pass

    def write(self) -> str:
        """As users do: in the service, when it runs; in all of its data. Answers what they have seen there."""
        if self.project.states() != {"app": "running"}:
            return "nothing"
        text = "cat /data/one /box/inside && echo written by users | tee /data/users >/box/users"
        return self.project.inside("app", "sh", "-c", text).strip()

    # What must hold

    def places(self) -> list[Path]:
        return [self.project.folder / "data", self.box]

    def never_missing(self, how: str) -> None:
        """No moment in which the engine would make an empty folder."""
        for place in self.places():
            assert list(place.iterdir()), (how, place)

    def copies(self, name: str) -> list[str]:
        """The contents of all files of this name that are live, or that info says are parked."""
        kept = [path for one in self.project.info()["parked"] for path in one["paths"]]
        return [(Path(folder) / name).read_text() for folder in [*self.places(), *kept] if (Path(folder) / name).exists()]

    def holds(self, how: t.Any, wrote: bool) -> None:
        project = self.project
        assert project.settled() == {"app": "running"}, how
        [container] = project.containers()
        assert container["HostConfig"]["RestartPolicy"]["Name"] == "always", how
        both = (project.folder / "data/one").read_text(), (self.box / "inside").read_text()
        assert both in [("good\n", "good\n"), ("bad\n", "bad\n")], (how, both)
        assert "bad\n" in self.copies("one") and "bad\n" in self.copies("inside"), f"{how}: what was replaced is lost"
        assert not wrote or self.copies("users") == [USERS] * 2, f"{how}: what users wrote is lost: {self.copies('users')}"
        inside = project.inside("app", "cat", "/data/one", "/box/inside").split()
        assert [f"{word}\n" for word in inside] == list(both), f"{how}: the service sees something else"
        told = project.info()
        assert told["unfinished"] is None and not told["frozen"], how
        assert not [path for path in [*project.place.rglob("*"), *self.box.parent.iterdir()] if ".restoring-" in path.name], how

    def clean(self) -> None:
        """Only now is anything removed, and it is said what."""
        if self.project.info()["parked"]:
            planned = self.project.fails("needs_consent", state="absent", parked=["all"])
            assert planned["loss"], planned
            self.project.ok(state="absent", parked=["all"], confirm=True)
        assert not [path for place in self.places() for path in place.parent.iterdir() if re.search(r"\.(parked|found)-", path.name)]
        for place in self.places():
            (place / "users").unlink(missing_ok=True)
        self.worsen()


NEXT: dict[str, dict[str, t.Any]] = {"present": {}, "thawed": {"state": "thawed"}}


def next_task(killed: Killed, which: str, options: dict[str, t.Any]) -> dict[str, t.Any]:
    """Whoever comes next: a backup, a look, the same restore again, or another one."""
    return {**NEXT, "same": options, "restored": killed.options()}[which]


@pytest.mark.parametrize("which", ["present", "thawed", "same", "restored"])
def test_what_users_wrote_after_a_killed_restore(project: Project, which: str) -> None:
    """Killed while it starts the services, which then run on the restored data: the way is forward, and loses nothing."""
    killed = Killed(project)
    options = killed.options()
    killed.at_command("up", options)
    assert killed.write().split() == ["good", "good"]
    done = project.ok(**next_task(killed, which, options))
    assert (project.folder / "data/one").read_text() == "good\n"
    killed.holds(which, wrote=True)
    if which in NEXT:
        assert not done["loss"] and (project.folder / "data/users").read_text() == USERS, done
        # The very same rollback was done then: nothing happens to what was written since.
        assert not project.ok(**options)["changed"] and (project.folder / "data/users").read_text() == USERS
    killed.clean()


def test_the_way_back_keeps_what_services_ran_on(project: Project) -> None:
    """They start on the restored data, write to it and end: the state before is live again, and both are kept."""
    killed, plain = Killed(project), project.file.read_text().replace("    restart: always\n", "")
    (project.folder / "switch").mkdir()
    (project.folder / "switch/on").touch()
    ends = "[ -e /switch/on ] || { echo written by users | tee /data/users >/box/users; exit 1; }; exec sleep 100000"
    project.file.write_text(plain.replace("./data:/data", './data:/data", "./switch:/switch').replace(
        "echo app says hello; exec sleep 100000", ends))
    project.up()
    killed.backup = project.backup(exclude=[str(project.folder / "switch")])["backup"]
    (project.folder / "switch/on").unlink()
    project.file.write_text(plain)
    project.up()
    (project.folder / "data/one").write_text("worse\n")
    failed = project.fails("restore_failed_put_back", "parked at", **killed.options())
    assert failed["parked"] and (project.folder / "data/one").read_text() == "worse\n", failed
    assert project.states() == {"app": "running"} and killed.copies("users") == [USERS] * 2
    assert killed.copies("one") == ["worse\n", "bad\n"] and project.info()["unfinished"] is None
    project.backup(retain=1)   # no one has agreed to lose it: only state: absent removes it
    assert killed.copies("users") == [USERS] * 2
    killed.clean()


@pytest.mark.parametrize("which", ["present", "thawed", "same"])
def test_a_folder_that_somebody_has_put_in_the_way(project: Project, which: str) -> None:
    """It is neither the old one nor the restored one: it is set aside, and told of."""
    killed = Killed(project)
    options = killed.options()
    killed.at_command("up", options, carried_out=False)
    (project.folder / "data").rename(project.folder / "moved-away")
    (project.folder / "data").mkdir()
    (project.folder / "data/theirs").write_text("x\n")
    done = project.run(**next_task(killed, which, options))
    if which == "same":   # what it is to put in place is gone
        assert done.get("failed") and done["reason"] == "restore_failed_put_back", done
    else:
        assert not done.get("failed") and "data.found-" in str(done["warnings"]), done
    assert (project.folder / "data/one").read_text() == "bad\n"
    killed.holds(which, wrote=False)
    assert killed.copies("theirs") == ["x\n"] and (project.folder / "moved-away/one").read_text() == "good\n"
    killed.clean()


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS"])
def test_a_file_system_that_cannot_exchange(project: Project, error: str) -> None:
    """It is known before anything is stopped."""
    killed = Killed(project)
    before, started = tree(project.folder), project.containers()[0]["State"]["StartedAt"]
    result = traced(project, ["-e", "trace=renameat2", "-e", f"inject=renameat2:error={error}"], **killed.options()).wait()
    assert result["failed"] and result["reason"] == "cannot_exchange", result
    assert project.containers()[0]["State"]["StartedAt"] == started
    differs = unlike({**before, b"": None}, {**tree(project.folder), b"": None})
    assert not differs and project.info()["unfinished"] is None, differs


def test_a_folder_that_was_made_for_it_by_somebody_else(project: Project) -> None:
    """Whoever owns the folder around a bind mount could else read, and change, what is put back."""
    killed = Killed(project)
    options, started = killed.options(), project.containers()[0]["State"]["StartedAt"]
    made = project.folder / f"data.restoring-{options['rollback_id']}"
    made.mkdir(mode=0o777)
    (made / "theirs").write_text("x\n")
    os.chown(made, 1234, 1234)
    project.fails("name_taken", str(made), **options)
    assert (made / "theirs").read_text() == "x\n" and project.containers()[0]["State"]["StartedAt"] == started
    (made / "theirs").unlink()
    made.rmdir()
    assert project.ok(**options)["changed"] and (project.folder / "data/one").read_text() == "good\n"


@pytest.mark.parametrize("carried_out, then", [(True, "present"), (True, "same"), (False, "by hand")])
def test_killed_while_replicas_get_their_volumes(project: Project, carried_out: bool, then: str) -> None:
    """Between the stand-ins that bear the volumes of containers that are gone."""
    twin = "  twin: {image: 'reversible-lab/busybox:1', init: true, command: [sleep, '100000'], scale: 2, volumes: [/own]}\n"
    project.file.write_text(project.file.read_text().replace("volumes: {box: {}}", f"{twin}volumes: {{box: {{}}}}"))
    project.up()

    def twins() -> dict[str, str]:
        labels = (f"{PROJECT}={project.name}", "com.docker.compose.service=twin")
        return {one["Config"]["Labels"]["com.docker.compose.container-number"]: one["Id"] for one in project.engine.api.containers(*labels)}

    for number, one in twins().items():
        project.engine.api.run(one, "sh", "-c", f"echo replica {number} >/own/word")
    killed = Killed(project)
    project.compose("down", "-t", "0")
    options = killed.options()
    if then == "same":   # what was agreed to holds for the rest of it
        options["confirm"] = project.start(check_mode=True, **options).wait()["plan_id"]
    killed.at_command("container create", options, carried_out)
    assert len(twins()) == carried_out, "killed at the first of two"
    if then == "by hand":
        project.compose("--progress", "quiet", "up", "-d", "--pull", "never", "--no-build")
    project.ok(**({} if then == "present" else options))
    if then == "present":
        assert "running" not in project.states().values(), "as it was before"
        project.ok(**killed.options())
    assert {number: project.engine.api.run(one, "cat", "/own/word").strip() for number, one in twins().items()} == {
        "1": "replica 1", "2": "replica 2"}
    assert project.states() == {"app": "running", "twin": "running"} and project.info()["unfinished"] is None
    assert (project.folder / "data/one").read_text() == "good\n"


def sample(calls: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Calls to be killed at: all; or one before the exchange, three in it, and an even choice among those that follow."""
    if LONG:
        return calls
    first, second = [n for n, (_, _, line) in enumerate(calls) if re.match(r'renameat2\(\d+, "_?data", .* RENAME_EXCHANGE', line)]
    after = [second + 1 + n * (len(calls) - second - 2) // 5 for n in range(6)]
    return [calls[n] for n in (first * 2 // 3, first, first + 1, second, *after)]


def test_killed_anywhere_and_life_goes_on(project: Project) -> None:
    killed = Killed(project)
    starts = [killed.started_by_hand, killed.started_by_the_engine, lambda: None]
    tasks = ["present", "thawed", "restored", "same"]
    deaths, seen = 0, set()
    for n, (name, number, line) in enumerate(sample(killed.calls())):
        options = killed.options()
        deaths += killed.at_call(name, number, options)
        start, which = starts[(n + n // 4) % len(starts)], tasks[n % len(tasks)]
        how = f"killed at {line}, then {start.__name__}, then {which}"
        killed.never_missing(how)
        start()
        saw = killed.write()
        seen.add(saw)
        assert start == killed.started_by_hand or saw in ("nothing", "good\ngood", "bad\nbad"), f"{how}: half exchanged, and runs"
        project.ok(**next_task(killed, which, options))
        killed.holds(how, wrote=saw != "nothing")
        killed.clean()
    assert deaths > 7 and {"nothing", "bad\nbad"} < seen, (deaths, seen)
