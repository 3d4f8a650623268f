# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pct_snapshot through ansible-playbook when Proxmox fails it: each step is asked for in check mode first, then done, then done again.

Every point of every command is killed in the tests beside the crate; here is what a playbook sees of it, one play a story.
"""
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from harness import GOES_ON, OLDEST, Ansible, Run, Task, system
from pve import HOST, SBIN, WORLD, Node, container

FIRST, SECOND, THIRD = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t091500z-0003"
NAME, KEPT = f"pre-deploy-{FIRST}", f"failed-{SECOND}"
TAKE = {"deploy_id": FIRST, "lock_timeout": 20}
BACK = {"deploy_id": FIRST, "state": "rolled_back", "rollback_id": SECOND, "confirm": True, "lock_timeout": 20, "boot_timeout": 10}
CRASH = {"kill_caller": True, "kill_self": True}  # the module and Proxmox's own command: the node has crashed


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
def pve(tmp_path: Path) -> Ansible:
    return Ansible(OLDEST, tmp_path, system("systemd"))


class Story:
    """Tasks of one play, and what becomes of the fake's world between them."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, t.Any]] = []
        self.run: Run | None = None

    def faults(self, *faults: dict[str, t.Any]) -> "Story":
        task = {"name": "-", "ansible.builtin.copy": {"dest": f"{WORLD}/faults.json", "content": json.dumps(faults), "mode": "0600"}}
        self.tasks.append(task)
        return self

    def patch(self, patch: dict[str, t.Any]) -> "Story":
        self.tasks.append({"name": "-", "ansible.builtin.command": {"argv": [f"{SBIN}/fake-pve", "patch", WORLD, json.dumps(patch)]}})
        return self

    def write(self, content: str) -> "Story":
        """Something is written in the container."""
        return self.patch({"volumes": {"st:disk-0": {"content": f"system {content}"}, "st:disk-1": {"content": f"data {content}"}}})

    def do(self, title: str, /, checked: bool = True, **options: t.Any) -> "Story":
        """One that fails is what is asked for, so the play goes on."""
        task = {"reversible.deploy.pct_snapshot": {"vmid": "301", **options}, **GOES_ON}
        if checked:
            self.tasks.append({"name": f"{title}, checked", "check_mode": True, **task})
        self.tasks.append({"name": title, **task})
        return self

    def info(self, name: str) -> "Story":
        self.tasks.append({"name": name, "reversible.deploy.pct_snapshot_info": {"vmid": "301"}})
        return self

    def told(self, pve: Ansible) -> "Story":
        self.run = pve.play(self.tasks, HOST)
        assert self.run.code == 0, self.run.output
        return self

    def __getitem__(self, name: str) -> Task:
        return self.run.named(name)

    def refused(self, name: str, reason: str, *words: str) -> None:
        for each in (f"{name}, checked", name):
            task = self[each]
            assert task.status == "failed" and task["reason"] == reason, (each, task)
            assert not [word for word in words if word not in task.msg] and "nothing was changed" in task.msg, (each, task.msg)

    def changed(self, name: str) -> None:
        """Check mode has shown the very plan that was carried out."""
        checked, done = self[f"{name}, checked"], self[name]
        assert done.status == "ok" and done["changed"] is True, done
        assert (checked["plan"], checked["plan_id"]) == (done["plan"], done["plan_id"]), (checked, done)


def content(node: Node) -> list[str]:
    volumes = node.show()["volumes"]
    return [volumes[volume]["content"] for volume in ("st:disk-0", "st:disk-1")]


def settled(node: Node) -> None:
    ours = node.show()["containers"]["301"]
    assert "lock" not in ours["config"] and not [one for one in ours["snapshots"].values() if one.get("snapstate")], ours


def test_a_snapshot_that_was_killed(pve: Ansible, node: Node) -> None:
    story = Story().faults({"command": "pct snapshot", "nth": 1, "at": "volume:2", **CRASH}).do("killed", checked=False, **TAKE)
    story.info("between").faults().do("next", **TAKE).do("again", **TAKE).told(pve)
    assert story["killed"].status == "failed"
    assert story["between"]["unfinished"] and story["between"]["containers"][0]["lock"] == "snapshot"
    story.changed("next")
    plan = story["next"]["plan"]
    assert len(plan) == 3 and plan[0].startswith("remove the lock snapshot") and plan[1].startswith("remove the incomplete snapshot"), plan
    assert story["again"]["changed"] is False and node.snapshots() == [NAME]
    settled(node)


