# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role haproxy before real servers: what each request reaches, what a flip does to it, and what a failed change leaves behind.

One HAProxy of each version serves all tests of this file; each test leaves it with blue active and the inputs of `Site.inputs`.
"""
from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import http.client
import http.server
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest
from harness import EDGES, LOCAL, OLDEST, PIPELINING, ROOT, Ansible, Run, lab, wait_for

sys.path.insert(0, str(ROOT / "tests/lab"))
from labkit import daemon  # noqa: E402  (the path comes first)

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
        self.names = Names()
        self.port, self.tls_port = daemon.free_port(), daemon.free_port()
        place = {"config": str(self.config), "map": str(self.map), "stats_socket": f"{folder}/stats.sock",
                 "status_socket": f"{folder}/status.sock"}
        start = [self.program, "-W", "-D", "-S", f"{folder}/master.sock", "-p", f"{folder}/pid", "-f", place["config"]]
        self.inputs: dict[str, t.Any] = {f"haproxy_{name}": value for name, value in {
            **place, "install": False, "program": self.program, "user": "", "group": "", "chroot": "", "log": f"{folder}/log local0",
            "maxconn": 500, "http_binds": [f"127.0.0.1:{self.port}"], "https_binds": [f"127.0.0.1:{self.tls_port}"],
            "check_inter": "200ms", "check_fast_inter": "50ms", "start_command": start,
            "reload_command": ["/usr/bin/python3", "-c", RELOAD, f"{folder}/pid"], "reload_timeout": 5,
            "nameservers": [f"127.0.0.1:{self.names.line.getsockname()[1]}"],
            "apps": [
                {"name": "shop", "env": "staging", "hosts": ["shop.test", "www.shop.test"], "components": [
                    self.component("backend", 2, paths=["/api", "/ws"], sticky="shopserver"),
                    self.component("stream", 1, paths=["/api/stream/"], balance="uri"),
                    self.component("web", 1, default=True)]},
                {"name": "blog", "env": "prod", "hosts": "blog.test", "components": [self.component("blog", 1, paths=["/read"])]},
                {"name": "moving", "env": "prod", "hosts": ["moving.test"], "components": [self.moving()]},
            ]}.items()}

    def component(self, name: str, count: int, **more: t.Any) -> dict[str, t.Any]:
        servers = {color: [f"127.0.0.1:{self.serve(f'{name}-{color}-{number + 1}')}" for number in range(count)] for color in RELEASES}
        return {"name": name, "health": "/health", "servers": servers, **more}

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
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(line):
            line.request(method, path, headers={"Host": host, **headers})
            answer = line.getresponse()
            return answer.status, (answer.read().decode().split() or [""])[0], answer.headers

    def tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(5)
            line.connect(self.inputs["haproxy_stats_socket"])
            line.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: line.recv(65536), b"")).decode()

    def flip(self, color: str) -> None:
        """As the module does: the live map, and its file."""
        self.tell(f"set map {self.map} {KEY} {color}")
        lines = self.map.read_text().splitlines()
        self.map.write_text("".join(f"{KEY} {color}\n" if line.startswith(f"{KEY} ") else f"{line}\n" for line in lines))

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def close(self) -> None:
        pid = self.folder / "pid"
        if pid.exists():
            daemon.end(daemon.children({int(pid.read_text())}))
        for server in self.servers.values():
            server.shutdown()
            server.server_close()
        self.names.line.close()


# The oldest and the newest; what lies between when there is time.
@pytest.fixture(scope="module", params=["2.6", "3.0", "3.2"] if os.environ.get("REVERSIBLE_LONG") else ["2.6", "3.2"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    folder = tmp_path_factory.mktemp("site") / "etc"
    folder.mkdir()
    one = Site(request.param, folder)
    try:
        one.good()
        for path in ("/", "/api", "/api/stream"):
            wait_for(lambda: one.ask(path)[0] == 200, f"a server for {path} is up")
        yield one
    finally:
        one.close()


# What does not depend on HAProxy's version is looked at with one.
ONE = pytest.mark.parametrize("site", ["2.6"], indirect=True)


@pytest.mark.parametrize(("host", "path", "status", "who"), [
    ("shop.test", "/", 200, "web"), ("WWW.Shop.Test:8080", "/x", 200, "web"),
    ("shop.test", "/api", 200, "backend"), ("shop.test", "/api/", 200, "backend"), ("shop.test", "/api/v1?x=/ws", 200, "backend"),
    ("shop.test", "/apix", 200, "web"), ("shop.test", "/x/api/", 200, "web"), ("shop.test", "/api/stream", 200, "stream"),
    ("shop.test", "/api/stream/1", 200, "stream"), ("shop.test", "/api/streams", 200, "backend"), ("shop.test", "/ws", 200, "backend"),
    ("blog.test", "/read/1", 200, "blog"), ("blog.test", "/", 404, "Nothing"),
    ("shop.test.example.org", "/", 404, "Nothing"), ("other.test", "/api", 404, "Nothing"), ("", "/", 404, "Nothing"),
])
def test_host_and_path_lead_to_a_component(site: Site, host: str, path: str, status: int, who: str) -> None:
    assert site.ask(path, host)[0] == status and site.ask(path, host)[1].startswith(who)


def test_the_map_says_the_colour_of_all_components_at_once(site: Site) -> None:
    paths = {"/": "web", "/api": "backend", "/api/stream": "stream"}
    for color in ("green", "blue"):
        site.flip(color)
        for path, who in paths.items():
            assert site.ask(path)[1].startswith(f"{who}-{color}-")
        assert site.ask("/read", "blog.test")[1] == "blog-blue-1"


@pytest.mark.parametrize("value", [None, "purple", "missing"])
def test_without_a_colour_there_is_503_and_never_a_server(site: Site, value: str | None) -> None:
    site.tell(f"del map {site.map} {KEY}" if value is None else f"set map {site.map} {KEY} {value}")
    try:
        for path in ("/", "/api", "/api/stream"):
            status, _, headers = site.ask(path, Cookie="shopserver=blue-1")
            assert (status, headers["Set-Cookie"]) == (503, None)
        assert site.ask("/read", "blog.test")[0] == 200
    finally:
        site.tell(f"add map {site.map} {KEY} blue" if value is None else f"set map {site.map} {KEY} blue")


def test_a_sticky_client_keeps_its_server_and_follows_the_flip(site: Site) -> None:
    def asked(cookie: str) -> tuple[str, str]:
        status, who, headers = site.ask("/api", Cookie=f"a=b; shopserver={cookie}")
        assert status == 200
        return who, (headers["Set-Cookie"] or "").partition(";")[0]

    assert [asked("blue-2") for _ in range(4)] == [("backend-blue-2", "")] * 4
    site.flip("green")
    who, cookie = asked("blue-2")
    assert who.startswith("backend-green-") and cookie == f"shopserver={who.removeprefix('backend-')}"
    assert {asked(cookie.partition("=")[2])[0] for _ in range(4)} == {who}
    site.flip("blue")
    assert asked(cookie.partition("=")[2])[0].startswith("backend-blue-")


def open_websocket(site: Site) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", site.port), timeout=5)
    line.sendall(b"GET /ws HTTP/1.1\r\nHost: shop.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = line.recv(1)
        assert more, head
        head += more
    assert head.startswith(b"HTTP/1.1 101 "), head
    return line


def test_a_websocket_outlives_flips_and_a_reload(site: Site) -> None:
    with open_websocket(site) as old:
        def said(line: socket.socket) -> str:
            line.sendall(b"x")
            return line.recv(100).decode()

        assert said(old).startswith("backend-blue-")
        site.flip("green")
        with open_websocket(site) as new:
            assert said(new).startswith("backend-green-") and said(old).startswith("backend-blue-")
            site.good(retries=2)
            assert said(new).startswith("backend-green-") and said(old).startswith("backend-blue-")
    site.flip("blue")
    site.good()


def test_only_what_may_be_asked_twice_is_asked_twice(site: Site) -> None:
    web = site.servers["web-blue-1"]
    assert site.ask("/once")[:2] == (200, "web-blue-1")
    assert web.asked.count("GET /once") == 2
    assert site.ask("/once", method="POST")[0] == 502
    assert web.asked.count("POST /once") == 1


def test_a_server_that_thinks_longer_than_the_interval_of_its_checks_stays_up(site: Site) -> None:
    web = site.servers["web-blue-1"]
    before, web.pause = web.asked.count("GET /health"), 0.8   # four intervals
    try:
        wait_for(lambda: web.asked.count("GET /health") >= before + 5, "health checks came in that time")
        assert site.ask()[:2] == (200, "web-blue-1")
    finally:
        web.pause = 0.0


def test_a_name_is_followed_to_its_new_address(site: Site) -> None:
    wait_for(lambda: site.ask("/", "moving.test")[:2] == (200, "first"), "the name has an address")
    site.names.address = "127.0.0.2"
    try:
        wait_for(lambda: site.ask("/", "moving.test")[:2] == (200, "second"), "the new address is used")
    finally:
        site.names.address = "127.0.0.1"


@ONE
@pytest.mark.parametrize("core", EDGES)
def test_a_second_run_changes_nothing_and_keeps_the_colours(site: Site, core: str) -> None:
    def turned(value: t.Any) -> t.Any:
        """The same with every dictionary the other way round."""
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    site.flip("green")
    before, colors = site.config.read_bytes(), site.map.read_bytes()
    site.config.touch()
    apps = turned(site.inputs["haproxy_apps"])[::-1]
    for app in apps:
        app["components"].reverse()
    run = site.good(core=core, apps=apps, first_color="blue")
    assert [task.task for task in run.tasks if task.result.get("changed")] == []
    assert (site.config.read_bytes(), site.map.read_bytes()) == (before, colors)
    assert site.ask()[1] == "web-green-1"
    site.flip("blue")


def test_a_new_app_gets_a_key_and_a_dropped_one_keeps_its_own(site: Site) -> None:
    site.flip("green")
    apps = [app for app in copy.deepcopy(site.inputs["haproxy_apps"]) if app["name"] != "moving"]
    apps.append(apps[1] | {"name": "news", "hosts": ["news.test"]})
    site.good(apps=apps, first_color="green")
    assert dict(line.split() for line in site.map.read_text().splitlines()) == {
        KEY: "green", "blog-prod": "blue", "moving-prod": "blue", "news-prod": "green"}
    wait_for(lambda: site.ask("/read", "news.test")[:2] == (200, "blog-green-1"), "the new app is there")
    assert site.ask()[1] == "web-green-1"
    assert site.ask("/", "moving.test")[0] == 404
    site.flip("blue")
    site.good()


def test_a_colour_that_only_the_live_map_has_is_not_lost(site: Site) -> None:
    site.tell(f"set map {site.map} {KEY} green")
    before = site.config.read_bytes()
    run = site.play(retries=2)
    assert run.code != 0
    assert f"HAProxy serves {KEY} green, which {site.map} does not say" in run.tasks[-1].msg
    assert (site.config.read_bytes(), site.ask()[1]) == (before, "web-green-1")
    site.tell(f"set map {site.map} {KEY} blue")


@ONE
def test_a_refused_configuration_replaces_nothing(site: Site) -> None:
    before, names = site.config.read_bytes(), site.files()
    run = site.play(frontend_lines=["no such words"])
    assert run.code != 0 and "unknown keyword 'such'" in run.tasks[-1]["stderr"]
    assert (site.config.read_bytes(), site.files(), site.ask()[1]) == (before, names, "web-blue-1")


def test_a_configuration_that_is_not_taken_over_is_replaced_by_the_old_one(site: Site) -> None:
    before, names = site.config.read_bytes(), site.files()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = site.play(http_binds=[f"127.0.0.1:{taken.getsockname()[1]}"])
    assert run.code != 0
    assert re.match("HAProxy did not take over .*was put back, and HAProxy serves it[.]$", run.tasks[-1].msg), run.output
    assert (site.config.read_bytes(), site.files()) == (before, names)
    assert site.ask()[:2] == (200, "web-blue-1")
    assert not [task for task in site.good().tasks if task.result.get("changed")]


def test_a_run_that_was_killed_before_its_reload_is_finished(site: Site) -> None:
    before = site.config.read_bytes()
    site.good(retries=2)
    site.config.write_bytes(before)
    run = site.good()
    assert [task.task for task in run.tasks if task.result.get("changed")] == ["Reload by the command"]


@ONE
def test_check_mode_shows_and_changes_nothing(site: Site) -> None:
    before, colors = site.config.read_bytes(), site.map.read_bytes()
    wiki = site.inputs["haproxy_apps"][1] | {"name": "wiki", "hosts": ["wiki.test"]}
    run = site.good("--check", "--diff", apps=[*site.inputs["haproxy_apps"], wiki])
    assert "+wiki-prod blue" in run.output and "+backend wiki-prod-blog-green" in run.output
    assert (site.config.read_bytes(), site.map.read_bytes()) == (before, colors)
    assert site.ask("/read", "wiki.test")[0] == 404


def test_tls(site: Site) -> None:
    pem, key = site.folder.parent / "cert.pem", site.folder.parent / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=shop.test", "-addext",
                    "subjectAltName=DNS:shop.test", "-keyout", key, "-out", pem], check=True, stderr=subprocess.DEVNULL)
    context = ssl.create_default_context(cafile=pem)
    bundle = site.folder.parent / "shop.pem"
    bundle.write_bytes(pem.read_bytes() + key.read_bytes())
    site.good(certificates=[str(bundle)])
    status, _, headers = site.ask("/x?y=1")
    assert (status, headers["Location"]) == (308, "https://shop.test/x?y=1")
    with context.wrap_socket(socket.create_connection(("127.0.0.1", site.tls_port), timeout=5), server_hostname="shop.test") as line:
        line.sendall(b"GET /api HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-Proto: http\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: line.recv(4096), b"")).decode()
    assert text.startswith("HTTP/1.1 200 ") and "backend-blue-" in text and text.endswith(" https")
    assert "secure" in text.lower().partition("set-cookie: ")[2].partition("\r\n")[0]
    site.good(certificates=[str(bundle)], https_redirect=False)
    assert site.ask()[0] == 200
    site.good()


WRONG = [
    ({"name": "Shop"}, 'app "Shop": a name has'),
    ({"name": "shop\n    stats socket /x"}, "a name has"),
    ({"env": "blue"}, '"blue": a name may not hold blue or green as a word'),
    ({"hosts": ["*.shop.test"]}, 'host "*.shop.test": not a host name'),
    ({"hosts": ["shop.test if TRUE"]}, "not a host name"),
    ({"hosts": ["Blog.test"]}, "blog.test: this host leads to two apps"),
    ({"name": "blog", "env": "prod"}, "blog-prod: two apps and environments would share this key"),
]
WRONG_COMPONENT = [
    ({"paths": ["api"]}, 'path "api": a prefix such as /api'),
    ({"paths": ["/"]}, 'path "/": a prefix such as /api'),
    ({"paths": ["/ws/"], "name": "other"}, "/ws: shop-staging leads this path to two components"),
    ({"paths": []}, "it has no paths and is not the default"),
    ({"default": True}, "cannot all be the default"),
    ({"sticky": "a b"}, 'sticky "a b": the name of a cookie'),
    ({"tunnel": "1 hour"}, "a time such as 1h or 90s"),
    ({"health": "/health hdr X: y"}, "a path such as /health"),
    ({"servers": {"blue": ["10.0.0.1"], "green": ["10.0.0.2:80"]}}, 'server "10.0.0.1": it has no port'),
    ({"servers": {"blue": ["10.0.0.1:80 backup"], "green": ["10.0.0.2:80"]}}, "an address, [an IPv6 address] or a DNS name"),
    ({"servers": {"blue": [], "green": ["10.0.0.2:80"]}}, "blue has no servers"),
]


@ONE
@pytest.mark.parametrize("core", EDGES)
def test_wrong_inputs_are_all_named_before_anything_is_done(site: Site, core: str) -> None:
    apps, sentences = copy.deepcopy(site.inputs["haproxy_apps"]), []
    for change, sentence in WRONG:
        apps.append(copy.deepcopy(apps[0]) | {"name": f"other{len(apps)}", "hosts": [f"other{len(apps)}.test"]} | change)
        sentences.append(sentence)
    for change, sentence in WRONG_COMPONENT:
        components = apps[0]["components"]
        components.append(components[1] | {"name": f"c{len(components)}", "paths": [f"/c{len(components)}"]} | change)
        sentences.append(sentence)
    before, colors = site.config.read_bytes(), site.map.read_bytes()
    run = site.play(core=core, apps=apps, timeout_server="forever", http_binds=["eth0:80"])
    assert run.code != 0
    lines = run.tasks[-1].msg.splitlines()
    for sentence in [*sentences, "haproxy_timeout_server", 'bind "eth0:80"']:
        assert [line for line in lines if sentence in line], f"{sentence}\n{run.tasks[-1].msg}"
    assert len(lines) == 1 + len(sentences) + 2, run.tasks[-1].msg
    assert (site.config.read_bytes(), site.map.read_bytes()) == (before, colors)
