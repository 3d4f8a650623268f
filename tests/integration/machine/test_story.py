# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback plugin `story`: a run that fails in each way is told whole and short; with -v it is what the default callback prints."""
from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import LOCAL, SPECIMEN, Ansible
from stories import STORY, tells_all

HOSTS = {"app1": LOCAL["local"], "app2": LOCAL["local"], "away": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}}
TASKS = [
    {"name": "nothing to do", SPECIMEN: {"text": "quiet"}},
    {"name": "with a warning", SPECIMEN: {"text": "x", "warning": "the disk of this host is nearly full"}},
    {"name": "told", "ansible.builtin.debug": {"msg": "two\nlines"}, "run_once": True},
    {"name": "changes", "ansible.builtin.command": "/bin/true", "loop": [1, 2], "changed_when": "item == 1"},
    {"name": "secret", "ansible.builtin.command": "/bin/sh -c 'echo hunter2; exit 3'", "no_log": True, "ignore_errors": True},
    {"name": "some fail", "ansible.builtin.command": "/bin/sh -c 'echo because of {{ item }} >&2; exit {{ item }}'", "loop": [0, 7], "ignore_errors": True},
    {"name": "goes back", "block": [{"name": "fails", "ansible.builtin.fail": {"msg": "The reason is plain.\nDo this: nothing."}}],
     "rescue": [{"name": "all is well again", "ansible.builtin.debug": {"msg": "rescued {{ ansible_failed_task.name }}"}}]},
    {"name": "warns of each", SPECIMEN: {"text": "x", "warning": "no sum was given"}, "loop": [1, 2, 3]},
    {"name": "several lines", "ansible.builtin.assert": {"that": "false", "fail_msg": ["Nothing was changed.", "color is missing"], "quiet": True},
     "ignore_errors": True},
    {"name": "given on", "block": [{"name": "with a reason", "ansible.builtin.command": "/bin/sh -c 'exit 5'"}],
     "rescue": [{"name": "gives it on", "ansible.builtin.fail": {"msg": "{{ ansible_failed_result.msg }}"}, "ignore_errors": True}]},
    {"name": "undefined", "ansible.builtin.debug": {"msg": "{{ nowhere.to_be_found }}"}},
]


def told(edge_core: str, place: Path, callback: dict[str, str], *options: str) -> tuple[str, object]:
    run = Ansible(edge_core, place, HOSTS, {**callback, "ANSIBLE_FORKS": "1"}).play(TASKS, "all", *options)
    assert run.code in (2, 4, 6), run.output
    return run.output, run


@pytest.mark.every_version
def test_each_failure_and_warning_is_told_once_and_nothing_else(edge_core: str, tmp_path: Path) -> None:
    output, run = told(edge_core, tmp_path, STORY)
    tells_all(run)
    assert "quiet" not in output and "nothing to do" not in re.sub(r"(?m)^.*UNREACHABLE.*$", "", output) and "hunter2" not in output, output
    assert output.count("The reason is plain.") == 1 and "the same as on app1: fails" in output and "\n       Do this: nothing." in output, output
    assert "changed: app1: changes, 1 of 2" in output and "app1: two\n       lines" in output, output
    assert "stderr: because of 7" in output and "FAILED: app1: some fail (item=7)" in output, output
    assert "\n       Nothing was changed.\n       color is missing" in output, output
    assert output.count("the same as on app1: with a reason") == 3, output   # of app2, and where each host gives it on
    assert output.count("warned: app1: warns of each") == 1, output
    assert output.count("ignored, as its task says") == 8, output


def test_with_v_it_is_what_the_default_prints(edge_core: str, tmp_path: Path) -> None:
    (story, _), (default, _) = told(edge_core, tmp_path, STORY, "-v"), told(edge_core, tmp_path, {}, "-v")

    def timeless(text: str) -> list[str]:
        return re.sub(r'"(delta|end|start)": "[^"]*"|\d{4,}(\.\d+)?|tmp[a-z0-9_]{8}', "", text).splitlines()

    assert timeless(story) == timeless(default)