def test_a_container_that_a_killed_snapshot_left_frozen(pve: Ansible, node: Node) -> None:
    """It is the kernel that holds it."""
    Story().faults({"command": "pct snapshot", "nth": 1, "at": "volume:2", **CRASH}).do("killed", checked=False, **TAKE).told(pve)
    with node.frozen() as events:
        story = Story().faults().info("between").do("next", **TAKE, state="absent", confirm=True).told(pve)
        assert "frozen 0" in events.read_text()
    between = story["between"]["containers"][0]
    assert (between["running"], between["frozen"]) == (False, True), between
    story.changed("next")
    assert story["next"]["plan"][0].startswith("thaw CT 301") and story["next"]["running"] is True, story["next"]
    assert node.snapshots() == []
    settled(node)


@pytest.mark.parametrize(("command", "at"), [("pct shutdown", "stopped"), ("pct rollback", "volume:2"), ("pct start", "begin")])
def test_a_rollback_that_was_killed(pve: Ansible, node: Node, command: str, at: str) -> None:
    story = Story().do("take", checked=False, **TAKE).write("2")
    story.faults({"command": command, "nth": 1, "at": at, **CRASH}).do("killed", checked=False, **BACK)
    story.faults().do("next", **BACK).write("3").do("again", **BACK).told(pve)
    assert story["killed"].status == "failed"
    story.changed("next")
    assert story["next"]["running"] is True and story["next"]["safety_snapshot"] == KEPT, story["next"]
    # The same id again is no second rollback.
    assert story["again"]["changed"] is False and content(node) == ["system 3", "data 3"]
    kept = {one["name"]: one["content"] for one in node.show()["volumes"]["st:disk-1"]["snapshots"]}
    assert kept[KEPT] == "data 2"
    settled(node)


def test_a_second_volume_that_fails_and_a_start_that_says_it_went_well(pve: Ansible, node: Node) -> None:
    story = Story().do("take", checked=False, **TAKE).write("2")
    story.faults({"command": "pct rollback", "nth": 1, "at": "volume:2", "fail": {"text": "dataset is busy"}},
                 {"command": "pct start", "nth": 1, "at": "begin", "fail": {"text": "", "rc": 0}})
    story.do("half way", **BACK).info("between").do("no start", **BACK).do("whole", **BACK)
    story.do("undone", checked=False, name=KEPT, state="rolled_back", rollback_id=THIRD, confirm=True).told(pve)
    failed = story["half way"]
    assert failed.status == "failed" and failed["reason"] == "half_rolled_back" and failed["rolled_back"] is False, failed
    assert "lock rollback" in failed.msg and "same task again" in failed.msg and KEPT in failed.msg, failed.msg
    assert story["between"]["containers"][0] == {"vmid": 301, "name": "shop", "running": False, "frozen": False, "lock": "rollback",
                                                  "frozen_mounts": [], "thaw": []}
    late = story["no start"]
    assert late.status == "failed" and late["reason"] == "start_failed" and late["rolled_back"] is True, late
    assert "though pct start ended with 0" in late.msg and isinstance(late["log"], list), late.msg
    story.changed("whole")
    assert story["whole"]["plan"] == ["start CT 301 and wait until it has booted"], story["whole"]
    assert story["undone"]["changed"] is True and content(node) == ["system 2", "data 2"]
    settled(node)


def test_a_lost_quorum_and_a_task_that_hangs(pve: Ansible, node: Node) -> None:
    quorum = {"cluster": "home", "nodes": ["pve2"]}
    story = Story().do("take", checked=False, **TAKE).write("2")
    story.patch(quorum | {"quorate": False}).do("before", **BACK).patch({"quorate": True})
    story.faults({"command": "pct shutdown", "at": "end", "patch": {"quorate": False}}).do("during", checked=False, **BACK)
    story.patch({"quorate": True})
    hangs = {"command": "pct rollback", "nth": 1, "at": "volume:2", "hang": True}
    story.faults(hangs).do("hangs", checked=False, **BACK, start="always", task_timeout=1)
    story.faults().do("next", **BACK, start="always").told(pve)
    story.refused("before", "no_quorum", "bring its nodes back")
    during, late = story["during"], story["hangs"]
    # Nothing was rolled back, and why the container is down is said.
    assert during["reason"] == "no_quorum" and "could NOT be started again" in during.msg and during["changed"] is True, during
    assert late["reason"] == "timed_out" and "task_timeout" in late.msg, late
    story.changed("next")
    assert content(node) == ["system 1", "data 1"] and node.show()["containers"]["301"]["running"] is True
    settled(node)


