# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_backup killed at every step of a backup and of a restore, and run again: nothing is lost, services run, no rubbish stays.

Two ways to be exact: before or after each command that changes something at the engine (a `docker` on the PATH kills its caller), and
at each rename, by strace. Whoever comes next is the same task, or `state: thawed`.
"""
from __future__ import annotations

import os
import typing as t

import pytest
from compose import Project, a_project, an_engine, docker_as, traced  # noqa: F401  (two are fixtures)
from trees import tree, unlike

LONG = bool(os.environ.get("REVERSIBLE_LONG"))
RENAMES, READS = "rename,renameat,renameat2", "read,pread64,readv,copy_file_range"
# What changes something, as words of the command line; the others only ask.
CHANGES = "stop|start|pause|unpause|restart|kill|rm|create|up|down|load|save|tag|image|exec|cp|wait|volume|network|rename"
MANY = 200   # more steps than any task has


class Steps:
    """Kills the module at its nth changing command, which is then not carried out, or carried out without it."""

    def __init__(self, project: Project):
        self.folder = project.place / "steps"
        self.environ = docker_as(project, "steps", f"""\
# The first word that is known decides; those that are both a command and a subject are distinguished below.
changing=
for word in "$@"; do
    case "$word" in ps|inspect|version|info|config|logs|ls|context|events|top) break ;; {CHANGES}) changing=yes; break ;; esac
done
case "$*" in "image inspect"*|"image ls"*|"volume inspect"*|"volume ls"*|"network inspect"*|"network ls"*) changing= ;; esac
if [ "$changing" ]; then
    read -r left <{self.folder}/left
    left=$((left - 1))
    echo $left >{self.folder}/left
    if [ $left -eq 0 ]; then
        echo "$*" >{self.folder}/struck
        kill -9 "$PPID"
        [ -e {self.folder}/before ] && exit 1
    fi
