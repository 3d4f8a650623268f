# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For the tests: a connection to this machine that cannot hand data to a command, as some real ones cannot."""
from __future__ import annotations

DOCUMENTATION = """
name: no_stdin
short_description: local without stdin
description: Runs commands on this machine, and refuses data for them.
options:
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
    transport = "no_stdin"
    has_pipelining = False

    def exec_command(self, cmd, in_data=None, sudoable=True):
        assert not in_data, "data for stdin"
        return super().exec_command(cmd, sudoable=sudoable)
