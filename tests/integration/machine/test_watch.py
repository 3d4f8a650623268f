# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a long task is at is shown while it runs; and nothing that is wrong with the showing is felt by the task.

On hosts that need no accounts: this machine, and the one without Python. Every run has two tasks in one play: a short one, which also
brings the binary there, and a long one that tells of its two steps.
"""
from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from harness import CACHE_FOLDER, LOCAL, Ansible, staged, system, wait_for

EVERY = 0.5
LINE = re.compile(r"^(specimen on \S+: .*)$", re.MULTILINE)
HOSTS = ("local", "bare_root", "bare_user")


@pytest.fixture
def old_and_new(edge_core: str, tmp_path: Path) -> Ansible:
    return Ansible(edge_core, tmp_path, LOCAL | system("bare"), {"REVERSIBLE_PROGRESS": str(EVERY)}, staged())


def long_task(ansible: Ansible, host: str, *options: str, seconds: float = 2, **keywords: t.Any) -> tuple[list[str], str]:
    """What was shown of it, and all of the output. It must have ended well, and left nothing behind."""
    place = ansible.on(host, "mktemp -d").strip()
    args = {"behave": "replace", "file": f"{place}/file", "content": "new", "state_dir": f"{place}/state", "seconds": seconds,
            "confirm": True}
    ansible.on(host, f"echo old >{place}/file")
    before = progress_files(ansible, host)
    tasks = [{"name": "short", "reversible.deploy.specimen": {}}, {"name": "long", "reversible.deploy.specimen": args, **keywords}]
    run = ansible.play(tasks, host, *options)
    assert [task.status for task in run.tasks] == ["ok", "ok"], run.output
    if "--check" not in options:
        assert ansible.on(host, f"cat {place}/file") == "new", run.output
    ours = progress_files(ansible, host) - before
    # What else is tested on this machine writes such files as well; each is gone with its task.
    wait_for(lambda: not ours & progress_files(ansible, host), "its file is taken away", 60)
    ansible.on(host, f"rm -rf {place}")
    return LINE.findall(run.output), run.output


def progress_files(ansible: Ansible, host: str) -> set[str]:
    return {name for name in ansible.cached(host) if name.startswith(".progress")}


@pytest.mark.parametrize("host", HOSTS)
def test_a_long_task_is_shown(old_and_new: Ansible, host: str) -> None:
    ansible = old_and_new
    shown, output = long_task(ansible, host, seconds=5)
    steps = [re.sub("^(specimen on [a-z_]+: step . of 2: ).*", r"\1", line) for line in shown]
    both = [f"specimen on {host}: step {number} of 2: " for number in (1, 2)]
    assert steps in (both, both[1:]), output   # on a busy machine the first look may come late


def test_what_is_not_shown(old_and_new: Ansible) -> None:
    """Check mode, what is not to be logged, and -vvv, where core shows every command; nor with the showing turned off."""
    ansible = old_and_new
    assert long_task(ansible, "local", "--check")[0] == []
    assert long_task(ansible, "local", seconds=0.8, no_log=True)[0] == []
    assert long_task(ansible, "local", "-vvv", seconds=0.8)[0] == []
    ansible.environ["REVERSIBLE_PROGRESS"] = "0"
    assert long_task(ansible, "local", seconds=0.8)[0] == []


def test_a_watch_that_fails_is_not_felt(old_and_new: Ansible) -> None:
    """A shell that fails whenever it is to look; over ssh, one that nobody may use a second time."""
    ansible = old_and_new
    ansible.on("bare_root", f"rm -rf ~/{CACHE_FOLDER}")
    broken = ansible.folder / "broken-sh"
    for harm in ("exit 3", "echo nonsense; exit 0", "kill -9 $$"):
        broken.write_text(f'#!/bin/sh\ncase "$*" in *.progress-*) {harm};; esac\nexec /bin/sh "$@"\n')
        broken.chmod(0o755)
        ansible.environ["ANSIBLE_EXECUTABLE"] = str(broken)
        assert long_task(ansible, "local", seconds=0.8)[0] == []
    del ansible.environ["ANSIBLE_EXECUTABLE"]
    ansible.environ["ANSIBLE_SSH_ARGS"] = "-o ControlMaster=no"
    assert long_task(ansible, "bare_root", seconds=0.8)[0] == []
    # A look that hangs ends with the task, or shortly after.
    broken.write_text('#!/bin/sh\ncase "$*" in *.progress-*) exec sleep 8;; esac\nexec /bin/sh "$@"\n')
    ansible.environ["ANSIBLE_EXECUTABLE"] = str(broken)
    long_task(ansible, "local", seconds=0.8)
