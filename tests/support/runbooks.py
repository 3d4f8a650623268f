# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation as a test reads it: its blocks, by the words after their fences; and two machines on which its commands are run as
they stand.

    ```bash            commands that must end well          ```bash refused     a command that must be refused
    ```yaml NAME       the file NAME beside the commands    ```haproxy          a part of haproxy.cfg

`Machines` has no HAProxy and no app of its own: the documents make both. What is another place than a reader's is said in `edits`,
nothing else is changed.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import typing as t
from pathlib import Path

from edge import fetch, haproxy_binary, web_binary
from harness import PIPELINING, ROOT, staged, venv
from labkit import daemon

from registry import Registry
from releases import TOKEN, folder, member, tar, zstd

DOCS = ROOT / "collection/docs"
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RELOAD = "import os, signal, sys; os.kill(int(open(sys.argv[1]).read()), signal.SIGUSR2)"
# Takes the words of the documents' app, and is the tests' web app in the colour of the folder that it lies in.
SHOP = """#!/bin/sh
here=${0%/bin/*}
case $here in */blue/*) color=blue ;; *) color=green ;; esac
exec "$here/bin/web" serve --port "${2##*:}" --colour $color --release "$(cat "$here/RELEASE")"
"""


@dataclasses.dataclass(frozen=True)
class Block:
    language: str
    word: str
    text: str

    @property
    def commands(self) -> list[str]:
        """One a line, with what was broken over lines put together."""
        return [" ".join(line.split()) for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(path: Path) -> list[Block]:
    return [Block(*(word or "" for word in found)) for found in FENCE.findall(path.read_text(encoding="utf-8"))]


def indented(path: Path) -> list[str]:
    """The commands that stand as blocks by their indentation."""
    text = "\n".join(re.findall(r"^    (ansible.*(?:\\\n.*)*)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    return Block("bash", "", text).commands


def words_that_are_known() -> set[str]:
    """Every name of a variable in the playbooks and roles."""
    paths = [path for pattern in ("playbooks/**/*", "roles/**/*.yml") for path in ROOT.glob(pattern) if path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return set(re.findall(r"\w+", text))


def unknown_in(command: str, known: set[str]) -> list[str]:
    """What a command names that does not exist: a playbook, a module, an input."""
    books = re.findall(r"ansible-playbook .*?reversible\.deploy\.(\w+)", command)
    modules = re.findall(r"-m reversible\.deploy\.(\w+)", command)
    wrong = [name for name in books if not (ROOT / f"playbooks/{name}.yml").exists()]
    wrong += [name for name in modules if not (ROOT / f"collection/plugins/modules/{name}.py").exists()]
    wrong += [name for name in re.findall(r"-e '?\"?(\w+)=", command) if name not in known]
    return wrong


class Machines:
    """lb1 and app1, both this machine, and a forge with releases; in a folder of its own."""

    def __init__(self, place: Path, core: str) -> None:
        self.place, self.core, self.root, self.token = place, core, place / "opt", TOKEN
        self.port, self.sides = daemon.free_port(), {color: daemon.free_port() for color in ("blue", "green")}
        self.registry = Registry([TOKEN])
        self.registry.__enter__()
        self.map, self.config, self.socket = place / "active.map", place / "haproxy.cfg", place / "stats.sock"
        self.ledger, self.state = place / "ledger", place / "state"
        where = f"config={self.config} stats_socket={self.socket} state_dir={self.state}"
        self.edits = {
            "http://127.0.0.1/": f"http://127.0.0.1:{self.port}/", "http://10.0.0.2/": f"http://127.0.0.1:{self.port}/",
            "10.0.0.11": "127.0.0.1", "8081": str(self.sides["blue"]), "8082": str(self.sides["green"]),
            "https://forge.example.org": self.registry.origin,
            "map=/etc/haproxy/active.map map_key=shop-staging": f"map={self.map} map_key=shop-staging {where}",
            "'app=shop env=staging limit=5'": f"'app=shop env=staging limit=5 path={self.ledger}'",
        }
        self._place_of_ours()

    def __enter__(self) -> "Machines":
        return self

    def __exit__(self, *_error: t.Any) -> None:
        for pid in self.app_pids():
            os.kill(pid, signal.SIGKILL)
        daemon.end(daemon.children(daemon.holders(self.port, "haproxy") | self.proxies()))
        self.registry.__exit__()

    def _place_of_ours(self) -> None:
        """What a reader's machines have by themselves: a service HAProxy, folders of the system's, a way to root."""
        program = str(haproxy_binary("2.6"))
        start = [program, "-W", "-D", "-S", f"{self.place}/master.sock", "-p", f"{self.place}/pid", "-f", str(self.config)]
        edge = {
            "install": False, "program": program, "user": "", "group": "", "chroot": "", "log": f"{self.place}/log local0", "maxconn": 500,
            "http_binds": [f"127.0.0.1:{self.port}"], "https_binds": [], "https_redirect": False,
            "check_inter": "200ms", "check_fast_inter": "50ms",
            "config": str(self.config), "map": str(self.map), "stats_socket": str(self.socket),
            "status_socket": f"{self.place}/status.sock",
            "start_command": start, "reload_command": ["/usr/bin/python3", "-c", RELOAD, f"{self.place}/pid"], "reload_timeout": 5,
        }
        switch = {"color_switch_config": str(self.config), "color_switch_state_dir": str(self.state),
                  "color_switch_stats_socket": [str(self.socket)]}
        here = {"ansible_connection": "local", "ansible_user": "root", "ansible_python_interpreter": "/usr/bin/python3"}
        self._json("group_vars/all.json", here)
        self._json("host_vars/lb1.json", switch | {f"haproxy_{name}": value for name, value in edge.items()})
        self.ours = {
            "app_ledger_path": str(self.ledger), "app_map": str(self.map), "host_app_root": str(self.root),
            "host_app_supervisor": "process",
            "host_app_run_dir": str(self.place), "host_app_logs": f"{self.place}/log", "host_app_kept_logs": f"{self.place}/kept",
            "host_app_state_dir": f"{self.place}/host-state", "host_app_probe_tries": 30,
            "host_app_probe_delay": 0.1, "host_app_free": 0.01,
        }

    def _json(self, name: str, value: t.Any) -> None:
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1), encoding="utf-8")

    def build(self, sha: str) -> Path:
        """The archive of a release, as somebody's build leaves it where the commands are given."""
        shop, web = member("./bin/shop", SHOP.encode(), mode=0o755), member("./bin/web", web_binary().read_bytes(), mode=0o755)
        archive = zstd(tar(folder("./"), folder("./bin"), shop, web, member("./RELEASE", sha.encode())), "-1")
        path = self.place / f"shop-backend-{sha}.tar.zst"
        path.write_bytes(archive)
        return path

    def edited(self, text: str) -> str:
        for written, here in self.edits.items():
            text = text.replace(written, here)
        return text

    def write(self, block: Block) -> None:
        """A file of the documents; in the app's variables, what is ours is added."""
        text = self.edited(block.text)
        if block.word == "shop.yml":
            text += "".join(f"{name}: {json.dumps(value)}\n" for name, value in self.ours.items())
        (self.place / block.word).write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        (self.place / "ansible.cfg").touch()
        return own | {"PATH": f"{venv(self.core) / 'bin'}:{os.environ['PATH']}", "ANSIBLE_COLLECTIONS_PATH": str(staged()),
                      "ANSIBLE_CONFIG": str(self.place / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0",
                      "ANSIBLE_LOCAL_TEMP": str(self.place / "tmp"), "PWD": str(self.place), "FORGE_TOKEN": TOKEN, **PIPELINING}

    def bash(self, text: str, seconds: float = 600, **environment: str) -> tuple[int, str]:
        """Run a block as it would run for a reader who stops at the first failure."""
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", self.edited(text)], cwd=self.place, env=self.environment() | environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=seconds, check=False)
        return done.returncode, done.stdout

    def serves(self) -> tuple[str, str]:
        """Who answers through HAProxy: the first word of the page is the colour, the second the release."""
        done = subprocess.run(["curl", "-sS", "--max-time", "10", "-H", "Host: staging.shop.example", f"http://127.0.0.1:{self.port}/"],
                              stdout=subprocess.PIPE, text=True, check=True)
        color, _, release = done.stdout.strip().partition(" ")
        return color, release

    def app_pids(self, color: str = "") -> list[int]:
        """Processes of the app, by where their program lies."""
        found, place = [], os.fsencode(self.root / "backend" / color) if color else os.fsencode(self.root)
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(place + b"/") for word in words[:2]):
                found.append(int(entry.parent.name))
        return found

    def kill(self, color: str) -> None:
        """That colour is gone, and HAProxy knows."""
        for pid in self.app_pids(color):
            os.kill(pid, signal.SIGKILL)
        assert fetch(f"http://127.0.0.1:{self.sides[color]}/") == ""

    def check_out(self) -> None:
        """The repository of the app, as workflows find it: the same files in `deploy/`."""
        (self.place / "deploy").mkdir()
        names = {"inventory.yml": "inventory.yml", "shop.yml": "app.yml", "group_vars": "group_vars", "host_vars": "host_vars"}
        for name, here in names.items():
            (self.place / "deploy" / here).symlink_to(self.place / name)
        (self.place / "deploy/inputs.yml").symlink_to(DOCS / "workflows/inputs.yml")

    def start_haproxy(self, block: Block) -> None:
        """A HAProxy as somebody has it who never heard of us, with that part of the documents in it."""
        ours = f"global\n    stats socket {self.socket} mode 600 level admin\ndefaults\n    mode http\n    timeout connect 1s\n"
        part = self.edited(block.text).replace("bind :80", f"bind 127.0.0.1:{self.port}")
        part = part.replace("/etc/haproxy/active.map", str(self.map))
        part = part.replace("inter 1s", "inter 200ms")
        self.config.write_text(f"{ours}    timeout client 9s\n    timeout server 9s\n{part}", encoding="utf-8")
        argv = [haproxy_binary("2.6"), "-W", "-D", "-S", f"{self.place}/master.sock", "-p", f"{self.place}/pid", "-f", self.config]
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=True)

    @contextlib.contextmanager
    def by_hand(self, color: str, release: str) -> t.Iterator[None]:
        """An app of that release on the port of that colour, which no deploy has started."""
        argv = [web_binary(), "serve", "--port", str(self.sides[color]), "--colour", color, "--release", release]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
            yield
            process.kill()

    def proxies(self) -> set[int]:
        """The HAProxy that was started here, by its own record."""
        path = self.place / "pid"
        pids = {int(word) for word in path.read_text(encoding="utf-8").split()} if path.exists() else set()
        return {pid for pid in pids if os.fsencode(str(self.config)) in _words(pid)}


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
