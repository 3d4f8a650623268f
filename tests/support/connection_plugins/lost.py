# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For the tests: a connection to this machine that is lost as soon as a file is there, or on which one command
fails when another one is."""
from __future__ import annotations

DOCUMENTATION = """
name: lost
short_description: local until it is lost
description: Runs commands on this machine, until a file exists.
options:
  lost_file:
    type: str
    description: The file.
    vars:
      - name: lost_file
  fails_file:
    type: str
    description: The file that makes the next command fail, and is removed.
    vars:
      - name: fails_file
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

import os

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local


class Connection(Local):
    transport = "lost"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        self._look()
        fails = self.get_option("fails_file")
        if fails and os.path.exists(fails):
            os.unlink(fails)
            return 1, b"", b"broken by the test\n"
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)

    def put_file(self, in_path, out_path):
        self._look()
        return super().put_file(in_path, out_path)

    def _look(self):
        if os.path.exists(self.get_option("lost_file")):
            raise AnsibleConnectionFailure("the host does not answer any more")
