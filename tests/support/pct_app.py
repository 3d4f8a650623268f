# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service in a container of the fake node, for the tests of the role pct_app: what the container says, and how the role is called.

What happens in the container is the fake's: its answers change when `apt-get install` is called, and again when it is rolled back.
"""
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from harness import OLDEST, PIPELINING, Ansible, Run, system
from pve import HOST, Node, container

OLDER, FIRST, SECOND = "20261121t074500z-0001", "20261121t084500z-7f3a", "20261121t090000z-1c2d"
NAME = f"pre-deploy-{FIRST}"
UNIT, PACKAGE = "shop.service", "shop-server"
APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--option=DPkg::Lock::Timeout=60",
       "--option=Dpkg::Options::=--force-confdef", "--option=Dpkg::Options::=--force-confold"]
READY = ["curl", "-fsS", "http://127.0.0.1:8080/health"]
LOG = "shop[17]: cannot open the database"
FACTS = ("app_observed", "app_captured", "app_reverted")
GUEST = {"journal": ["systemd[1]: Startup finished.", LOG]}


@pytest.fixture(scope="module")
def made() -> t.Iterator[Node]:
    node = Node()
    yield node
    node.remove()


@pytest.fixture
def node(made: Node) -> Node:
    made.init(container(exec=answers("1.0"), **GUEST), upgrade())
    return made


@pytest.fixture
def pve(tmp_path: Path) -> Ansible:
    return Ansible(OLDEST, tmp_path, system("systemd"), PIPELINING)


@pytest.fixture
def each(one_core: str, tmp_path: Path) -> Ansible:
    """For the whole flow."""
    return Ansible(one_core, tmp_path, system("systemd"), PIPELINING)


def install(version: str) -> list[str]:
    return [*APT, "--allow-downgrades", "install", f"{PACKAGE}={version}"]


def answers(version: str, active: bool = True, ready: int = 0, restart: int = 0, offered: t.Sequence[str] = ("1.0", "2.0"),
            free: int = 2000, used: int = 40, more: t.Sequence[dict[str, t.Any]] = ()) -> list[dict[str, t.Any]]:
    """What a container with this version says. What is in `more` counts instead."""
    madison = "".join(f"{PACKAGE} | {each} | http://deb.example stable/main amd64 Packages\n" for each in offered)
    state = "active" if active else "failed"
    usual = [
        {"argv": ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Version}", PACKAGE], "stdout": f"ii |{version}"},
        {"argv": ["apt-cache", "madison", PACKAGE], "stdout": madison},
        {"argv": ["systemctl", "is-active", UNIT], "rc": 0 if active else 3, "stdout": f"{state}\n"},
        {"argv": ["systemctl", "status", "--no-pager", "--full", "--lines=0", UNIT], "rc": 3, "stdout": f"{UNIT}: Active: {state}\n"},
        {"argv": ["systemctl", "restart", UNIT], "rc": restart, "stderr": f"Job for {UNIT} failed.\n" if restart else ""},
        {"argv": READY, "rc": ready, "stderr": "curl: (22) 500\n" if ready else ""},
        {"argv": ["df", "--block-size=1M", "--output=avail,pcent", "/"], "stdout": f"Avail Use%\n{free:>5}  {used}%\n"},
        {"argv": [*APT, "update"]},
        {"argv": ["shop-admin", "migrate", "down"]},
        *({"argv": install(each)} for each in ("1.0", "2.0")),
    ]
    said = [answer["argv"] for answer in more]
    return [answer for answer in usual if answer["argv"] not in said] + list(more)


def becomes(when: str, args: str, after: list[dict[str, t.Any]], at: str = "begin") -> dict[str, t.Any]:
    """From this call on the container says something else."""
    return {"command": when, "args": args, "at": at, "patch": {"containers": {"301": {"guest": {"exec": after}}}}}


def upgrade(more: t.Sequence[dict[str, t.Any]] = (), **after: t.Any) -> list[dict[str, t.Any]]:
    """Version 2.0 says this; version 1.0 is well again, by whatever door. Both say `more`."""
    well = answers("1.0", more=more)
    return [becomes("pct exec", f"{PACKAGE}=2.0", answers("2.0", more=more, **after)), becomes("pct exec", f"{PACKAGE}=1.0", well),
            becomes("pct rollback", "301", well, at="end")]


def deploy(pve: Ansible, *options: str, door: str = "", way: str = "snapshot", deploy_id: str = FIRST,
           hooks: dict[str, t.Any] | None = None, sha: str = "2222222", **inputs: t.Any) -> Run:
    own = {"vmid": "301", "package": PACKAGE, "version": "2.0", "units": [UNIT], "ready": READY, "door": way, "settle": 1,
           "probe_retries": 1, "probe_delay": 0.1} | inputs
    role = {"name": "reversible.deploy.pct_app"} | ({"tasks_from": door} if door else {})
    given = {"app_name": "shop", "app_env": "prod", "app_release_previous": "1111111", "app_release_sha": sha,
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
