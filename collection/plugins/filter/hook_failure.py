# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the command of a hook failed, in one line."""
from __future__ import annotations

import typing as t

from ansible_collections.reversible.deploy.plugins.plugin_utils.failures import of_command

DOCUMENTATION = """
name: hook_failure
short_description: How the command of a hook failed, in one line
version_added: 0.1.0
author: the reversible.deploy authors
description:
  - Which program it was, how it ended, and the last line that it printed. Its other arguments are left out, since they may be secrets.
options:
  _input:
    description: The result of M(ansible.builtin.command).
    type: dict
    required: true
  hook:
    description: The name of the hook.
    type: str
    required: true
  program:
    description: The first word of the command.
    type: str
    required: true
"""

EXAMPLES = """
- ansible.builtin.fail:
    msg: "{{ ansible_failed_result | reversible.deploy.hook_failure('smoke', '/usr/local/bin/smoke') }}"
"""

RETURN = """
_value:
  description: The line.
  type: str
"""


def hook_failure(result: t.Mapping[str, t.Any], hook: str, program: str) -> str:
    return of_command(result, hook, program)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"hook_failure": hook_failure}
