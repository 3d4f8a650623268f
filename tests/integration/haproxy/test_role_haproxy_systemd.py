# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role haproxy on a Debian with systemd and without Python: HAProxy installed, its unit started, reloaded and enabled, and a change taken back."""
from __future__ import annotations

import http.client
import re
import socket
import typing as t
from pathlib import Path

import pytest
from harness import PIPELINING, Ansible, Run, system, wait_for
from labkit import daemon
from versions import NEWEST

# In place of apt-get, which would ask the network: it notes what it was asked for, and installs what was put aside, as its package comes.
APT = """#!/bin/sh
echo "$*" >> /root/apt.log
case "$*" in *install*)
    mv /root/haproxy /usr/sbin/haproxy
    mkdir /etc/haproxy
    cp /root/kept/haproxy.cfg /etc/haproxy/
esac
"""


class Edge:
    def __init__(self, folder: Path) -> None:
        self.machine = system("systemd")["systemd_root"]
        self.ansible = Ansible(NEWEST, folder, {"edge1": self.machine}, PIPELINING)
        self.port, apps = daemon.free_port(), self.machine["edge"]["apps"]
        servers = {color: url.removeprefix("http://").rstrip("/") for color, url in apps.items()}
        self.inputs = {"haproxy_http_binds": [f"127.0.0.1:{self.port}"], "haproxy_reload_timeout": 5, "haproxy_check_inter": "100ms", "haproxy_apps": [
            {"name": "shop", "env": "prod", "hosts": ["shop.test"],
             "components": [{"name": "web", "default": True, "health": "/health", "servers": servers}]}]}
        self.python = self.on("readlink -f /usr/bin/python3").strip()
        self.on(f"mv {self.python} {self.python}.away; systemctl stop haproxy; mv /etc/haproxy /root/kept; mv /usr/sbin/haproxy /root/haproxy")
        self.on(f"cat > /usr/bin/apt-get <<'X'\n{APT}X\nchmod 755 /usr/bin/apt-get")

    def on(self, command: str) -> str:
        return self.ansible.on("edge1", command)

    def play(self, *options: str, **inputs: t.Any) -> Run:
        variables = self.inputs | {f"haproxy_{name}": value for name, value in inputs.items()}
        return self.ansible.play([{"ansible.builtin.include_role": {"name": "reversible.deploy.haproxy"}}], "edge1", *options, vars=variables)

    def ask(self) -> str:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        line.request("GET", "/", headers={"Host": "shop.test"})
        answer = line.getresponse()
        return answer.read().decode().strip() if answer.status == 200 else f"HTTP {answer.status}"

    def unit(self) -> dict[str, str]:
        return dict(line.split("=") for line in self.on("systemctl show --property=ActiveState,UnitFileState,MainPID haproxy").splitlines())

    def close(self) -> None:
        self.on(f"mv {self.python}.away {self.python}; systemctl disable --quiet haproxy; systemctl stop haproxy; "
                "test ! -e /root/haproxy || mv /root/haproxy /usr/sbin/haproxy; rm -rf /etc/haproxy /usr/bin/apt-get /root/apt.log; "
                "mv /root/kept /etc/haproxy; systemctl start haproxy")


@pytest.fixture(name="edge")
def an_edge(tmp_path: Path) -> t.Iterator[Edge]:
    edge = Edge(tmp_path)
    try:
        yield edge
    finally:
        edge.close()


def good(run: Run) -> list[str]:
    """The tasks that have changed something."""
    assert run.code == 0, run.output
    return [task.task for task in run.tasks if task.result.get("changed") and task.status != "skipped"]


