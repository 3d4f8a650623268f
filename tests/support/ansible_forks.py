# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of ansible-playbook and ansible as forks of a server that has them loaded (ansible_server.py): a third of the work of a new process.

There is a server for each Python of an ansible-core, each environment and each content of ansible.cfg, since ansible-core reads these when
it is loaded.
"""
from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import typing as t
from pathlib import Path

from ansible_server import PER_RUN, READY

PROGRAM = Path(__file__).with_name("ansible_server.py")
MOST = 8   # servers at a time, of some 70 MB each; the one that was used longest ago goes first
LOADING = 120   # seconds until one that loads is given up: its runs are new processes then
FORKING = 60


class ForkedProcess:
    """A run in a fork of a server, with what is used here of subprocess.Popen."""

    def __init__(self, server: "Server", argv: list[str], report: socket.socket) -> None:
        self.args, self.returncode = argv, None
        self._server, self._report = server, report
        pid = self._told(FORKING)
        assert pid is not None, f"no fork within {FORKING} s: {server.log()}"
        self.pid = pid

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, t.cast(float, timeout))
        return t.cast(int, self.returncode)

    def send_signal(self, how: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, how)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self.returncode = self._told(timeout)
            if self.returncode is not None:
                self._report.close()
        return self.returncode

    def _told(self, timeout: float | None) -> int | None:
        """What the server reports next of the run."""
        if not select.select([self._report], [], [], timeout)[0]:
            return None
        number = self._report.recv(16)
        if not number:
            raise RuntimeError(f"the server ended before its run: {self._server.log()}")
        return int(number)


class Server:
    """One ansible-core, loaded in one environment."""

    def __init__(self, script: Path, environ: dict[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = tempfile.TemporaryFile()
        python = script.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!")
        argv = [python, str(PROGRAM), str(theirs.fileno()), str(script.parent), str(kept(script, environ))]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, env=environ, cwd="/",
                                         pass_fds=[theirs.fileno()])
        self.pid = self._process.pid
        theirs.close()

    def is_usable(self) -> bool:
        """What it prints while it loads, a run would have to print."""
        there_is = select.select([self._control], [], [], LOADING)[0]
        return bool(there_is) and self._control.recv(16) == READY and not self.log()

    def start(self, argv: list[str], environ: dict[str, str], folder: Path, output: t.IO) -> ForkedProcess:
        said, network = os.memfd_create("run"), os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with open(said, "w", encoding="utf-8") as file, theirs:
            json.dump({"argv": argv, "environ": environ, "folder": str(folder)}, file)
            file.flush()
            file.seek(0)
            socket.send_fds(self._control, [b"run"], [said, output.fileno(), network, theirs.fileno()])
        os.close(network)
        return ForkedProcess(self, argv, ours)

    def log(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def retire(self) -> None:
        """It ends by itself when its runs have ended."""
        self._control.close()

    def end(self) -> None:
        """Now; runs that nobody has waited for go on."""
        self._control.close()
        self._process.kill()
        self._process.wait()


def kept(script: Path, environ: dict[str, str]) -> Path:
    """A folder for what depends on this ansible-core, its configuration and its plugins, and on nothing else. In a sandbox, where collections
    stay as they are, all files of tests share it."""
    global _kept_here
    if environ.get("REVERSIBLE_SANDBOX"):
        parent = Path(tempfile.gettempdir(), "ansible-templates")
    else:
        _kept_here = _kept_here or tempfile.TemporaryDirectory(prefix="ansible-templates-")
        parent = Path(_kept_here.name)
    settings = sorted((name, value) for name, value in environ.items() if name.startswith("ANSIBLE_"))
    said = repr((str(script.parent), settings, Path(environ.get("ANSIBLE_CONFIG", os.devnull)).read_bytes()))
    folder = parent / hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_kept_here: tempfile.TemporaryDirectory | None = None
_servers: dict[t.Hashable, Server | None] = {}   # the one used last comes last; None where it cannot be used
_retired: list[Server] = []


def start(argv: list[str], environ: dict[str, str], folder: Path, output: t.IO) -> ForkedProcess | subprocess.Popen:
    """Start a run in a fork, or in a new process where no server can be used."""
    same = {name: value for name, value in environ.items() if not name.startswith(PER_RUN)}
    key = argv[0].rpartition("/")[0], frozenset(same.items()), Path(environ["ANSIBLE_CONFIG"]).read_bytes()
    server = _servers.pop(key) if key in _servers else _new(Path(argv[0]), same)
    _servers[key] = server
    return server.start(argv, environ, folder, output) if server else start_new(argv, environ, folder, output)


def start_new(argv: list[str], environ: dict[str, str], folder: Path, output: t.IO) -> subprocess.Popen:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environ, cwd=folder)


def _new(script: Path, environ: dict[str, str]) -> Server | None:
    while len(_servers) >= MOST:
        oldest = _servers.pop(next(iter(_servers)))
        if oldest:
            oldest.retire()
            _retired.append(oldest)
    server = Server(script, environ)
    if server.is_usable():
        return server
    server.end()
    return None


@atexit.register
def end_all() -> None:
    for server in [*_servers.values(), *_retired]:
        if server:
            server.end()
    _servers.clear()
    _retired.clear()