def test_what_would_fail_half_way_is_refused(pve: Ansible, node: Node) -> None:
    """All of it before anything is stopped, written, or even a folder made."""
    node.init(container("zfspool"))
    marked = {"description": "[reversible.deploy 1 restore-point]", "snaptime": 1_790_000_000}
    config = node.show()["containers"]["301"]["config"]
    kept = {"rootfs": config["rootfs"], "mp0": config["mp0"]}
    by_hand = {"point": marked | {"config": kept}, "broken": marked | {"snapstate": "prepare", "snaptime": 1_790_000_001}}

    def ours(**config: t.Any) -> dict[str, t.Any]:
        return {"containers": {"301": {"config": config}}}

    back = {"name": "point", "state": "rolled_back", "confirm": True, "lock_timeout": 0}
    story = Story().patch({"containers": {"301": {"snapshots": by_hand}}, "others": {"302": {"node": "pve2"}}})
    story.patch({"nodes": ["pve2"], "cluster": "home"})
    story.do("elsewhere", **TAKE | {"vmid": "302"}).do("nowhere", **TAKE | {"vmid": "999"})
    story.patch(ours(lock="backup")).do("locked", checked=False, **back).patch(ours(lock=None))
    story.patch(ours(template="1")).do("template", **back).patch(ours(template=None))
    story.patch({"ha": {"ct:301": "started"}}).do("ha", **back).patch({"ha": {"ct:301": None}})
    story.do("incomplete", **back | {"name": "broken"}).do("missing", **back | {"name": "pointe"})
    story.patch(ours(mp1="/srv/shared,mp=/shared")).do("uncovered", checked=False, **back).do("no feature", **TAKE).patch(ours(mp1=None))
    story.patch({"replication": [{"guest": 301, "target": "pve2"}]}).do("replicated", **back | {"confirm": None}).told(pve)
    story.refused("incomplete", "incomplete", "snapstate prepare")
    story.refused("missing", "no_snapshot", "similar names are point")
    story.refused("template", "template", "clone it")
    story.refused("ha", "ha_managed", "ha-manager set ct:301 --state ignored")
    story.refused("no feature", "no_snapshots", "mp1 (/shared, a bind mount of /srv/shared)")
    for name, reason, word in (("elsewhere", "no_container", "is on node pve2"), ("nowhere", "no_container", "there is no CT 999"),
                               ("locked", "locked", "vzdump"),
                               ("uncovered", "needs_consent", "accept: [newer_snapshots, uncovered_mounts]"),
                               ("replicated", "needs_consent", "broken")):
        assert story[name]["reason"] == reason and word in story[name].msg, story[name]
    assert "replicated to pve2" in str(story["replicated, checked"]["warnings"])
    assert {argv[0] for argv in node.calls()} <= {"config", "status", "list", "listsnapshot"} and content(node) == ["system 1", "data 1"]
    assert not node.at("/var/lib/reversible").exists()


def test_two_at_once(pve: Ansible, node: Node) -> None:
    node.faults([{"command": "pct snapshot", "at": "volume:1", "slow_ms": 3000}])
    one = {"reversible.deploy.pct_snapshot": {"vmid": "301", "deploy_id": FIRST, "lock_timeout": 60}}
    runs = [pve.start([one], HOST) for _ in range(2)]
    results = [run.wait() for run in runs]
    assert [run.code for run in results] == [0, 0], results
    assert sorted(run.only["changed"] for run in results) == [False, True] and node.snapshots() == [NAME]
    assert len(node.calls("snapshot")) == 1


def test_odd_bytes_and_foreign_snapshots(pve: Ansible, node: Node) -> None:
    foreign = {"latin1": {"description": "caf\u00e9 \u00df", "snaptime": 1_700_000_000},
               "trap": {"description": "current  You are here!\n`-> x\n%0A %zz", "snaptime": 1_700_000_001},
               "pre-deploy-old": {"description": "[reversible.deploy 1 restore-point]\nnot the last line", "snaptime": 1_700_000_002}}
    text = "quote \" ' and % \\ \U0001f980\n-> [x]\n--force"
    story = Story().patch({"containers": {"301": {"snapshots": foreign}}}).do("take", **TAKE, description=text, retain=1).info("all")
    story.patch({"clock_offset": 100}).do("newer", deploy_id=THIRD, retain=1).do("target", state="absent", retain=1, keep=[NAME]).told(pve)
    story.changed("take")
    [ours] = [one for one in story["all"]["snapshots"] if one["ours"]]
    assert ours["description"] == text, ours
    # What is not provably ours stays, whatever it is called.
    assert node.snapshots() == sorted([*foreign, f"pre-deploy-{THIRD}"])
    assert story["target"]["changed"] is False
