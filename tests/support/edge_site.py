# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site: servers of every kind, and the HAProxy that the role haproxy makes before them."""
from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import http.server
import os
import socket
import socketserver
import struct
import threading
import time
import typing as t
from pathlib import Path

from harness import LOCAL, OLDEST, PIPELINING, ROOT, Ansible, Run, lab
from labkit import daemon

COLLECTIONS = Path(os.environ.get("REVERSIBLE_STAGED") or ROOT / ".dev")
KEY = "shop-staging"
RELOAD = "import os, signal, sys; os.kill(int(open(sys.argv[1]).read()), signal.SIGUSR2)"


RELEASES = {"blue": "1111111", "green": "2222222"}


class Answer(http.server.BaseHTTPRequestHandler):
    """Says who it is. `/once` is closed without a word the first time, `/then` does what a test has left there, and a WebSocket echoes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        time.sleep(self.server.pause)
        if self.path == "/then":
            self.server.then()
        if self.path == "/once" and self.server.asked.count(f"{self.command} {self.path}") == 1:
            self.close_connection = True
        elif self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            key = f"{self.headers['Sec-WebSocket-Key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            while heard := self.connection.recv(4096):
                self.connection.sendall(self.server.name.encode() + b" " + heard)
            self.close_connection = True
        else:
            text = f"{self.server.name} {self.headers.get('X-Forwarded-Proto')}".encode()
            self.send_response(self.server.status)
            self.send_header("X-Release", RELEASES["green" if "green" in self.server.name else "blue"])
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing: what was asked is in `asked`."""


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, name: str, address: tuple[str, int]) -> None:
        super().__init__(address, Answer)
        self.name, self.asked, self.status, self.then, self.pause = name, [], 200, lambda: None, 0.0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Nothing: a health check may be gone before it has heard all."""


class Lines(socketserver.ThreadingTCPServer):
    """What is no HTTP: says who it is for each thing that it hears."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, name: str) -> None:
        class Talk(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):   # a health check has heard enough
                    while self.request.recv(100):
                        self.request.sendall(name.encode())
        super().__init__(("127.0.0.1", 0), Talk)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Names(threading.Thread):
    """A nameserver with one address for every name, which a test moves."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.address = "127.0.0.1"
        self.line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.line.bind(("127.0.0.1", 0))
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):   # closed at the end
            while True:
                query, sender = self.line.recvfrom(4096)
                end = query.index(b"\0", 12) + 5
                is_a = query[end - 4:end - 2] == b"\0\1"
                head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(is_a), 0, 0)
                answer = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 1, 4) + socket.inet_aton(self.address) if is_a else b""
                self.line.sendto(head + query[12:end] + answer, sender)


class Site:
    """Servers, the inputs of the role, and the HAProxy that the role makes of them, in a folder of its own."""

    def __init__(self, version: str, folder: Path) -> None:
        self.folder, self.program = folder, lab("get", f"haproxy-{version}")
        self.config, self.map = folder / "haproxy.cfg", folder / "active.map"
        self.servers: dict[str, Server] = {}
        self.talkers: list[Lines] = []
        self.names = Names()
        self.port, self.tls_port, self.tcp_port = (daemon.free_port() for _ in range(3))
        place = {"config": str(self.config), "map": str(self.map), "stats_socket": f"{folder}/stats.sock",
                 "status_socket": f"{folder}/status.sock"}
        start = [self.program, "-W", "-D", "-S", f"{folder}/master.sock", "-p", f"{folder}/pid", "-f", place["config"]]
        self.inputs: dict[str, t.Any] = {f"haproxy_{name}": value for name, value in {
            **place, "install": False, "program": self.program, "user": "", "group": "", "chroot": "", "log": f"{folder}/log local0",
            "maxconn": 500, "http_binds": [f"127.0.0.1:{self.port}"], "https_binds": [f"127.0.0.1:{self.tls_port}"],
            "check_inter": "200ms", "check_fast_inter": "50ms", "start_command": start,
            "reload_command": ["/usr/bin/python3", "-c", RELOAD, f"{folder}/pid"], "reload_timeout": 60,
            "nameservers": [f"127.0.0.1:{self.names.line.getsockname()[1]}"],
            "apps": [
                {"name": "shop", "env": "staging", "hosts": ["shop.test", "www.shop.test"], "components": [
                    self.component("backend", 2, paths=["/api", "/ws"], sticky="shopserver"),
                    self.component("stream", 1, paths=["/api/stream/"], balance="uri"),
                    self.component("web", 1, default=True)]},
                {"name": "blog", "env": "prod", "hosts": "blog.test", "components": [self.component("blog", 1, paths=["/read"])]},
                {"name": "moving", "env": "prod", "hosts": ["moving.test"], "components": [self.moving()]},
                {"name": "mail", "env": "prod", "components": [self.lines("smtp")]},
            ]}.items()}

    def component(self, name: str, count: int, **more: t.Any) -> dict[str, t.Any]:
        servers = {color: [f"127.0.0.1:{self.serve(f'{name}-{color}-{number + 1}')}" for number in range(count)] for color in RELEASES}
        return {"name": name, "health": "/health", "servers": servers, **more}

    def lines(self, name: str) -> dict[str, t.Any]:
        """A component that speaks no HTTP, at a port of its own."""
        self.talkers = [Lines(f"{name}-{color}") for color in RELEASES]
        servers = {color: [f"127.0.0.1:{one.server_address[1]}"] for color, one in zip(RELEASES, self.talkers, strict=True)}
        return {"name": name, "kind": "tcp", "binds": [f"127.0.0.1:{self.tcp_port}"], "servers": servers}

    def moving(self) -> dict[str, t.Any]:
        """A component whose server has a DNS name, and two addresses to be found at."""
        port = self.serve("first")
        self.serve("second", ("127.0.0.2", port))
        names = {color: f"moving-{color}.test" for color in RELEASES}
        return {"name": "web", "default": True, "health": "/health", "port": port, "servers": names}

    def serve(self, name: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> int:
        self.servers[name] = Server(name, address)
        return self.servers[name].server_address[1]

    def play(self, *options: str, core: str = OLDEST, **inputs: t.Any) -> Run:
        ansible = Ansible(core, self.folder.parent, LOCAL, PIPELINING, COLLECTIONS)
        variables = self.inputs | {f"haproxy_{name}": value for name, value in inputs.items()}
        return ansible.play([{"ansible.builtin.include_role": {"name": "reversible.deploy.haproxy"}}], "local", *options, vars=variables)

    def good(self, *options: str, **inputs: t.Any) -> Run:
        run = self.play(*options, **inputs)
        assert run.code == 0, run.output
        return run

    def ask(self, path: str = "/", host: str = "shop.test", method: str = "GET", **headers: str) -> tuple[int, str, t.Any]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(line):
            line.request(method, path, headers={"Host": host, **headers})
            answer = line.getresponse()
            return answer.status, (answer.read().decode().split() or [""])[0], answer.headers

    def tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60)
            line.connect(self.inputs["haproxy_stats_socket"])
            line.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: line.recv(65536), b"")).decode()

    def flip(self, color: str, key: str = KEY) -> None:
        """As the module does: the live map, and its file."""
        self.tell(f"set map {self.map} {key} {color}")
        lines = self.map.read_text().splitlines()
        self.map.write_text("".join(f"{key} {color}\n" if line.startswith(f"{key} ") else f"{line}\n" for line in lines))

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def close(self) -> None:
        pid = self.folder / "pid"
        if pid.exists():
            daemon.end(daemon.children({int(pid.read_text())}))
        for server in [*self.servers.values(), *self.talkers]:
            server.shutdown()
            server.server_close()
        self.names.line.close()


# The oldest and the newest; what lies between when there is time.
