# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pct_app on a fake Proxmox node: a service is changed in place; a change that fails goes back, and fails with its evidence.

What happens in the container is the fake's: its answers change when `apt-get install` is called, and again when it is rolled back.
"""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Ansible
from pct_app import (  # noqa: F401  pylint: disable=unused-import
    FIRST, GUEST, LOG, NAME, OLDER, PACKAGE, SECOND, UNIT, READY, answers, at, becomes, deploy, each, failure, install, made, node,
    pve, upgrade, version)
from pve import HOST, SBIN, WORLD, Node, container


def test_a_good_change(each: Ansible, node: Node) -> None:
    run = deploy(each, hooks={"verify": [READY]}, retain=1)
    assert run.code == 0, run.output
    assert version(node) == "2.0" and node.calls("rollback") == []
    captured = run.named("app_captured")["app_captured"]
    assert (captured["name"], captured["version"], captured["release"], captured["units"]) == (NAME, "1.0", "1111111", {UNIT: "active"})
    kept = node.show()["containers"]["301"]["snapshots"][NAME]["description"]
    assert f"{PACKAGE} 1.0" in kept and "release=1111111" in kept
    # The restore point comes first, and the restart after the change.
    calls = node.calls()
    assert at(calls, *install("2.0")) > next(index for index, argv in enumerate(calls) if argv[0] == "snapshot")
    assert at(calls, "systemctl", "restart", UNIT) > at(calls, *install("2.0"))
    # It is there: nothing is changed, no second restore point is made.
    again = deploy(each, deploy_id=SECOND)
    assert again.code == 0 and "changed=0" in again.output, again.output
    assert node.snapshots() == [NAME]


def test_old_restore_points_go_only_after_a_good_change(pve: Ansible, node: Node) -> None:
    take = {"reversible.deploy.pct_snapshot": {"vmid": 301, "deploy_id": OLDER, "app": "shop"}}
    assert pve.play([take], HOST).code == 0
    node.faults(upgrade(ready=22))
    assert deploy(pve, retain=1).code == 2
    assert f"pre-deploy-{OLDER}" in node.snapshots()
    node.faults(upgrade())
    run = deploy(pve, deploy_id=SECOND, retain=1)
    assert run.code == 0, run.output
    assert f"pre-deploy-{OLDER}" not in node.snapshots() and f"pre-deploy-{SECOND}" in node.snapshots()


BROKEN = {"not ready": {"ready": 22}, "falls over": {"active": False}, "does not start": {"active": False, "restart": 1}}


@pytest.mark.parametrize("how", BROKEN)
def test_a_change_that_fails_goes_back_and_fails(each: Ansible, node: Node, how: str) -> None:
    broken = BROKEN[how]
    node.faults(upgrade(**broken))
    run = deploy(each, shares_with=["the wiki"])
    said = failure(run)
    assert run.named("app_reverted")["app_reverted"] is True
    assert version(node) == "1.0" and len(node.calls("rollback")) == 1
    assert node.show()["containers"]["301"]["running"] is True
    assert f"rolled back to the snapshot {NAME}" in said and f"failed-{FIRST}" in said, said
    # Evidence of the failed state, which the rollback has taken away.
    assert LOG in said and f"{UNIT}: Active: {'active' if 'active' not in broken else 'failed'}" in said, said
    assert ("curl: (22) 500" if "ready" in broken else f"Job for {UNIT} failed." if "restart" in broken else "rc: 3") in said, said
    assert "also hosts the wiki" in said and "also hosts the wiki" in run.output.split("Install the version")[0]


def test_a_first_deploy_goes_back_to_nothing(pve: Ansible, node: Node) -> None:
    said_before = answers("", active=False, ready=22)
    absent = [{**answer, "rc": 1, "stdout": ""} if answer["argv"][0] == "dpkg-query" else answer for answer in said_before]
    node.init(container(exec=absent, **GUEST), [*upgrade(ready=22)[:1], becomes("pct rollback", "301", absent, at="end")])
    run = deploy(pve)
    said = failure(run)
    assert run.named("app_reverted")["app_reverted"] is True and "not installed yet" in said and "curl: (22) 500" in said, said
    assert len(node.calls("rollback")) == 1


def test_what_does_not_run_even_after_going_back_is_said(pve: Ansible, node: Node) -> None:
    node.faults([*upgrade(ready=22)[:2], becomes("pct rollback", "301", answers("1.0", ready=22), at="end")])
    run = deploy(pve)
    said = failure(run)
    # How it is now, and how it was when it failed.
    assert "ROLLED BACK, BUT WAS NOT SEEN TO RUN" in said and said.count(LOG) == 2, said
    now, then = said.split("When it failed, before the rollback:")
    assert LOG in now and LOG in then, said
    assert run.named("app_reverted")["app_reverted"] is False


def test_a_downgrade_that_does_not_help_shows_the_log_once(pve: Ansible, node: Node) -> None:
    node.faults([upgrade(ready=22)[0], becomes("pct exec", f"{PACKAGE}=1.0", answers("1.0", ready=22))])
    said = failure(deploy(pve, way="downgrade"))
    # The log goes on, and what it says now has all that it said before.
    assert "ROLLED BACK, BUT WAS NOT SEEN TO RUN" in said and said.count(LOG) == 1, said


def asked(node: Node, until: str) -> int:
    """How often the unit was asked before that was called."""
    calls = node.calls()
    end = next(index for index, argv in enumerate(calls) if until in argv)
    return len([argv for argv in calls[:end] if argv[-2:] == ["is-active", UNIT]])


def test_a_unit_that_has_failed_is_not_waited_for(pve: Ansible, node: Node) -> None:
    node.faults(upgrade(active=False))
    said = failure(deploy(pve, probe_retries=30))
    # Before the change, and once after it.
    assert "was rolled back" in said and asked(node, until="rollback") == 2, said


def test_a_unit_that_is_restarted_is_waited_for(pve: Ansible, node: Node) -> None:
    activating = answers("2.0", more=[{"argv": ["systemctl", "is-active", UNIT], "rc": 3, "stdout": "activating\n"}])
    runs = becomes("pct exec", f"is-active {UNIT}", answers("2.0")) | {"nth": 4}
    node.faults([becomes("pct exec", f"{PACKAGE}=2.0", activating), runs])
    run = deploy(pve, probe_retries=30)
    assert run.code == 0 and node.calls("rollback") == [] and asked(node, until="curl") == 4, run.output


def test_a_frozen_container_is_refused(pve: Ansible, node: Node) -> None:
    with node.frozen():
        said = failure(deploy(pve))
    assert "CT 301 is frozen" in said and "lxc-unfreeze -n 301" in said and "pct start" not in said, said
    # Whatever is run in it would hang.
    assert node.calls("exec") == [] and node.snapshots() == []


def test_a_way_back_that_fails_is_said(pve: Ansible, node: Node) -> None:
    node.faults([*upgrade(ready=22), {"command": "pct start", "at": "start", "fail": {"text": ""}}])
    run = deploy(pve)
    said = failure(run)
    assert run.named("app_reverted")["app_reverted"] is False
    assert "NOT ROLLED BACK" in said and "start_failed" in said and "curl: (22) 500" in said and LOG in said, said


def test_the_change_can_be_a_task_file(pve: Ansible, node: Node, tmp_path: Path) -> None:
    tasks = tmp_path / "change.yml"
    argv = [f"{SBIN}/pct", "exec", "301", "--", *install("2.0")]
    tasks.write_text(json.dumps([{"name": "by hand", "ansible.builtin.command": {"argv": argv}}]))
    run = deploy(pve, package="", version="", tasks=str(tasks))
    assert run.code == 0 and version(node) == "2.0" and node.snapshots() == [NAME], run.output
    node.faults([*upgrade(), {"command": "pct exec", "args": f"{PACKAGE}=2.0", "fail": {"text": "E: broken", "rc": 100}}])
    said = failure(deploy(pve, deploy_id=SECOND, package="", version="", tasks=str(tasks)))
    assert "by hand" in said and "E: broken" in said and len(node.calls("rollback")) == 1, said


def test_downgrade_needs_no_snapshot(pve: Ansible, node: Node) -> None:
    node.faults(upgrade(ready=22))
    run = deploy(pve, way="downgrade", hooks={"downgrade": [["shop-admin", "migrate", "down"]]})
    said = failure(run)
    assert run.named("app_reverted")["app_reverted"] is True
    assert f"rolled back to {PACKAGE} 1.0" in said and version(node) == "1.0", said
    assert node.snapshots() == [] and node.calls("rollback") == [] and node.calls("snapshot") == []
    # The migrations go down while the new version, which knows them, is there.
    calls = node.calls("exec")
    assert at(calls, *install("2.0")) < at(calls, "shop-admin", "migrate", "down") < at(calls, *install("1.0"))


def test_downgrade_is_refused_when_the_version_is_offered_no_more(pve: Ansible, node: Node) -> None:
    node.patch({"containers": {"301": {"guest": {"exec": answers("1.0", offered=["2.0"])}}}})
    said = failure(deploy(pve, way="downgrade"))
    assert "1.0 is not offered" in said and version(node) == "1.0", said


def test_revert_by_itself_needs_consent(pve: Ansible, node: Node) -> None:
    assert deploy(pve).code == 0
    back = {"door": "revert", "rollback_id": SECOND}
    refused = deploy(pve, **back)
    assert refused.code == 2 and node.calls("rollback") == [], refused.output
    checked = deploy(pve, "--check", **back)
    assert checked.code == 0 and node.calls("rollback") == [], checked.output
    plan = checked.named("Roll back to the snapshot")["plan_id"]
    run = deploy(pve, **back, confirm=plan)
    assert run.code == 0 and version(node) == "1.0" and len(node.calls("rollback")) == 1, run.output


def test_the_doors_one_by_one(pve: Ansible, node: Node) -> None:
    """As a playbook does it that has its own order."""
    given = {"app_name": "shop", "app_env": "prod", "deploy_id": FIRST, "pct_app_vmid": "301", "pct_app_package": PACKAGE,
             "pct_app_version": "2.0", "pct_app_units": [UNIT], "pct_app_settle": 0, "pct_app_node": HOST, "pct_app_retain": 1}
    doors = [{"ansible.builtin.include_role": {"name": "reversible.deploy.pct_app", "tasks_from": door}} for door in
             ("observe", "capture", "install", "probe", "retire")]
    # From another host, so that everything must be delegated.
    pve.hosts = pve.hosts | {"elsewhere": {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}}
    run = pve.play(doors, "elsewhere", vars=given)
    assert run.code == 0 and version(node) == "2.0" and node.snapshots() == [NAME], run.output
    back = pve.play([{"ansible.builtin.include_role": {"name": "reversible.deploy.pct_app", "tasks_from": "revert"}}], "elsewhere",
                    vars=given | {"pct_app_rollback_id": SECOND, "pct_app_confirm": True, "pct_app_version_before": "1.0"})
    assert back.code == 0 and version(node) == "1.0" and "no idle colour" in run.output, back.output
    # Twice each: who does not run is left, and so is who runs.
    for doors, runs in ((("stop", "stop"), False), (("start", "start"), True)):
        before = len(node.calls("shutdown") + node.calls("start"))
        asked = [{"ansible.builtin.include_role": {"name": "reversible.deploy.pct_app", "tasks_from": door}} for door in doors]
        run = pve.play(asked, "elsewhere", vars=given)
        assert run.code == 0 and node.show()["containers"]["301"]["running"] is runs, run.output
        assert len(node.calls("shutdown") + node.calls("start")) == before + 1


def test_too_little_room_is_refused(pve: Ansible, node: Node) -> None:
    """Nobody has named a thin pool: the container's own storage tells which it is."""
    assert pve.play([{"reversible.deploy.pct_snapshot": {"vmid": 301, "deploy_id": OLDER, "app": "shop"}}], HOST).code == 0
    node.lvm(data="97.20", spare="20000.00")
    node.patch({"containers": {"301": {"guest": {"exec": answers("1.0", free=100)}}}})
    said = failure(deploy(pve))
    words = ("thin pool pve/data has 97.20 % of its data", "and 15 % must be free", "has 100 MiB left", "Free 12200 MiB in pve/data",
             "lvextend --size +14353M pve/data", f"pre-deploy-{OLDER}", "pvesm prune-backups")
    assert not [word for word in words if word not in said] and "of its metadata" not in said, said
    assert node.snapshots() == [f"pre-deploy-{OLDER}"] and version(node) == "1.0"
    # Its metadata, which is what snapshots fill; and a group with nothing left to grow by.
    node.lvm(data="86.00", metadata="91.00", spare="0")
    node.patch({"containers": {"301": {"guest": {"exec": answers("1.0")}}}})
    said = failure(deploy(pve, volume_group="pve"))
    words = ("86.00 % of its data", "91.00 % of its metadata", "has 0 MiB left, which is too little", "--poolmetadatasize",
             "volume group pve has 0 MiB left, and 1024")
    assert not [word for word in words if word not in said], said
    # A root file system with room left, of which nearly all is in use.
    node.lvm(data="20.00")
    node.patch({"containers": {"301": {"guest": {"exec": answers("1.0", used=93)}}}})
    said = failure(deploy(pve, thin_pool_free=5))
    assert "has 93 % in use, and at most 90.0 % may be" in said and "pct_app_max_disk=0.95" in said and version(node) == "1.0", said
    run = deploy(pve, "--check", thin_pool_free=5, max_disk=0.95)
    assert run.code == 0, run.output
    node.patch({"containers": {"301": {"guest": {"exec": answers("1.0")}}}})
    # With room by its own measure it goes on.
    run = deploy(pve, thin_pool_free=5)
    assert run.code == 0, run.output


