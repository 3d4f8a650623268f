# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""health_gate about instances of a real Incus: running, stopped, frozen, restarted, not there, in a project; files and commands inside;
no daemon.

test_health_gate_machines.py has the same kinds before stand-ins.
"""
from __future__ import annotations

import threading
import typing as t

import pytest
from gate import fails, gate, holds
from incus import Incus, incus

LOG = "/var/log/shop.log"
PATIENT = {"timeout": 15}


@pytest.fixture(scope="module", name="machine")
def a_machine() -> t.Iterator[Incus]:
    """With `gate-web`, which runs, `gate-web2`, whose name begins like it and which does not, and `gate-web` of the project `other`."""
    with incus() as machine:
        machine.create("gate-web")
        machine.create("gate-web2", start=False)
        machine.inside("gate-web", "sh", "-c", f"echo ERROR long ago > {LOG}")
        try:
            yield machine
        finally:
            machine.remove("gate-web", "gate-web2")


def probe(kind: str, instance: str = "gate-web", **more: t.Any) -> dict[str, t.Any]:
    return {"name": "it", "kind": kind, "instance": instance, **PATIENT, **more}


def test_instances(machine: Incus) -> None:
    assert holds(probe("incus"))["answer"] == "running"
    fails(probe("incus", "gate-web2"), "gate-web2 is stopped, not running")
    fails(probe("incus", "gate-we"), "there is no instance gate-we")  # a name is a pattern to the client
    fails(probe("incus", project="nowhere"), "there is no instance gate-web in the project nowhere")
    machine.ask("pause", "gate-web")
    try:
        fails(probe("incus"), "gate-web is frozen, not running")
    finally:
        machine.ask("resume", "gate-web")
    machine.ask("project", "create", "gate-other", "-c", "features.images=false", "-c", "features.profiles=false")
    try:
        fails(probe("incus", project="gate-other"), "there is no instance gate-web")
        machine.ask("--quiet", "create", "busybox", "gate-web", "--project", "gate-other")
        fails(probe("incus", project="gate-other"), "gate-web is stopped")
        machine.ask("delete", "gate-web", "--project", "gate-other")
    finally:
        machine.ask("project", "delete", "gate-other")


def test_an_instance_that_is_restarted_while_it_is_asked(machine: Incus) -> None:
    machine.ask("stop", "--force", "gate-web")
    fails(probe("incus"), "gate-web is stopped, not running")
    thread = threading.Timer(1, lambda: machine.ask("start", "gate-web"))
    thread.start()
    row = holds(probe("incus", tries=100, delay=0.1), deadline=60)
    thread.join()
    assert row["tries"] > 1


def test_a_file_inside(machine: Incus) -> None:
    watched = probe("logs", path=LOG, regex="ERROR|panic", window=0)
    before = gate(watched, require=0)
    assert before["probes"][0]["seen"]["log"]["size"] == len("ERROR long ago\n")
    machine.inside("gate-web", "sh", "-c", f"echo fine >> {LOG}")
    assert holds(watched, baseline=before)["answer"] == "1 new lines, 0 of them match"
    # What the container keeps goes on after a restart: it is the same file.
    machine.ask("restart", "--force", "gate-web")
    machine.inside("gate-web", "sh", "-c", f"printf 'an ERROR of \\033[31mtoday\\n' >> {LOG}")
    row = fails(watched, "1 new lines match, the first: an ERROR of \\u{1b}[31mtoday", baseline=before)
    assert row["value"] == 1
    holds({**watched, "ignore": "today"}, baseline=before)
    machine.inside("gate-web", "sh", "-c", f"mv {LOG} {LOG}.1; : > {LOG}")
    fails(watched, "was replaced by another file", baseline=before)
    machine.inside("gate-web", "rm", LOG)
    fails(watched, "No such file", baseline=before)
    fails(probe("logs", "gate-web2", path=LOG, text="ERROR", window=0), "not running")
    fails(probe("logs", "gate-nobody", path=LOG, text="ERROR", window=0), "not found")


def test_a_command_inside(machine: Incus) -> None:
    inside = ["incus", "exec", "gate-web", "--force-noninteractive", "--"]
    command = {"kind": "command", **PATIENT}
    # The client loses output now and then on a busy machine.
    assert holds({**command, "argv": [*inside, "hostname"], "stdout": "gate-web", "tries": 10, "delay": 0.1})["answer"] == "rc 0: gate-web"
    fails({**command, "argv": [*inside, "false"]}, "failed (rc 1)")
    fails({**command, "argv": [*inside, "nowhere"]})
    fails({**command, "argv": ["incus", "exec", "gate-web2", "--", "true"]}, "not running")


def test_no_daemon(machine: Incus) -> None:
    nowhere = {**machine.environ, "INCUS_SOCKET": "/nowhere/unix.socket"}
    fails(probe("incus"), "incus", environ=nowhere)
    machine.kill_daemon()
    try:
        fails(probe("incus"), "incus")
        fails(probe("logs", path="/etc/passwd", text="ERROR", window=0), "incus")
    finally:
        machine.start_daemon()
    # What runs goes on without the daemon, and it finds it again.
    assert holds(probe("incus", tries=100, delay=0.2), deadline=60)["answer"] == "running"
