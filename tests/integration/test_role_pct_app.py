# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pct_app on a fake Proxmox node: a service is changed in place; a change that fails goes back, and fails with its evidence.

What happens in the container is the fake's: its answers change when `apt-get install` is called, and again when it is rolled back.
"""
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from harness import CORES, Ansible, Run, system
from pve import HOST, SBIN, Node, container

OLDER, FIRST, SECOND = "20261121t074500z-0001", "20261121t084500z-7f3a", "20261121t090000z-1c2d"
NAME = f"pre-deploy-{FIRST}"
UNIT, PACKAGE = "shop.service", "shop-server"
APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--option=DPkg::Lock::Timeout=60",
       "--option=Dpkg::Options::=--force-confdef", "--option=Dpkg::Options::=--force-confold"]
READY = ["curl", "-fsS", "http://127.0.0.1:8080/health"]
LOG = "shop[17]: cannot open the database"
FACTS = ("app_observed", "app_captured", "app_reverted")
GUEST = {"journal": ["systemd[1]: Startup finished.", LOG]}


def install(version: str) -> list[str]:
    return [*APT, "--allow-downgrades", "install", f"{PACKAGE}={version}"]


def answers(version: str, active: bool = True, ready: int = 0, restart: int = 0, offered: t.Sequence[str] = ("1.0", "2.0"),
            free: int = 2000) -> list[dict[str, t.Any]]:
    """What a container with this version says."""
    madison = "".join(f"{PACKAGE} | {each} | http://deb.example stable/main amd64 Packages\n" for each in offered)
    state = "active" if active else "failed"
    return [
        {"argv": ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Version}", PACKAGE], "stdout": f"ii |{version}"},
        {"argv": ["apt-cache", "madison", PACKAGE], "stdout": madison},
        {"argv": ["systemctl", "is-active", UNIT], "rc": 0 if active else 3, "stdout": f"{state}\n"},
        {"argv": ["systemctl", "status", "--no-pager", "--full", "--lines=0", UNIT], "rc": 3, "stdout": f"{UNIT}: Active: {state}\n"},
        {"argv": ["systemctl", "restart", UNIT], "rc": restart, "stderr": f"Job for {UNIT} failed.\n" if restart else ""},
        {"argv": READY, "rc": ready, "stderr": "curl: (22) 500\n" if ready else ""},
        {"argv": ["df", "--block-size=1M", "--output=avail", "/"], "stdout": f"Avail\n{free:>5}\n"},
        {"argv": [*APT, "update"]},
        {"argv": ["shop-admin", "migrate", "down"]},
        *({"argv": install(each)} for each in ("1.0", "2.0")),
    ]


def becomes(when: str, args: str, after: list[dict[str, t.Any]], at: str = "begin") -> dict[str, t.Any]:
    """From this call on the container says something else."""
    return {"command": when, "args": args, "at": at, "patch": {"containers": {"301": {"guest": {"exec": after}}}}}


def upgrade(**after: t.Any) -> list[dict[str, t.Any]]:
    """Version 2.0 says this; version 1.0 is well again, by whatever door."""
    return [becomes("pct exec", f"{PACKAGE}=2.0", answers("2.0", **after)), becomes("pct exec", f"{PACKAGE}=1.0", answers("1.0")),
            becomes("pct rollback", "301", answers("1.0"), at="end")]


@pytest.fixture(scope="module")
def made() -> t.Iterator[Node]:
    node = Node()
    yield node
    node.remove()


@pytest.fixture
def node(made: Node) -> t.Iterator[Node]:
    made.init(container(exec=answers("1.0"), **GUEST), upgrade())
    yield made
    for name in ("lvs", "vgs"):
        made.at(f"{SBIN}/{name}").unlink(missing_ok=True)


@pytest.fixture
def pve(tmp_path: Path) -> Ansible:
    return Ansible(CORES[-1], tmp_path, system("systemd"))


@pytest.fixture
def each(edge_core: str, tmp_path: Path) -> Ansible:
    """The oldest core and the newest, for the whole flow."""
    return Ansible(edge_core, tmp_path, system("systemd"))


def deploy(pve: Ansible, *options: str, door: str = "", way: str = "snapshot", deploy_id: str = FIRST,
           hooks: dict[str, t.Any] | None = None, **inputs: t.Any) -> Run:
    own = {"vmid": "301", "package": PACKAGE, "version": "2.0", "units": [UNIT], "ready": READY, "door": way, "settle": 1,
           "probe_retries": 1, "probe_delay": 0.1} | inputs
    role = {"name": "reversible.deploy.pct_app"} | ({"tasks_from": door} if door else {})
    given = {"app_name": "shop", "app_env": "prod", "app_release_previous": "1111111", "app_release_sha": "2222222",
             "deploy_id": deploy_id, "app_hooks": hooks or {}} | {f"pct_app_{name}": value for name, value in own.items()}
    show = [{"name": name, "ansible.builtin.debug": {"var": name}, "when": f"{name} is defined"} for name in FACTS]
    tasks = [{"block": [{"ansible.builtin.include_role": role, "vars": given}], "always": show}]
    return pve.play(tasks, HOST, *options)


def failure(run: Run) -> str:
    """What the role said at last."""
    assert run.code == 2, run.output
    return [task for task in run.tasks if task.status == "failed"][-1].msg


def version(node: Node) -> str:
    """The version that the container has now."""
    return node.show()["containers"]["301"]["guest"]["exec"][0]["stdout"].split("|")[1]


def at(calls: list[list[str]], *words: str) -> int:
    return next(index for index, argv in enumerate(calls) if tuple(argv[-len(words):]) == words)


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
    assert f"went back to the snapshot {NAME}" in said and f"failed-{FIRST}" in said, said
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
    assert "IT WENT BACK, BUT WAS NOT SEEN TO RUN" in failure(run)
    assert run.named("app_reverted")["app_reverted"] is False


def test_a_way_back_that_fails_is_said(pve: Ansible, node: Node) -> None:
    node.faults([*upgrade(ready=22), {"command": "pct start", "at": "start", "fail": {"text": ""}}])
    run = deploy(pve)
    said = failure(run)
    assert run.named("app_reverted")["app_reverted"] is False
    assert "IT DID NOT GO BACK" in said and "start_failed" in said and "curl: (22) 500" in said and LOG in said, said


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
    assert f"went back to {PACKAGE} 1.0" in said and version(node) == "1.0", said
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
    plan = checked.named("Go back to the snapshot")["plan_id"]
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


POOL = {"report": [{"lv": [{"lv_name": "data", "lv_size": "100000.00", "data_percent": "91.20", "metadata_percent": "3.10"}]}]}
GROUP = {"report": [{"vg": [{"vg_name": "pve", "vg_free": "512.00"}]}]}


def test_too_little_room_is_refused(pve: Ansible, node: Node) -> None:
    """LVM cannot be had everywhere, so two programs answer with what LVM answers."""
    assert pve.play([{"reversible.deploy.pct_snapshot": {"vmid": 301, "deploy_id": OLDER, "app": "shop"}}], HOST).code == 0
    for name, report in (("lvs", POOL), ("vgs", GROUP)):
        program = node.at(f"{SBIN}/{name}")
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(report)}\nEND\n")
        program.chmod(0o755)
    node.patch({"containers": {"301": {"guest": {"exec": answers("1.0", free=100)}}}})
    said = failure(deploy(pve, thin_pool="pve/data", volume_group="pve"))
    words = ("91.20 % of its data", "512.00 MiB left", "has 100 MiB left")
    assert all(word in said for word in words) and "of its metadata" not in said, said
    assert f"pre-deploy-{OLDER}" in said and "pvesm prune-backups" in said, said
    assert node.snapshots() == [f"pre-deploy-{OLDER}"] and version(node) == "1.0"
    # With room by its own measure it goes on.
    node.patch({"containers": {"301": {"guest": {"exec": answers("1.0")}}}})
    run = deploy(pve, thin_pool="pve/data", thin_pool_free=5, volume_group="pve", volume_group_free=100)
    assert run.code == 0, run.output


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
