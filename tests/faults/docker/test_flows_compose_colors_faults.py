# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploys of two Compose projects when things go wrong in the middle: no engine, a port that is a stranger's, a controller killed while an
image is built and while services start, an image that nobody has, a disk that is full. The colour that served serves, no request has failed, and the same
command goes on."""
from __future__ import annotations

import os
import socket
import typing as t
from pathlib import Path

import pytest
from compose import Engine
from edge import haproxy_binary, web_binary
from flows import kill_when
from harness import Run, wait_for, within
from colors_shop import COMPOSE, ColorsShop, an_engine, sha  # noqa: F401  pylint: disable=unused-import

# Its image is made here, of what lies beside it and belongs to the release alone.
BUILT = COMPOSE.replace("    stop_signal", "    build: .\n    stop_signal", 1)
# Its services wait for one that is well as long as a file is there.
HELD = BUILT.replace("    build", "    depends_on: {gate: {condition: service_healthy}}\n    build", 1).replace("services:\n", """\
services:
  gate:
    image: reversible-lab/busybox:1
    stop_signal: SIGKILL
    volumes: ["shared:/shared"]
    command: [sleep, "100000"]
    healthcheck: {test: [CMD, test, -e, /shared/open], interval: 1s, timeout: 5s, retries: 300}
""", 1)
# Takes from a queue, as long as nobody else does; without a queue it is not ready.
WORKER = """\
  mail:
    image: NAME/web:${RELEASE}
    restart: unless-stopped
    environment: {COLOR: "${COLOR}", DATABASE_URL: "${DATABASE_URL}"}
    command:
      - sh
      - -c
      - |
        trap 'rmdir /shared/queue; exit 0' TERM
        mkdir /shared/queue || touch /shared/clash
        SAYS
        while :; do sleep 0.1; done
    volumes: ["shared:/shared"]
