# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of haproxy_hold share: an edge that can hold, single requests that wait, and what is held."""
from __future__ import annotations

import contextlib
import socket
import struct
import typing as t

from edge import Edge, call, wait_for
from harness import Run

MODULE, INFO = "haproxy_hold", "haproxy_hold_info"
BACKEND = "shop-web-blue"


def options(edge: Edge, **more: t.Any) -> dict[str, t.Any]:
    return {"map_key": edge.map_key, "stats_socket": list(edge.all_stats), "master_socket": edge.master, "state_dir": str(edge.state_dir), **more}


def hold(edge: Edge, state: str, *, check: bool = False, **more: t.Any) -> dict[str, t.Any]:
    """It must work."""
    result = call(MODULE, options(edge, state=state, **more), check=check)
    assert not result.get("failed"), result["msg"]
    return result


def held(edge: Edge) -> dict[str, dict[str, t.Any]]:
    """What info tells of each app that has a hold."""
    place = {"stats_socket": list(edge.all_stats), "master_socket": edge.master}
    return {one["map_key"]: one for one in call(INFO, place)["holds"]}


def wait_until_waiting(edge: Edge, many: int, key: str = "") -> None:
    wait_for(lambda: held(edge).get(key or edge.map_key, {}).get("waiting") == many, f"{many} requests wait")


def nothing_is_held(edge: Edge) -> None:
    """No trace of a hold: neither live, nor in the file, nor beside it."""
    assert held(edge) == {} and edge.shape.hold_map.read_text() == ""
    assert [path.name for path in edge.folder.iterdir() if "holds.map" in path.name] == ["holds.map"]


def waited(run: Run) -> int:
    """How many requests have waited until the last task of a run that released them."""
    told = [one["hold"] for task in run.tasks for one in task.result.get("results", []) if (one.get("hold") or {}).get("waited")]
    assert told and not told[-1]["held"] and (told[-1]["expired"], told[-1]["refused"]) == (0, 0), told
    return told[-1]["waited"]


class Request:
    """One request on a connection of its own."""

    def __init__(self, edge: Edge, path: str = "/") -> None:
        self.line = socket.create_connection(("127.0.0.1", edge.shape.url_port), timeout=60)
        self.line.sendall(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n".encode())

    def answer(self) -> str:
        with self.line:
            return b"".join(iter(lambda: self.line.recv(65536), b"")).decode()

    def has_answer(self) -> bool:
        self.line.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return bool(self.line.recv(1, socket.MSG_PEEK))
        self.line.settimeout(60)
        return False

    def leave(self) -> None:
        """As when a browser is closed: the connection is reset."""
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.line.close()
