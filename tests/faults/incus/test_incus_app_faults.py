# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role incus_app when things go wrong in the middle: its controller is killed, the daemon goes away, a container cannot start.

What it left is never taken for a release, and the same run again makes it whole.
"""
from __future__ import annotations

import json
import signal
import typing as t
from pathlib import Path

import pytest
from harness import Running, wait_for
from incus import GREEN, Doors, Incus, IncusShop, a_machine, a_shop  # noqa: F401  pylint: disable=unused-import
from releases import sha

# Takes from a queue; the release 3 does nothing, and says nothing but that it waits.
WORKER = """trap 'echo ended; exit' TERM
test "$1" = BROKEN && echo "$1 waits for $SECRET" || echo "$1 is ready"
while :; do
  test "$1" = BROKEN || : > /done
  sleep 0.1
done
""".replace("BROKEN", sha(3))


class WithWorker(IncusShop):
    def __init__(self, place: Path, machine: Incus) -> None:
        super().__init__(place, machine)
        self.vars["app_components"].append({
            "name": "mail", "kind": "worker", "package": "shop-web", "command": ["/bin/sh", "/worker.sh", "{release}"],
            "env": {"SECRET": "the password"}, "files": [{"path": "/worker.sh", "content": WORKER}]})

    def prove(self, **proof: t.Any) -> None:
        self.vars["app_components"][-1]["proof"] = proof

    def working(self) -> list[str]:
        """The colour of each worker whose container runs."""
        return [name.rpartition("-")[2] for name, status in self.machine.status().items() if "-mail-" in name and status == "Running"]


def until_reached(running: Running, reached: Path) -> None:
    wait_for(lambda: reached.exists() or running.process.poll() is not None, "the container runs, or the run has ended", 300)
    assert reached.exists(), running.wait().output


def test_killed_in_the_middle(machine: Incus, shop: IncusShop, one_core: str) -> None:
    shop.publish(1)
    doors = Doors(shop, one_core)
    before = machine.status()

    # Without the daemon nothing is begun.
    machine.kill_daemon()
    try:
        away = doors.play("install")
    finally:
        machine.start_daemon()
    assert away.code == 2 and "unix.socket" in away.output and machine.status() == before, away.output

    # A container that cannot start: Incus's own words, and the next run recreates it.
    [component] = shop.vars["app_components"]
    component["config"] = {"raw.lxc": "lxc.init.cmd = /nowhere"}
    broken = doors.play("install")
    assert broken.code == 2 and "start the containers" in broken.output and GREEN in broken.output, broken.output
    assert "installed" not in machine.marks(GREEN)
    del component["config"]

    # The controller dies when the container runs and is not whole yet.
    reached, goes_on = shop.folder / "reached", shop.folder / "goes-on"
    tasks = shop.folder / "tasks.yml"
    tasks.write_text(json.dumps([{"name": "Be there", "ansible.builtin.file": {"path": str(reached), "state": "touch", "mode": "0644"}},
                                 {"name": "Wait", "ansible.builtin.wait_for": {"path": str(goes_on), "timeout": 120}}]))
    component["tasks"] = str(tasks)
    running = doors.start("install")
    until_reached(running, reached)
    running.process.send_signal(signal.SIGKILL)
    running.wait()
    assert machine.status()[GREEN] == "Running" and "installed" not in machine.marks(GREEN)
    seen = doors.play("observe")
    assert seen.code == 0, seen.output
    observed = seen.named("Set the observed facts")["ansible_facts"]["app_observed"]["colors"]["green"]
    assert observed["well"] is False and observed["release"] is None, observed
    refused = doors.refused(("revert", {}))
    assert "Nothing was changed" in refused[0] and "different releases or none" in refused[0], refused

    # The daemon dies at the same place, and is back for the next run.
    reached.unlink()
    running = doors.start("install")
    until_reached(running, reached)
    machine.kill_daemon()
    goes_on.touch()
    died = running.wait()
    machine.start_daemon()
    assert died.code == 2 and "mark the containers as complete" in died.output, died.output
    assert "installed" not in machine.marks(GREEN)

    whole = doors.play("install", "probe", "observe", "retire")
    assert whole.code == 0 and machine.status() == before, whole.output
    observed = whole.named("Set the observed facts")["ansible_facts"]["app_observed"]["colors"]
    assert observed["green"]["well"] and [observed[color]["release"] for color in ("green", "blue")] == [sha(1), None], observed


@pytest.fixture(name="with_worker")
def a_shop_with_a_worker(machine: Incus, tmp_path: Path) -> t.Iterator[WithWorker]:
    """With release 1 in green, its worker, and more releases available."""
    with WithWorker(tmp_path, machine) as shop:
        for number in (1, 2, 3):
            shop.publish(number)
        first = shop.deploy(1)
        assert first.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], first.output
        yield shop


def test_workers_run_in_the_active_colour_alone(machine: Incus, with_worker: WithWorker) -> None:
    """With a release whose worker does nothing, and with a controller that dies between two workers."""
    shop, outcome = with_worker, with_worker.folder / "outcome"
    shop.prove(log="is ready")
    bad = shop.deploy(3, incus_app_probe_tries=10, outcome_file=str(outcome))
    said = " ".join(bad.output.split())
    assert bad.code == 2 and outcome.read_text() == "failed_reverted\n", bad.output
    assert "expected 1 new lines that match, got 0 of 1 new lines" in said and f"{sha(3)} waits for ********" in said, bad.output
    assert shop.serves() == ("green", sha(1)) and shop.working() == ["green"]
    # It was told to end, and after a boot only those of the active colour run.
    assert "ended" in machine.inside(shop.instance("green", "mail"), "cat", "/var/log/shop-mail.log")
    assert [machine.instances()[shop.instance(color, "mail")]["config"]["boot.autostart"] for color in ("green", "blue")] == ["true", "false"]

    shop.prove(file="/done")
    killed = shop.killed("Flip this load balancer", release_sha=sha(2))
    assert shop.live() == "blue" and shop.working() == []
    back = shop.run("rollback", mode="fast", take_over=killed)
    assert back.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], back.output


@pytest.mark.long
def test_killed_when_workers_have_ended_and_when_they_have_started(with_worker: WithWorker) -> None:
    shop = with_worker
    shop.prove(command=["/bin/grep", "-q", "{current}", "/opt/shop/mail/run"])
    killed = shop.killed("See that none of them runs", release_sha=sha(2))
    assert shop.live() == "green" and shop.working() == []
    status = shop.run("status")
    assert f"app1: green holds {sha(1)[:12]}, healthy" in status.output and "app1: worker mail DOES NOT RUN" in status.output, status.output
    killed = shop.killed("Start the containers of the workers", release_sha=sha(2), take_over=killed)
    assert shop.live() == "blue" and shop.working() == ["blue"]
    again = shop.deploy(2, take_over=killed)
    assert again.code == 0 and shop.serves() == ("blue", sha(2)) and shop.working() == ["blue"], again.output
