# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For the tests: a connection to this machine that runs every command and loses what those with a module's arguments print, as `incus exec`
does now and then."""
from __future__ import annotations

DOCUMENTATION = """
name: loses_output
short_description: local without the output
description: Runs commands on this machine, and loses the output of those that were given data.
options:
  loses_with:
    type: int
    default: 0
    description: The exit status that is reported then.
    vars:
      - name: loses_with
  pipelining:
    type: bool
    default: true
    description: As in the plugin that this one is made of.
  become_success_timeout:
    type: int
    default: 10
    description: As in the plugin that this one is made of.
  become_strip_preamble:
    type: bool
    default: true
    description: As in the plugin that this one is made of.
"""

from ansible.plugins.connection.local import Connection as Local


class Connection(Local):
    transport = "loses_output"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        status, output, errors = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return (self.get_option("loses_with"), b"", b"") if in_data else (status, output, errors)
