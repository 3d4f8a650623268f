# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole shop on this machine for the tests of the playbooks: HAProxy, a registry with releases, and host_app's processes in both colours.
`TwoEdges` is one with a second HAProxy before the same processes.

    with Shop(tmp_path) as shop:
        shop.publish(1)
        run = shop.deploy(1)
        assert shop.serves() == ("blue", sha(1))

`publish` makes a release good or bad in a way that a test names. Whatever a test did, `close` ends every process of the shop by its pid.
"""
from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import typing as t
import urllib.request
from pathlib import Path

from edge import Edge, call
from gate import Server, answer
from harness import HERE, OLDEST, PIPELINING, ROOT, Ansible, Run, Running, staged, wait_for

from registry import Registry
from releases import TOKEN, folder, member, sha, tar, zstd

BOOKS = "ansible_collections/reversible/deploy/playbooks"
TYPED = ROOT / "collection/docs/workflows/inputs.yml"  # the file by which a workflow gives what was typed
# What a bad release does instead of serving.
BAD = {
    "dead": "#!/bin/sh\necho there is no database\nexit 3\n",
    "silent": "#!/bin/sh\nexec sleep 600\n",
}


def ledger_of(variables: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What is recorded of an app, the newest deploy first. The module is asked, which takes a thousandth of the playbook `status`."""
    found = call("deploy_ledger_info", {"app": variables["app_name"], "env": "staging", "path": variables["app_ledger_path"]})
    assert not found.get("failed"), found
    return found


def unlocking(book: str, variables: t.Mapping[str, t.Any]) -> dict[str, str]:
    """What a deploy is given by whoever has seen why deploys are locked; most tests are about something else. Not where the ledger is on another
    machine."""
    locked = ledger_of(variables)["locked"] if book == "deploy_app" and "app_ledger_path" in variables else None
    return {"unlock": locked["deploy_id"]} if locked else {}


def kill_when(running: Running, look: t.Callable[[], t.Any], what: str) -> None:
    """The controller dies as soon as there is something; a run that ends before that was no test of it."""
    wait_for(lambda: look() or running.process.poll() is not None, what, 300)
    ended = running.process.poll() is not None
    running.process.send_signal(signal.SIGKILL)
    run = running.wait()
    assert not ended, f"it ended before this: {what}\n{run.output}"


def color_switch(edge: Edge) -> dict[str, t.Any]:
    """Where a load balancer has what the role of that name asks for."""
    return {"color_switch_config": str(edge.config), "color_switch_state_dir": str(edge.state_dir), "color_switch_map": str(edge.map)}


