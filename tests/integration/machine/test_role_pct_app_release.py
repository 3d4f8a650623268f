# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pct_app with a release from a registry: the node fetches it, and it becomes current in a container whose files are real.

The container has a root file system of busybox; `pct push` and `pct exec` of the fake work in it, and a snapshot copies it.
"""
from __future__ import annotations

import shutil
import typing as t

import pytest
from harness import Ansible, Run, lab
from forge import a_registry  # noqa: F401  (a fixture)
from pct_app import FIRST, NAME, OLDER, SECOND, UNIT, deploy, each, failure, made, node, pve  # noqa: F401  pylint: disable=unused-import
from pve import Node, container

from registry import Registry
from releases import TOKEN, folder, member, sha, tar, zstd

GUEST_ROOT = "/var/lib/fake-guest"
READY = ["/opt/shop/current/bin/ready"]


@pytest.fixture
def shop(node: Node) -> t.Iterator[Node]:  # noqa: F811
    """A container of busybox, where nothing was deployed yet."""
    root = node.at(GUEST_ROOT)
    for path in (root, *root.parent.glob(f"{root.name}@*")):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("bin", "tmp", "opt", "usr/bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(lab("get", "busybox"), root / "bin/busybox")
    for name in ("sh", "tar", "rm", "mkdir", "mv", "ln", "ls", "readlink", "test", "df", "sync", "cat"):
        (root / "bin" / name).symlink_to("busybox")
    unit = [{"argv": ["systemctl", verb, UNIT], "stdout": "active\n"} for verb in ("is-active", "restart")]
    room = [{"argv": ["df", "--block-size=1M", "--output=avail,pcent", "/"], "stdout": "Avail Use%\n 2000  40%\n"}]
    node.init(container(exec=unit + room, root=GUEST_ROOT))
    yield node
    for path in (root, *root.parent.glob(f"{root.name}@*")):
        shutil.rmtree(path, ignore_errors=True)


def publish(registry: Registry, number: int, ready: int = 0) -> None:
    """A release whose own check ends with `ready`."""
    program = f"#!/bin/sh\necho release {number}\nexit {ready}\n".encode()
    registry.publish(sha(number), zstd(tar(folder("./"), folder("./bin"), member("./bin/ready", program, mode=0o755)), "-1"))


def release(pve: Ansible, registry: Registry, number: int, *options: str, **inputs: t.Any) -> Run:  # noqa: F811
    given = {"artifact": {"url": registry.template, "owner": "acme", "token": TOKEN}, "package": "", "version": "", "ready": READY, "settle": 0}
    return deploy(pve, *options, sha=sha(number), **given | inputs)


def current(node: Node) -> str:  # noqa: F811
    """What the container has as its release, and that the release is whole."""
    root = node.at(GUEST_ROOT)
    link = root / "opt/shop/current"
    if not link.is_symlink():
        return ""
    name = link.readlink().name
    assert (root / "opt/shop/releases" / name / "bin/ready").stat().st_mode & 0o777 == 0o755
    return name


def releases(node: Node) -> list[str]:  # noqa: F811
    return sorted(path.name for path in node.at(f"{GUEST_ROOT}/opt/shop/releases").iterdir())


def test_releases_come_and_a_broken_one_goes_back(each: Ansible, shop: Node, registry: Registry) -> None:  # noqa: F811
    publish(registry, 1)
    publish(registry, 2)
    publish(registry, 3, ready=4)
    checked = release(each, registry, 1, "--check", deploy_id=OLDER)
    assert checked.code == 0 and f"shop would go from not installed to {sha(1)}" in checked.output, checked.output
    assert current(shop) == "" and shop.calls("push") == []
    run = release(each, registry, 1, deploy_id=OLDER)
    assert run.code == 0 and current(shop) == sha(1), run.output
    assert TOKEN not in run.output and TOKEN not in str(shop.calls())
    again = release(each, registry, 1, deploy_id=FIRST)
    assert again.code == 0 and "changed=0" in again.output, again.output
    said = failure(release(each, registry, 3, deploy_id=FIRST))
    # The whole container went back, with what was unpacked in it.
    assert f"rolled back to the snapshot {NAME}" in said and "rc: 4" in said, said
    assert current(shop) == sha(1) and releases(shop) == [sha(1)]
    # The node keeps nothing of what it packed for the way.
    assert list(shop.at("/var/lib/reversible/pct-301-releases").glob("*.tar")) == []
    run = release(each, registry, 2, deploy_id=SECOND)
    assert run.code == 0 and current(shop) == sha(2) and releases(shop) == sorted([sha(1), sha(2)]), run.output


def test_a_release_goes_back_without_a_snapshot(pve: Ansible, shop: Node, registry: Registry) -> None:  # noqa: F811
    for number in (1, 2):
        publish(registry, number)
    publish(registry, 3, ready=4)
    assert release(pve, registry, 1, deploy_id=OLDER).code == 0
    # What a killed run has left is no release, and no hindrance.
    (shop.at(f"{GUEST_ROOT}/opt/shop/releases") / f"{sha(3)}.partial/old").mkdir(parents=True)
    said = failure(release(pve, registry, 3, deploy_id=FIRST, way="downgrade"))
    assert f"rolled back to shop {sha(1)} and was seen to run" in said, said
    assert current(shop) == sha(1) and sha(3) in releases(shop) and shop.calls("rollback") == []
    assert not (shop.at(f"{GUEST_ROOT}/opt/shop/releases") / sha(3) / "old").exists()
    # After a good one only those stay that a way leads to.
    run = release(pve, registry, 2, deploy_id=SECOND, way="downgrade")
    assert run.code == 0 and current(shop) == sha(2) and releases(shop) == sorted([sha(1), sha(2)]), run.output
    back = release(pve, registry, 2, deploy_id=SECOND, way="downgrade", door="revert", version_before=sha(1), rollback_id=SECOND)
    assert back.code == 0 and current(shop) == sha(1), back.output
    gone = release(pve, registry, 2, deploy_id=SECOND, way="downgrade", door="revert", version_before=sha(9), rollback_id=SECOND)
    assert "Nothing was rolled back" in failure(gone) and current(shop) == sha(1), gone.output


def test_what_is_wrong_is_said_before_anything_changes(pve: Ansible, shop: Node, registry: Registry) -> None:  # noqa: F811
    run = release(pve, registry, 5)
    assert "was never published" in failure(run) and shop.snapshots() == [], run.output
    publish(registry, 5)
    wrong = {"artifact": {"url": registry.template, "owner": "acme", "token": "not-this-one"}}
    said = failure(release(pve, registry, 5, **wrong))
    assert "not-this-one" not in said and shop.snapshots() == [], said
    assert "40 hex digits" in failure(deploy(pve, package="", version="", artifact={"url": registry.template}))
    assert shop.calls("push") == [] and current(shop) == ""
