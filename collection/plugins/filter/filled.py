# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command of a hook."""
from __future__ import annotations

import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.one_run import filled as fill

DOCUMENTATION = """
name: filled
short_description: A command with what its words in braces stand for
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - C({name}) becomes what that name stands for; other braces are the command's own.
options:
  _input:
    description: The command, as a list of arguments.
    type: list
    elements: str
    required: true
  words:
    description: What each name stands for.
    type: dict
    required: true
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ ['{backend}/bin/migrate', '--up'] | reversible.deploy.filled({'backend': '/opt/shop/backend'}) }}"
"""

RETURN = """
_value:
  description: The command.
  type: list
  elements: str
"""


def filled(command: t.Sequence[str], words: t.Mapping[str, t.Any]) -> list[str]:
    return fill(command, words)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"filled": filled}