class Shop(Edge):
    """The edge, with apps that only a deploy starts."""

    core = OLDEST

    def __init__(self, place: Path, components: tuple[str, ...] = ("web",), **shape: t.Any) -> None:
        self.registry = Registry([TOKEN])
        self.registry.__enter__()
        self.root = place / "srv/apps"   # nor is there a folder that it could lie in
        super().__init__(components=components, **{"layout": "two-backends", "inter": "100ms"} | shape)
        self.variables = self.folder / "shop.json"
        self.more_hosts: dict[str, dict[str, t.Any]] = {}
        self.environ: dict[str, str] = {}   # of every run
        self.vars: dict[str, t.Any] = {
            "app_name": "shop", "app_hosts": ["app1"], "app_load_balancers": ["lb1"], "app_ledger_host": "lb1", "app_map": str(self.map),
            "app_ledger_path": str(self.folder / "ledger"),
            "app_components": [self.component(name) for name in components],
            "app_prove": {"url": self.url, "release_header": "X-Release", "tries": 3, "delay": 0.1},
            "host_app_artifact": {"url": self.registry.template, "owner": "acme", "token": TOKEN},
            "host_app_root": str(self.root), "host_app_supervisor": "process", "host_app_release_header": "X-Release",
            "host_app_logs": str(self.folder / "log"), "host_app_run_dir": str(self.folder), "host_app_state_dir": str(self.folder / "host-state"),
            "host_app_kept_logs": str(self.folder / "kept"), "host_app_probe_tries": 20, "host_app_probe_delay": 0.1, "host_app_free": 0.01,
            "ledger_report_dir": str(self.folder / "incidents"),
        }

    def component(self, name: str) -> dict[str, t.Any]:
        command = ["{current}/bin/app", "serve", "--port", "{port}", "--colour", "{color}", "--release", "{release}"]
        command += ["--control", f"{self.folder}/{name}-{{color}}0.control"]
        return {"name": name, "port": {color: self.ports[color, name][0] for color in ("blue", "green")}, "command": command, "package": f"shop-{name}"}

    def publish(self, number: int, bad: str = "", components: tuple[str, ...] | None = None) -> str:
        """Put a release into the registry; its SHA."""
        app = BAD[bad].encode() if bad else Path(self._web).read_bytes()
        archive = zstd(tar(folder("./"), folder("./bin"), member("./bin/app", app, mode=0o755), member("./RELEASE", sha(number).encode())), "-1")
        for name in components or self.shape.components:
            self.registry.publish(sha(number), archive, package=f"shop-{name}")
        return sha(number)

    def withdraw(self, number: int) -> None:
        """Let the registry have a release no more."""
        for name in self.shape.components:
            url = f"{self.registry.origin}/api/packages/acme/generic/shop-{name}/{sha(number)}"
            wanted = urllib.request.Request(url, method="DELETE", headers={"Authorization": f"token {TOKEN}"})
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(wanted, timeout=10).close()

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        return {"lb1": self.host("lb1", **color_switch(self)), "app1": self.host("app1"), **self.more_hosts}

    def host(self, name: str, **more: t.Any) -> dict[str, t.Any]:
        return {"ansible_connection": "lost", "ansible_python_interpreter": "/usr/bin/python3", "lost_file": str(self.lost(name)), **more}

    def lost(self, host: str) -> Path:
        """While this file exists, the host does not answer."""
        return self.folder / f"lost-{host}"

    def run(self, book: str, *options: str, **inputs: t.Any) -> Run:
        return self.start_book(book, *options, **inputs).wait()

    def typed(self, book: str, core: str = "", **inputs: str) -> Run:
        """As a workflow runs it: the inputs are variables of the environment."""
        environ = {f"DEPLOY_{name.upper()}": text for name, text in {"env": "staging", **inputs}.items()}
        return self.start_book(book, "-e", f"@{TYPED}", core=core, environ=environ).wait()

    def start_book(self, book: str, *options: str, core: str = "", environ: t.Mapping[str, str] | None = None, **inputs: t.Any) -> Running:
        self.variables.write_text(json.dumps(self.vars))
        environ = {"ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"), **PIPELINING, **self.environ, **(environ or {})}
        ansible = Ansible(core or self.core, self.folder, self.hosts(), environ)
        given = {"env": "staging", **unlocking(book, self.vars), **inputs}
        return ansible._start(["ansible-playbook", book if book.endswith(".yml") else str(staged() / BOOKS / f"{book}.yml"), "-e", f"@{self.variables}", "-e", json.dumps(given),
                               *options])

    def deploy(self, number: int, *options: str, **inputs: t.Any) -> Run:
        return self.run("deploy_app", *options, release_sha=sha(number), **inputs)

    def killed(self, task: str, book: str = "deploy_app", **inputs: t.Any) -> str:
        """A run whose controller dies as soon as this task has ended; its id."""
        running = self.start_book(book, **inputs)
        line = f'"task": "{task}"'
        kill_when(running, lambda: running.record.exists() and line in running.record.read_text(encoding="utf-8"), task)
        return self.last_deploy()

    def flip(self, color: str, number: int) -> None:
        """As somebody does by hand, so that no ledger knows of it."""
        result = call("haproxy_color_switch", {**self.options, "color": color, "release": sha(number)})
        assert not result.get("failed") and self.serves() == (color, sha(number)), result

    def ledger(self) -> dict[str, t.Any]:
        return ledger_of(self.vars)

    def serves(self) -> tuple[str, str]:
        """The colour and the release that answer through HAProxy."""
        color, _, release = self.answer().partition(" ")
        return color, release

    def last_deploy(self) -> str:
        """The id of the run that has written to the ledger last; of one that was killed, when nobody came after it."""
        return json.loads((self.folder / "ledger/ledger.jsonl").read_text().splitlines()[-1])["deploy"]

    def app_pids(self) -> list[int]:
        """The shop's own processes, found by where their program lies."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if any(word.startswith(os.fsencode(self.root)) for word in words[:2]):
                    found.append(int(entry.name))
        return found

    def reboot(self) -> None:
        """What a reboot leaves of the apps: nothing runs, /run is empty, the disk is as it was. HAProxy is on another machine."""
        for pid in self.app_pids():
            os.kill(pid, signal.SIGKILL)
        for file in Path(self.vars["host_app_run_dir"]).glob("shop-staging-*.pid"):
            file.unlink()
        wait_for(lambda: self.answer() == "HTTP 503", "HAProxy has seen that nobody is there")

    def close(self) -> None:
        for pid in self.app_pids():
            os.kill(pid, signal.SIGKILL)
        self.registry.__exit__()
        super().close()

    def _start_apps(self) -> None:
        """Nothing runs before the first deploy."""


class Beside(Edge):
    """Another HAProxy before the apps of the first."""

    def __init__(self, first: Edge, folder: Path) -> None:
        self._first = first
        super().__init__(folder, components=first.shape.components, layout="two-backends", inter="100ms")

    def _start_apps(self) -> None:
        """They are there; HAProxy, which comes next, must know their ports."""
        self.ports.update(self._first.ports)
        self.config.write_text(self.render("blue"), encoding="utf-8")


class Door:
    """Before an edge: what is asked here is asked there, once the door is open."""

    def __init__(self, edge: Edge) -> None:
        self._edge, self._open, self.waiting = edge, threading.Event(), 0
        self._open.set()
        self._server = Server(self._pass_on)
        self.url = self._server.url

    def _pass_on(self, connection: socket.socket) -> None:
        self.waiting += 1
        assert self._open.wait(600)
        self.waiting -= 1
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self._edge.url, timeout=60) as said:
            answer(said.read().decode(), **{"X-Release": said.headers["X-Release"]})(connection)

    @contextlib.contextmanager
    def closed(self) -> t.Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def close(self) -> None:
        self._open.set()
        self._server.close()


class TwoEdges(Shop):
    """With two load balancers, lb1 and lb2. What proves a flip of lb1 is asked through a door."""

    second: Beside | None = None
    door: Door | None = None

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        try:
            self.second = Beside(self, self.folder / "lb2")
            self.door = Door(self)
        except BaseException:
            self.close()
            raise
        self.vars["app_load_balancers"] = ["lb1", "lb2"]
        self.vars["app_prove"] |= {"url": self.door.url, "timeout": 600}

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        prove = self.vars["app_prove"] | {"url": self.second.url}
        return super().hosts() | {"lb2": self.host("lb2", color_switch_prove=prove, **color_switch(self.second))}

    def both(self) -> list[tuple[str, str]]:
        """What answers through each of them."""
        color, _, release = self.second.answer().partition(" ")
        return [self.serves(), (color, release)]

    def close(self) -> None:
        if self.door:
            self.door.close()
        if self.second:
            self.second.close()
        super().close()
