# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a variable lacks that is there, and cannot be read."""
from __future__ import annotations

import typing as t

from jinja2 import Undefined

from ansible_collections.reversible.deploy.plugins.plugin_utils.one_run import gap

try:
    from ansible.template import accept_args_markers
except ImportError:   # before 2.19 a filter is given what is undefined as it is

    def accept_args_markers(plugin: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        return plugin


DOCUMENTATION = """
name: undefined_part
short_description: What a variable lacks that is there, and cannot be read
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - Before ansible-core 2.19 a variable of which a part is undefined counts as undefined as a whole, and C(default) hides why.
options:
  _input:
    description: The variable.
    type: raw
    required: true
  name:
    description: Its name.
    type: str
    required: true
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ app_components | reversible.deploy.undefined_part('app_components') }}"
"""

RETURN = """
_value:
  description: What is undefined in it. Empty when it can be read, and when it is not there at all.
  type: str
"""


@accept_args_markers
def undefined_part(value: t.Any, name: str) -> str:
    return gap(str(getattr(value, "_undefined_message", "") or ""), name) if isinstance(value, Undefined) else ""


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"undefined_part": undefined_part}
