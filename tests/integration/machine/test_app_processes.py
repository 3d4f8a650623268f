# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""app_processes on this machine, by the real start-stop-daemon: started, started again, ended; what is not ours; killed half way."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest
from edge import Call, call
from harness import wait_for
from strace import moments, was_killed

MODULE = "app_processes"
SECRET = "hunter2 is secret"


class Side:
    """Three processes that write down who they are, and end when they are told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        self.program = folder / "app"
        self.program.write_text('#!/bin/sh\necho "$(id -un) $1 in $PWD with $WORD"\nexec sleep 600\n')
        self.program.chmod(0o755)

    def one(self, name: str, **more: t.Any) -> dict[str, t.Any]:
        return {"name": name, "pidfile": str(self.folder / f"{name}.pid"), "argv": [str(self.program), name], "chdir": str(self.folder),
                "log": str(self.folder / f"logs/{name}.log"), "environment": {"WORD": SECRET}, **more}

    @property
    def all(self) -> list[dict[str, t.Any]]:
        return [self.one("web", user="nobody"), self.one("backend"), self.one("stream")]

    def run(self, processes: list[dict[str, t.Any]] | None = None, check: bool = False, **more: t.Any) -> dict[str, t.Any]:
        return call(MODULE, {"processes": self.all if processes is None else processes, **more}, check=check)

    def pids(self) -> dict[str, int]:
        return {path.stem: int(path.read_text()) for path in self.folder.glob("*.pid")}

    def log(self, name: str) -> list[str]:
        return (self.folder / f"logs/{name}.log").read_text().splitlines()


def runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.fixture
def side() -> t.Iterator[Side]:
    with tempfile.TemporaryDirectory(prefix="reversible-test-", dir="/var/tmp") as folder:   # where anyone may go
        made = Side(Path(folder))
        yield made
        for pid in set(made.pids().values()) - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_started_anew_and_ended(side: Side) -> None:
    planned = side.run(check=True)
    assert planned["changed"] and planned["plan"] == ["start web, backend, stream"] and not side.pids()
    done = side.run()
    assert done["changed"] and done["after"] == {"running": ["web", "backend", "stream"]} and done["systemd"] is False, done
    first = side.pids()
    wait_for(lambda: all(side.log(name) for name in first), "what they say")
    assert side.log("web") == [f"nobody web in {side.folder} with {SECRET}"] and side.log("stream")[0].startswith("root stream")
    assert SECRET not in str(done)
    again = side.run()
    assert again["plan"] == ["end web, backend, stream", "start web, backend, stream"]
    second = side.pids()
    assert set(second) == set(first) and not set(second.values()) & set(first.values())
    assert not any(map(runs, first.values())) and all(map(runs, second.values()))
    # One ended by itself, and its file names a process that is somebody else's now.
    os.kill(second["web"], signal.SIGKILL)
    (side.folder / "web.pid").write_text(f"{os.getpid()}\n")
    with subprocess.Popen(["sleep", "600"]) as other:   # of the same user, too
        (side.folder / "stream.pid").write_text(f"{other.pid}\n")
        assert side.run()["plan"][0] == "end backend"
        assert runs(other.pid)
        os.kill(second["stream"], signal.SIGKILL)
        other.kill()
    ended = side.run(state="stopped")
    assert ended["plan"] == ["end web, backend, stream"] and not list(side.folder.glob("*.pid*")) and ended["after"] == {"running": []}
    assert not side.run(state="stopped")["changed"] and not side.run([])["changed"]


def test_all_are_told_to_end_before_one_is_waited_for(side: Side) -> None:
    """Each ends only when all have been told to. One after the other, the first would be waited for until it is killed."""
    side.program.write_text(f"""#!/bin/sh
