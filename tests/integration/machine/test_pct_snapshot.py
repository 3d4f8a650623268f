# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pct_snapshot through Ansible: plan and run agree, a rollback needs consent and happens once, and the target needs no Python for it.

What the module does with Proxmox's every mood is tested beside its crate; here is only what Ansible adds.
"""
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from harness import Ansible, Run, system
from pve import HOST, Node, container

FIRST, SECOND, THIRD = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t091500z-0003"
NAME = f"pre-deploy-{FIRST}"
BACK = {"deploy_id": FIRST, "state": "rolled_back", "rollback_id": SECOND}


@pytest.fixture(scope="module")
def made() -> t.Iterator[Node]:
    node = Node()
    yield node
    node.remove()


@pytest.fixture
def node(made: Node) -> Node:
    made.init(container())
    return made


@pytest.fixture
def pve(edge_core: str, tmp_path: Path) -> Ansible:
    # With an interpreter that is not there, whatever needs Python fails.
    hosts = {name: values | {"ansible_python_interpreter": "/nowhere/python"} for name, values in system("systemd").items()}
    return Ansible(edge_core, tmp_path, hosts)


def snapshot(pve: Ansible, *options: str, **args: t.Any) -> Run:
    return pve.play([{"reversible.deploy.pct_snapshot": {"vmid": 301, **args}}], HOST, *options)


def test_check_mode_shows_the_plan_of_the_run(pve: Ansible, node: Node) -> None:
    wanted = {"deploy_id": FIRST, "description": "before the upgrade", "retain": 5}
    checked = snapshot(pve, "--check", "--diff", **wanted)
    assert checked.code == 0 and checked.only["changed"] is True, checked.output
    assert node.snapshots() == [] and node.calls("snapshot") == []
    run = snapshot(pve, **wanted)
    assert run.code == 0 and run.only["changed"] is True, run.output
    assert (run.only["plan"], run.only["plan_id"]) == (checked.only["plan"], checked.only["plan_id"])
    assert node.snapshots() == [NAME] == [run.only["snapshot"]]
    again = snapshot(pve, **wanted)
    assert again.only["changed"] is False and again.only["plan"] == [], again.output
    assert len(node.calls("snapshot")) == 1


def test_a_rollback_needs_consent_and_happens_once(pve: Ansible, node: Node) -> None:
    assert snapshot(pve, deploy_id=FIRST).code == 0
    node.patch({"volumes": {"st:disk-0": {"content": "system 2"}}})
    refused = snapshot(pve, **BACK)
    assert refused.code != 0 and refused.only["reason"] == "needs_consent", refused.output
    checked = snapshot(pve, "--check", **BACK)
    assert checked.code == 0 and checked.only["loss"], checked.output
    assert node.show()["volumes"]["st:disk-0"]["content"] == "system 2" and node.calls("rollback") == []
    done = snapshot(pve, **BACK, confirm=checked.only["plan_id"])
    assert done.code == 0 and done.only["plan"] == checked.only["plan"], done.output
    assert done.only["running"] is True and done.only["safety_snapshot"] == f"failed-{SECOND}"
    assert node.show()["volumes"]["st:disk-0"]["content"] == "system 1"
    # What is written now is safe from a task that is repeated.
    node.patch({"volumes": {"st:disk-0": {"content": "system 3"}}})
    again = snapshot(pve, **BACK, confirm=True)
    assert again.code == 0 and again.only["changed"] is False, again.output
    assert node.show()["volumes"]["st:disk-0"]["content"] == "system 3"
    assert len(node.calls("rollback")) == 1


def test_a_plan_that_is_no_longer_true_is_refused(pve: Ansible, node: Node) -> None:
    node.init(container("zfspool"))
    assert snapshot(pve, deploy_id=FIRST).code == 0
    checked = snapshot(pve, "--check", **BACK)
    assert snapshot(pve, deploy_id=THIRD).code == 0  # ZFS would have to destroy this one
    refused = snapshot(pve, **BACK | {"rollback_id": "20261121t093000z-0004"}, confirm=checked.only["plan_id"])
    assert refused.code != 0 and node.calls("rollback") == [], refused.output
    assert node.snapshots() == sorted([NAME, f"pre-deploy-{THIRD}"])


def test_what_is_there_can_be_asked(pve: Ansible, node: Node) -> None:
    assert snapshot(pve, deploy_id=FIRST, app="shop", description="for people").code == 0
    run = pve.play([{"name": "all", "reversible.deploy.pct_snapshot_info": {}},
                    {"name": "one", "reversible.deploy.pct_snapshot_info": {"vmid": "301"}}], HOST)
    assert run.code == 0, run.output
    assert [one["vmid"] for one in run.named("all")["containers"]] == [301]
    [seen] = run.named("one")["snapshots"]
    assert (seen["name"], seen["app"], seen["deploy_id"], seen["description"]) == (NAME, "shop", FIRST, "for people")
    assert seen["ready_to_roll_back"] is True and run.named("one")["changed"] is False


def test_by_hand(pve: Ansible, node: Node) -> None:
    run = pve.adhoc("pct_snapshot", f"vmid=301 deploy_id={FIRST}", HOST)
    assert run.code == 0 and node.snapshots() == [NAME], run.output
    back = pve.adhoc("pct_snapshot", "vmid=301 latest=true state=rolled_back confirm=true", HOST)
    assert back.code == 0 and len(node.calls("rollback")) == 1, back.output


def scene() -> dict[str, t.Any]:
    """For the test of the documentation's examples: where they run, what must be there before, and what takes it away again."""
    world = container(vmid="101", exec=[{"argv": ["curl", "-fsS", "http://127.0.0.1:8080/health"], "stdout": "ok\n"}])
    node = Node()
    clean = f"rm -rf /var/lib/reversible /var/lib/fake-pve && fake-pve init /var/lib/fake-pve - <<'END'\n{json.dumps(world)}\nEND"
    node.init(world)
    return {"host": HOST, "system": "systemd", "clean": clean}
