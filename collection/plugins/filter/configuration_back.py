# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to type to go back to the configuration of a release as well."""
from __future__ import annotations

import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.configuration import before, commands

DOCUMENTATION = """
name: configuration_back
short_description: What to type to go back to the configuration of a release as well
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - A rollback does not change the playbooks and roles that it is made of. This gives the commands that do, for the release that was in place before a deploy.
options:
  _input:
    description: C(deploys) of M(reversible.deploy.deploy_ledger_info).
    type: list
    elements: dict
    required: true
  deploy_id:
    description: The deploy.
    type: str
    required: true
  env:
    description: The environment.
    type: str
    required: true
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ ledger.deploys | reversible.deploy.configuration_back('20261121t084500z-7f3a', 'staging') }}"
"""

RETURN = """
_value:
  description: The lines; none when that configuration is not known, or is the one that was used last.
  type: list
  elements: str
"""


def configuration_back(deploys: t.Sequence[t.Mapping[str, t.Any]], deploy_id: str, env: str) -> list[str]:
    then = before(deploys, deploy_id)
    now = next((one["config"] for one in deploys if one.get("config")), None)
    return commands(then.get("config"), now, env, then.get("release") or "")


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"configuration_back": configuration_back}
