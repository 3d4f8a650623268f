# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples in the documentation run, in their order, on a target without Python, as they stand there: in check mode, then for real."""
from __future__ import annotations

import importlib.util
import typing as t

import pytest
from harness import ROOT, Ansible

MODULES = ROOT / "collection/plugins/modules"

# What must have happened before an example makes sense.
BEFORE: dict[str, list[dict[str, t.Any]]] = {
    "Take over from a run whose controller died": [
        {
            "name": "before",
            "reversible.deploy.deploy_ledger": {"app": "shop", "env": "staging", "deploy_id": "20261121t091500z-44d0", "state": "open"},
        }
    ],
}
# The state that a module's examples leave behind on the target.
LEAVES = {"deploy_ledger": "/var/lib/reversible/shop-staging", "deploy_ledger_info": "/var/lib/reversible/shop-staging"}


def examples_of(module: str) -> list[dict[str, t.Any]]:
    import yaml

    spec = importlib.util.spec_from_file_location(module, MODULES / f"{module}.py")
    documented = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documented)
    return yaml.safe_load(documented.EXAMPLES)


@pytest.mark.parametrize("module", sorted(path.stem for path in MODULES.glob("*.py")))
def test_the_examples_run(edge: Ansible, module: str) -> None:
    assert module in LEAVES, f"say in LEAVES what the examples of {module} leave behind"
    tasks = []
    for example in examples_of(module):
        tasks += BEFORE.get(example["name"], []) + [example]
    edge.on("bare_root", f"rm -rf {LEAVES[module]}")
    checked = edge.play(tasks[:1], "bare_root", "--check", "--diff")
    assert checked.code == 0, checked.output
    real = edge.play(tasks, "bare_root")
    assert real.code == 0, real.output
    assert len(real.tasks) == len(tasks)
    edge.on("bare_root", f"rm -rf {LEAVES[module]}")


def test_the_example_playbook_runs(edge: Ansible) -> None:
    edge.on("bare_root", "rm -rf /root/ledger-example")
    book = ROOT / "collection/docs/examples/ledger.yml"
    run = edge._start(
        ["ansible-playbook", "-e", "ledger_host=bare_root", "-e", "ledger_path=/root/ledger-example", str(book)]
    ).wait()
    assert run.code == 0, run.output
    edge.on("bare_root", "rm -rf /root/ledger-example")