cd {side.folder}/told
trap 'touch $1' TERM
echo ready
until [ "$(echo *)" = "backend stream web" ]; do sleep 0.05; done
echo "all have been told"
""")
    side.program.chmod(0o755)
    told = side.folder / "told"
    told.mkdir()
    told.chmod(0o777)   # for the one that is nobody's
    side.run()
    wait_for(lambda: all(side.log(name) for name in side.pids()), "that they run", 60)
    done = side.run(state="stopped", stop_timeout=60)
    assert done["changed"] and not side.pids(), done
    assert all(side.log(name) == ["ready", "all have been told"] for name in ("web", "backend", "stream"))


def test_what_does_not_end_is_killed_when_its_time_is_over(side: Side) -> None:
    side.program.write_text("#!/bin/sh\ntrap '' TERM\necho deaf\nwhile :; do sleep 0.1; done\n")
    side.run()
    wait_for(lambda: all(side.log(name) for name in side.pids()), "that they are deaf", 60)
    done = side.run(state="stopped", stop_timeout=1)
    assert done["changed"] and not side.pids() and done["steps"][0]["seconds"] >= 1, done


def killed_at_thread(side: Side) -> t.Iterator[str]:
    """Killed before each thread that it makes: one for the signals, one for each process that it ends, and for each that it starts."""

    def kill(below: list[str]) -> bool:
        run = Call(MODULE, {"processes": side.all}, below=below)
        run.process.communicate(timeout=120)
        return was_killed(run.process.returncode)

    return moments(["clone3"], kill)


def killed_at_start(side: Side) -> t.Iterator[str]:
    """Killed by what it starts the processes with, before and after the first of them, and so on."""
    real, folder = shutil.which("start-stop-daemon"), side.folder / "bin"
    folder.mkdir()
    starter = folder / "start-stop-daemon"
    for when in ("before", "after"):
        for name in ("web", "backend", "stream"):
            kill = f'case "$*" in *" {name}") kill -9 "$PPID" ;; esac'
            starts = f'{real} "$@"'
            starter.write_text("#!/bin/sh\n" + "\n".join([kill, starts] if when == "before" else [starts, kill]) + "\n")
            starter.chmod(0o755)
            run = Call(MODULE, {"processes": side.all}, PATH=f"{folder}:{os.environ['PATH']}")
            run.process.communicate(timeout=120)
            assert was_killed(run.process.returncode), "it did not start by the program of this test"
            yield f"{when} {name} is started"


@pytest.mark.parametrize("killed", [killed_at_thread, killed_at_start])
def test_killed_half_way_the_same_task_begins_again(side: Side, killed: t.Callable[[Side], t.Iterator[str]]) -> None:
    side.run()
    before, count = side.pids(), 0
    for count, moment in enumerate(killed(side), 1):
        assert side.run()["after"] == {"running": ["web", "backend", "stream"]}, moment
        # What a killed run had just started may still be on its way.
        wait_for(lambda: not starting(side.folder), "all have become what they are to be", 60)
        after = side.pids()
        assert all(map(runs, after.values())) and not any(map(runs, before.values())), moment
        assert not set(after.values()) & set(before.values()), moment
        before = after
    assert count >= 6, f"killed {count} times: the test looks for the wrong thing"


def starting(folder: Path) -> list[str]:
    """The programs that start something by a pid file of this folder, and have not become it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text(errors="replace")
            if "--pidfile" in words and str(folder) in words:
                found.append(words)
    return found


class Theirs:
    """A folder of another user's, who has put into it what root is to trip over."""

    uid = 4301   # a number without an account

    def __init__(self, side: Side) -> None:
        self.folder = side.folder / "theirs"
        self.folder.mkdir()
        self.take(self.folder)
        self.secret = side.folder / "secret"
        self.secret.write_text("root's own\n")
        self.secret.chmod(0o600)

    def take(self, path: Path) -> None:
        os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def link(self, name: str) -> Path:
        path = self.folder / name
        path.symlink_to(self.secret)
        self.take(path)
        return path


@pytest.mark.parametrize("user, reason, words", [
    ("root", "unsafe_folder", "belongs to uid 4301"),
    ("nobody", None, "it is a symbolic link"),
    (str(Theirs.uid), None, "it is a symbolic link"),
])
def test_a_log_that_a_user_could_swap_is_not_written_by_root(side: Side, user: str, reason: str | None, words: str) -> None:
    """The app of the link's owner would say there what it likes. What ran goes on: it could not be started again."""
    theirs = Theirs(side)
    side.run([side.one("web", user=user)])
    before = side.pids()["web"]
    wrong = side.run([side.one("web", user=user, log=str(theirs.link("web.log")))])
    assert wrong["failed"] and words in wrong["msg"] and str(theirs.folder) in wrong["msg"] and "\n" not in wrong["msg"], wrong
    assert reason is None or wrong["reason"] == reason, wrong
    assert theirs.secret.read_text() == "root's own\n"
    assert side.pids() == {"web": before} and runs(before)