fi
exec $docker "$@"
""")

    @property
    def struck(self) -> str:
        """The command at which it was killed."""
        return (self.folder / "struck").read_text().strip()

    def kill(self, project: Project, step: int, before: bool, **options: t.Any) -> bool:
        """Whether it came so far."""
        (self.folder / "left").write_text(f"{step}\n")   # in files: the module hands on no variable that it does not know
        (self.folder / "before").touch() if before else (self.folder / "before").unlink(missing_ok=True)
        call = project.start(environ=self.environ, **options)
        call.process.communicate(timeout=120)
        assert call.process.returncode in (0, -9), call.process.returncode
        return call.process.returncode == -9


def killed_at(project: Project, calls: str, number: int, *words: str, **options: t.Any) -> bool:
    """Whether so many of these calls of the kernel came; at the last it was killed. Only its first thread is looked at, which does all
    renames, unless words for strace say otherwise."""
    call = traced(project, ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=SIGKILL:when={number}", *words], **options)
    call.process.communicate(timeout=120)
    assert call.process.returncode in (0, -9, 137), call.process.returncode
    return call.process.returncode != 0


def moments() -> t.Iterator[t.Iterator[tuple[str, int]]]:
    """Where it is killed, commands and renames apart: at each, at a command in both ways, before it is carried out and while. When there is
    little time, at every second rename: from the second on, these are those between parking a folder and putting the other in its place."""
    yield ((way, step) for step in range(1, MANY) for way in ("before", "while"))
    yield (("at rename", step) for step in (range(1, MANY) if LONG else range(2, MANY, 2)))


def kills(project: Project, options: dict[str, t.Any], ids: t.Iterator[str] | None = None) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    """Killed at each of the moments, each time with an id of its own where it takes one; how, and with which options."""
    steps, given = Steps(project), dict(options)

    def kill(way: str, step: int) -> bool:
        if ids:
            given["rollback_id"] = next(ids)
        if way == "at rename":
            return killed_at(project, RENAMES, step, **given)
        return steps.kill(project, step, way == "before", **given)

    for all_of_a_kind in moments():
        for way, step in all_of_a_kind:
            if not kill(way, step):   # it has come to its end before
                assert step > 2, "it was never killed: the test looks for the wrong thing"
                break
            yield f"at rename {step}" if way == "at rename" else f"{way} {steps.struck!r}", given
        else:
            raise AssertionError("it never comes to its end")


def rubbish(project: Project) -> list[str]:
    places = [project.backups, project.folder, project.engine.volume(f"{project.name}_box").parent]
    return [str(path) for place in places for path in place.rglob("*") if path.name.endswith(".partial") or ".restoring-" in path.name]


def test_a_backup_that_is_killed_anywhere(project: Project) -> None:
    before = tree(project.folder)
    project.backup()
    for number, (how, _) in enumerate(kills(project, {"consistency": "stop", "retain": 3})):
        known = project.complete
        if number % 3 == 2:
            project.ok(state="thawed")
            assert project.states() == {"app": "running"}, how
        done = project.backup(consistency="pause" if number // 2 % 2 else "stop", retain=3)
        assert project.states() == {"app": "running"} and not unlike(before, tree(project.folder)), how
        assert done["backup"] in project.complete and len(project.complete) <= 3 and not rubbish(project), (how, known, project.complete)
        [newest, *_] = project.info(check=True)["backups"]
        assert newest["name"] == done["backup"] and newest["ready_to_restore"], (how, newest)
    assert project.info()["unfinished"] is None and not project.info()["frozen"]


def test_a_restore_that_is_killed_anywhere(project: Project) -> None:
    box = project.engine.volume(f"{project.name}_box")
    good = tree(project.folder), tree(box)
    backup = project.backup()["backup"]

    def state() -> str:
        now = tree(project.folder), tree(box)
        for name, then in (("good", good), ("bad", bad)):
            if not differs(then[0], now[0]) and not differs(then[1], now[1]):
                return name
        return f"neither: {differs(good[0], now[0])}"

    def worsen() -> None:
        (project.folder / "data/one").write_text("bad\n")
        (project.folder / "data/two").unlink(missing_ok=True)
        (box / "inside").write_text("bad\n")

    worsen()
    bad = tree(project.folder), tree(box)
    ids = (f"20261130t{number // 60:02}{number % 60:02}00z-{number:04x}" for number in range(1400))
    for number, (how, given) in enumerate(kills(project, {"state": "restored", "name": backup, "confirm": True}, ids)):
        if number % 3 == 2:
            project.ok(state="thawed")
            assert state() in ("good", "bad") and project.states() == {"app": "running"}, (how, state())
        done = project.run(**{**given, "rollback_id": next(ids)} if number // 2 % 2 else given)   # another task, or the same
        assert not done.get("failed"), (how, done)
        assert state() == "good" and project.states() == {"app": "running"} and not rubbish(project), (how, state())
        assert parked_somewhere(project, b"bad\n"), f"{how}: what was replaced is lost"
        project.ok(state="absent", parked=["all"], confirm=True)
        assert not [path for path in project.place.rglob("*.parked-*")], how
        worsen()
        bad = tree(project.folder), tree(box)


def differs(one: dict[bytes, t.Any], other: dict[bytes, t.Any]) -> dict[bytes, t.Any]:
    """Without what is parked, and the times of the folders in which something was parked."""
    found = unlike(one, other)
    found.pop(b"", None)
    return {name: both for name, both in found.items() if b".parked-" not in name and content(both[0]) != content(both[1])}


def content(entry: t.Any) -> t.Any:
    return None if entry is None else (entry[0], entry[1], entry[2], entry[4])


def parked_somewhere(project: Project, words: bytes) -> bool:
    places = [project.folder, project.engine.volume(f"{project.name}_box").parent]
    return any(words == path.read_bytes() for place in places for path in place.rglob("*") if path.is_file() and ".parked-" in str(path))


@pytest.mark.parametrize("consistency", ["stop", "pause"])
def test_thawed_by_whoever_comes_next(project: Project, consistency: str) -> None:
    """Also by a look: info says what is frozen, and since when."""
    frozen = "paused" if consistency == "pause" else "exited"
    # At the first look into a file, which is when the services stand still.
    assert killed_at(project, READS, 1, "-f", "-P", str(project.folder / "data/two"), consistency=consistency)
    assert project.states() == {"app": frozen}
    told = project.info()
    assert told["unfinished"] and told["frozen"] == [f"{project.name}-app-1"], told
    planned = project.start(check_mode=True).wait()
    assert planned["changed"] and "thaw" in planned["plan"][0] and project.states() == {"app": frozen}
    done = project.ok(state="thawed")
    assert done["changed"] and done["thawed"] == [f"{project.name}-app-1"] and project.states() == {"app": "running"}
    assert project.info()["unfinished"] is None


def test_a_run_that_is_told_to_end_thaws_first(project: Project) -> None:
    """By a signal when they have just been stopped."""
    started = project.containers()[0]["State"]["StartedAt"]
    told = docker_as(project, "telling", """\
$docker "$@" || exit
case "$*" in *"container stop"*) kill -TERM "$PPID" ;; esac
""")
    result = project.run(consistency="stop", environ=told)
    assert result["failed"] and project.states() == {"app": "running"} and not project.complete and not rubbish(project), result
    assert project.containers()[0]["State"]["StartedAt"] != started, "it was never stopped: the test looks for the wrong thing"


def test_the_same_rollback_is_never_done_twice(project: Project) -> None:
    """Killed after it had been recorded, the same id finds it done; what was written since stays."""
    project.backup(deploy_id="20261121t084500z-7f3a")
    options = {"deploy_id": "20261121t084500z-7f3a", "rollback_id": "20261121t104500z-aaaa"}
    project.restore(**options)
    (project.folder / "data/one").write_text("written since the restore\n")
    assert not project.restore(**options)["changed"]
    assert (project.folder / "data/one").read_text() == "written since the restore\n"
