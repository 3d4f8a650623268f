# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role haproxy before real servers: what each request reaches, what a flip does to it, and what a failed change leaves behind.

One HAProxy of each version serves all tests of this file; each test leaves it with blue active and the inputs of `Site.inputs`.
"""
from __future__ import annotations

import concurrent.futures
import copy
import os
import re
import socket
import ssl
import subprocess
import typing as t

import pytest
from edge import call
from edge_site import COLLECTIONS, KEY, Site
from harness import EDGES, LOCAL, OLDEST, PIPELINING, Ansible, wait_for
from runbooks import DOCS, blocks

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
    line = socket.create_connection(("127.0.0.1", site.port), timeout=60)
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


def test_a_connection_that_is_no_http_stays_in_its_colour(site: Site) -> None:
    def opened() -> socket.socket:
        return socket.create_connection(("127.0.0.1", site.tcp_port), timeout=60)

    def said(line: socket.socket) -> str:
        line.sendall(b"x")
        return line.recv(100).decode()

    wait_for(lambda: said(opened()) == "smtp-blue", "a server is up")
    with opened() as old:
        assert said(old) == "smtp-blue"
        site.flip("green", "mail-prod")
        with opened() as new:
            assert (said(new), said(old)) == ("smtp-green", "smtp-blue")
            site.good(retries=2)
            assert (said(new), said(old)) == ("smtp-green", "smtp-blue")
    site.tell(f"del map {site.map} mail-prod")
    with opened() as refused:
        refused.settimeout(60)
        assert refused.recv(100) == b""
    site.tell(f"add map {site.map} mail-prod green")
    site.flip("blue", "mail-prod")


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
        KEY: "green", "blog-prod": "blue", "moving-prod": "blue", "mail-prod": "blue", "news-prod": "green"}
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
    assert f"HAProxy serves {KEY} green, which {site.map} does not contain" in run.tasks[-1].msg
    assert (site.config.read_bytes(), site.ask()[1]) == (before, "web-green-1")
    site.tell(f"set map {site.map} {KEY} blue")


def test_an_app_is_held_and_another_is_not(site: Site) -> None:
    place = {"stats_socket": [site.inputs["haproxy_stats_socket"]], "master_socket": f"{site.folder}/master.sock"}
    asked = {**place, "map_key": KEY, "backends": ["shop-staging-web-blue"], "state_dir": f"{site.folder}/state"}
    there = call("haproxy_hold", asked)
    assert there["changed"] and there["hold"]["held"], there
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waits = pool.submit(site.ask, "/", "WWW.Shop.Test:8080")
        wait_for(lambda: call("haproxy_hold_info", place)["holds"][0]["waiting"] == 1, "a request waits")
        assert site.ask("/read", "blog.test")[0] == 200
        # The worker that this reload starts holds, too, and those that wait in the old one hear of the release.
        site.good(retries=2)
        assert not waits.done() and call("haproxy_hold_info", place)["holds"][0]["held"]
        back = call("haproxy_hold", {**asked, "state": "released"})
        assert waits.result(60)[:2] == (200, "web-blue-1")
    assert back["changed"] and back["hold"]["waited"] == 1 and "warnings" not in back, back
    assert (site.folder / "holds.map").read_bytes() == b""
    site.good()


@ONE
def test_a_script_stays_for_the_configuration_that_names_it(site: Site) -> None:
    place = {"stats_socket": [site.inputs["haproxy_stats_socket"]]}
    names = site.files()
    site.good(hold_requests=7, hold_seconds=9)
    assert call("haproxy_hold_info", place)["limits"] == {"seconds": 9, "requests": 7}
    [new] = site.files() - names
    assert re.fullmatch("reversible-hold-[0-9a-f]{12}[.]lua", new) and f"lua-load {site.folder}/{new}\n" in site.config.read_text()
    site.good(hold=False)
    assert "lua" not in site.config.read_text() and call("haproxy_hold_info", place)["reason"] == "no_script"
    site.good()
    (site.folder / new).unlink()
    assert site.files() == names


def test_the_script_goes_to_a_configuration_that_is_not_the_roles(site: Site) -> None:
    """As collection/docs/adopting.md has it; with the rest of a configuration around."""
    theirs = site.folder.parent / "theirs-held"
    theirs.mkdir()
    script, held = theirs / "reversible-hold.lua", theirs / "holds.map"
    include = {"ansible.builtin.include_role": {"name": "reversible.deploy.haproxy", "tasks_from": "hold"},
               "vars": {"haproxy_hold_script": str(script), "haproxy_hold_map": str(held)}}
    for changed in (["Write the map of held requests and the script that holds them"], []):
        run = Ansible(OLDEST, site.folder.parent, LOCAL, PIPELINING, COLLECTIONS).play([include], "local")
        assert run.code == 0 and [task.task for task in run.tasks if task.result.get("changed")] == changed, run.output
    [lines] = [block.text for block in blocks(DOCS / "adopting.md") if block.word == "hold"]
    config = theirs / "haproxy.cfg"
    config.write_text("defaults\n    mode http\n    timeout client 1s\n    timeout connect 1s\n    timeout server 1s\n" + lines.replace(
        "/etc/haproxy", str(theirs)) + f"    bind unix@{theirs}/http.sock\n")
    checked = subprocess.run([site.program, "-c", "-f", config], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@ONE
def test_a_refused_configuration_replaces_nothing(site: Site) -> None:
    before, names = site.config.read_bytes(), site.files()
    run = site.play(frontend_lines=["no such words"])
    assert run.code != 0 and "unknown keyword 'such'" in run.tasks[-1]["stderr"]
    assert (site.config.read_bytes(), site.files(), site.ask()[1]) == (before, names, "web-blue-1")


def test_a_configuration_that_is_not_taken_over_is_replaced_by_the_old_one(site: Site) -> None:
    before, names = site.config.read_bytes(), site.files()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = site.play(http_binds=[f"127.0.0.1:{taken.getsockname()[1]}"], reload_timeout=10)
    assert run.code != 0
    assert re.match("HAProxy did not take over .*was restored, and HAProxy serves it[.]$", run.tasks[-1].msg), run.output
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
    with context.wrap_socket(socket.create_connection(("127.0.0.1", site.tls_port), timeout=60), server_hostname="shop.test") as line:
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
    ({"binds": [":5432"]}, "binds are for a component of kind tcp"),
    ({"kind": "tcp", "binds": [":5432"]}, "are for HTTP, and this component is of kind tcp"),
    ({"kind": "tcp", "paths": [], "health": "", "balance": "leastconn"}, "a component of kind tcp needs binds"),
    ({"kind": "tcp", "paths": [], "health": "", "balance": "leastconn", "binds": ["eth0:5432"]}, 'bind "eth0:5432"'),
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
    run = site.play(core=core, apps=apps, timeout_server="forever", http_binds=["eth0:80"], hold_seconds=601, hold_requests=0)
    assert run.code != 0
    lines = run.tasks[-1].msg.splitlines()
    for sentence in [*sentences, "haproxy_timeout_server", 'bind "eth0:80"', "haproxy_hold_seconds 601: from 1", "haproxy_hold_requests 0: at least"]:
        assert [line for line in lines if sentence in line], f"{sentence}\n{run.tasks[-1].msg}"
    assert len(lines) == 1 + len(sentences) + 4, run.tasks[-1].msg
    assert (site.config.read_bytes(), site.map.read_bytes()) == (before, colors)


@ONE
def test_files_that_another_user_could_swap_are_refused(site: Site) -> None:
    before, theirs = site.config.read_bytes(), site.folder.parent / "theirs"
    theirs.mkdir()
    (theirs / "ours").mkdir()
    (theirs / "active.map").write_text(f"{KEY} green\n", encoding="utf-8")
    (site.folder / "link.map").symlink_to(theirs / "active.map")
    os.chown(theirs, 65534, 65534)
    for path in (theirs / "active.map", theirs / "ours" / "active.map", site.folder / "link.map"):
        run = site.play(map=str(path))
        assert run.code != 0 and f"{theirs} belongs to uid 65534 (mode 0755)" in run.tasks[-1].msg and "Give them to root" in run.tasks[-1].msg, run.output
    os.chown(theirs, 0, 0)
    theirs.chmod(0o777)
    assert f"{theirs} can be written to by everyone" in site.play(map=str(theirs / "active.map")).tasks[-1].msg
    assert (site.config.read_bytes(), sorted(path.name for path in theirs.iterdir())) == (before, ["active.map", "ours"])
    assert (theirs / "active.map").read_text(encoding="utf-8") == f"{KEY} green\n"
    (site.folder / "link.map").unlink()
