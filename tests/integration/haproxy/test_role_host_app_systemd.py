# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks where the colours of the role host_app are real units of systemd, at the places that its README names, on a machine without Python.
HAProxy, the registry and the load stand outside of that machine; its network is ours."""
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import typing as t
from pathlib import Path

import flows
import pytest
from edge import fetch
from harness import OLDEST, PIPELINING, Ansible, Run, Running, system, wait_for
from releases import folder, member, sha, tar, zstd

COMPONENTS = ("web", "stream")
USER = "haproxy"  # an account of the machine that is not root
SECRET = 'postgres://shop:Gr%nn$HOME`id`"quoted"\\n\'@db/shop'
# What a command may hold that systemd would take for its own; a line for the journal.
SAYS = 'echo "100%i \\\\ of {release} in ${PWD##*/}"; exec "$@"'
# A release that says why it does not start, and what nobody else should read.
LOUD = """#!/bin/sh
for try in 1 2 3 4 5 6 7 8 9 10 11; do echo "try $try of eleven"; done
printf "cannot reach %s as %s\\n" "$DATABASE_URL" "$(id -un)" >&2
exit 3
"""
PLACES = "/etc/systemd/system/shop-staging-*.service /etc/systemd/system/*.wants/shop-staging-*.service /etc/shop-staging-*.env"
FOLDERS = "/opt/shop-staging /var/log/shop-staging /var/lib/reversible/shop-staging"


class OnSystemd(flows.Shop):
    """The shop with its apps on the lab's machine with systemd, all inputs of the role's places left at their defaults."""

    def __init__(self, place: t.Any, **shape: t.Any) -> None:
        self.machine = system("systemd")["systemd_root"]
        super().__init__(place, COMPONENTS, **shape)
        for name in ("root", "supervisor", "run_dir", "logs", "state_dir", "kept_logs"):
            del self.vars[f"host_app_{name}"]
        self.vars["host_app_user"] = USER
        self.within = Ansible(OLDEST, self.folder, {"app1": self.machine}, PIPELINING)
        self.on("mkdir -p /opt")  # every Debian has it; the lab's machine is unpacked, not installed
        # Whatever asks for Python there fails.
        self.python = self.on("readlink -f /usr/bin/python3").strip()
        self.on(f"mv {self.python} {self.python}.away")

    def component(self, name: str) -> dict[str, t.Any]:
        words = ["{current}/bin/app", "serve", "--port", "{port}", "--colour", "{color}", "--release", "{release}"]
        command = ["/bin/sh", "-c", SAYS, "says", *words]
        return super().component(name) | {"command": command, "env": {"DATABASE_URL": SECRET, "EMPTY": "", "WORKERS": 2}}

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        return super().hosts() | {"app1": self.machine}

    def start_book(self, book: str, *options: str, **inputs: t.Any) -> Running:
        return super().start_book(book, *options, core=OLDEST, **inputs)

    def on(self, command: str) -> str:
        return self.within.on("app1", command)

    def show(self, color: str, name: str) -> list[str]:
        """A property of the units of a colour, as systemd says it."""
        units = [f"shop-staging-{component}-{color}.service" for component in COMPONENTS]
        return self.on(f"systemctl show --value --property={name} {' '.join(units)}").split()

    def units(self, color: str) -> list[str]:
        """Whether the units of a colour run, and would after a reboot."""
        return self.show(color, "ActiveState") + self.show(color, "UnitFileState")

    def left(self) -> list[str]:
        """Everything of the shop that lies on the machine."""
        return self.on(f"find {FOLDERS} {PLACES} 2>&1 | grep -v 'No such file' || test $? = 1").split()

    def boot(self) -> None:
        """What a boot does with the units: all end, and those come back that are wanted by then."""
        self.on("systemctl stop 'shop-staging-*'")
        wait_for(lambda: self.answer() == "HTTP 503", "HAProxy has seen that nobody is there")
        self.on("cd /etc/systemd/system/multi-user.target.wants && systemctl daemon-reload && systemctl start -- shop-staging-*")

    def close(self) -> None:
        try:
            self.on(f"mv {self.python}.away {self.python}; systemctl stop 'shop-staging-*'; rm -rf {FOLDERS} {PLACES}; systemctl daemon-reload; systemctl reset-failed; "
                    "journalctl --rotate --vacuum-time=1us")
        finally:
            super().close()


@pytest.fixture(name="shop")
def a_shop(tmp_path) -> t.Iterator[OnSystemd]:
    with OnSystemd(tmp_path) as shop:
        yield shop


def done(run: Run) -> Run:
    assert run.code == 0, run.output
    assert "Gr%nn" not in run.output, run.output
    return run


UP, DOWN = ["active"] * 2 + ["enabled"] * 2, ["inactive"] * 2 + ["disabled"] * 2


def test_deploys_into_units(shop: OnSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flows.BAD, "loud", LOUD)
    for number in (1, 2):
        shop.publish(number)
    shop.publish(3, bad="loud")
    foreseen = done(shop.deploy(1, "--check", "--diff"))
    assert shop.left() == [] and "ExecStart=" in foreseen.output, foreseen.output
    done(shop.deploy(1, "--diff", "-v"))
    assert shop.serves() == ("green", sha(1)) and shop.units("green") == UP
    secrets_are_kept(shop)

    with shop.load(connections=4, pause=20) as load:
        done(shop.deploy(2))
        assert shop.serves() == ("blue", sha(2)) and shop.units("blue") == shop.units("green") == UP
        point = shop.last_deploy()
        killed_comes_back(shop, "green")
        pids = shop.show("blue", "MainPID") + shop.show("green", "MainPID")
        assert "is active already" in done(shop.deploy(2)).output
        assert pids == shop.show("blue", "MainPID") + shop.show("green", "MainPID")
        done(shop.run("rollback", mode="fast"))
        assert shop.serves() == ("green", sha(1))
        done(shop.run("rollback", mode="fast", target_color="blue"))
        assert shop.serves() == ("blue", sha(2))
        assert pids == shop.show("blue", "MainPID") + shop.show("green", "MainPID")

        # The idle colour has ended, and is cleaned up: what it was is still there.
        shop.on("systemctl stop 'shop-staging-*-green.service'")
        closed = shop.run("rollback", mode="fast")
        assert closed.code == 2 and f"Possible are: to={point}" in " ".join(closed.output.split()), closed.output
        done(shop.run("cleanup_failed", color="green", confirm=True))
        assert shop.units("green") == DOWN and shop.units("blue") == UP
        logs_are_kept(shop, "green")
        done(shop.run("rollback", to=point, confirm=True))
        assert shop.serves() == ("green", sha(1)) and shop.units("green") == shop.units("blue") == UP
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report

    shop.boot()
    wait_for(lambda: shop.serves() == ("green", sha(1)), "the colour that served serves again")
    done(shop.run("rollback", mode="fast", target_color="blue"))
    assert shop.serves() == ("blue", sha(2))

    with shop.load(connections=4, pause=20) as load:
        bad = shop.deploy(3)
    assert bad.code == 2 and shop.serves() == ("blue", sha(2)), bad.output
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report
    assert "shop-staging-web-green.service" in bad.output and re.search(r"Active: (activating|failed)", bad.output), bad.output
    # The newest lines of this start, and none of what the colour has said before with another release.
    assert "try 11 of eleven" in bad.output and "try 2 of eleven" not in bad.output and f"of {sha(1)} in" not in bad.output, bad.output
    # They cannot run, and are not started for ever.
    assert "is stopped and disabled." in bad.output, bad.output
    assert set(shop.show("green", "ActiveState")) <= {"inactive", "failed"} and shop.units("blue") == UP
    assert f"cannot reach ******** as {USER}" in bad.output and "Gr%nn" not in bad.output, bad.output
    file = shop.folder / "status.json"
    status = done(shop.run("status", status_file=str(file)))
    colors = json.loads(file.read_text())["hosts"]["app1"]["colors"]
    seen = {color: (side["release"], side["well"]) for color, side in colors.items()}
    assert seen == {"blue": (sha(2), True), "green": (sha(3), False)}, status.output
    a_probe_ends_nothing(shop)


def a_probe_ends_nothing(shop: OnSystemd) -> None:
    """Nor does it when it fails, and systemd has had to start the unit again since the deploy: it may be the one that serves."""
    shop.on(f"kill -9 {shop.show('blue', 'MainPID')[0]}")
    wait_for(lambda: shop.show("blue", "NRestarts")[0] == "1" and shop.serves() == ("blue", sha(2)), "it serves again")
    probe = {"ansible.builtin.include_role": {"name": "reversible.deploy.host_app", "tasks_from": "probe"}}
    inputs = shop.vars | {"app_env": "staging", "app_color": "blue", "app_release_sha": sha(9), "deploy_id": "20261121t084500z-7f3a",
                          "host_app_supervisor": "systemd"}
    failed = shop.within.play([probe], "app1", vars=inputs)
    assert failed.code == 2 and f"expected {sha(9)}" in failed.output and "stopped and disabled" not in failed.output, failed.output
    assert shop.units("blue") == UP and shop.serves() == ("blue", sha(2))


def secrets_are_kept(shop: OnSystemd) -> None:
    """The component gets its variables to the letter, as its user, and nobody else finds them."""
    for name, pid in zip(COMPONENTS, shop.show("green", "MainPID")):
        unit = f"shop-staging-{name}-green"
        environ = shop.on(f"cat /proc/{pid}/environ").split("\0")
        assert {f"DATABASE_URL={SECRET}", "EMPTY=", "WORKERS=2"} <= set(environ), environ
        assert shop.on(f"stat -c '%U %a' /proc/{pid} /etc/{unit}.env /etc/systemd/system/{unit}.service").split("\n")[:3] == [
            f"{USER} 555", "root 600", "root 644"]
        public = shop.on(f"systemctl show {unit}; systemctl cat {unit}; systemctl status {unit}; tr '\\0' ' ' < /proc/{pid}/cmdline")
        assert "Gr%nn" not in public and f"/opt/shop-staging/{name}/green/current/bin/app" in public, public


def killed_comes_back(shop: OnSystemd, color: str) -> None:
    [first, other] = shop.show(color, "MainPID")
    shop.on(f"kill -9 {first}")
    wait_for(lambda: shop.show(color, "NRestarts")[0] == "1" and shop.show(color, "ActiveState")[0] == "active", "systemd starts it again")
    assert shop.show(color, "MainPID")[0] not in (first, "0") and shop.show(color, "MainPID")[1] == other
    wait_for(lambda: fetch(shop.app_url(color)) == f"{color} {sha(1)}", "it answers again")
    # The gate of a flip wants HAProxy to have seen it well.
    wait_for(lambda: {row["status"] for row in shop.rows() if row["svname"].endswith(color)} == {"UP"}, "HAProxy has seen it")


def logs_are_kept(shop: OnSystemd, color: str) -> None:
    [folder] = shop.on("ls /var/log/shop-staging/kept").split()
    assert folder == f"{shop.last_deploy()}-{color}"
    for name in COMPONENTS:
        file = f"/var/log/shop-staging/kept/{folder}/shop-staging-{name}-{color}.log"
        assert shop.on(f"stat -c '%U %a' {file}") == "root 600\n"
        assert f"100%i \\ of {sha(1)} in {sha(1)}" in shop.on(f"cat {file}")
    assert f"/opt/shop-staging/web/{color}/releases/{sha(1)}" in shop.left()


def test_a_colour_that_was_never_there(shop: OnSystemd) -> None:
    """Nobody has deployed into it: there is nothing to end. And what the registry does not have is refused without a word of secrets."""
    def door(name: str) -> dict[str, t.Any]:
        return {"ansible.builtin.include_role": {"name": "reversible.deploy.host_app", "tasks_from": name}}

    shop.vars |= {"app_env": "staging", "app_color": "blue", "app_release_sha": sha(9), "deploy_id": "20261121t084500z-7f3a"}
    run = shop.within.play([door("retire"), door("available")], "app1", "-v", vars=shop.vars)
    retired = [task for task in run.tasks if task.task == "Stop the units"][-1]
    refused = run.named("Check that the registry has the release")
    assert retired.status == "ok" and not retired.result["changed"] and refused.status == "failed" and "does not have" in str(refused.result), run.output
    assert "Gr%nn" not in run.output, run.output
    # Nor one for which there is no room: the folder of a component is a mount of its own.
    place = "/opt/shop-staging/stream"
    shop.on(f"mkdir -p {place} && mount -t tmpfs -o size=64k none {place} && head -c 64k /dev/zero > {place}/full")
    try:
        full = shop.within.play([door("preflight")], "app1", vars=shop.vars | {"app_release_sha": shop.publish(1)})
    finally:
        shop.on(f"umount {place}")
    assert full.code == 2 and f"1 of 2 probes failed: room for releases of stream" in " ".join(full.output.split()), full.output


class OnTwoMachines(OnSystemd):
    """A component of each kind on two machines: units on the one, processes on the other one. Nobody finds Python on either."""

    def __init__(self, place: t.Any) -> None:
        super().__init__(place, replicas=2)
        [web, stream] = self.vars["app_components"]
        ports = {color: f"{{{{ (own_ports | default({{}})).{color} | default(0) }}}}" for color in ("blue", "green")}
        self.beside = self.folder / "beside"
        (self.beside / "run_dir").mkdir(parents=True)
        works = 'test "$2" = @BAD@ || { echo "$2 is ready"; : > /run/shop-mail-$1; }; exec sleep 600'.replace("@BAD@", sha(5))
        self.vars |= {"app_hosts": ["app1", "app2"], "host_app_user": "root", "app_components": [
            web | {"port": ports}, stream | {"kind": "tcp", "port": {color: port.replace("own_ports", "own_tcp") for color, port in ports.items()}},
            {"name": "mail", "kind": "worker", "package": "shop-web", "command": ["/bin/sh", "-c", works, "mail", "{color}", "{release}"],
             "proof": {"log": "is ready"}},
            {"name": "site", "kind": "static", "static_files": ["index.html"]}]}

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        def own(at: int) -> dict[str, t.Any]:
            return {f"own_{kind}": {color: self.ports[color, name][at] for color in ("blue", "green")} for kind, name in (("ports", "web"), ("tcp", "stream"))}
        places = {name: str(self.beside / name) for name in ("root", "run_dir", "logs", "state_dir", "kept_logs")}
        return super().hosts() | {"app1": self.machine | own(0), "app2": self.host(
            "app2", ansible_python_interpreter="/nowhere/python", host_app_supervisor="process", **own(1),
            **{f"host_app_{name}": path for name, path in places.items()})}

    def publish_all(self, number: int, lacks: str = "", **bad: str) -> None:
        for name in COMPONENTS:
            self.publish(number, bad.get(name, ""), components=(name,))
        file = member("./other.html" if lacks else "./index.html", sha(number).encode())
        self.registry.publish(sha(number), zstd(tar(folder("./"), file), "-1"), package="shop-site")

    def everywhere(self) -> set[tuple[str, str, tuple[str, ...], str]]:
        """Of each machine what serves, the colours of its workers, and the release of its files."""
        found = set()
        for host in ("app1", "app2"):
            if host == "app1":
                units = {color: self.on(f"systemctl show --value --property=ActiveState shop-staging-mail-{color}").strip() for color in ("blue", "green")}
                workers = [color for color, state in units.items() if state == "active"]
                site = self.on("cat /opt/shop-staging/site/active/index.html")
            else:
                files = {color: self.beside / f"run_dir/shop-staging-mail-{color}.pid" for color in ("blue", "green")}
                workers = [color for color, file in files.items() if file.exists() and Path(f"/proc/{file.read_text().strip()}").exists()]
                site = (self.beside / "root/site/active/index.html").read_text()
            found.add((*self.serves(), tuple(workers), site))
        return found

    def close(self) -> None:
        for pid in self.beside.glob("run_dir/*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
        super().close()


def test_every_kind_on_two_machines(tmp_path: Path) -> None:
    """Deployed, a bad release of each kind, and every way back."""
    with OnTwoMachines(tmp_path) as shop:
        def are(color: str, number: int) -> None:
            assert shop.everywhere() == {(color, sha(number), (color,), sha(number))}

        shop.publish_all(1)
        shop.publish_all(2)
        shop.publish_all(3, web="dead")
        shop.publish_all(4, stream="silent")
        shop.publish_all(5)   # its worker is never ready, and a file of before is no proof
        shop.publish_all(6, lacks="index.html")
        done(shop.deploy(1))
        are("green", 1)
        shop.on("touch /run/shop-mail-blue")
        Path("/run/shop-mail-blue").touch()
        shop.vars["app_components"][2]["proof"] = {"file": "/run/shop-mail-{color}"}
        for number, words in ((3, "shop-staging-web-blue"), (4, "shop-staging-stream-blue"), (5, "shop-staging-mail-blue proof"), (6, "No such file")):
            bad = shop.deploy(number, host_app_probe_tries=4)
            assert bad.code == 2 and words in bad.output, bad.output
            are("green", 1)
        done(shop.run("cleanup_failed", color="blue", confirm=True))
        are("green", 1)
        done(shop.deploy(2))
        are("blue", 2)
        point = shop.last_deploy()
        done(shop.run("rollback", mode="fast"))
        are("green", 1)
        assert "worker mail runs in green" in done(shop.run("status")).output
        done(shop.run("rollback", mode="full", release_sha=sha(2)))
        are("blue", 2)
        done(shop.run("rollback", to=point, confirm=True))
        are("green", 1)
        # A boot brings back those of the active colour alone.
        enabled = [shop.on(f"systemctl is-enabled shop-staging-mail-{color} || true").strip() for color in ("blue", "green")]
        assert enabled == ["disabled", "enabled"]
