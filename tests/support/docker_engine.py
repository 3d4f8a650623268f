# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker engine asked over its socket, as its client asks it: what a test looks at again and again starts no program.

Invariant: it asks, runs programs in containers and removes; what a person would type stays with the client itself.
"""
from __future__ import annotations

import http.client
import json
import socket
import typing as t
from urllib.parse import quote, urlencode

PROJECT = "com.docker.compose.project"
GONE = (404, 409)   # it is not there, or its removal is under way


class Line(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class DockerEngine:
    """The engine behind a socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call(self, method: str, path: str, body: t.Any = None, *, ok: t.Sequence[int] = (), **query: t.Any) -> bytes | None:
        """The answer; None where its status is one of `ok`."""
        line = Line(self.path)
        try:
            given, headers = (None, {}) if body is None else (json.dumps(body), {"Content-Type": "application/json"})
            line.request(method, f"{path}?{urlencode(query)}" if query else path, given, headers)
            answer = line.getresponse()
            content = answer.read()
        finally:
            line.close()
        if answer.status in ok:
            return None
        assert answer.status < 300, f"the engine answers {answer.status} to {method} {path}: {content.decode(errors='replace')}"
        return content

    def ask(self, path: str, **query: t.Any) -> t.Any:
        return json.loads(self.call("GET", path, **query) or b"null")

    def answers(self) -> bool:
        try:
            return self.call("GET", "/_ping", ok=range(300, 600)) == b"OK"
        except (OSError, http.client.HTTPException):
            return False

    def inspect(self, container: str) -> dict[str, t.Any] | None:
        """As `docker inspect` shows it, by id or name; None if it is not there."""
        found = self.call("GET", f"/containers/{quote(container)}/json", ok=GONE)
        return json.loads(found) if found else None

    def containers(self, *labels: str) -> list[dict[str, t.Any]]:
        """All that have these labels, inspected, also those that do not run."""
        listed = self.ask("/containers/json", all=1, filters=json.dumps({"label": labels}))
        return [found for found in (self.inspect(one["Id"]) for one in listed) if found]

    def image(self, name: str) -> dict[str, t.Any]:
        return self.ask(f"/images/{quote(name)}/json")

    def run(self, container: str, *argv: str) -> str:
        """A program in a container, which must succeed; what it prints."""
        wanted = {"AttachStdout": True, "AttachStderr": True, "Cmd": argv}
        made = json.loads(self.call("POST", f"/containers/{quote(container)}/exec", wanted) or b"")["Id"]
        out, errors = _streams(self.call("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False}) or b"")
        code = self.ask(f"/exec/{made}/json")["ExitCode"]
        assert code == 0, f"{' '.join(argv)} in {container}: exit {code}: {errors}{out}"
        return out

    def remove_project(self, name: str) -> None:
        """Everything of a Compose project: containers, volumes, networks."""
        filters = json.dumps({"label": [f"{PROJECT}={name}"]})
        for container in self.ask("/containers/json", all=1, filters=filters):
            self.call("DELETE", f"/containers/{container['Id']}", ok=GONE, force=1, v=1)
        for volume in self.ask("/volumes", filters=filters)["Volumes"] or []:
            self.call("DELETE", f"/volumes/{volume['Name']}", ok=GONE)
        for network in self.ask("/networks", filters=filters):
            self.call("DELETE", f"/networks/{network['Id']}", ok=(*GONE, 403))


def _streams(content: bytes) -> tuple[str, str]:
    """What a program wrote to its two outputs; each piece has a head: which one, and how long."""
    found = {1: b"", 2: b""}
    while content:
        length = int.from_bytes(content[4:8], "big")
        found[content[0]] += content[8:8 + length]
        content = content[8 + length:]
    return found[1].decode(), found[2].decode()
