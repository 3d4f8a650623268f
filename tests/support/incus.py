# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's Incus for the tests: its network entered, its client on the PATH; and a whole shop in its containers, with HAProxy before it.

    with incus() as machine, IncusShop(tmp_path, machine) as shop:
        shop.publish(1)
        shop.deploy(1)

HAProxy, the load, the registry and ansible-playbook all run in the network of the lab's Incus, where the bridge is: containers are found
by their names, which its DNS knows, as in the field. Whatever a test made is removed by `close`, by its name.
"""
from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import typing as t
from pathlib import Path

import pytest
from flows import TOKEN, Shop
from harness import HERE, PIPELINING, Ansible, Run, Running, lab, wait_for, within
from releases import sha

FIRST = "20261121t084500z-7f3a"
GREEN, BLUE = "shop-staging-web-green", "shop-staging-web-blue"


class Incus:
    """The lab's Incus, asked by its client."""

    def __init__(self, offer: dict[str, t.Any]) -> None:
        self.offer = offer
        self.environ: dict[str, str] = offer["environment"]
        # Now, before anybody is in the network in which nothing can be fetched.
        self.systemd = Path(lab("get", "incus-image-systemd"))

    def ask(self, *words: str, given: str = "", ok: t.Container[int] = (0,)) -> str:
        done = subprocess.run([f"{self.offer['path']}/incus", *words], env={**os.environ, **self.environ}, input=given,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
        assert done.returncode in ok, f"incus {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout

    def create(self, name: str, start: bool = True, **shape: t.Any) -> str:
        self.ask("--quiet", "create", self.offer["image"], name, given=json.dumps(shape))
        if start:
            self.ask("start", name)
        return name

    def remove(self, *names: str) -> None:
        there = [name for name in names if name in self.instances()]
        if there:
            self.ask("delete", "--force", *there)

    def inside(self, name: str, *words: str) -> str:
        """What it prints is kept by the daemon: `incus exec` loses it now and then on a busy machine."""
        body = {"command": words, "record-output": True, "wait-for-websocket": False, "interactive": False}
        path = f"/1.0/instances/{name}/exec"
        done = json.loads(self.ask("query", "-X", "POST", "--wait", "-d", json.dumps(body), path))["metadata"]
        out, err = (self.ask("query", done["output"][stream]) for stream in "12")
        assert done["return"] == 0, f"{words} inside {name}: {err}{out}"
        return out

    def instances(self) -> dict[str, dict[str, t.Any]]:
        return {one["name"]: one for one in json.loads(self.ask("query", "/1.0/instances?recursion=1"))}

    def status(self) -> dict[str, str]:
        return {name: one["status"] for name, one in self.instances().items()}

    def marks(self, name: str) -> dict[str, str]:
        config = self.instances()[name]["config"]
        return {key.removeprefix("user.reversible."): value for key, value in config.items() if key.startswith("user.reversible.")}

    def image_with_systemd(self) -> str:
        files = self.systemd
        if '"systemd"' not in self.ask("query", "/1.0/images/aliases?recursion=1"):
            self.ask("--quiet", "image", "import", str(files / "metadata.tar"), str(files / "rootfs.tar"), "--alias", "systemd")
        return "systemd"

    # The daemon; its containers go on without it.

    def kill_daemon(self, stay_down: bool = True) -> None:
        if stay_down:
            (Path(self.offer["control"]) / "stay-down").touch()
        for pid in self._daemons():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not stay_down or not self._daemons(), "the end of incusd")

    def start_daemon(self) -> None:
        (Path(self.offer["control"]) / "stay-down").unlink(missing_ok=True)
        wait_for(lambda: self._answers(), "incusd to answer", 60)

    def _answers(self) -> bool:
        with contextlib.suppress(AssertionError):
            return bool(self.ask("query", "/1.0"))
        return False

    def _daemons(self) -> list[int]:
        """Of the lab's machine: its processes see its root, and the one that counts was started by its first process."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (path / "cmdline").read_bytes().split(b"\0")
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if words[0].endswith(b"/incusd") and parent == self.offer["first"] and words[1:2] == [b"--group"]:
                    found.append(int(path.name))
        return found


@functools.cache
def offered() -> Incus:
    return Incus(json.loads(lab("up", "incus")))


@contextlib.contextmanager
def incus() -> t.Iterator[Incus]:
    """The lab's Incus; until the end this process and all that it starts are in its network, and `incus` is its client."""
    machine = offered()
    with within(machine.offer["first"], {**machine.environ, "PATH": f"{machine.offer['path']}:{os.environ['PATH']}"}):
        yield machine