def test_room_on_other_storages(pve: Ansible, node: Node) -> None:
    node.init(container("zfspool", exec=answers("1.0"), **GUEST), upgrade())
    node.patch({"storages": {"st": {"full": True}}})
    said = failure(deploy(pve))
    assert "the storage st has 100.0 % in use, and 10 % must be free" in said and "Free 6554 MiB on st" in said, said
    node.patch({"storages": {"st": {"full": False}}})
    # A node that cannot say what the storage is, is one where room was not looked for, and that is said.
    link, files = node.at(f"{SBIN}/pvesh"), node.at("/etc/pve")
    link.unlink()
    files.symlink_to(f"{WORLD}/etc-pve")
    try:
        run = deploy(pve, "--check")
    finally:
        files.unlink()
        link.symlink_to("fake-pve")
    assert run.code == 0 and "storages st are is not known" in run.output, run.output


def test_a_deploy_that_went_back_needs_a_new_id(pve: Ansible, node: Node) -> None:
    """Its rollback is done, and would not be done again."""
    node.faults(upgrade(ready=22))
    assert deploy(pve).code == 2 and len(node.calls("rollback")) == 1
    said = failure(deploy(pve))
    assert "with a new deploy_id" in said and version(node) == "1.0" and len(node.calls("rollback")) == 1, said
    node.faults(upgrade())
    run = deploy(pve, deploy_id=SECOND)
    assert run.code == 0 and version(node) == "2.0", run.output