def test_a_log_of_the_apps_own_user_is_opened_with_its_rights(side: Side) -> None:
    """By a number without an account, too: it runs as that number, with its group and no other."""
    theirs = Theirs(side)
    side.program.write_text('#!/bin/sh\necho "$(id -u) $(id -g) $(id -G) $1"\nexec sleep 600\n')
    log = theirs.folder / "logs/web.log"
    mine = side.one("web", user=str(theirs.uid), log=str(log))
    for count in (1, 2):
        done = side.run([mine])
        assert done["after"] == {"running": ["web"]}, done
        wait_for(lambda wanted=count: log.read_text().splitlines() == ["4301 4301 4301 web"] * wanted, "what it says is appended")
    assert (log.stat().st_uid, log.stat().st_gid, log.parent.stat().st_uid) == (theirs.uid, theirs.uid, theirs.uid)
    assert side.run([mine], state="stopped")["changed"] and not list(side.folder.glob("*.pid*"))


def test_what_was_printed_is_told_and_kept_before_it_ends(side: Side) -> None:
    side.program.write_text('#!/bin/sh\nfor n in 1 2 3; do echo "$1 $n"; done\nexec sleep 600\n')
    side.run()
    wait_for(lambda: all(side.log(name)[2:] for name in side.pids()), "what they say")
    seen = side.run(state="observed", log_lines=2)
    assert seen["logs"] == {name: [f"{name} 2", f"{name} 3"] for name in ("web", "backend", "stream")}
    assert not seen["changed"] and "logs" not in side.run(state="observed") and all(map(runs, side.pids().values()))
    kept = side.folder / "kept/of one"
    never = side.one("never")
    told = side.run([*side.all, never], check=True, state="stopped", kept_logs=str(kept))
    assert not kept.exists()
    done = side.run([*side.all, never], state="stopped", kept_logs=str(kept))
    assert done["plan"] == told["plan"] == [f"keep in {kept} the logs of web, backend, stream", "end web, backend, stream"]
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        f"{name}.log": f"{name} 1\n{name} 2\n{name} 3\n" for name in ("web", "backend", "stream")}
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600} and kept.stat().st_mode & 0o777 == 0o700
    (side.folder / "logs/web.log").write_text("of another day\n")
    again = side.run(state="stopped", kept_logs=str(kept))
    assert not again["changed"] and (kept / "web.log").read_text().startswith("web 1"), "what is kept stays"
    assert side.run([], state="stopped", kept_logs=str(side.folder / "kept/none"))["changed"] and (side.folder / "kept/none").is_dir()


@pytest.mark.parametrize("how", ["link", "folder link", "hard link", "pipe"])
def test_root_reads_no_log_through_what_a_user_has_put_there(side: Side, how: str) -> None:
    """Neither shown nor kept, and the others are."""
    theirs = Theirs(side)
    side.run([side.one("backend")])
    log = theirs.folder / "web.log"
    if how == "link":
        theirs.link("web.log")
    elif how == "folder link":
        (theirs.folder / "in").symlink_to(side.folder)
        log = theirs.folder / "in/secret"
    elif how == "hard link":
        os.link(theirs.secret, log)
    else:
        os.mkfifo(log)
        theirs.take(log)
    processes = [side.one("web", user=str(theirs.uid), log=str(log)), side.one("backend")]
    wait_for(lambda: side.log("backend"), "what it says")
    seen = side.run(processes, state="observed", log_lines=5)
    assert list(seen["logs"]) == ["backend"] and len(seen["warnings"]) == 1 and str(log) in seen["warnings"][0], seen
    kept = side.folder / "kept"
    wrong = side.run(processes, state="stopped", kept_logs=str(kept))
    assert wrong["failed"] and str(log) in wrong["msg"] and "\n" not in wrong["msg"] and not kept.exists(), wrong
    assert theirs.secret.read_text() not in json.dumps([seen, wrong]) and side.pids()