class IncusShop(Shop):
    """The shop, with a container for each component in each colour. HAProxy asks the bridge's DNS for them."""

    def __init__(self, place: Path, machine: Incus, components: tuple[str, ...] = ("web",), **shape: t.Any) -> None:
        self.machine = machine
        super().__init__(place, components, **shape)
        self.vars = {key: value for key, value in self.vars.items() if not key.startswith("host_app_")}
        self.vars |= {
            "app_strategy": "incus", "incus_app_image": machine.offer["image"], "incus_app_root": str(self.root),
            "incus_app_stop_timeout": 1,
            "incus_app_artifact": {"url": self.registry.template, "owner": "acme", "token": TOKEN},
            "incus_app_release_header": "X-Release", "incus_app_kept_logs": str(self.folder / "kept"), "incus_app_free": 0.01,
            "incus_app_state_dir": str(self.folder / "incus-state"), "incus_app_probe_delay": 0.1, "incus_app_probe_tries": 60,
        }

    def instance(self, color: str, component: str = "web") -> str:
        return f"shop-staging-{component}-{color}"

    def component(self, name: str) -> dict[str, t.Any]:
        command = ["{current}/bin/app", "serve", "--listen", "0.0.0.0", "--port", "{port}", "--colour", "{color}"]
        command += ["--release", "{release}"]
        return {"name": name, "port": 8080, "health": "/health", "command": command, "package": f"shop-{name}"}

    def run(self, book: str, *options: str, **inputs: t.Any) -> Run:
        """Containers are made one after the other, and on a busy machine that takes a while."""
        return self.start_book(book, *options, **inputs).wait(600)

    def render(self, colour: str) -> str:
        text = super().render(colour)
        for (color, component), ports in self.ports.items():
            name = f"{self.instance(color, component)}.incus:8080 resolvers bridge init-addr none check"
            text = text.replace(f" 127.0.0.1:{ports[0]} check", f" {name}")
        server = f"{self.machine.offer['address']}:53"
        return text + f"\nresolvers bridge\n    nameserver bridge {server}\n    timeout resolve 200ms\n    hold valid 200ms\n"

    def close(self) -> None:
        self.machine.remove(*(self.instance(color, one["name"]) for color in ("blue", "green") for one in self.vars["app_components"]))
        super().close()


class Doors:
    """The role's doors, called one after the other in a play."""

    def __init__(self, shop: IncusShop, core: str) -> None:
        self.shop = shop
        plugins = {"ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"), **PIPELINING}
        self.ansible = Ansible(core, shop.folder, shop.hosts(), plugins)

    def play(self, *doors: str, options: tuple[str, ...] = (), **inputs: t.Any) -> Run:
        return self.start(*doors, options=options, **inputs).wait(600)

    def start(self, *doors: str, options: tuple[str, ...] = (), **inputs: t.Any) -> Running:
        return self.ansible.start([self.door(door) for door in doors], "app1", *options, vars=self.inputs(**inputs))

    def inputs(self, **inputs: t.Any) -> dict[str, t.Any]:
        return {**self.shop.vars, "app_env": "staging", "app_color": "green", "app_release_sha": sha(1), "deploy_id": FIRST, **inputs}

    @staticmethod
    def door(name: str, **inputs: t.Any) -> dict[str, t.Any]:
        return {"name": name, "ansible.builtin.include_role": {"name": "reversible.deploy.incus_app", "tasks_from": name}, "vars": inputs}

    def refused(self, *calls: tuple[str, dict[str, t.Any]], **inputs: t.Any) -> list[str]:
        """What each of these calls says instead of doing it."""
        passed = {"name": "not refused", "ansible.builtin.debug": {"msg": "NOT REFUSED"}}
        tasks = [{"name": f"call {at}", "block": [self.door(door, **more), passed],
                  "rescue": [{"name": f"said {at}", "ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg }}"}}]}
                 for at, (door, more) in enumerate(calls)]
        run = self.ansible.play(tasks, "app1", vars=self.inputs(**inputs))
        assert run.code == 0 and "NOT REFUSED" not in run.output, run.output
        return [run.named(f"said {at}").msg for at in range(len(calls))]


@pytest.fixture(scope="module", name="machine")
def a_machine() -> t.Iterator[Incus]:
    with incus() as machine:
        yield machine


@pytest.fixture(name="shop")
def a_shop(machine: Incus, tmp_path: Path) -> t.Iterator[IncusShop]:
    with IncusShop(tmp_path, machine) as shop:
        yield shop
