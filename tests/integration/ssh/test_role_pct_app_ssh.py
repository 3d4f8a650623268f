# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on a container of a node that is reached by ssh as somebody who is not root, and becomes root by sudo: the lab's machine
with systemd, with the fake Proxmox and an account of its own for it."""
from __future__ import annotations

import re
import typing as t

import pytest
from harness import CACHE_FOLDER, OLDEST, Ansible, system
from in_place import InPlace, example
from pct_app import GUEST, answers, upgrade, version
from pve import HOST, Node, container
from releases import sha

USER = "rd-deployer"
# Every Debian has made them when its packages were installed; those of the lab's machine are unpacked only.
PAM = [f"/etc/pam.d/common-{kind}" for kind in ("auth", "account", "password", "session", "session-noninteractive")]
ACCOUNT = f"""
set -e
mkdir /root/.before-the-account
cp -a /etc/passwd /etc/group /etc/shadow /root/.before-the-account/
echo '{USER}:x:2000:2000::/home/{USER}:/bin/sh' >> /etc/passwd
echo '{USER}:x:2000:' >> /etc/group
echo '{USER}:*:19000::::::' >> /etc/shadow
mkdir -p /home
install -d -o 2000 -g 2000 -m 0700 /home/{USER} /home/{USER}/.ssh
install -o 2000 -g 2000 -m 0600 /root/.ssh/authorized_keys /home/{USER}/.ssh/
for file in {" ".join(PAM)}; do kind=${{file##*common-}}; echo "${{kind%%-*}} required pam_permit.so" > $file; done
(umask 0337; echo '{USER} ALL=(root) NOPASSWD: ALL' > /etc/sudoers.d/{USER})
"""
NO_ACCOUNT = f"""
cd /root/.before-the-account && cp -a passwd group shadow /etc/ && cd /
rm -rf /root/.before-the-account /etc/sudoers.d/{USER} /home/{USER} {" ".join(PAM)}
"""


class OverSsh(InPlace):
    """The example for containers, on a node where the person who deploys is not root."""

    def __init__(self) -> None:
        self.node = Node()
        own = system("systemd")[HOST] | {"ansible_connection": "ssh", "ansible_become": True, "ansible_user": USER}
        quick = {"pct_app_settle": 0, "pct_app_probe_retries": 1, "pct_app_probe_delay": 0.1}
        super().__init__(example("pct") | quick, {"pve1": own})
        del self.vars["app_ledger_path"]   # where it is by default, on the node
        self.node.init(container(exec=answers("1.0"), **GUEST), upgrade())
        self.on(ACCOUNT)

    def on(self, command: str) -> str:
        """As root, to look and to prepare."""
        return Ansible(OLDEST, self.folder, system("systemd")).on(HOST, command)

    def close(self) -> None:
        try:
            self.on(NO_ACCOUNT)
        finally:
            self.node.remove()
            super().close()


@pytest.fixture(name="app")
def an_app() -> t.Iterator[OverSsh]:
    with OverSsh() as app:
        yield app


def test_deployed_and_taken_back_by_somebody_who_is_not_root(app: OverSsh) -> None:
    app.good("deploy_app", release_sha=sha(2))
    assert version(app.node) == "2.0"
    [snapshot] = app.node.snapshots()
    shown = app.run("rollback", mode="snapshot")
    assert shown.code == 2 and "has to be agreed to" in shown.output and "LOST: " in shown.output, shown.output
    assert app.node.calls("rollback") == [] and version(app.node) == "2.0"
    [plan] = set(re.findall(r"plan-[0-9a-f]{12}", shown.output))
    app.good("rollback", mode="snapshot", confirm=plan)
    assert app.node.calls("rollback") == [["rollback", "301", snapshot]] and version(app.node) == "1.0"

    # What is kept is root's, and nobody else's; the modules' cache too, since it is root who runs them.
    assert app.on("stat -c '%U %a' /var/lib/reversible /var/lib/reversible/shop-staging").split("\n")[:2] == ["root 700", "root 700"]
    assert app.on(f"ls -A ~{USER} ~root | grep -c {CACHE_FOLDER}") == "1\n" and app.on(f"ls -A /root/{CACHE_FOLDER}")
    assert app.on(f"find / /tmp /run -xdev -user {USER} -not -path '/home/{USER}*'") == ""
    # Without sudo nothing is begun.
    app.on(f"rm /etc/sudoers.d/{USER}")
    refused = app.run("deploy_app", release_sha=sha(3), pct_app_version="1.0")
    assert refused.code != 0 and app.outcome == "" and "sudo" in refused.output, refused.output
