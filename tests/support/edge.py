# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test edge: HAProxy before blue and green web apps, in a folder of its own, and what tests do with it.

    with Edge(version="2.6") as edge:
        edge.switch("green", "web", "fail-health")
        with edge.load(connections=8) as load:
            result = call("haproxy_color_switch", {**edge.options, "color": "green"})
        assert load.report["failed"] == 0

Whatever a test did to it, `close` ends every process, by its pid, and removes the folder if it was made here.
"""
from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import typing as t
import urllib.error
import urllib.request
from pathlib import Path

from edge_config import COLOURS, Shape
from harness import BIN, ROOT, asked, lab, wait_for

from labkit import STATE, daemon

RELEASES = {"blue": "1111111", "green": "2222222"}
PATIENCE = 60.0


@functools.cache
def web_binary() -> Path:
    return Path(lab("get", "web"))


@functools.cache
def haproxy_binary(version: str) -> Path:
    return Path(lab("get", f"haproxy-{version}"))


def ask(address: str, command: str) -> str:
    """One command to a socket of HAProxy, a path or host:port. The sending half is closed, or the master's would wait for more."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET if host else socket.AF_UNIX) as line:
        line.settimeout(PATIENCE)
        line.connect((host, int(port)) if host else address)
        line.sendall(f"{command}\n".encode())
        line.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: line.recv(65536), b"")).decode().strip()


