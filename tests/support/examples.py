# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples in the documentation of the modules run, in their order, on a real target, as they stand there: in check mode, then for real.

Where those of a module run is said by a Scene in the test file of that kind of system; HOMES says in which file.
"""
from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import typing as t
from pathlib import Path

from harness import LOCAL, ROOT, Ansible, system

MODULES = ROOT / "collection/plugins/modules"
# Of what the examples need another system than this machine and those that are cheap.
HOMES = {"kube_rollout": "kube", "kube_rollout_info": "kube",
         "compose_backup": "docker", "compose_backup_info": "docker", "postgres_restore_point": "postgres", "postgres_restore_point_info": "postgres",
         "zfs_pre_deploy": "zfs", "zfs_pre_deploy_info": "zfs"}
Tasks = t.List[t.Dict[str, t.Any]]


def modules_of(home: str) -> list[str]:
    """The modules whose examples run on that kind of system."""
    return sorted(path.stem for path in MODULES.glob("*.py") if HOMES.get(path.stem, "machine") == home)


@dataclasses.dataclass
class Scene:
    """Where the examples of a module run."""

    host: str = "bare_root"  # without Python
    system: str = "bare"  # "": this machine itself
    clean: str = "true"  # takes away what they leave behind
    # What of an example is this machine's own: addresses, releases.
    edits: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # beside the playbook
    variables: dict[str, str] = dataclasses.field(default_factory=dict)  # that a user would have
    # What must have happened before an example makes sense, by its name.
    before: dict[str, Tasks] = dataclasses.field(default_factory=dict)
    # Ended after the examples.
    open: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)


def examples_of(module: str) -> Tasks:
    import yaml

    spec = importlib.util.spec_from_file_location(module, MODULES / f"{module}.py")
    documented = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documented)
    return yaml.safe_load(documented.EXAMPLES)


def as_they_run(module: str, scene: Scene) -> Tasks:
    tasks = []
    for example in examples_of(module):
        tasks += scene.before.get(example["name"], []) + [example]
    text = json.dumps(tasks)
    for written, here in scene.edits.items():
        text = text.replace(written, here)
    return json.loads(text)


def run_examples(module: str, scene: Scene, core: str, folder: Path) -> None:
    with scene.open:
        ansible = Ansible(core, folder, system(scene.system) if scene.system else LOCAL)
        for name, text in scene.files.items():
            (folder / name).write_text(text)
        tasks = as_they_run(module, scene)
        ansible.on(scene.host, scene.clean)
        checked = ansible.play(tasks[:1], scene.host, "--check", "--diff", vars=scene.variables)
        assert checked.code == 0, checked.output
        real = ansible.play(tasks, scene.host, vars=scene.variables)
        assert real.code == 0, real.output
        assert len(real.tasks) == len(tasks)
        ansible.on(scene.host, scene.clean)
