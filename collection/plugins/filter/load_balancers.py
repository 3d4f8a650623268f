# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the load balancers of an app say together."""
from __future__ import annotations

import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.load_balancers import reading

DOCUMENTATION = """
name: load_balancers
short_description: What the load balancers of an app say together
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - Which colour serves, where a fast rollback leads, and why a deploy or a rollback must not touch the load balancers.
options:
  _input:
    description: The answers of M(reversible.deploy.haproxy_color_switch_info), each with the name of its host as C(color_switch_host).
    type: list
    elements: dict
    required: true
  strategy:
    description: The strategy of the app.
    type: str
    required: true
  has_colors:
    description: Whether that strategy has colours.
    type: bool
    required: true
  target:
    description: The colour that was asked for, or nothing for the one that served before.
    type: str
    default: ""
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ (color_switch_looked.results | reversible.deploy.load_balancers('host', true)).disagree }}"
"""

RETURN = """
_value:
  description:
    - Of the first that answers C(active), C(release), C(previous) and C(history); of all C(flips), their histories.
    - C(disagree), why a deploy may do nothing, and C(back_refused), why a rollback may not; C(silent), by host why it does not answer; C(split), that they serve
      different colours, and how that ends.
    - For a fast rollback C(goal), C(goal_release), C(ends_split) and C(void).
  type: dict
"""


def load_balancers(looked: t.Sequence[t.Mapping[str, t.Any]], strategy: str, has_colors: bool, target: str = "") -> dict[str, t.Any]:
    return reading(looked, strategy, has_colors, target)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"load_balancers": load_balancers}