def test_a_stopped_container_is_refused(pve: Ansible, node: Node) -> None:
    node.patch({"containers": {"301": {"running": False}}})
    assert "does not run" in failure(deploy(pve)) and node.snapshots() == []


def test_check_mode_changes_nothing_and_says_what_would_be(each: Ansible, node: Node) -> None:
    run = deploy(each, "--check", "--diff", retain=1)
    assert run.code == 0, run.output
    assert "shop-server would go from 1.0 to 2.0" in run.output
    assert run.named("Take a snapshot")["plan"] == [f"take the snapshot {NAME}"]
    assert node.snapshots() == [] and version(node) == "1.0"
    assert not any(argv[0] in ("snapshot", "rollback", "delsnapshot") or "install" in argv for argv in node.calls())


WITH_TASKS = {"package": "", "version": "", "tasks": "/x.yml"}


@pytest.mark.parametrize("inputs", [{"version": ""}, {**WITH_TASKS, "tasks": ""}, {"tasks": "/x.yml"}, {**WITH_TASKS, "way": "downgrade"}])
def test_contradicting_inputs_are_refused(pve: Ansible, node: Node, inputs: dict[str, str]) -> None:
    assert "Nothing was changed" in failure(deploy(pve, **inputs)) and node.calls() == []


def test_an_unknown_container_is_refused(pve: Ansible, node: Node) -> None:
    run = deploy(pve, vmid="999")
    assert run.code == 2 and "999" in run.output and node.snapshots() == []
