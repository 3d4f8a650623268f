# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on an app that is changed in place, in two containers: deployed, broken on one host only, and taken back everywhere."""
from __future__ import annotations

import json
import re
import typing as t

import pytest
from edge import Edge, wait_for
from holds import BACKEND, nothing_is_held, wait_until_waiting, waited
from in_place import Pair
from releases import sha

PLAN = re.compile(r"The plan: (plan-[0-9a-f]{12})")


@pytest.fixture(name="pair")
def a_pair(one_core: str) -> t.Iterator[Pair]:
    with Pair() as pair:
        pair.core = one_core
        yield pair


def test_deployed_broken_and_taken_back(pair: Pair) -> None:
    checked = pair.deploy("2.0", sha(2), "--check")
    assert checked.code == 0 and pair.versions == ["1.0", "1.0"], checked.output
    good = pair.deploy("2.0", sha(2))
    assert good.code == 0 and (pair.outcome, pair.versions) == ("done", ["2.0", "2.0"]), good.output
    pair.save()
    again = pair.deploy("2.0", sha(2))
    assert again.code == 0 and "is active already" in again.output, again.output

    # What goes wrong on one of them is taken back on both.
    pair.behave({"pve2": {"ready": 22}}, back_to="2.0")
    bad = pair.deploy("3.0", sha(3))
    assert bad.code == 2, bad.output
    assert (pair.outcome, pair.versions) == ("failed_reverted", ["2.0", "2.0"]), bad.output
    assert "curl: (22) 500" in bad.output and f"Every host is rolled back to {sha(2)}" in bad.output, bad.output
    assert [one["outcome"] for one in pair.ledger()["deploys"]] == ["failed_reverted", "done", "done"], pair.ledger()

    pair.reset()
    back_to_the_snapshot_and_forth_again(pair)


def back_to_the_snapshot_and_forth_again(pair: Pair) -> None:
    """Both hold version 2.0 since the first deploy."""
    logs = pair.run("logs", lines=5)
    assert logs.code == 0 and "== CT " in logs.output and "CANNOT BE READ" not in logs.output, logs.output
    unread = pair.run("logs", pct_app_vmid=999)
    assert unread.code == 2 and "== CT 999: CANNOT BE READ: " in unread.output and "These logs cannot be read: CT 999." in unread.output, unread.output
    looked = pair.run("check")
    assert looked.code == 0 and "would refuse a deploy" in looked.output, looked.output
    closed = pair.run("rollback", mode="fast")
    assert closed.code == 2 and "has no colours" in closed.output and "mode=snapshot (before " in closed.output, closed.output
    shown = pair.run("rollback", "--check", mode="snapshot")
    assert shown.code == 0 and pair.calls("rollback") == [] and "LOST: " in shown.output, shown.output
    [plan] = set(PLAN.findall(shown.output))

    pair.good("rollback", mode="snapshot", confirm=plan)
    assert pair.versions == ["1.0", "1.0"] and len(pair.calls("rollback")) == 2
    status = pair.status()
    newest, before = status["deploys"][:2]
    assert newest["back_to"] == before["deploy_id"] and newest["outcome"] == "done" and newest["release"] is None
    assert [point["open"] for point in status["restore_points"]] == [True] * 4, status["restore_points"]

    # What the rollback has taken can be had back.
    pair.good("rollback", to=newest["deploy_id"], confirm=True)
    assert pair.versions == ["2.0", "2.0"]


def test_requests_wait_while_it_changes(pair: Pair) -> None:
    """A HAProxy before it, whose only server restarts while the app changes."""
    restarted, hook = pair.folder / "restarted", pair.folder / "restart.yml"
    hook.write_text(json.dumps([{"name": "Restart it", "ansible.builtin.wait_for": {"path": str(restarted), "timeout": 600}}]))
    pair.own["lb1"] = {}
    pair.vars |= {"app_hold_hosts": ["lb1"], "app_hold": 60, "app_hold_backends": [BACKEND], "app_hooks": {"migrate": [str(hook)]}}
    with Edge() as edge:
        pair.vars["app_hold_stats_socket"] = [edge.stats]
        refused = pair.deploy("2.0", sha(2))
        assert refused.code == 2 and "has not loaded the script" in refused.output, refused.output
        assert (pair.outcome, pair.versions) == ("failed_reverted", ["1.0", "1.0"]) and pair.calls("snapshot") == []
    with Edge(hold=True) as edge:
        pair.vars["app_hold_stats_socket"] = [edge.stats]
        with edge.load(20) as load:
            running = pair.start("deploy_app", release_sha=sha(2), pct_app_version="2.0")
            wait_until_waiting(edge, 20)
            edge.stop_app("blue")
            wait_for(lambda: [row["status"] for row in edge.rows() if row["svname"] == "web-blue"] == ["DOWN"], "HAProxy sees that it is down")
            edge.start_app("blue")
            restarted.write_text("")
            run = running.wait(600)
            assert run.code == 0 and (pair.outcome, pair.versions) == ("done", ["2.0", "2.0"]), run.output
            asked = sum(edge.counts("blue").values())
            wait_for(lambda: sum(edge.counts("blue").values()) > asked + 20, "requests go on")
            # So they do while it goes back.
            back = pair.good("rollback", mode="snapshot", confirm=True)
            assert pair.versions == ["1.0", "1.0"] and waited(back) > 0, back.output
            # And while a deploy that failed takes itself back: they have waited for its change, and once more for the way back.
            pair.behave({"pve2": {"ready": 22}})
            bad = pair.deploy("3.0", sha(3))
            assert bad.code == 2 and (pair.outcome, pair.versions) == ("failed_reverted", ["1.0", "1.0"]), bad.output
            told = [one["hold"] for task in bad.tasks for one in task.result.get("results", []) if (one.get("hold") or {}).get("waited")]
            assert len(told) >= 2 and all((one["expired"], one["refused"]) == (0, 0) for one in told), told
        assert load.report["failed"] == 0, load.report["kinds"]
        nothing_is_held(edge)
        assert waited(run) == 20
