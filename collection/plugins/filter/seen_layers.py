# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was seen of each layer, as the ledger's judge wants it."""
from __future__ import annotations

import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.ways_back import layers

DOCUMENTATION = """
name: seen_layers
short_description: What was seen of each layer, as the ledger's judge wants it
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - For C(layers) of M(reversible.deploy.deploy_ledger) and M(reversible.deploy.deploy_ledger_info).
options:
  _input:
    description: What the load balancers say together, as P(reversible.deploy.load_balancers#filter) gives it; empty for an app without colours.
    type: dict
    required: true
  in_place:
    description: The layer of the hosts of the app, V(container) or V(compose); empty for an app with colours.
    type: str
    required: true
  hosts:
    description: By host of the app what its role has seen; none for one that did not answer.
    type: dict
    required: true
  data:
    description: The same of the hosts of its data.
    type: dict
    required: true
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ {} | reversible.deploy.seen_layers('container', {'pve1': {'ways_back': {'snapshot': {'open': []}}}}, {}) }}"
"""

RETURN = """
_value:
  description: By layer C(open), C(why), C(holds) and C(silent).
  type: dict
"""


def seen_layers(load_balancers: t.Mapping[str, t.Any], in_place: str, hosts: t.Mapping[str, t.Any], data: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return layers(load_balancers, in_place, hosts, data)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"seen_layers": seen_layers}