def test_from_an_empty_machine(edge: Edge) -> None:
    assert good(edge.play("--check", "--diff")) == []
    assert edge.on("ls -d /etc/haproxy /root/apt.log 2>&1 | grep -c 'No such file'") == "2\n"
    changed = good(edge.play())
    assert edge.on("cat /root/apt.log").splitlines() == [f"--yes --option DPkg::Lock::Timeout=120 {words}" for words in ("update", "install haproxy")]
    assert changed[-4:] == ["Add the keys that are missing", "Write the map of held requests and the script that holds them", "Write the configuration",
                            "Start HAProxy, now and with the machine"], changed
    wait_for(lambda: edge.ask() == "blue 1111111", "the active colour serves")
    unit = edge.unit()
    assert (unit["ActiveState"], unit["UnitFileState"]) == ("active", "enabled")
    assert edge.on("stat -c '%U %G %a' /etc/haproxy/haproxy.cfg /etc/haproxy/active.map") == "root haproxy 640\nroot root 644\n"
    assert good(edge.play()) == []

    assert good(edge.play(retries=2)) == ["Write the configuration", "Reload the service"] and edge.unit() == unit
    refused = edge.play(frontend_lines=["no such words"])
    assert refused.code != 0 and "unknown keyword 'such'" in refused.tasks[-1]["stderr"], refused.output
    before = edge.on("sha256sum /etc/haproxy/*")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        back = edge.play(http_binds=[f"127.0.0.1:{taken.getsockname()[1]}"])
    assert back.code != 0 and re.search("HAProxy did not take over .*was restored, and HAProxy serves it[.]$", back.tasks[-1].msg), back.output
    assert edge.on("sha256sum /etc/haproxy/*") == before and edge.ask() == "blue 1111111"
    assert good(edge.play(retries=2)) == []


UNIT = "[Service]\nType={kind}\nExecStart={command}\n\n[Install]\nWantedBy=multi-user.target\n"


def test_units(edge: Edge) -> None:
    """host_files with units of its own: those that come, change, fail and go."""
    def have(state: str, enabled: bool, kind: str = "exec", command: str = "/bin/sleep 61", *options: str) -> t.Any:
        file = {"path": "/etc/systemd/system/shop.service", "content": UNIT.format(kind=kind, command=command)}
        units = [{"name": ["shop", "none"] if state == "stopped" else ["shop"], "state": state, "enabled": enabled}]
        return edge.ansible.play([{"name": "it", "reversible.deploy.host_files": {"files": [file], "units": units}}], "edge1", *options).named("it").result

    def asked(name: str) -> str:
        return edge.on(f"systemctl show --value --property={name} shop").strip()

    write, reload = "write /etc/systemd/system/shop.service", "let systemd read its files again"
    try:
        foreseen = have("started", True, "exec", "/bin/sleep 61", "--check")
        assert foreseen["plan"] == [write, reload, "enable shop.service", "start shop.service"] and asked("LoadState") == "not-found", foreseen
        done = have("started", True)
        assert (done["plan"], done["started"]) == (foreseen["plan"], ["shop.service"]) and asked("ActiveState") == "active", done
        assert done["after"]["units"] == {"shop.service": {"active": "active", "enabled": "enabled"}} == foreseen["after"]["units"], (done, foreseen)
        assert have("started", True)["changed"] is False
        # A run that was killed after it had written: systemd knows that it is behind.
        edge.on("sed -i 's/61/62/' /etc/systemd/system/shop.service")
        again = have("restarted", True, command="/bin/sleep 62")
        assert again["plan"] == [reload, "restart shop.service"] and "sleep 62" in edge.on(f"tr '\\0' ' ' < /proc/{asked('MainPID')}/cmdline"), again
        assert have("reloaded", True, kind="oneshot", command="/bin/false")["reason"] == "command_failed"
        failed = have("restarted", True, kind="oneshot", command="/bin/false")
        assert failed["reason"] == "command_failed" and "Job for shop.service failed" in failed["stderr"], failed
        ended = have("stopped", False)
        assert ended["plan"] == [write, reload, "disable shop.service"] and (asked("ActiveState"), asked("UnitFileState")) == ("failed", "disabled"), ended
        edge.on("rm /etc/systemd/system/shop.service; systemctl mask --quiet shop")
        masked = edge.ansible.play([{"name": "it", "reversible.deploy.host_files": {"units": [{"name": "shop", "state": "started"}]}, "ignore_errors": True}],
                                   "edge1").named("it").result
        assert masked["reason"] == "masked" and "systemctl unmask shop.service" in masked["msg"], masked
    finally:
        edge.on("systemctl unmask --quiet shop; systemctl stop shop; rm -f /etc/systemd/system/*/shop.service /etc/systemd/system/shop.service; "
                "systemctl daemon-reload; systemctl reset-failed")
