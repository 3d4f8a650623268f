# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An app in two containers, changed in place: a host is lost in a deploy and in a rollback, and the controller is killed in both."""
from __future__ import annotations

import json
import typing as t

import pytest
from flows import kill_when
from harness import wait_for
from in_place import Pair
from pct_app import install
from releases import sha


@pytest.fixture(name="deployed", scope="module")
def with_version_2() -> t.Iterator[Pair]:
    with Pair() as pair:
        run = pair.deploy("2.0", sha(2))
        assert run.code == 0 and pair.versions == ["2.0", "2.0"], run.output
        pair.save()
        yield pair


@pytest.fixture(name="pair")
def a_pair(deployed: Pair) -> Pair:
    deployed.reset()
    return deployed


def lose(pair: Pair) -> list[str]:
    """A hook that lets the second host be lost."""
    book = pair.folder / "lose.yml"
    book.write_text(json.dumps([{
        "name": "Lose it", "ansible.builtin.file": {"path": str(pair.lost("pve2")), "state": "touch", "mode": "0644"},
        "delegate_to": "localhost", "when": "inventory_hostname == 'pve2'",
    }]))
    return [str(book)]


def test_a_host_is_lost_while_it_is_changed(pair: Pair) -> None:
    pair.behave(back_to="2.0")
    run = pair.deploy("3.0", sha(3), app_hooks={"migrate": lose(pair)})
    assert run.code != 0 and (pair.outcome, pair.versions) == ("failed_not_reverted", ["2.0", "3.0"]), run.output
    assert "NOT ROLLED BACK: pve2" in run.output, run.output
    pair.lost("pve2").unlink()
    # Its restore point is in the ledger: one command puts both where they were.
    back = pair.good("rollback", mode="snapshot", confirm=True)
    assert pair.versions == ["2.0", "2.0"], back.output


def test_a_host_is_lost_in_a_rollback(pair: Pair) -> None:
    run = pair.run("rollback", mode="snapshot", confirm=True, app_hooks={"after_rollback": lose(pair)})
    assert run.code != 0 and pair.outcome == "failed_not_reverted", run.output
    assert "PARTLY ROLLED BACK" in run.output and "pve1 is rolled back, pve2 IS NOT ROLLED BACK" in run.output, run.output
    pair.lost("pve2").unlink()
    # The same command goes on where it stood; nothing is taken back twice.
    pair.good("rollback", mode="snapshot", confirm=True)
    assert pair.versions == ["1.0", "1.0"] and sorted(call[1] for call in pair.calls("rollback")) == ["301", "302"]


def test_the_controller_is_killed_in_a_rollback(pair: Pair) -> None:
    pair.behave(more=[{"command": "pct rollback", "args": "302 ", "at": "begin", "slow_ms": 4000}])
    shown = pair.run("rollback", "--check", mode="snapshot")
    plan = shown.output.split("The plan: ")[1][:17]
    running = pair.start("rollback", mode="snapshot", confirm=plan)
    kill_when(running, lambda: [call for call in pair.calls("rollback") if "302" in call], "the second container begins to go back")
    holder = pair.ledger()["holder"]["deploy_id"]
    refused = pair.run("rollback", mode="snapshot", confirm=plan)
    assert refused.code != 0 and "take_over" in refused.output, refused.output
    pair.good("rollback", mode="snapshot", confirm=plan, take_over=holder)
    assert pair.versions == ["1.0", "1.0"]
    # Each container went back once: what was done is not done again.
    assert sorted(call[1] for call in pair.calls("rollback")) == ["301", "302"]


def test_the_controller_is_killed_in_a_deploy(pair: Pair) -> None:
    """One container has the new version, the other one not. Nobody takes that for a release, and nobody is sent back to it unasked."""
    third = ["302", "--", *install("3.0")]
    cut = {"command": "pct exec", "args": " ".join(third), "at": "begin", "nth": 1, "hang": True}
    pair.behave(back_to="2.0", more=[cut])
    running = pair.start("deploy_app", release_sha=sha(3), pct_app_version="3.0")
    kill_when(running, lambda: third in [call[1:] for call in pair.calls("exec")], "the second container begins to change")
    pair.kill("exec", *third)
    wait_for(lambda: pair.versions == ["3.0", "2.0"], "what the run has begun has ended")
    status = pair.status()
    killed = status["lease"]["deploy_id"]
    assert [point["open"] for point in status["restore_points"] if point["deploy_id"] == killed] == [True, True], status["restore_points"]
    shown = pair.run("rollback", "--check", mode="snapshot")
    assert shown.code == 0 and shown.output.count(f"container (pre-deploy-{killed})") >= 2, shown.output

    # The same command, and it fails once more: back to what was found, and that is said.
    pair.behave({"pve2": {"ready": 22}}, back_to={"pve1": "3.0", "pve2": "2.0"})
    failed = pair.deploy("3.0", sha(3), take_over=killed)
    said = " ".join(failed.output.split())
    assert failed.code == 2 and (pair.outcome, pair.versions) == ("failed_reverted", ["3.0", "2.0"]), failed.output
    assert f"Every host is rolled back to the state that {killed} has left" in said and f"-e to={killed}" in said, failed.output
    found = [call[2] for call in pair.calls("rollback")]
    assert len(found) == 2 and f"pre-deploy-{killed}" not in found, found

    # The release that was there before is not there already; and the mode leads to what was before it all.
    pair.behave(back_to="2.0")
    again = pair.deploy("2.0", sha(2))
    assert again.code == 0 and pair.versions == ["2.0", "2.0"] and "is active already" not in again.output, again.output
    pair.good("rollback", mode="snapshot", confirm=True)
    assert [call[2] for call in pair.calls("rollback")[2:]] == [f"pre-deploy-{killed}"] * 2, pair.calls("rollback")