volumes:
"""
READY, LOST = "echo $$COLOR is ready", "echo $$COLOR cannot reach $$DATABASE_URL"
FROM_REGISTRY = COMPOSE.replace("NAME/web", "127.0.0.1:5000/NAME/web", 1)


class BuiltShop(ColorsShop):
    """Nothing is pulled, and images are built, unless a deploy says otherwise. 1 and 2 are well; 3 starts when its gate is open, as it is at
    first; 4 is in the registry, and larger than what has no room; 5 is nowhere."""

    def __init__(self, place: Path, on: Engine, **shape: t.Any) -> None:
        super().__init__(place, on, **shape)
        self.vars["compose_colors_app_build"] = True
        self.gate = on.volume(f"{self.name}-shared") / "open"
        self.gate.touch()
        for number, text in ((1, BUILT), (2, BUILT), (3, HELD)):
            folder = self.releases / self.publish(number, text=text)
            self.on.docker("image", "rm", f"{self.name}/web:{sha(number)}")
            (folder / "Dockerfile").write_text(f"FROM reversible-lab/busybox:1\nCOPY etc/shop/motd /motd-{number}\n")
        for number in (4, 5):
            self.publish(number, text=FROM_REGISTRY)
        large = place / "large"
        large.mkdir()
        (large / "noise").write_bytes(os.urandom(1 << 20))
        (large / "Dockerfile").write_text("FROM reversible-lab/busybox:1\nCOPY noise /noise\n")
        image = f"127.0.0.1:5000/{self.name}/web:{sha(4)}"
        for words in (("build", "--quiet", "--tag", image, large), ("push", "--quiet", image), ("image", "rm", image)):
            on.docker(*words)

    def broken(self, number: int, *words: str, **inputs: t.Any) -> Run:
        """A deploy that fails, and says why."""
        run = self.deploy(number, **inputs)
        said = " ".join(run.output.split())
        assert run.code == 2 and self.outcome == "failed_reverted" and all(word in said for word in words), run.output
        return run

    def good(self, book: str, *options: str, **inputs: t.Any) -> Run:
        run = self.run(book, *options, **inputs)
        assert run.code == 0 and self.outcome == "done", run.output
        return run

    def killed_while_it_builds(self) -> str:
        """A deploy of 3 whose controller dies while its image is built; the id of the run. What it had begun is let go on, and comes to its end."""
        with (self.releases / sha(3) / "Dockerfile").open("a") as file:
            file.write("RUN until [ -e /go-on ]; do sleep 1; done\n")

        def builds() -> list[str]:
            lines = self.on.docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Command}}").splitlines()
            return [line.split()[0] for line in lines if "/go-on" in line]

        kill_when(self.start_book("deploy_app", release_sha=sha(3)), builds, "the image is built")
        [container] = builds()
        self.on.docker("exec", container, "touch", "/go-on")
        wait_for(lambda: self.on.docker("image", "ls", "--quiet", f"{self.name}/web:{sha(3)}"), "the image is there", 120)
        return self.last_deploy()

    def killed_while_it_starts(self, **inputs: t.Any) -> str:
        """A deploy of 3 whose controller dies while blue waits for a service that is not yet well, and that stays so; the id of the run."""
        self.gate.unlink()
        kill_when(self.start_book("deploy_app", release_sha=sha(3), **inputs), self.waits, "the services start")
        return self.last_deploy()

    def waits(self) -> bool:
        return "starting" in self.on.docker("ps", "--filter", f"name={self.name}-blue-gate-1", "--format", "{{.Status}}")

    def made_by(self, color: str) -> dict[str, str]:
        """Each container of a colour, with the deploy that made it."""
        label = f"label=com.docker.compose.project={self.name}-{color}"
        said = self.on.docker("ps", "-a", "--filter", label, "--format", '{{.Names}} {{.Label "reversible.deploy_id"}}')
        return dict(line.split(" ", 1) for line in said.splitlines())

    def files(self, color: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.root / color).rglob("*") if path.is_file() and path.name != ".env"}

    def close(self) -> None:
        self.on.docker("image", "rm", f"127.0.0.1:5000/{self.name}/web:{sha(4)}", ok=False)
        super().close()


class WithWorker(ColorsShop):
    """With a worker, whose proof is a line of its log; that of 3 does not come."""

    def __init__(self, place: Path, on: Engine) -> None:
        super().__init__(place, on)
        self.vars["app_components"].append({"name": "mail", "kind": "worker", "proof": {"log": "is ready"}})
        for number, says in ((1, READY), (2, READY), (3, LOST)):
            self.publish(number, text=COMPOSE.replace("volumes:\n", WORKER.replace("SAYS", says), 1))

    def working(self) -> list[str]:
        """The colour of each worker that runs."""
        assert not (self.on.volume(f"{self.name}-shared") / "clash").exists()
        said = self.on.docker("ps", "--filter", "label=com.docker.compose.service=mail", "--format", "{{.Names}}").split()
        return [name.removeprefix(f"{self.name}-").removesuffix("-mail-1") for name in said]


class TwoHosts(BuiltShop):
    """The app on two hosts, each with ports, projects and a folder of its own; the engine is the same."""

    names = ("shop1", "shop2")

    def __init__(self, place: Path, on: Engine) -> None:
        super().__init__(place, on, replicas=len(self.names))
        [component] = self.vars["app_components"]
        ports = {color: f"{{{{ (own_ports | default({{}})).{color} | default(0) }}}}" for color in ("blue", "green")}
        self.vars |= {
            "app_hosts": list(self.names), "app_components": [component | {"port": ports}],
            "compose_colors_app_project": f"{self.name}-{{{{ inventory_hostname }}}}",
            "compose_colors_app_root": f"{self.root}/{{{{ inventory_hostname }}}}",
            "compose_colors_app_kept_logs": f"{self.folder}/kept/{{{{ inventory_hostname }}}}",
        }

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        known = super().hosts()
        ports = {name: {color: self.ports[color, "web"][at] for color in ("blue", "green")} for at, name in enumerate(self.names)}
        return {"lb1": known["lb1"]} | {name: self.host(name, own_ports=own) for name, own in ports.items()}

    @property
    def projects(self) -> list[str]:
        return [f"{self.name}-{name}-{color}" for name in self.names for color in ("blue", "green")]


@pytest.fixture(name="place")
def a_place(on: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Path]:
    """In the engine's network."""
    monkeypatch.setenv("DATABASE_URL", "postgres://shop")
    for get in (web_binary, lambda: haproxy_binary("2.6")):   # before the network in which nothing can be fetched
        get()
    with within(on.offer["pid"], {**on.environ, "PATH": f"{on.offer['path']}:{os.environ['PATH']}"}):
        yield tmp_path


