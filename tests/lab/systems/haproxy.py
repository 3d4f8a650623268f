# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy: one load balancer in master-worker mode before a blue and a green backend; a map says which is active."""
from __future__ import annotations

import json
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from labkit import daemon, run
from things.haproxy import SUITES, binary
from things.programs import web

HELP = f"[{'|'.join(SUITES)}] load balancer with stats and master sockets, blue and green backends"
OPTIONS = tuple(SUITES)
PACKAGES: list[str] = []
CACHES: list[str] = []   # see things/haproxy.py

RELEASES = {"blue": "1111111", "green": "2222222"}
MAP_KEY = "shop-staging"


def prepare() -> None:
    """Nothing of the host: binary and libraries come from the cache. HAProxy of each version is a thing."""
    web()


def up(folder: Path, version: str = "2.6") -> str:
    program = binary(version)
    if status(folder)[0] == "up" and _offer(folder)["binary"] == str(program):
        return _text(folder)
    down(folder)
    folder.mkdir(mode=0o700)
    ports = {name: daemon.free_port() for name in ("frontend", *RELEASES)}
    for colour, release in RELEASES.items():
        daemon.start(folder, colour, [web(), "serve", "--port", ports[colour], "--colour", colour, "--release", release,
                                      "--control", folder / f"{colour}.control"])
    for colour in RELEASES:
        url = f"http://127.0.0.1:{ports[colour]}/"
        daemon.wait_for(lambda: bool(fetch(url)), colour, folder, colour)
    (folder / "active.map").write_text(f"{MAP_KEY} blue\n")
    (folder / "haproxy.cfg").write_text(_config(folder, ports))
    run([program, "-c", "-q", "-f", folder / "haproxy.cfg"])
    daemon.start(folder, "haproxy", [program, "-W", "-S", f"{folder}/master.sock,mode,600", "-p", folder / "haproxy.pidfile",
                                     "-f", folder / "haproxy.cfg"])
    offer = {
        "version": run([program, "-v"]).stdout.split()[2], "binary": str(program), "url": f"http://127.0.0.1:{ports['frontend']}/",
        "config": str(folder / "haproxy.cfg"), "pidfile": str(folder / "haproxy.pidfile"),
        "stats_socket": str(folder / "stats.sock"), "master_socket": str(folder / "master.sock"),
        "map": str(folder / "active.map"), "map_key": MAP_KEY,
        "backends": {colour: f"http://127.0.0.1:{ports[colour]}/" for colour in RELEASES},
        "controls": {colour: str(folder / f"{colour}.control") for colour in RELEASES},
    }
    (folder / "offer.json").write_text(json.dumps(offer, indent=2) + "\n")
    daemon.wait_for(lambda: status(folder)[0] == "up", "haproxy", folder, "haproxy")
    return _text(folder)


def down(folder: Path) -> None:
    if (folder / "offer.json").exists():
        # Workers, too, and a master that a test started again: whatever of this very binary serves our port.
        offer = _offer(folder)
        daemon.end(daemon.children(daemon.holders(urllib.parse.urlsplit(offer["url"]).port, offer["binary"])))
    for name in ("haproxy", *RELEASES):
        daemon.stop(folder, name)
    if folder.exists():
        shutil.rmtree(folder)


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "offer.json").exists():
        return "down", ""
    offer = _offer(folder)
    try:
        colour = ask(offer["stats_socket"], f"show map {offer['map']}").split()[2:] or ["HTTP 503"]
        workers = ask(offer["master_socket"], "show proc").count(" worker ")
    except OSError as error:
        return "broken", f"haproxy does not answer on its sockets: {error}"
    answer = fetch(offer["url"])
    if not answer.startswith(colour[0]):
        return "broken", f"the map says {colour[0]}, {offer['url']} answers {answer or 'nothing'}"
    return "up", f"{offer['version']} on {offer['url']}, active {answer}, {workers} worker"


def ask(path: str, command: str) -> str:
    """One command to a socket of HAProxy. The sending half is closed, or the master's would wait for more."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(path)
        line.sendall(f"{command}\n".encode())
        line.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: line.recv(65536), b"")).decode()


def _config(folder: Path, ports: dict[str, int]) -> str:
    backends = "\n".join(f"backend shop-{colour}\n    server {colour} 127.0.0.1:{ports[colour]} check inter 500\n" for colour in RELEASES)
    return f"""\
global
    stats socket {folder}/stats.sock mode 600 level admin expose-fd listeners
    hard-stop-after 10s
    maxconn 2000

defaults
    mode http
    option idle-close-on-response
    timeout connect 1s
    timeout client 10s
    timeout server 10s

# A key that is missing names a backend that does not exist: 503, never a colour.
frontend shop
    bind 127.0.0.1:{ports['frontend']}
    use_backend shop-%[str({MAP_KEY}),map({folder}/active.map,missing)]

{backends}"""


def _offer(folder: Path) -> dict:
    return json.loads((folder / "offer.json").read_text())


def _text(folder: Path) -> str:
    return (folder / "offer.json").read_text()


def fetch(url: str) -> str:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError:
        return ""
