# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse a run that could not keep what it promises, before its first task."""
from __future__ import annotations

import typing as t

from ansible import constants, context
from ansible.errors import AnsibleFilterError

from ansible_collections.reversible.deploy.plugins.plugin_utils.one_run import objections

DOCUMENTATION = """
name: whole_run
short_description: Refuse a run of which only a part would be done
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - Returns its input, the hosts of a play, and fails when C(--limit), C(--tags), C(--skip-tags), C(--start-at-task) or C(--step) would leave out hosts or
    tasks, or when C(error_on_undefined_vars) is off or the debugger of tasks on.
  - For C(hosts) of a play, since a task that refuses would be left out as well.
options:
  _input:
    description: The hosts of the play.
    type: str
    required: true
"""

EXAMPLES = """
- name: Check the inputs
  hosts: "{{ 'localhost' | reversible.deploy.whole_run }}"
"""

RETURN = """
_value:
  description: The input.
  type: str
"""


def whole_run(hosts: str) -> str:
    settings = {"error_on_undefined": getattr(constants, "DEFAULT_UNDEFINED_VAR_BEHAVIOR", True),
                "task_debugger": getattr(constants, "ENABLE_TASK_DEBUGGER", False)}
    found = objections(context.CLIARGS, settings)
    if found:
        raise AnsibleFilterError(f"Nothing was changed. {' '.join(found)}")
    return hosts


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"whole_run": whole_run}
