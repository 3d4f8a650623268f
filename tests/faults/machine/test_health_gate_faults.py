# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""health_gate against servers that do not behave, options that cannot be, and signals: a sentence each, at once or at the deadline."""
from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import typing as t
from pathlib import Path

import pytest
from edge import Call, call
from gate import ONCE, Servers, answer, certificates, fails, gate, holds, refused, serve  # noqa: F401  (serve is a fixture)
from harness import wait_for

# Servers


def hang(connection: socket.socket) -> None:
    connection.settimeout(600)
    connection.recv(1)


def begin(text: str, then: t.Callable[[socket.socket], None] = hang) -> t.Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.sendall(text.encode())
        then(connection)
    return behave


def drip(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")
        threading.Event().wait(0.1)


def flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 65536)


def close(_: socket.socket) -> None:
    pass


SLOW = [
    ("never answers", hang, "the time ended before the headers"),
    ("sends its head a letter at a time", begin("HTTP/1.1 200 OK\r\nA: ", drip), "the time ended before the headers"),
    ("never ends its body", begin("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), "after 3 bytes of the body"),
    ("drips its body", begin("HTTP/1.1 200 OK\r\n\r\n", drip), "bytes of the body"),
]
AT_ONCE = [
    ("closes at once", close, "closed the connection"),
    ("closes in its body", begin("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", close), "after 3 bytes"),
    ("speaks something else", begin("SSH-2.0-OpenSSH_9.2p1\r\n\r\n", close), "does not speak HTTP"),
    ("sends endless headers", begin("HTTP/1.1 200 OK\r\nA: ", flood), "headers of more than 64 KiB"),
]


def test_slow_servers(serve: Servers) -> None:
    """Each is left when its time ends. It is long enough for what they do send to have come."""
    probes = [{"name": name, "kind": "http", "url": serve(behave).url, "timeout": 5} for name, behave, _ in SLOW]
    for row, (_, _, words) in zip(gate(*probes)["probes"], SLOW):
        assert row["ok"] is False and words in row["why"] and row["answer"] is None and row["milliseconds"] >= 5000, row


@pytest.mark.parametrize("behave, words", [row[1:] for row in AT_ONCE], ids=[row[0] for row in AT_ONCE])
def test_broken_servers(serve: Servers, behave: t.Callable[[socket.socket], None], words: str) -> None:
    fails({"kind": "http", "url": serve(behave).url}, words)


def test_a_port_that_nobody_serves() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        fails({"kind": "tcp", "host": "127.0.0.1", "port": port}, "connection refused")
        # Half open: the kernel takes the connection and nobody ever takes it from there.
        listener.listen(1)
        holds({"kind": "tcp", "host": "127.0.0.1", "port": port})
        fails({"kind": "http", "url": f"http://127.0.0.1:{port}/", "timeout": 0.5}, "0.5 s")


def test_a_huge_body_costs_no_memory(serve: Servers) -> None:
    def huge(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
        flood(connection)

    server = serve(huge)
    row = holds({"kind": "http", "url": server.url})
    assert row["answer"] == "status 200, 1048576 bytes and more"
    fails({"kind": "http", "url": server.url, "text": "needle"}, "it is not in the first 1048576 bytes")
    fails({"kind": "http", "url": server.url, "json": {"a": 1}}, "longer than the 1048576 bytes")


def test_redirect_loops(serve: Servers) -> None:
    def around(connection: socket.socket) -> None:
        answer("", "302 Found", Location="/again")(connection)

    server = serve(around)
    fails({"kind": "http", "url": server.url, "redirects": 5}, "redirects more often than allowed (5)")
    assert len(server.requests) == 6
    away = serve(answer("", "302 Found", Location="ftp://127.0.0.1/"))
    fails({"kind": "http", "url": away.url, "redirects": 5}, "must not be followed")


def test_wrong_tls(serve: Servers, tmp_path: Path) -> None:
    plain = serve(answer())
    fails({"kind": "http", "url": f"https://127.0.0.1:{plain.port}/", "insecure": True, "timeout": 2})
    made = certificates(tmp_path, "shop.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    secure = serve(answer(), wrap=lambda connection: context.wrap_socket(connection, server_side=True))
    place = {"kind": "http", "url": "https://shop.example/", "connect_to": f"127.0.0.1:{secure.port}"}
    fails({"kind": "http", "url": secure.url, "timeout": 5})
    fails({**place, "ca_file": str(made.certificate)})  # no authority, but the server's own
    fails({**place, "ca_file": str(tmp_path / "gone.pem")}, "does not exist")
    fails({**place, "ca_file": str(made.key)}, "contains no certificate")
    silent = serve(hang, mute=True)
    fails({**place, "connect_to": f"127.0.0.1:{silent.port}", "timeout": 0.5}, "TLS handshake")


def test_one_that_hangs_does_not_keep_the_others(serve: Servers) -> None:
    """31 servers hang until the other probes have been answered."""
    answered, let_go = threading.Semaphore(0), threading.Event()

    def quickly(connection: socket.socket) -> None:
        answer()(connection)
        answered.release()

    slow, quick = serve(lambda _: t.cast(None, let_go.wait(100))), serve(quickly)
    probes = [{**ONCE, "name": f"slow{number}", "kind": "http", "url": slow.url, "timeout": 100} for number in range(31)]
    more = [{**ONCE, "name": f"quick{number}", "kind": "http", "url": quick.url, "timeout": 100} for number in range(9)]
    running = Call("health_gate", {"probes": [*probes, *more], "deadline": 100})
    assert all(answered.acquire(timeout=60) for _ in more)
    wait_for(lambda: len(slow.requests) == 31, "all others wait", 60)
    let_go.set()
    result = running.wait()
    assert result["failed_probes"] == [probe["name"] for probe in probes] and result["held"] == 9


# Options that cannot be


DISK = {"name": "it", "kind": "disk", "path": "/"}
HTTP = {"name": "it", "kind": "http", "url": "http://127.0.0.1/"}
QUERY = {"name": "it", "kind": "prometheus", "url": "http://127.0.0.1/", "query": "up", "max": 1}
LOG = {"name": "it", "kind": "logs", "path": "/var/log/shop.log", "text": "ERROR"}
CANNOT_BE = [
    ({**DISK, "name": ""}, "expected a name"),
    ({**DISK, "kind": "disc"}, "value of kind must be one of", "Did you mean disk?"),
    ({**DISK, "pth": "/"}, "Unsupported parameters", "Did you mean path?"),
    ({**DISK, "port": 80}, "probe it: the option port is not for kind disk"),
    ({**DISK, "path": "var"}, "expected an absolute path"),
    ({**DISK, "max": 90}, "expected a share from 0 to 1", "got 90"),
    ({**DISK, "tries": 0}, "expected 1 or more, got 0"),
    ({**DISK, "tries": "many"}, "argument 'tries'"),
    ({**DISK, "tries": 2, "consecutive": 3}, "3 tries in a row need more tries than 2"),
    ({**DISK, "delay": -1}, "expected seconds"),
    ({**DISK, "timeout": 0}, "more than 0"),
    ({"name": "it", "kind": "http"}, "probe it: kind http needs url"),
    ({**HTTP, "url": "http://me:s3cr3t@127.0.0.1/"}, "user and password in a URL"),
    ({**HTTP, "url": "127.0.0.1"}, "not a URL"),
    ({**HTTP, "status": [99]}, "99 is not an HTTP status"),
    ({**HTTP, "redirects": 99}, "20 at most"),
    ({**HTTP, "text": ""}, "expected a text that is not empty"),
    ({**HTTP, "release": "4f2d1c9"}, "release needs release_field or release_header"),
    ({**HTTP, "release_field": "sha"}, "need release"),
    ({**HTTP, "connect_to": "localhost"}, "expected an address and a port"),
    ({**HTTP, "headers": {"X-Token": "s3cr3t\r\nX: y"}}, "control character"),
    ({**HTTP, "insecure": True, "ca_file": "/ca.pem"}, "give one"),
    ({"name": "it", "kind": "tcp", "host": "127.0.0.1", "port": 65536}, "expected 1 to 65535"),
    ({"name": "it", "kind": "command", "argv": []}, "expected a program and its arguments"),
    ({"name": "it", "kind": "docker", "containers": ["--help"]}, "not beginning with -"),
    ({"name": "it", "kind": "docker", "containers": []}, "kind docker needs containers"),
    ({"name": "it", "kind": "pct", "vmid": 5}, "expected 100 or more"),
    ({"name": "it", "kind": "unit", "unit": "a b"}, "expected a name of letters"),
    ({"name": "it", "kind": "unit", "unit": "a", "state": ["up"]}, "is none of active"),
    ({key: value for key, value in QUERY.items() if key != "max"}, "every value would do"),
    ({**QUERY, "min": 2}, "2 is above max (1)"),
    ({**QUERY, "max_factor": 0}, "expected a number above 0"),
    ({**QUERY, "for": 60, "window": 30}, "no more than window"),
    ({**QUERY, "min_samples": 3}, "give window too"),
    ({**QUERY, "url": "http://127.0.0.1/?a=b"}, "without a query"),
    ({**LOG, "regex": "x"}, "needs either text or regex"),
    ({**LOG, "text": None, "regex": "(unclosed"}, "argument 'regex'"),
    ({**LOG, "unit": "shop"}, "needs one of unit, container and path"),
    ({**LOG, "instance": "a", "vmid": 100}, "instance and vmid exclude each other"),
    ({**LOG, "max": 0.5}, "expected a whole number"),
    ({**LOG, "min": 0}, "expected a whole number, 1 or more, got 0"),
    ({**LOG, "min": 1, "max": 3}, "max and min exclude each other"),
    ({**LOG, "min": 1, "window": 3}, "with min, tries and delay say how long to wait"),
    ({"name": "it", "kind": "restarts"}, "needs either containers or unit"),
]


@pytest.mark.parametrize("row", CANNOT_BE, ids=lambda row: row[1])
def test_a_probe_that_cannot_be(row: tuple[t.Any, ...]) -> None:
    probe, *words = row
    result = call("health_gate", {"probes": [probe]})
    refused(result, *words)
    assert "s3cr3t" not in str(result)
    refused(call("health_gate", {"probes": [probe]}, check=True), *words)


@pytest.mark.parametrize("options, words", [
    ({}, "missing required arguments: probes"),
    ({"probes": []}, "expected one or more probes"),
    ({"probes": "disk"}, "value of 'probes' must be of type dict or list of dicts"),
    ({"probes": [DISK, DISK]}, "two probes have the name it"),
    ({"probes": [DISK], "require": 2}, "expected all, or a number up to 1, got 2"),
    ({"probes": [DISK], "require": "most"}, 'got "most"'),
    ({"probes": [DISK], "deadline": 0}, "more than 0"),
    ({"probes": [DISK], "baseline": {"skipped": True}}, "expected the registered result"),
    ({"probes": [DISK], "baseline": "before"}, "argument 'baseline'"),
    ({"probes": [DISK], "probe": []}, "Did you mean probes?"),
])
def test_a_gate_that_cannot_be(options: dict[str, t.Any], words: str) -> None:
    refused(call("health_gate", options), words)


def test_a_baseline_of_another_making() -> None:
    """Whatever stands in it, there is a sentence, and a probe that must be compared has not held."""
    log = {**LOG, "path": "/proc/self/status", "window": 0}
    row = {"name": "it", "kind": "logs"}
    for rows in ([], [None, 5, "x"], [{"name": "it"}], [{**row, "seen": []}], [{**row, "seen": {"log": 7}}],
                 [{**row, "seen": {"log": {"inode": -1, "size": "x"}}}]):
        result = gate(log, baseline={"probes": rows})
        assert result["failed"] and result["reason"] == "gate_failed" and result["failed_probes"] == ["it"], result

# Being stopped


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(serve: Servers, tmp_path: Path, how: signal.Signals) -> None:
    mark = tmp_path / "pid"
    slow = serve(hang)
    probes = [
        {**ONCE, "name": "program", "kind": "command", "argv": ["sh", "-c", f"echo $$ > {mark}; sleep 600"], "timeout": 600},
        {**ONCE, "name": "web", "kind": "http", "url": slow.url, "timeout": 600},
        {**ONCE, "name": "log", "kind": "logs", "path": __file__, "text": "x", "window": 600},
        {**ONCE, "name": "pause", "kind": "command", "argv": ["false"], "tries": 9, "delay": 300},
    ]
    running = Call("health_gate", {"probes": probes, "deadline": 1000})
    pid = int(wait_for(lambda: mark.exists() and mark.read_text(encoding="utf-8").strip(), "the program runs"))
    os.kill(running.pid, how)
    result = running.wait(60)
    assert result["failed"] and result["reason"] == "interrupted" and how.name in result["msg"], result
    wait_for(lambda: not _runs(pid), "the program was ended")


def test_killed_it_leaves_no_program_behind(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    sleeps = {"kind": "command", "argv": ["sh", "-c", f"echo $$ > {mark}; exec sleep 600"], "timeout": 600}
    running = Call("health_gate", {"probes": [{**ONCE, "name": "it", **sleeps}]})
    pid = int(wait_for(lambda: mark.exists() and mark.read_text(encoding="utf-8").strip(), "the program runs"))
    running.kill()
    wait_for(lambda: not _runs(pid), "the program was ended")


def _runs(pid: int) -> bool:
    """A zombie does not: on some machines nobody takes what is left of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):   # it may end between opening and reading
        return False
