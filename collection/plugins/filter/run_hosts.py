# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a play of a run."""
from __future__ import annotations

import importlib
import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.one_run import pattern

# What the tasks of every host of an app decide by. Ansible asks this filter itself, and forks a process for each task of each host after that: what is
# read before need not be compiled in each of them. Not in a play of one host: somebody may be waiting for a rollback.
NEEDED_BY_MANY = ("run_progress", "two_colors")

DOCUMENTATION = """
name: run_hosts
short_description: The hosts of a play of the run that is under way
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - A pattern of hosts, for C(hosts) of a play. Its host that goes back is always one of them. Before a run has names it matches nobody.
options:
  _input:
    description: C(hostvars), where localhost has the names of the run as C(flow_names).
    type: dict
    required: true
  which:
    description: C(once), or the groups C(hosts), C(colors), C(in_place), C(data).
    type: str
"""

EXAMPLES = """
- name: Look at every host of the app
  hosts: "{{ hostvars | default({}) | reversible.deploy.run_hosts('hosts', 'data') }}"
"""

RETURN = """
_value:
  description: The pattern.
  type: str
"""


def run_hosts(hostvars: t.Mapping[str, t.Any], *which: str) -> str:
    if set(which) - {"once"}:
        for name in NEEDED_BY_MANY:
            importlib.import_module(f"ansible_collections.reversible.deploy.plugins.plugin_utils.{name}")
    try:
        own = hostvars["localhost"]["flow_names"]
    except KeyError:
        own = {}
    return pattern(own, *which)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"run_hosts": run_hosts}
