# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook `logs` shows of what was read: bounded, without secrets, and nothing is left out in silence. The playbook runs in test_flows.py."""
from __future__ import annotations

from pathlib import Path

from harness import LOCAL, Ansible

RESULTS = [
    {"rc": 0, "stdout": "one\ntwo\nthree\n", "stderr": "four", "ansible_loop_var": "at", "at": {"unit": "shop-web-blue"}},
    {"rc": 0, "stdout": "opened postgres://shop:swordfish9@db/shop as hunter2hunter2", "ansible_loop_var": "at", "at": {"name": "shop-web-green"}},
    {"rc": 1, "stdout": "", "stderr": "No such container: hunter2hunter2", "name": "gone"},
    {"failed": True, "msg": "the host went away", "ansible_loop_var": "at", "at": {"instance": "shop-blue"}},
    {"skipped": True, "ansible_loop_var": "at", "at": {"unit": "shop-job-blue"}},
    {"logs": {"shop-job-green": "\u001b[2Ja\nb"}, "rc": None},
    {"rc": 0, "stdout": "", "name": "silent"},
    {"rc": 0, "stdout": "x" * 600, "name": "long"},
]


def test_what_is_shown_of_logs(edge_core: str, tmp_path: Path) -> None:
    hidden = {"DB_PASSWORD": "hunter2hunter2", "COLOR": "three"}
    task = {"name": "shown", "ansible.builtin.debug": {"msg": "{{ results | reversible.deploy.newest_logs(2, hidden, {}) }}"},
            "vars": {"results": RESULTS, "hidden": hidden}}
    shown = Ansible(edge_core, tmp_path, LOCAL).play([task], "local").named("shown").result["msg"]
    assert shown["unread"] == ["gone", "shop-blue"]
    assert shown["lines"][:-1] == [
        "== shop-web-blue", "three", "four", "== shop-web-green", "opened postgres://shop:********@db/shop as ********",
        "== gone: CANNOT BE READ: No such container: ********", "== shop-blue: CANNOT BE READ: the host went away",
        "== shop-job-green", "?[2Ja", "b", "== silent: empty", "== long"]
    assert shown["lines"][-1] == "x" * 500 + " ..."