def test_an_endless_log_is_kept_from_its_end(side: Side) -> None:
    theirs = Theirs(side)
    log = theirs.folder / "web.log"
    with open(log, "wb") as file:
        file.seek(1 << 40)
        file.write(b"\nthe last words\n")
    theirs.take(log)
    mine = side.one("web", user=str(theirs.uid), log=str(log))
    kept = side.folder / "kept"
    assert side.run([mine], state="observed", log_lines=1)["logs"] == {"web": ["the last words"]}
    assert side.run([mine], state="stopped", kept_logs=str(kept))["changed"]
    assert (kept / "web.log").stat().st_size < 65 << 20
    with open(kept / "web.log", "rb") as file:
        assert file.readline() == b"(only the last 64.0 MiB were kept)\n"
        file.seek(-15, os.SEEK_END)
        assert file.read() == b"the last words\n"


@pytest.mark.parametrize("kind", ["theirs", "link"])
def test_logs_are_kept_only_where_nobody_else_can_change_anything(side: Side, kind: str) -> None:
    theirs = Theirs(side)
    elsewhere = side.folder / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        (theirs.folder / "kept").symlink_to(elsewhere)
        theirs.take(theirs.folder / "kept")
    wrong = side.run([], state="stopped", kept_logs=str(theirs.folder / "kept/green"))
    assert wrong["failed"] and wrong["reason"] == "unsafe_folder" and str(theirs.folder) in wrong["msg"], wrong
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("state", ["stopped", "restarted"])
def test_a_pid_file_that_a_user_could_write_ends_nothing(side: Side, state: str) -> None:
    theirs = Theirs(side)
    with subprocess.Popen(["sleep", "600"]) as victim:
        for folder, words in ((theirs.folder, "belongs to uid 4301"), (side.folder, "owner uid 4301")):
            path = folder / "web.pid"
            path.write_text(f"{victim.pid}\n")
            theirs.take(path)
            wrong = side.run([side.one("web", pidfile=str(path))], state=state)
            assert wrong["failed"] and words in wrong["msg"] and str(path) in wrong["msg"] and "\n" not in wrong["msg"], wrong
            assert victim.poll() is None
            path.unlink()
        victim.kill()


def test_root_takes_no_starter_from_a_folder_of_a_user(side: Side) -> None:
    theirs = Theirs(side)
    starter = theirs.folder / "start-stop-daemon"
    starter.write_text(f"#!/bin/sh\ntouch {side.folder}/obeyed\n")
    starter.chmod(0o755)
    run = Call(MODULE, {"processes": [side.one("web")]}, PATH=f"{theirs.folder}:{os.environ['PATH']}")
    wrong = run.wait()
    assert wrong["failed"] and wrong["reason"] == "unsafe_program" and "\n" not in wrong["msg"], wrong
    for words in (f"root must not run start-stop-daemon, which was found as {starter}", f"{theirs.folder} belongs to uid 4301", "remove its folder from PATH"):
        assert words in wrong["msg"], wrong
    assert not (side.folder / "obeyed").exists() and not side.pids()


@pytest.mark.parametrize("change, words", [
    ({"argv": ["app"]}, "argv must begin with the absolute path of a program"),
    ({"argv": []}, "argv must begin with the absolute path of a program"),
    ({"user": "no-such-user"}, "user no-such-user is neither a number nor a name in /etc/passwd"),
    ({"pidfile": "run/web.pid"}, "expected an absolute path, got \"run/web.pid\""),
    ({"name": "backend"}, "its name and its pidfile must be no other's"),
])
def test_bad_input_is_one_sentence_and_nothing_runs(side: Side, change: dict[str, t.Any], words: str) -> None:
    wrong = side.run([side.one("backend"), side.one("web") | change])
    assert wrong["failed"] and words in wrong["msg"] and "\n" not in wrong["msg"], wrong
    assert not side.pids()


def test_a_program_that_is_not_there_is_said(side: Side) -> None:
    side.program.unlink()
    wrong = side.run([side.one("web")])
    assert wrong["failed"] and "web" in wrong["msg"] and wrong["msg"].count("\n") == 0, wrong


def test_an_older_run_ends_and_starts_nothing(side: Side) -> None:
    newer, older = ({"deploy_id": f"20261121t08450{second}z-7f3a", "state_dir": str(side.folder / "state")} for second in (1, 0))
    assert not side.run(**newer).get("failed")
    pids = side.pids()
    refused = side.run(state="stopped", **older)
    assert refused["failed"] and refused["reason"] == "superseded" and side.pids() == pids, refused
