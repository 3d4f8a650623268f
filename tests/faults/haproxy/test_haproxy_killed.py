# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_color_switch when something goes wrong half way: the run is killed, HAProxy ends, the disk is full, others flip at the same time.

A run is killed by strace, at the nth call of the kernel that changes a file; or while something that it waits for is held back by the test.
Whatever happens, the live HAProxy, the file and the record agree after the next run, and nobody is led back to what was never proven.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest
from edge import RELEASES, Call, Edge, call, wait_for
from color_switch import (
    BLUE, GREEN, INFO, MODULE, agree, all_versions, ask, ended, filed, flip, flipped_and_held, history, layouts, prove,
    recorded, watching)
from harness import lab

LOCKS = Path("/run/reversible-haproxy")
# What a flip tells HAProxy stands between two of these: the map's file is replaced right before, and the next file is written right after.
CHANGES = "write,ftruncate,fchmod,fsync,rename,renameat,renameat2,unlink,mkdir"
KILLS = 14   # of one flip, when there is little time


@contextlib.contextmanager
def held(what: Path) -> t.Iterator[None]:
    """Somebody else flips on this HAProxy: the lock that guards its file is taken."""
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(os.path.realpath(what))).hexdigest()[:16]
    with open(LOCKS / f"{name}.lock", "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def killed_before_it_flipped(edge: Edge, **options: t.Any) -> None:
    with held(edge.map if edge.shape.method == "map" else edge.config):
        running = Call(MODULE, {**edge.options, **options})
        wait_for(lambda: [intent for intent in edge.state_dir.glob("intent*") if '"heading"' in intent.read_text()], "the intent")
        running.kill()


def killed_at_changes(edge: Edge, options: dict[str, t.Any], prepare: t.Callable[[], t.Any]) -> t.Iterator[str]:
    """A run that was killed before its first change, its second, ...; before which, as in `fsync 3`. With little time just some, evenly apart."""
    log = edge.folder / "changes.log"

    def run(*tracing: str) -> int:
        prepare()
        running = Call(MODULE, options, below=[lab("get", "strace"), "-o", str(log), "-e", f"trace={CHANGES}", *tracing])
        running.process.communicate(timeout=120)
        return running.process.returncode

    assert run() == 0
    calls = re.findall(r"(?m)^(\w+)\(", log.read_text())
    many = len(calls) if os.environ.get("REVERSIBLE_LONG") else KILLS
    for at in (number * (len(calls) - 1) // (many - 1) for number in range(many)):
        call_of_kernel, number = calls[at], calls[:at + 1].count(calls[at])
        assert run("-e", f"inject={call_of_kernel}:signal=SIGKILL:when={number}") == -signal.SIGKILL
        yield f"{call_of_kernel} {number}"


def said_truly(edge: Edge) -> bool:
    """Whether a run was stopped half way, as its intent shows; the module says so, and one of both colours answers."""
    unfinished = bool(list(edge.state_dir.glob("intent*")))
    assert bool(call(INFO, edge.place)["unfinished"]) == unfinished
    assert edge.answer() in [f"{color} {release}" for color, release in RELEASES.items()]
    return unfinished


def killed_in_its_watch(edge: Edge, color: str) -> None:
    with watching(edge, color) as running:
        running.kill()


def blue_from_the_start(edge: Edge, **options: t.Any) -> None:
    """Blue is active, and there is nothing on record but that."""
    flip(edge, "blue", **options)
    shutil.rmtree(edge.state_dir)
    flip(edge, "blue", **options)
    assert [line[0] for line in history(edge)] == ["blue"]


@contextlib.contextmanager
def master_that_never_answers_reload(edge: Edge, reloads: bool) -> t.Iterator[tuple[str, list[socket.socket]]]:
    """The path of the master's socket, but that a reload is not answered, and may not be done either; and who waits for its answer."""
    path, waiting = str(edge.folder / "deaf"), []

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                line = listener.accept()[0]
                command = b"".join(iter(lambda line=line: line.recv(4096), b"")).decode().strip()
                said = edge.master_ask(command) if reloads or command != "reload" else ""
                if command == "reload":
                    waiting.append(line)
                else:
                    line.sendall(f"{said}\n".encode())
                    line.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield path, waiting
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    for line in waiting:
        line.close()


def never_proven(edge: Edge, color: str) -> None:
    """Nobody is led to that colour, whose proof never came to its end."""
    assert not [line for line in history(edge) if line[0] == color and line[2] == "good"], history(edge)
    if history(edge)[0][0] != color:
        assert not call(INFO, edge.place)["previous"]["open"]


# Killed


@all_versions
def test_killed_before_the_flip_and_then_the_other_colour(version: str) -> None:
    with Edge(version=version) as edge:
        for again in (prove(edge), None, prove(edge, status=[299])):
            blue_from_the_start(edge)
            killed_before_it_flipped(edge, **GREEN)
            assert edge.live() == "blue" and call(INFO, edge.place)["unfinished"]
            result = call(MODULE, {**edge.options, **BLUE, "prove": again})
            assert bool(result.get("failed")) == (again == prove(edge, status=[299])), result
            assert edge.live() == "blue" and filed(edge) == "blue" and recorded(edge) == "blue\n" and edge.answer() == "blue 1111111"
            never_proven(edge, "green")
            assert history(edge)[0] == ("blue", RELEASES["blue"], "good")
        flip(edge, "blue")
        agree(edge, "blue")


@all_versions
def test_killed_in_its_watch(version: str) -> None:
    """By the same task it is finished, by the other colour it is taken back, and by both one after the other, too."""
    with Edge(version=version) as edge:
        flip(edge, "blue")
        killed_in_its_watch(edge, "green")
        result = call(MODULE, {**edge.options, **GREEN, "prove": prove(edge), "error_budget": {"watch": 0.2, "min_requests": 2}})
        assert not result.get("failed") and any("was stopped half way" in warning for warning in result["warnings"]), result
        agree(edge, "green")
        assert history(edge)[0] == ("green", RELEASES["green"], "good") and call(INFO, edge.place)["previous"]["color"] == "blue"
        for kills in (["green"], ["green", "blue"], ["green", "green", "blue", "blue"]):
            blue_from_the_start(edge)
            for color in kills:
                killed_in_its_watch(edge, color)
            flip(edge, "blue")
            agree(edge, "blue")
            never_proven(edge, "green")


@all_versions
def test_killed_in_its_watch_and_the_next_one_fails(version: str) -> None:
    with Edge(version=version) as edge:
        flip(edge, "blue")
        killed_in_its_watch(edge, "green")
        result = call(MODULE, {**edge.options, **GREEN, "prove": prove(edge, status=[299])})
        assert result["reason"] == "not_proven" and result["flip"]["reverted"], result
        agree(edge, "blue")
        never_proven(edge, "green")
        killed_in_its_watch(edge, "green")
        edge.switch("green", "web", "refuse")
        wait_for(lambda: not call(INFO, edge.place)["colors"]["green"]["up"], "green is down")
        result = call(MODULE, {**edge.options, **GREEN, "target_timeout": 0.1, "prove": prove(edge)})
        assert result["failed"] and result["reason"] in ("target_down", "not_proven"), result
        agree(edge, "blue")
        never_proven(edge, "green")


@all_versions
@pytest.mark.parametrize("then", ["green", "blue"])
def test_killed_before_and_after_each_change(version: str, then: str) -> None:
    with Edge(version=version) as edge:
        outcomes = {"before": 0, "half": 0, "done": 0}
        for change in killed_at_changes(edge, {**edge.options, **GREEN, "prove": prove(edge)}, lambda: blue_from_the_start(edge)):
            assert edge.live() in RELEASES and filed(edge) in RELEASES
            proven = ("green", RELEASES["green"], "good") in history(edge)
            outcomes["half" if said_truly(edge) else "done" if edge.live() == "green" else "before"] += 1
            flip(edge, then, prove=prove(edge, release_field="build.sha"))
            agree(edge, then)
            if then == "blue" and not proven:
                never_proven(edge, "green")
            assert history(edge)[0] == (then, RELEASES[then], "good"), (change, history(edge))
        assert all(outcomes.values()), outcomes
        nothing_of_ours_is_left(edge)


# What is killed is the same for both layouts: with little time each meets one way to go on.
WAYS_ON = [("two-backends", "green"), ("one-backend", "blue")]
ALL_WAYS_ON = [*WAYS_ON, ("two-backends", "blue"), ("one-backend", "green")]


@all_versions
@pytest.mark.parametrize(("layout", "then"), ALL_WAYS_ON if os.environ.get("REVERSIBLE_LONG") else WAYS_ON)
def test_killed_before_and_after_each_change_with_a_reload(version: str, layout: str, then: str) -> None:
    with Edge(version=version, method="reload", layout=layout) as edge:
        flip(edge, "blue", content=edge.render("blue") + "# found\n")
        outcomes = {"before": 0, "half": 0, "done": 0}
        options = {**edge.options, **GREEN, "content": edge.render("green"), "prove": prove(edge)}
        for change in killed_at_changes(edge, options, lambda: flip(edge, "blue", content=edge.render("blue"))):
            assert edge.config.read_text() in (edge.render("blue"), edge.render("green"))
            outcomes["half" if said_truly(edge) else "done" if recorded(edge) == "green\n" else "before"] += 1
            flip(edge, then, content=edge.render(then), prove=prove(edge))
            agree(edge, then)
            assert history(edge)[0] == (then, RELEASES[then], "good"), (change, history(edge))
        assert all(outcomes.values()), outcomes
        nothing_of_ours_is_left(edge)


def nothing_of_ours_is_left(edge: Edge) -> None:
    """A flip to either colour takes away what killed ones have left unfinished."""
    for color in ("blue", "green", "blue"):
        flip(edge, color, **({"content": edge.render(color)} if edge.shape.method == "reload" else {}))
    assert not [*edge.folder.glob(".*.new"), *edge.state_dir.glob(".*.new")]


@all_versions
@layouts
@pytest.mark.parametrize("reloads", [False, True])
def test_killed_between_the_new_configuration_and_its_reload(version: str, layout: str, reloads: bool) -> None:
    """Also right after it was asked for, when nobody has heard what came of it."""
    with Edge(version=version, method="reload", layout=layout) as edge, master_that_never_answers_reload(edge, reloads) as (master, waiting):
        edge.restart()  # a worker as young as can be
        options = {**edge.options, **GREEN, "content": edge.render("green")}
        running = Call(MODULE, {**options, "master_socket": master})
        wait_for(lambda: waiting, "the reload that it asks for")
        running.kill()
        assert edge.config.read_text() == edge.render("green") and call(INFO, edge.place)["unfinished"]
        if not reloads:
            assert edge.answer() == "blue 1111111"
        assert not call(MODULE, options).get("failed")
        agree(edge, "green")


@all_versions
def test_killed_while_a_new_configuration_is_checked(version: str) -> None:
    """It may hold passwords, and no copy of it stays: the next run takes that away, but not what another run is checking."""
    with Edge(version=version, method="reload") as edge, socket.create_server(("127.0.0.1", 0)) as waiting:
        waiting.settimeout(60)
        told = f"import socket, sys; s = socket.create_connection(('127.0.0.1', {waiting.getsockname()[1]})); s.send(sys.argv[1].encode()); s.recv(1)"
        options = {**edge.options, **GREEN, "content": edge.render("green")}
        checking = options | {"validate": [sys.executable, "-c", told, "%s"]}
        with ended(Call(MODULE, checking)) as running, waiting.accept()[0] as line:
            left = Path(line.recv(4096).decode())
            assert left.read_text() == edge.render("green") and left.stat().st_mode & 0o777 == 0o600
            running.kill()
        with ended(Call(MODULE, checking, check=True)) as running, waiting.accept()[0] as line:
            used = Path(line.recv(4096).decode())
            assert used != left and not left.exists() and used.exists()
            assert call(MODULE, options)["changed"] and used.exists()
            line.sendall(b"x")
            assert not running.wait().get("failed") and not used.exists()
        agree(edge, "green")


@all_versions
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_watch_goes_back(version: str, how: signal.Signals) -> None:
    with Edge(version=version) as edge, edge.load(2, pause=2) as load:
        flip(edge, "blue")
        with watching(edge, "green") as running:
            running.process.send_signal(how)
            result = running.wait(60)  # a tenth of its watch
        assert result["failed"] and result["reason"] == "interrupted" and result["flip"]["reverted"], result
        agree(edge, "blue")
        # Nothing is known against the release: it was not the reason.
        assert history(edge) == [("blue", RELEASES["blue"], "good")] and flip(edge, "green")["changed"]
    assert load.report["failed"] == 0


# HAProxy ends or starts again


@all_versions
@pytest.mark.parametrize("processes", [1, 2])
def test_haproxy_is_killed_in_the_watch(version: str, processes: int) -> None:
    with Edge(version=version, processes=processes) as edge:
        flip(edge, "blue")
        with watching(edge, "green") as running:
            edge.stop(signal.SIGKILL)
            result = running.wait(60)
        assert result["failed"] and result["reason"] in ("not_running", "no_socket"), result
        assert "blue is active in the files again, which HAProxy reads when it starts" in result["msg"]
        assert filed(edge) == "blue" and recorded(edge) == "blue\n" and not list(edge.state_dir.glob("intent*"))
        for address in edge.all_stats:
            Path(address).unlink(missing_ok=True)
        edge.start()
        agree(edge, "blue")
        assert flip(edge, "green")["changed"]


@all_versions
def test_haproxy_starts_again_before_the_watch_and_between_two_runs(version: str) -> None:
    """Another one with another count of requests, of which the run hears nothing: it reads the file, in which green stands by then."""
    with Edge(version=version) as edge:
        flip(edge, "blue")
        for well in (True, False):
            with flipped_and_held(edge, error_budget={"watch": 0.01, "min_requests": 3}) as running:
                edge.stop(signal.SIGKILL)
                edge.start()
                edge.switch("green", "web", "ok" if well else "fail-app")
                assert ask(edge, "green", 10) == (0 if well else 10)
            result = running.wait()
            edge.switch("green", "web", "ok")
            assert result["flip"]["budget"]["requests"] == 10 and bool(result.get("failed")) == (not well), result
            agree(edge, "green" if well else "blue")
            edge.restart()
            agree(edge, "green" if well else "blue")
            flip(edge, "blue")
            agree(edge, "blue")


@all_versions
def test_haproxy_stands_still_in_the_watch(version: str) -> None:
    """It answers nothing, also on the way back, and does later what it was told then: that was us, and nobody's hand."""
    with Edge(version=version) as edge:
        flip(edge, "blue")
        with watching(edge, "green") as running:
            worker = edge.worker_pid()
            os.kill(worker, signal.SIGSTOP)
            try:
                result = running.wait()
            finally:
                os.kill(worker, signal.SIGCONT)
        assert result["failed"] and result["reason"] == "not_reverted" and result["changed"], result
        assert filed(edge) == "blue"
        wait_for(lambda: edge.live() == "blue", "it does what it was told")
        seen = call(INFO, edge.place)
        assert seen["unfinished"] and len(seen["drift"]) == 1 and "blue is active: a run was killed" in seen["drift"][0], seen
        flip(edge, "blue")
        agree(edge, "blue")
        never_proven(edge, "green")


# Others at the same time


@all_versions
def test_two_flips_at_once_to_different_colours(version: str) -> None:
    with Edge(version=version) as edge, edge.load(2, pause=2) as load:
        for _round in range(20):
            both = [Call(MODULE, {**edge.options, **color, "prove": prove(edge)}) for color in (GREEN, BLUE)]
            results = [one.wait() for one in both]
            # The first one's colour may have been left already when it is proven: never, since they take turns.
            assert not any(result.get("failed") for result in results), results
            agree(edge, edge.live() or "")
            assert history(edge)[0][0] == edge.live()
    assert load.report["failed"] == 0


@all_versions
def test_two_keys_of_one_map_at_once(version: str) -> None:
    with Edge(version=version) as edge:
        other = edge.options | {"map_key": "other-app", "state_dir": f"{edge.folder}/other", "backends": ["shop-web-{color}"]}
        for color in itertools.islice(itertools.cycle(["green", "blue"]), 20):
            both = [Call(MODULE, {**options, "color": color}) for options in (edge.options, other)]
            assert all(one.wait()["changed"] for one in both)
            agree(edge, color)
            assert filed(edge, "other-app") == color and len(edge.map.read_text().splitlines()) == 3


@all_versions
def test_who_does_not_get_its_turn_says_who_has_it(version: str) -> None:
    with Edge(version=version) as edge:
        log = edge.folder / "locks.log"
        with watching(edge, "green", below=[lab("get", "strace"), "-D", "-o", str(log), "-e", "trace=flock"]) as running:
            result = call(MODULE, {**edge.options, **BLUE, "lock_timeout": 0.3})
            assert result["failed"] and f"pid {running.pid} (haproxy_color_switch" in result["msg"] and edge.live() == "green", result
            assert not result["changed"]
            with held(edge.map):  # the watch of one app does not hold it, and the way back waits for it
                running.process.send_signal(signal.SIGTERM)
                wait_for(lambda: "EAGAIN" in log.read_text(), "it finds the lock taken")
                assert edge.live() == "green"
            assert running.wait(60)["flip"]["reverted"]
        agree(edge, "blue", record=False)
        assert recorded(edge) is None


# No space


@contextlib.contextmanager
def small(folder: Path, size: str) -> t.Iterator[t.Callable[[int], None]]:
    """A file system of its own at that folder; the function fills it up to so many free pages."""
    folder.mkdir(mode=0o755, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder], check=True)
    filler, page = folder / "filler", os.sysconf("SC_PAGE_SIZE")

    def fill(pages: int) -> None:
        filler.unlink(missing_ok=True)
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize // page
        filler.write_bytes(b"x" * page * max(free - pages, 0))

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@all_versions
@pytest.mark.parametrize("method", ["map", "reload"])
def test_the_disk_of_the_state_is_full_at_each_write(version: str, method: str) -> None:
    with Edge(version=version, method=method) as edge, small(edge.state_dir, "256k") as fill:
        content = {"content": edge.render("green")} if method == "reload" else {}
        failed = 0
        for pages in range(0, 40):
            for path in edge.state_dir.iterdir():
                path.unlink()
            fill(pages)
            result = call(MODULE, {**edge.options, **GREEN, **content, "prove": prove(edge), "deploy_id": "20261121t084500z-7f3a"})
            if not result.get("failed"):
                break
            failed += 1
            assert "No space left" in result["msg"] and result["reason"] != "not_reverted", (pages, result)
            assert edge.live() == "blue" and edge.answer() == "blue 1111111" and recorded(edge) is None, (pages, result)
            assert not list(edge.state_dir.glob("intent*")) and (method == "reload" or filed(edge) == "blue")
        agree(edge, "green")
        assert failed >= 4, failed  # the fence, the intent, the record, the history


@all_versions
@pytest.mark.parametrize("method", ["map", "reload"])
def test_the_disk_of_the_map_or_the_configuration_is_full(version: str, method: str) -> None:
    folder = Path(f"/run/edge-full-{os.getpid()}-{method}")
    with small(folder, "4m") as fill:
        with Edge(folder, version=version, method=method) as edge:
            edge.state_dir = folder.with_name(f"{folder.name}-state")
            edge.options["state_dir"] = edge.place["state_dir"] = str(edge.state_dir)
            try:
                content = {"content": edge.render("green")} if method == "reload" else {}
                flip(edge, "blue", **({"content": edge.render("blue")} if content else {}))
                fill(0)
                result = call(MODULE, {**edge.options, **GREEN, **content})
                assert result["failed"] and "No space left" in result["msg"] and result["reason"] != "not_reverted", result
                agree(edge, "blue")
                assert history(edge) == [("blue", RELEASES["blue"], "good")]
                fill(500)
                flip(edge, "green", **content)
                agree(edge, "green")
            finally:
                if edge.state_dir.exists():  # not where the first flip failed
                    shutil.rmtree(edge.state_dir)
    folder.rmdir()


@all_versions
@pytest.mark.parametrize("method", ["map", "reload"])
def test_a_flip_back_finds_room_on_a_full_disk(version: str, method: str) -> None:
    """All that it writes lies on one disk. What goes forward is refused there, and leaves what is kept for the way back."""
    folder = Path(f"/run/edge-back-{os.getpid()}-{method}")
    with small(folder, "6m") as fill:
        with Edge(folder, version=version, method=method) as edge:
            reserve, whole = edge.state_dir / ".reserve", 512
            content = {color: {"content": edge.render(color)} if method == "reload" else {} for color in RELEASES}
            flip(edge, "blue", **content["blue"])
            assert reserve.stat().st_blocks == whole
            flip(edge, "green", **content["green"])
            fill(0)
            result = call(MODULE, {**edge.options, **BLUE, **content["blue"]})
            assert result["failed"] and result["reason"] == "no_space", result
            agree(edge, "green")
            assert reserve.stat().st_blocks == whole
            flip(edge, "previous", rollback_id="20261121t084501z-7f3a", **content["blue"])
            agree(edge, "blue")
            assert reserve.stat().st_blocks < whole and history(edge)[-1] == ("blue", RELEASES["blue"], "good")
            fill(500)
            flip(edge, "green", **content["green"])
            agree(edge, "green")
            assert reserve.stat().st_blocks == whole, "made whole by the next run that finds room"
    folder.rmdir()
