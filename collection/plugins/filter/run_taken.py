# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of a run that are somebody else's."""
from __future__ import annotations

import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.one_run import taken

DOCUMENTATION = """
name: run_taken
short_description: Names of a run that the inventory has for something else
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - A machine of such a name would be taken for the controller.
options:
  _input:
    description: The names of the run, as C(run_names) makes them.
    type: dict
    required: true
  groups:
    description: The groups of the inventory, with their hosts.
    type: dict
    required: true
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ flow_names | reversible.deploy.run_taken(groups) }}"
"""

RETURN = """
_value:
  description: The names, sorted.
  type: list
  elements: str
"""


def run_taken(own: t.Mapping[str, t.Any], groups: t.Mapping[str, t.Any]) -> list[str]:
    return taken(own, groups)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"run_taken": run_taken}
