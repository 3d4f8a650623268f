# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of health_gate share: the gate run directly, servers that behave as told, and programs that stand in for clients.

A server is a function of a connection. A stand-in for docker, incus, pct, pvesh, systemctl or journalctl answers what a test wrote down
for it, and only to the very arguments that the module is meant to give; everything else is an error that the test sees.
"""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest
from edge import Call, call
from harness import wait_for

Result = t.Dict[str, t.Any]
ONCE = {"tries": 1, "delay": 0.05, "timeout": 60}


def gate(*probes: t.Mapping[str, t.Any], environ: t.Mapping[str, str] | None = None, check: bool = False, **options: t.Any) -> Result:
    """Run it with these probes; each is asked once unless it says otherwise. What does not fail must not have changed anything."""
    asked = {"probes": [{**ONCE, **probe} for probe in probes], "deadline": 100, **options}
    result = call("health_gate", asked, check=check, **(environ or {}))
    assert result["changed"] is False, result
    return result


def _watching(running: Call) -> dict[str, str]:
    """The number of the kernel's call that each of its probes sleeps in, by thread; nothing unless all do."""
    calls = {}
    for thread in Path(f"/proc/{running.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if (thread / "comm").read_text(encoding="utf-8") == "probe\n":
                if (thread / "wchan").read_text(encoding="utf-8") != "hrtimer_nanosleep":
                    return {}
                calls[thread.name] = _call_of(running, thread.name)
    return calls


def _call_of(running: Call, thread: str) -> str:
    return Path(f"/proc/{running.pid}/task/{thread}/syscall").read_text(encoding="utf-8").split()[0]


def _is_stopped(running: Call) -> bool:
    threads = Path(f"/proc/{running.pid}/task").iterdir()
    return {(thread / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] for thread in threads} == {"T"}


@contextlib.contextmanager
def between_looks(start: t.Callable[[], Call]) -> t.Iterator[Call]:
    """A gate all of whose probes have seen what is there, and have not looked again: it stands still for as long as the body takes.

    One that this machine was too busy to stop within its window goes on to its end, and another one is started."""
    while True:
        running = start()
        watching = wait_for(lambda: running.process.poll() is not None or _watching(running), "all its probes watch", 60)
        if watching is not True:
            os.kill(running.pid, signal.SIGSTOP)
            try:
                wait_for(lambda: _is_stopped(running), "it stands still", 60)
                # A call that the stop interrupts is still the one that a thread is in.
                if watching == {thread: _call_of(running, thread) for thread in watching}:
                    yield running
                    return
            finally:
                os.kill(running.pid, signal.SIGCONT)
        running.process.communicate(timeout=100)


def one(probe: t.Mapping[str, t.Any], **options: t.Any) -> Result:
    """The row of a gate's only probe."""
    [row] = gate({"name": "it", **probe}, **options)["probes"]
    return row


def holds(probe: t.Mapping[str, t.Any], **options: t.Any) -> Result:
    row = one(probe, **options)
    assert row["ok"] is True and row["why"] is None, row
    return row


def fails(probe: t.Mapping[str, t.Any], *words: str, **options: t.Any) -> Result:
    """It has not held, and says so in one line that holds these words."""
    result = gate({"name": "it", **probe}, **options)
    [row] = result["probes"]
    assert row["ok"] is False and result["failed"] and result["reason"] == "gate_failed", result
    assert result["msg"] == f"1 of 1 probe failed: it; it: {row['why']}", result
    assert all(word in row["why"] for word in words) and "\n" not in row["why"] and len(row["why"]) <= 503, row["why"]
    return row


def refused(result: Result, *words: str) -> None:
    """Options that cannot be: one sentence, and nothing was asked."""
    assert result["failed"] and result["reason"] == "bad_options" and "probes" not in result, result
    assert all(word in result["msg"] for word in words) and "\n" not in result["msg"], result["msg"]


class Server:
    """A listener on loopback; `behave` gets each connection in a thread of its own, after it was asked unless `mute`."""

    def __init__(
        self, behave: t.Callable[[socket.socket], None], mute: bool = False, wrap: t.Callable[[socket.socket], socket.socket] | None = None
    ):
        self._behave, self._mute, self._wrap = behave, mute, wrap
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # The other side may go away at any moment: that is what many of the tests are about.
        with contextlib.suppress(OSError), connection:
            if self._wrap:
                connection = self._wrap(connection)
            request = b""
            while not self._mute and b"\r\n\r\n" not in request:
                more = connection.recv(4096)
                if not more:
                    return
                request += more
            with self._lock:
                self.requests.append(request.decode("latin-1"))
            try:
                self._behave(connection)
            finally:
                connection.close()

    def close(self) -> None:
        # shutdown wakes the thread that accepts; close alone does not
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def answer(body: str = "ok", status: str = "200 OK", **headers: str) -> t.Callable[[socket.socket], None]:
    """A plain answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda connection: connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def in_turn(*behaviours: t.Callable[[socket.socket], None]) -> t.Callable[[socket.socket], None]:
    """Each connection gets the next behaviour; the last stays."""
    left = list(behaviours)
    return lambda connection: (left.pop(0) if len(left) > 1 else left[0])(connection)


class Servers:
    def __init__(self) -> None:
        self._all: list[Server] = []

    def __call__(self, behave: t.Callable[[socket.socket], None], **how: t.Any) -> Server:
        self._all.append(Server(behave, **how))
        return self._all[-1]

    def close(self) -> None:
        for server in self._all:
            server.close()


@pytest.fixture
def serve() -> t.Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


class Fakes:
    """Programs on a PATH of their own, which say what the test wrote down."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    def say(self, program: str, argv: t.Sequence[str], stdout: t.Any = "", stderr: str = "", rc: int = 0) -> None:
        """What `program` answers to exactly these arguments."""
        known = self.folder / f"{program}.json"
        answers = json.loads(known.read_text(encoding="utf-8")) if known.exists() else []
        text = stdout if isinstance(stdout, str) else json.dumps(stdout)
        answers = [entry for entry in answers if entry["argv"] != list(argv)]
        answers.append({"argv": list(argv), "stdout": text, "stderr": stderr, "rc": rc})
        known.write_text(json.dumps(answers), encoding="utf-8")
        script = self.folder / program
        script.write_text(
            f"#!{sys.executable}\n"
            "import json, sys\n"
            f"answers = json.load(open({str(known)!r}))\n"
            f"print(json.dumps(sys.argv[1:]), file=open({str(known.with_suffix('.asked'))!r}, 'a'))\n"
            "for entry in answers:\n"
            "    if entry['argv'] == sys.argv[1:]:\n"
            "        sys.stdout.write(entry['stdout']); sys.stderr.write(entry['stderr']); sys.exit(entry['rc'])\n"
            "sys.exit('this stand-in was not told about: ' + json.dumps(sys.argv[1:]))\n", encoding="utf-8")
        script.chmod(0o755)

    def asked(self, program: str) -> int:
        """How often it was; what it will say was settled before it counted."""
        counted = self.folder / f"{program}.asked"
        return len(counted.read_text(encoding="utf-8").splitlines()) if counted.exists() else 0

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(tmp_path / "fakes")


class Certificates(t.NamedTuple):
    authority: Path
    certificate: Path
    key: Path


def certificates(folder: Path, name: str, days: int = 2) -> Certificates:
    """An authority and a certificate for a name, by openssl."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl on this machine to make certificates with")

    def openssl(*words: t.Any) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=folder)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=an authority of the tests")
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={name}")
    (folder / "names").write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n", encoding="utf-8")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", days,
            "-extfile", "names", "-out", "server.pem")
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