@pytest.fixture(name="shop")
def a_shop(on: Engine, place: Path) -> t.Iterator[BuiltShop]:
    with BuiltShop(place, on) as shop:
        yield shop


def test_workers_run_in_the_active_colour_alone(on: Engine, place: Path) -> None:
    with WithWorker(place, on) as shop:
        first = shop.deploy(1)
        assert first.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], first.output
        bad = shop.deploy(3, compose_colors_app_probe_tries=10)
        said = " ".join(bad.output.split())
        assert bad.code == 2 and shop.outcome == "failed_reverted" and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], bad.output
        assert "expected 1 new lines that match, got 0 of " in said and "blue cannot reach ********" in said, bad.output
        killed = shop.killed("Flip this load balancer", release_sha=sha(2))
        assert shop.live() == "blue" and shop.working() == []
        status = shop.run("status")
        assert f"shop1: blue holds {sha(2)[:12]}, healthy" in status.output and "shop1: worker mail DOES NOT RUN" in status.output, status.output
        back = shop.run("rollback", mode="fast", take_over=killed)
        assert back.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], back.output


def test_what_goes_wrong_while_a_release_is_made(shop: BuiltShop) -> None:
    with shop.on.stopped():
        shop.broken(1, "Cannot connect to the Docker daemon")
        status = shop.run("status")
        assert status.code == 0 and "shop1: NOT KNOWN: shop staging on shop1: " in status.output, status.output
        assert "Cannot connect to the Docker daemon" in status.output and not shop.root.exists()
    shop.good("deploy_app", release_sha=sha(1))
    assert shop.serves() == ("green", sha(1)) and not (shop.root / "green/Dockerfile").exists()

    with shop.load(connections=4, pause=50, seconds=3600) as load:
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", shop.ports["blue", "web"][0]))
            stranger.listen()
            shop.broken(2, "address already in use", f"green serves {sha(1)}, as before")
        killed_while_it_is_built_and_while_it_starts(shop)
        no_image(shop)
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report


def killed_while_it_is_built_and_while_it_starts(shop: BuiltShop) -> None:
    """Blue is what a failed deploy has left. What the killed run had begun goes on without its controller."""
    first = shop.killed_while_it_builds()
    status = shop.run("status")
    words = (f"Under way: {first}", f"shop1: green holds {sha(1)[:12]}, healthy", f"shop1: blue holds {sha(2)[:12]}, NOT healthy")
    assert status.code == 0 and all(word in status.output for word in words), status.output
    for book, inputs, words in (("rollback", {"mode": "fast"}, "A fast rollback is not possible: shop-web-blue/web-blue is DOWN"),
                                ("cleanup_failed", {"color": "blue", "confirm": True}, f"take_over: {first}")):
        refused = shop.run(book, **inputs)
        assert refused.code == 2 and words in refused.output, refused.output
    second = shop.killed_while_it_starts(take_over=first)
    assert shop.serves() == ("green", sha(1))
    shop.gate.touch()
    shop.good("deploy_app", release_sha=sha(3), take_over=second)
    assert shop.serves() == ("blue", sha(3))
    assert shop.made_by("blue") == {f"{shop.name}-blue-{name}-1": shop.last_deploy() for name in ("gate", "web")}


