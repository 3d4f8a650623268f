# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role incus_app when things go wrong in the middle: its controller is killed, the daemon goes away, a container cannot start.

What it left is never taken for a release, and the same run again makes it whole.
"""
from __future__ import annotations

import json
import signal
from pathlib import Path

from harness import Running, wait_for
from incus import GREEN, Doors, Incus, IncusShop, a_machine, a_shop  # noqa: F401  pylint: disable=unused-import
from releases import sha


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
