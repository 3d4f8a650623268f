# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No task of the roles and playbooks asks a host for Python. That they do without it is seen in integration/haproxy: test_role_haproxy_systemd.py,
test_role_host_app_systemd.py."""
from __future__ import annotations

import re

from harness import ROOT

TASK = re.compile(r"^\s*(?:- )?((?:ansible|community)\.\w+)\.(\w+):", re.M)
# They run on the controller, or send the host one line for its shell.
NEED_NONE = {"add_host", "assert", "debug", "fail", "import_playbook", "import_role", "import_tasks", "include_role", "include_tasks", "meta", "pause",
             "raw", "set_fact"}
# By file: where it runs is the controller.
ON_THE_CONTROLLER = {
    ("playbooks/init.yml", "copy"),                        # localhost
    ("playbooks/init.yml", "file"),
    ("playbooks/tasks/shared/check_inputs.yml", "file"),
    ("playbooks/tasks/status/report.yml", "copy"),         # the run's own host, which is local
    ("roles/notify/tasks/main.yml", "uri"),                # notify_host, by default localhost
}


def test_no_task_needs_python_on_a_target() -> None:
    files = [path for folder in ("roles", "playbooks") for path in sorted((ROOT / folder).rglob("*.yml")) if "molecule" not in path.parts]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    found = {(name, module) for name, text in texts.items() for _namespace, module in TASK.findall(text) if module not in NEED_NONE}
    assert found == ON_THE_CONTROLLER
    plays = "".join(text for name, text in texts.items() if re.search(r"(?m)^- .*\n(?:  .*\n)*?  hosts:", text))
    assert plays.count("gather_facts: false") == len(re.findall(r"(?m)^  hosts:", plays)) > 20