def no_image(shop: BuiltShop) -> None:
    """Blue serves; green is the way back, and stays it until the images of what takes its place are there."""
    before, files, pull = shop.running(), shop.files("green"), {"compose_colors_app_pull": "missing", "compose_colors_app_build": False}
    shop.broken(5, "pull the images", f"blue serves {sha(3)}, as before", **pull)
    (shop.releases / sha(2) / "noise").write_bytes(os.urandom(1 << 20))   # goes to the engine with the Dockerfile
    with shop.on.full():
        shop.broken(4, "pull the images", "no space left on device", f"blue serves {sha(3)}, as before", **pull)
        shop.broken(2, "build the images", "no space left on device", f"blue serves {sha(3)}, as before")
    assert (shop.running(), shop.files("green")) == (before, files)
    shop.good("rollback", mode="fast")
    assert shop.serves() == ("green", sha(1))
    shop.good("rollback", mode="full", release_sha=sha(4), **pull)
    assert shop.serves() == ("blue", sha(4)) and list(shop.made_by("blue")) == [f"{shop.name}-blue-web-1"]


@pytest.mark.long
def test_the_engine_ends_in_the_middle(shop: BuiltShop) -> None:
    """What served ends with it, and comes back with it; the deploy does not."""
    shop.good("deploy_app", release_sha=sha(1))
    shop.gate.unlink()
    running = shop.start_book("deploy_app", release_sha=sha(3))
    wait_for(lambda: shop.waits() or running.process.poll() is not None, "the services start", 300)
    with shop.on.stopped():
        run = running.wait()
        assert run.code == 2 and shop.outcome == "failed_reverted" and "start the services" in run.output, run.output
    wait_for(lambda: shop.serves() == ("green", sha(1)), "the engine has started green again")
    shop.gate.touch()
    shop.good("deploy_app", release_sha=sha(3))
    assert shop.serves() == ("blue", sha(3))


@pytest.mark.long
def test_killed_and_cleaned_up(shop: BuiltShop) -> None:
    """Whoever cleans up waits for what the killed run had begun, or it would start again what was just stopped."""
    shop.good("deploy_app", release_sha=sha(1))
    killed = shop.killed_while_it_starts()
    cleans = shop.start_book("cleanup_failed", color="blue", confirm=True, take_over=killed)
    told, waits = Path(cleans.output.name), ": Wait until no earlier run is at work on the colour] ***"
    wait_for(lambda: waits in told.read_text() or cleans.process.poll() is not None, "it waits", 300)
    shop.gate.touch()
    cleaned = cleans.wait()
    assert cleaned.code == 0 and shop.outcome == "done", cleaned.output
    said = shop.on.docker("ps", "-a", "--filter", f"name={shop.name}-blue", "--format", "{{.Names}} {{.State}}").splitlines()
    assert sorted(said) == [f"{shop.name}-blue-gate-1 exited", f"{shop.name}-blue-web-1 exited"], said
    shop.good("deploy_app", release_sha=sha(3))
    assert shop.serves() == ("blue", sha(3))


@pytest.mark.long
def test_one_host_of_two_fails(on: Engine, place: Path) -> None:
    with TwoHosts(place, on) as shop:
        shop.good("deploy_app", release_sha=sha(1))
        with shop.load(connections=4, pause=50, seconds=3600) as load:
            with socket.socket() as stranger:
                stranger.bind(("127.0.0.1", shop.ports["blue", "web"][1]))
                stranger.listen()
                shop.broken(2, "failed or unreachable: shop2", "address already in use", f"green serves {sha(1)}, as before")
            shop.good("deploy_app", release_sha=sha(2))
            assert shop.serves() == ("blue", sha(2))
            shop.good("rollback", mode="fast")
            assert shop.serves() == ("green", sha(1))
        assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report
