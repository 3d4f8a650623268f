# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks decide about a run as a whole: whether it may begin, and what its own hosts and groups are called. Pure: no I/O, no Ansible.

A run is one playbook for one app in one environment. Two of them may stand in one site.yml, and share hosts: what one remembers must not be taken
for the other's, so that each has names of its own.
"""
from __future__ import annotations

import re
import typing as t

# Molecule gives these to every playbook; no task of ours has them.
HARMLESS_TAGS = ("notest",)
HARMLESS_PREFIX = "molecule-"


def objections(command_line: t.Mapping[str, t.Any], settings: t.Mapping[str, t.Any]) -> list[str]:
    """Why a run may not begin, in sentences: its command line would leave tasks or hosts out, or its settings would hide what is wrong."""
    found = []
    if command_line.get("subset"):
        found.append(f"--limit {command_line['subset']} would leave the app with different releases on its hosts: leave it out, and name the hosts of "
                     "the app in app_hosts.")
    partly = []
    tags = [tag for tag in command_line.get("tags") or () if tag != "all"]
    if tags:
        partly.append(f"--tags {','.join(tags)}")
    skipped = [tag for tag in command_line.get("skip_tags") or () if tag not in HARMLESS_TAGS and not tag.startswith(HARMLESS_PREFIX)]
    if skipped:
        partly.append(f"--skip-tags {','.join(skipped)}")
    if command_line.get("start_at_task"):
        partly.append(f"--start-at-task '{command_line['start_at_task']}'")
    if command_line.get("step"):
        partly.append("--step")
    if partly:
        found.append(f"{' and '.join(partly)} would leave out tasks, and with them checks and the rollback: leave it out (of ansible.cfg as well).")
    if settings.get("error_on_undefined") is False:
        found.append("error_on_undefined_vars is false (ansible.cfg, or ANSIBLE_ERROR_ON_UNDEFINED_VARS): a variable that is missing would be taken for "
                     "text. Set it to true.")
    if settings.get("task_debugger"):
        found.append("enable_task_debugger is true (ansible.cfg, or ANSIBLE_ENABLE_TASK_DEBUGGER): at a failure it would wait for somebody, and nobody "
                     "would go back. Set it to false.")
    return found


def names(app: str, env: str, earlier: t.Mapping[str, t.Any] | None = None) -> dict[str, t.Any]:
    """What the next run's own hosts and groups are called, after an earlier one of the same ansible-playbook."""
    number = int((earlier or {}).get("number", 0)) + 1
    who = f"{app}-{env}" if number == 1 else f"{app}-{env}.{number}"
    groups = {group: f"reversible_{group}_{number}" for group in ("hosts", "colors", "in_place", "data")}
    return {"number": number, "once": f"deploy@{who}", "way_back": f"way-back@{who}", **groups}


def taken(own: t.Mapping[str, t.Any], groups: t.Mapping[str, t.Any]) -> list[str]:
    """Those of a run's names that the inventory has for something else."""
    known = set(groups) | {host for hosts in groups.values() for host in hosts}
    return sorted(name for key, name in own.items() if key != "number" and name in known)


def pattern(own: t.Mapping[str, t.Any], *which: str) -> str:
    """The hosts of a play: these groups of the run, and always the host that goes back, so that no play is without one. Nobody before a run has
    its names."""
    if not own:
        return "all:!all"
    return ":".join([own[one] for one in which] + [own["way_back"]])


def filled(command: t.Sequence[str], words: t.Mapping[str, t.Any]) -> list[str]:
    """The command of a hook, with what `{name}` stands for. Other braces are the command's own."""
    return [re.sub(r"\{([A-Za-z0-9_.-]+)\}", lambda found: str(words.get(found[1], found[0])), str(word)) for word in command]


def gap(message: str, name: str) -> str:
    """What the variable `name` lacks, of what Ansible says of an undefined one; nothing when it is not there itself."""
    undefined = re.findall(r"'[^']+' is undefined", message)
    return "" if not undefined or undefined[-1] == f"'{name}' is undefined" else undefined[-1]
