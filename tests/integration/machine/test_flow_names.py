# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every variable `flow_*` that a playbook reads is set somewhere. Many are read in a rescue alone, where an undefined one hides the failure itself."""
from __future__ import annotations

import re

from harness import ROOT

READ = re.compile(r"(?<![.'\"\w])(flow_[a-z_]+)\b(?! \| default\()")
SET = re.compile(r"^\s*(?:- )?(?:(?:loop_var|register|index_var): (flow_[a-z_]+)|(flow_[a-z_]+):)")


def test_every_variable_of_the_playbooks_is_set() -> None:
    files = [path for folder in ("playbooks", "roles/flow") for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".yml", ".j2")]
    lines = [(path.name, line) for path in files for line in path.read_text().splitlines()]
    # What is only ever added to itself is set by nothing.
    are_set = {name for _file, line in lines if (found := SET.match(line)) for name in found.groups() if name and name not in READ.findall(line[found.end():])}
    missing = {(file, name) for file, line in lines for name in READ.findall(SET.sub("", line).split("# ")[0]) if name not in are_set}
    assert len(are_set) > 50 and not missing