class Edge:
    """One load balancer (or several on one folder) and its web apps. `folder` must not lie below a folder that others may write
    to, as /tmp is: the modules refuse to keep their state there. Without it, one is made and removed again."""

    def __init__(  # pylint: disable=too-many-arguments
        self,
        folder: Path | None = None,
        version: str = "2.6",
        components: tuple[str, ...] = ("web",),
        method: str = "map",
        layout: str = "two-backends",
        *,
        active: str = "blue",
        map_key: str = "shop-staging",
        map_value: str = "{color}",
        replicas: int = 1,
        processes: int = 1,
        tcp_stats: bool = False,
        tls: bool = False,
        **shape: t.Any,  # dummies, inter, hard_stop, idle_close, idle, more, hold: see Shape
    ):
        self.binary = haproxy_binary(version)
        self.below: list[str] = []  # a program, with its arguments, that is to run HAProxy from its next start on
        self._web = web_binary()
        self._own = folder is None
        if folder is None:
            STATE.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="edge-", dir=STATE)) if folder is None else folder
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._children: list[subprocess.Popen] = []
        self.config = self.folder / "haproxy.cfg"
        self.map = self.folder / "active.map"
        self.map_key, self.state_dir = map_key, self.folder / "state"
        names = ["haproxy"] + [f"haproxy{at + 1}" for at in range(1, processes)]
        self._processes = names
        self.all_stats = [str(self.folder / f"{name}.stats") for name in names]
        self.stats = self.all_stats[0]
        self.tcp_stats = f"127.0.0.1:{daemon.free_port()}" if tcp_stats else ""
        self.all_masters = [str(self.folder / f"{name}.master") for name in names]
        self.master = self.all_masters[0]
        self.pidfile = self.folder / "haproxy.pidfile"
        self.ports = {(colour, component): [daemon.free_port() for _one in range(replicas)] for colour in COLOURS for component in components}
        # With several processes each gets its own socket by its environment: they share one configuration.
        path = self.stats if processes == 1 else '"${EDGE_STATS}"'
        addresses = [f"{path} mode 600 level admin"] + ([f"ipv4@{self.tcp_stats} level admin"] if tcp_stats else [])
        self.shape = Shape(method, layout, components, self.map, map_key, map_value, addresses, daemon.free_port(), self.ports, **shape)
        self.url = f"http://127.0.0.1:{self.shape.url_port}/"
        self.certificate, self.tls_url = self.folder / "certificate.pem", ""
        if tls:
            self.shape.tls_port = daemon.free_port()
            self.shape.certificate = self._make_certificate()
            self.tls_url = f"https://127.0.0.1:{self.shape.tls_port}/"
        self.place = self._place()  # for haproxy_color_switch_info
        reloads = {"master_socket": self.master, "validate": [str(self.binary), "-c", "-f", "%s"]}
        self.options = self.place | (reloads if method == "reload" else {})  # for haproxy_color_switch
        self.map.write_text(f"# which colour is active\nother-app {self.shape.value('blue')}\n{map_key} {self.shape.value(active)}\n",
                            encoding="utf-8")
        if self.shape.hold:
            self.shape.needs_bool_conversion = version not in ("2.6", "3.0")
            self.shape.hold_script.write_text(self.shape.script(), encoding="utf-8")
            self.shape.hold_map.write_text("", encoding="utf-8")
        self.config.write_text(self.render(active), encoding="utf-8")
        try:
            self._start_apps()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Edge":
        return self

    def __exit__(self, *_error: t.Any) -> None:
        self.close()

    def render(self, colour: str) -> str:
        """The configuration that makes this colour active (for the method map, the same for both)."""
        return self.shape.render(colour)

    # What it says

    def ask(self, command: str, process: int = 0) -> str:
        return ask(self.all_stats[process], command)

    def master_ask(self, command: str, process: int = 0) -> str:
        return ask(self.all_masters[process], command)

    def live(self, process: int = 0) -> str | None:
        """What the live map says for the key, as it stands there; without a map, which colour answers."""
        if self.shape.method == "reload":
            return self.answer().split(" ")[0] or None
        rows = [line.split() for line in self.ask(f"show map {self.map}", process).splitlines()]
        found = [row[2] for row in rows if len(row) == 3 and row[1] == self.map_key]
        return found[0] if found else None

    def answer(self, component: str | None = None, path: str = "") -> str:
        """Who answers now: `<colour> <release>`, `HTTP <status>`, or nothing."""
        first = component in (None, self.shape.components[0])
        return fetch(self.url + ("" if first else f"{component}/") + path)

    def app_url(self, colour: str, component: str = "web", replica: int = 0) -> str:
        """The web app itself, past HAProxy."""
        return f"http://127.0.0.1:{self.ports[colour, component][replica]}/"

    def worker_pid(self, process: int = 0) -> int:
        """The worker that answers at the stats socket; 0 if none does."""
        try:
            pids = [line.split()[1] for line in self.ask("show info", process).splitlines() if line.startswith("Pid:")]
        except OSError:
            return 0
        return int(pids[0]) if pids else 0

    def master_pid(self, process: int = 0) -> int:
        return daemon.running(self.folder, self._processes[process])

    def rows(self) -> list[dict[str, str]]:
        """`show stat`, without the dummies."""
        rows = csv.DictReader(self.ask("show stat").lstrip("# ").splitlines())
        return [row for row in rows if not row["pxname"].startswith("dummies-")]

    # What is done to it

    def switch(self, colour: str, component: str, mode: str, replica: int | None = None) -> str:
        """Tell a colour's web apps how to behave (see the crate `web`); the last one's answer."""
        said = ""
        for at in range(len(self.ports[colour, component])):
            if replica in (None, at):
                said = self._control(colour, component, at, mode)
                assert not said.startswith("error"), said
        return said

    def counts(self, colour: str, component: str = "web", replica: int = 0) -> dict[str, int]:
        """How many requests that app was asked, for each path; and as `frames`, how many of WebSockets it has sent back."""
        return json.loads(self._control(colour, component, replica, "count"))

    def start_app(self, colour: str, component: str = "web", replica: int = 0) -> None:
        """Back when it answers."""
        name, port = f"{component}-{colour}{replica}", self.ports[colour, component][replica]
        argv = [self._web, "serve", "--port", port, "--colour", colour, "--release", RELEASES[colour], "--control",
                self.folder / f"{name}.control"]
        self._children.append(daemon.start(self.folder, name, argv))
        daemon.wait_for(lambda: fetch(f"http://127.0.0.1:{port}/") != "", name, self.folder, name, PATIENCE)

    def stop_app(self, colour: str, component: str = "web", replica: int = 0) -> None:
        daemon.stop(self.folder, f"{component}-{colour}{replica}")

    def start(self) -> None:
        """Start HAProxy; back when it answers, and has checked each server once, whatever came of that."""
        for name, master, stats in zip(self._processes, self.all_masters, self.all_stats):
            pidfile = self.pidfile if name == "haproxy" else self.folder / f"{name}.pidfile"
            argv = [*self.below, "env", f"EDGE_STATS={stats}", self.binary, "-W", "-S", f"{master},mode,600", "-p", pidfile, "-f", self.config]
            self._children.append(daemon.start(self.folder, name, argv))
        for process, name in enumerate(self._processes):
            # The worker answers while the master is still on its way to its socket.
            daemon.wait_for(lambda process=process: self.worker_pid(process) > 0 and self._master_answers(process), name, self.folder, name,
                            PATIENCE)
        wait_for(self._all_checked, "a first health check of each server", PATIENCE)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End HAProxy, and every worker of it, also old ones; the web apps stay."""
        family = {pid for name in self._processes if (pid := daemon.running(self.folder, name))}
        # One that a test started again counts, too: whatever HAProxy serves our port.
        daemon.end(daemon.children(family | daemon.holders(self.shape.url_port, "haproxy")), how)
        for name in self._processes:
            daemon.stop(self.folder, name)
        self._reap()

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self, process: int = 0) -> None:
        """As a patient operator does; back when another worker answers, and the master."""
        wait_for(lambda: self._master_answers(process), "the master, after a reload by somebody else")
        old = self.worker_pid(process)
        time.sleep(0.2)  # HAProxy loses a reload that follows another too soon
        self.master_ask("reload", process)
        wait_for(lambda: self.worker_pid(process) not in (0, old) and self._master_answers(process), "another worker after a reload", PATIENCE)

    @contextlib.contextmanager
    def load(self, connections: int = 8, *, component: str | None = None, path: str = "", url: str = "", ws: bool = False,
             headers: t.Mapping[str, str] | None = None, **more: t.Any) -> t.Iterator["Load"]:
        """Requests without a pause while the body runs; they have begun when it starts. `more`: other options of `web load`."""
        first = component in (None, self.shape.components[0])
        url = url or self.url + ("" if first else f"{component}/") + path
        if "requests" not in more:
            more.setdefault("seconds", 600)
        more.setdefault("timeout", 60)
        load = Load(self._web, self.folder, url, connections, more, ws, headers or {})
        try:
            load.wait_until_begun()
            yield load
        finally:
            load.end()

    def close(self) -> None:
        try:
            self.stop()
        finally:
            for colour, component in self.ports:
                for at in range(len(self.ports[colour, component])):
                    self.stop_app(colour, component, at)
            self._reap()
            if self._own and self.folder.exists():
                shutil.rmtree(self.folder)

    # How

    def _start_apps(self) -> None:
        for (colour, component), ports in self.ports.items():
            for at in range(len(ports)):
                self.start_app(colour, component, at)

    def _control(self, colour: str, component: str, replica: int, line: str) -> str:
        return ask(str(self.folder / f"{component}-{colour}{replica}.control"), line)

    def _master_answers(self, process: int) -> bool:
        with contextlib.suppress(OSError):
            return str(self.worker_pid(process)) in self.master_ask("show proc", process).split()
        return False

    def _all_checked(self) -> bool:
        servers = [row for row in self.rows() if row["svname"] not in ("FRONTEND", "BACKEND") and not row["status"].startswith("MAINT")]
        return all(row["check_status"] not in ("", "INI") and not row["check_status"].startswith("*") for row in servers)

    def _place(self) -> dict[str, t.Any]:
        """The options that make a module look at this edge."""
        place: dict[str, t.Any] = {
            "method": self.shape.method, "config": str(self.config), "map_key": self.map_key, "state_dir": str(self.state_dir),
            "stats_socket": list(self.all_stats),
        }
        if self.shape.method == "map":
            place["map"] = str(self.map)
        if self.shape.layout == "one-backend":
            place["server_name"] = "{component}-{color}"
        return place

    def _make_certificate(self) -> Path:
        """Self-signed; `certificate` is what a client must trust, the result what HAProxy loads."""
        key, both = self.folder / "key.pem", self.folder / "edge.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example,DNS:localhost,IP:127.0.0.1",
                        "-keyout", key, "-out", self.certificate], check=True, capture_output=True)
        both.write_bytes(self.certificate.read_bytes() + key.read_bytes())
        return both

    def _reap(self) -> None:
        """Nobody else takes the exit status of our children, and a zombie would stay for the whole run of the tests."""
        self._children = [child for child in self._children if child.poll() is None]


class Load:
    """A running `web load`; `report` is there after the end."""

    def __init__(self, web: Path, folder: Path, url: str, connections: int, more: t.Mapping[str, t.Any], ws: bool,
                 headers: t.Mapping[str, str]):
        self._file = folder / f"load-{time.monotonic_ns()}.json"
        argv = [web, "load", "--url", url, "--connections", str(connections), "--report", self._file]
        argv += [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", str(value)) if value is not None]
        argv += [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
        self._process = subprocess.Popen(argv + (["--ws"] if ws else []), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.report: dict[str, t.Any] = {}

    def end_a_pause(self) -> None:
        """Of each connection: the one that it is in, or the next."""
        self._process.send_signal(signal.SIGUSR1)

    def wait_until_begun(self) -> None:
        assert self._process.stdout and self._process.stdout.readline() == "begun\n", "the load has ended before it began"

    def wait(self, seconds: float = 600) -> dict[str, t.Any]:
        """Until it ends by itself (requests=, seconds=)."""
        self._process.communicate(timeout=seconds)
        assert self._process.returncode == 0, "the load has failed; what it said is above"
        self.report = json.loads(self._file.read_text(encoding="utf-8"))
        return self.report

    def end(self) -> None:
        if not self.report:
            self._process.terminate()
            self.wait(PATIENCE)


def fetch(url: str) -> str:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE) as answer:
            return answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, urllib.error.URLError):
        return ""

# Modules, run directly


def module_binary(name: str) -> Path:
    given = os.environ.get("REVERSIBLE_STAGED")
    folder = Path(given) / BIN if given else ROOT / "collection/plugins/plugin_utils/bin"
    binary = folder / f"{name}_{platform.machine()}"
    assert binary.exists(), f"{binary} is missing: make collection"
    asked.add(f"modules/{name.removesuffix('_info')}")
    return binary


class Call:
    """A run of a module's binary as the fast path does it: the options on stdin, one line of JSON as its answer."""

    def __init__(self, module: str, options: t.Mapping[str, t.Any], *, check: bool = False, diff: bool = False,
                 below: t.Sequence[str] = (), **environ: str):
        """`below` is a program, with its arguments, that is to run it."""
        given = {**options, "_ansible_module_name": f"reversible.deploy.{module}", "_ansible_check_mode": check, "_ansible_diff": diff}
        argv = [*below, module_binary(module), "-"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **environ})
        assert self.process.stdin
        self.process.stdin.write(json.dumps(given))
        self.process.stdin.close()
        self.process.stdin = None  # communicate() must not write to it again

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def wait(self, seconds: float = 120) -> dict[str, t.Any]:
        try:
            output, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        lines = output.splitlines()
        assert len(lines) == 1 and not errors and self.process.returncode in (0, 1), (self.process.returncode, output, errors)
        result = json.loads(lines[0])
        assert bool(result.get("failed")) == (self.process.returncode == 1), (self.process.returncode, result)
        return result


def call(module: str, options: t.Mapping[str, t.Any], **more: t.Any) -> dict[str, t.Any]:
    """Run it to the end; `check`, `diff` as Ansible gives them."""
    return Call(module, options, **more).wait()
