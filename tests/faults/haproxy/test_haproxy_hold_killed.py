# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_hold is killed before each call of the kernel that changes a file or tells HAProxy something; or cannot do all of it.

Whatever happens, nobody waits for longer than the hold that was asked for, and the next run finds what is left of it.
"""
from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import typing as t
from pathlib import Path

from color_switch import all_versions, raw_answer
from edge import Call, Edge, call
from holds import MODULE, hold, nothing_is_held, options

import strace

CHANGES = ("sendto", "write", "fsync", "rename", "renameat2")
MOST = 20


def killed(edge: Edge, state: str) -> t.Callable[[list[str]], bool]:
    def kill(below: list[str]) -> bool:
        running = Call(MODULE, options(edge, state=state, most=MOST), below=below)
        running.process.communicate(timeout=120)
        return strace.was_killed(running.process.returncode)
    return kill


def ends(edge: Edge) -> list[int]:
    """When each hold ends that stands in the live map or in the file, in milliseconds."""
    text = edge.ask(f"show map {edge.shape.hold_map}") + edge.shape.hold_map.read_text()
    assert text.count(edge.map_key) == len(found := re.findall(r"since=(\d+),until=(\d+),by=-", text)), text
    assert all(int(until) - int(since) == MOST * 1000 for since, until in found)
    return [int(until) for _, until in found]


@contextlib.contextmanager
def answering(path: Path, edge: Edge) -> t.Iterator[None]:
    """A socket that passes on what is asked of the second HAProxy, but no `add map`."""
    def answer(line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            command = b"".join(iter(lambda: line.recv(4096), b""))
            line.sendall(b"Out of memory error." if command.startswith(b"add map") else raw_answer(edge.all_stats[1], command))

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                answer(listener.accept()[0])

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


@all_versions
def test_killed_anywhere_it_leaves_at_most_a_hold_that_ends(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        left = set()
        for _moment in strace.moments(CHANGES, killed(edge, "held")):
            left.add(len(ends(edge)))
            hold(edge, "released")
            assert ends(edge) == []
        # Killed before it wrote anything, between the file and the live map, and after both.
        assert left == {0, 1, 2}
        hold(edge, "released")
        # The last run has also removed what the others had begun to write.
        nothing_is_held(edge)


@all_versions
def test_a_release_that_was_killed_is_finished_by_the_next(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        left = set()
        hold(edge, "held", most=MOST)
        for _moment in strace.moments(CHANGES, killed(edge, "released")):
            left.add(len(ends(edge)))
            hold(edge, "held", most=MOST)
            assert len(ends(edge)) == 2
        assert left == {0, 1, 2}
        nothing_is_held(edge)


@all_versions
def test_a_file_that_a_reload_would_not_read_holds_nobody(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        # A mount of this one file keeps the old one when another is renamed over it.
        copy = edge.folder / "copy"
        copy.write_text("")
        subprocess.run(["mount", "--bind", copy, edge.shape.hold_map], check=True)
        try:
            result = call(MODULE, options(edge))
            assert result["failed"] and result["reason"] == "other_file" and "nothing was changed" in result["msg"], result
            assert edge.answer().startswith("blue ")
        finally:
            subprocess.run(["umount", edge.shape.hold_map], check=True)
        nothing_is_held(edge)


@all_versions
def test_who_cannot_be_told_undoes_the_hold_of_the_first(version: str) -> None:
    """The second HAProxy answers what is asked, and refuses what changes its map."""
    with Edge(version=version, hold=True, processes=2) as edge:
        weak = edge.folder / "weak"
        with answering(weak, edge):
            result = call(MODULE, options(edge, stats_socket=[edge.stats, str(weak)]))
        assert result["failed"] and "no request is held" in result["msg"], result
        assert edge.answer().startswith("blue ")
        nothing_is_held(edge)
