# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shop in blue and green as two Compose projects of a real engine, with HAProxy before them."""
from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

import pytest
from compose import Engine, engine
from edge import haproxy_binary, web_binary
from flows import Shop
from harness import CORES, HERE, OLDEST, PIPELINING, Ansible, Run, Running, lab, within
from in_place import example
from releases import sha

COMPOSE = """\
services:
  web:
    image: NAME/web:${RELEASE}
    stop_signal: SIGKILL
    restart: unless-stopped
    ports: ["127.0.0.1:${WEB_PORT}:80"]
    environment: {COLOR: "${COLOR}", RELEASE: "${RELEASE}", DATABASE_URL: "${DATABASE_URL}"}
    command: [sh, /conf/start]
    volumes: ["./conf:/conf:ro", "shared:/shared", "own:/own"]
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/health"], interval: 2s, timeout: 5s, retries: 1}
volumes:
  shared: {name: NAME-shared, external: true}
  own: {}
"""
START = """\
mkdir -p /www
echo $COLOR $RELEASE | tee -a /shared/seen /own/seen > /www/index.html
echo this is $COLOR $RELEASE
HEALTH
exec httpd -f -h /www
"""
HEALTHY = "echo \"{\\\"version\\\": \\\"$RELEASE\\\"}\" > /www/health"
SECRET = "it's a \"$secret\" ${of} \\ours\\"
# The newer one is above every id that a run of the tests gives itself, and within the day that an id may be ahead.
OLDER, NEWER = "20261121t084000z-0001", time.strftime("%Y%m%dt%H%M%Sz-1c2d", time.gmtime(time.time() + 12 * 3600))
NEWEST = CORES[-1]


class ColorsShop(Shop):
    """The example for Compose in blue and green, on the lab's engine and behind a HAProxy in its network. Most of its runs are of the oldest
    ansible-core; those that name the newest meet every door of the role."""

    def __init__(self, place: Path, on: Engine, **shape: t.Any) -> None:
        self.on, self.releases, self.name = on, place / "releases", f"colors{place.stat().st_ino}"
        super().__init__(place, **{"inter": "500ms"} | shape)   # the containers' server makes a process for each request
        written = example("compose_colors")
        [component] = written["app_components"]
        ours = {"app_name", "app_ledger_host", "app_ledger_path", "app_map", "ledger_report_dir"}
        self.vars = written | {key: value for key, value in self.vars.items() if key in ours} | {
            "app_components": [component | {"port": {color: self.ports[color, "web"][0] for color in ("blue", "green")}}],
            "app_prove": written["app_prove"] | {"url": f"{self.url}health", "tries": 3, "delay": 0.1},
            "app_error_budget": {"watch": 1, "max_share": 0.02},
            "compose_colors_app_project": self.name, "compose_colors_app_root": str(self.root),
            "compose_colors_app_source": f"{self.releases}/{{{{ release_sha | default('') }}}}",
            "compose_colors_app_source_files": ["compose.yaml", "conf", "etc/shop/motd"], "compose_colors_app_pull": "never",
            "compose_colors_app_kept_logs": str(self.folder / "kept"), "compose_colors_app_free": 0.01,
            "compose_colors_app_probe_tries": 20,
        }
        on.docker("volume", "create", f"{self.name}-shared")

    def publish(self, number: int, bad: str = "", components: tuple[str, ...] | None = None, text: str = COMPOSE) -> str:
        folder = self.releases / sha(number)
        for name, text in {
            "compose.yaml": text.replace("NAME", self.name), "etc/shop/motd": f"release {number}\n",
            "conf/start": START.replace("HEALTH", f"echo {bad}" if bad else HEALTHY),
        }.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.tag(number, "reversible-lab/busybox:1")
        return sha(number)

    def tag(self, number: int, image: str) -> None:
        self.on.docker("tag", image, f"{self.name}/web:{sha(number)}")

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        known = super().hosts()
        return {"lb1": known["lb1"], "shop1": known["app1"]}

    def start_book(self, book: str, *options: str, core: str = OLDEST, **inputs: t.Any) -> Running:
        return super().start_book(book, *options, core=core, **{"outcome_file": str(self.folder / "outcome"), **inputs})

    def run(self, book: str, *options: str, **inputs: t.Any) -> Run:
        run = super().run(book, *options, **inputs)
        assert "$secret" not in run.output, run.output
        return run

    @property
    def outcome(self) -> str:
        file = self.folder / "outcome"
        return file.read_text().strip() if file.exists() else ""

    def container(self, color: str) -> dict[str, t.Any]:
        """What the engine says of the only container of a colour; nothing when there is none."""
        found = self.on.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}-{color}").split()
        return json.loads(self.on.docker("inspect", *found))[0] if found else {}

    def running(self) -> dict[str, tuple[str, str, str]]:
        """Of each colour: its container, that one's image, and its state."""
        return {color: (one["Id"], one["Image"], one["State"]["Status"]) for color in ("blue", "green") if (one := self.container(color))}

    def doors(self, *calls: tuple[str, dict[str, t.Any]]) -> list[str]:
        """What each of these calls says when it refuses; nothing when it does not."""
        role = "reversible.deploy.compose_colors_app"
        given = {"app_env": "staging", "app_color": "blue", "release_sha": sha(2), "app_release_sha": sha(2), "deploy_id": NEWER}
        tasks = [{"block": [{"ansible.builtin.include_role": {"name": role, "tasks_from": door}, "vars": more}],
                  "rescue": [{"name": f"said {at}", "ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg }}"}}]}
                 for at, (door, more) in enumerate(calls)]
        environ = {"ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"), **PIPELINING}
        run = Ansible(NEWEST, self.folder, self.hosts(), environ).play(tasks, "shop1", vars=self.vars | given)
        assert run.code == 0 and "$secret" not in run.output, run.output
        said = {task.task: task.msg for task in run.tasks}
        return [said.get(f"said {at}", "") for at in range(len(calls))]

    @property
    def projects(self) -> list[str]:
        return [f"{self.name}-{color}" for color in ("blue", "green")]

    def close(self) -> None:
        for project in self.projects:
            label = f"label=com.docker.compose.project={project}"
            for kind, every in (("container", ["--all"]), ("network", []), ("volume", [])):
                found = self.on.docker(kind, "ls", "--quiet", *every, "--filter", label).split()
                if found:
                    self.on.docker(kind, "rm", *(["--force"] if kind == "container" else []), *found)
        self.on.docker("volume", "rm", f"{self.name}-shared", ok=False)
        tags = self.on.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{self.name}/web").split()
        self.on.docker("image", "rm", *tags, ok=False)
        super().close()


@pytest.fixture(name="on", scope="module", params=["20.10", "26.1", "28"] if os.environ.get("REVERSIBLE_LONG") else ["20.10"])
def an_engine(request: pytest.FixtureRequest) -> t.Iterator[Engine]:
    engine.cache_clear()   # another file may have had another version
    yield engine(request.param)
    if request.param != "20.10":
        lab("down", "docker")
        engine.cache_clear()


@pytest.fixture(name="shop")
def a_shop(on: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[ColorsShop]:
    monkeypatch.setenv("DATABASE_URL", SECRET)
    for get in (web_binary, lambda: haproxy_binary("2.6")):   # before the network in which nothing can be fetched
        get()
    with within(on.offer["pid"], {**on.environ, "PATH": f"{on.offer['path']}:{os.environ['PATH']}"}):
        with ColorsShop(tmp_path, on) as shop:
            yield shop
