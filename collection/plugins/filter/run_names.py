# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts and groups of a run are called."""
from __future__ import annotations

import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.one_run import names

DOCUMENTATION = """
name: run_names
short_description: What the hosts and groups of a run are called
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - Names for the two hosts that do what is done once in a run, and for the groups of its hosts. Those of an earlier run in the same ansible-playbook are
    not used again.
options:
  _input:
    description: The names of the earlier run, or an empty dictionary.
    type: dict
    required: true
  app:
    description: The app.
    type: str
    required: true
  env:
    description: The environment.
    type: str
    required: true
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ {} | reversible.deploy.run_names('shop', 'staging') }}"
"""

RETURN = """
_value:
  description: C(number), the hosts C(once) and C(way_back), the groups C(hosts), C(colors), C(in_place) and C(data).
  type: dict
"""


def run_names(earlier: t.Mapping[str, t.Any], app: str, env: str) -> dict[str, t.Any]:
    return names(app, env, earlier)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"run_names": run_names}
