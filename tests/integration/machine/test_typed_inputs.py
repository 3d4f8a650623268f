# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody types into a form of the forge is text, in every input of every playbook: nothing of it is ever run, and what is not of the
input's form is refused before anything else. Where a text is recorded, test_flows.py looks at the record.

A text that is run leaves a file, the marker.
"""
from __future__ import annotations

import json
import os
import re
import typing as t
from pathlib import Path

import ansible_forks
import pytest
from flows import TYPED
from harness import HERE, PIPELINING, ROOT, staged, venv
from workflows import load, play

APP = {"app_name": "shop", "app_hosts": ["app1"], "app_load_balancers": ["lb1"], "app_components": [{"name": "web", "port": {"blue": 1, "green": 2}}]}
# As a template, and as what breaks out of quotes, of a raw block, and of a line.
TEXTS = {
    "template": "{{{{ lookup('pipe', 'touch {marker}') }}}}",
    "broken out": "x{{% endraw %}}'\"}}}}; $(touch {marker}) `touch {marker}`\n- {{{{ lookup(\"pipe\", \"touch {marker}\") }}}}{{% raw %}}",
}
BY_NAME = {"env", "release_sha", "target_color", "color", "mode", "to", "take_over", "unlock", "confirm", "accept", "reason", "by"}
# What is typed as it should be, so that the way of a rollback is chosen: without it, a `to` that is none leads to a restore point.
RUNS = {"deploy_app": {}, "cleanup_failed": {}, "status": {}, "check": {}, "logs": {}, "restore_test": {}, "lower_fences": {}, "lock": {}, "unlock": {},
        "rollback": {},
        **{f"rollback {mode}": {"mode": mode, "to": ""} for mode in ("fast", "full", "snapshot", "backup", "data")},
        "rollback unknown": {"to": ""}}


class Runner:
    """The machine of a forge on which a workflow runs, with the repository of an app."""

    def __init__(self, place: Path, core: str) -> None:
        self.place, self.core, self.marker = place, core, place / "marker"
        here = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        (place / "deploy").mkdir()
        (place / "deploy/inventory.yml").write_text(json.dumps({"all": {"hosts": {"app1": here, "lb1": here}}}))
        (place / "deploy/app.yml").write_text(json.dumps(APP))
        (place / "deploy/inputs.yml").symlink_to(TYPED)

    def environment(self) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "DEPLOY_"))}
        return own | {"PATH": f"{venv(self.core) / 'bin'}:{os.environ['PATH']}", "ANSIBLE_COLLECTIONS_PATH": str(staged()), "ANSIBLE_NOCOLOR": "1",
                      "ANSIBLE_CONFIG": str(HERE / "ansible.cfg"), "ANSIBLE_LOCAL_TEMP": str(self.place / "tmp"), **PIPELINING}

    def play(self, book: str, typed: t.Mapping[str, str]) -> tuple[int, str]:
        """A playbook, with this typed into the inputs; its exit status, and what it said."""
        given = {f"DEPLOY_{name.upper()}": text for name, text in typed.items()}
        argv = ["ansible-playbook", "-i", "deploy/inventory.yml", f"reversible.deploy.{book}", "-e", "@deploy/app.yml", "-e", "@deploy/inputs.yml"]
        argv[0] = str(venv(self.core) / "bin" / argv[0])
        with open(self.place / "output", "w+", encoding="utf-8", errors="replace") as output:
            code = ansible_forks.start(argv, self.environment() | given, self.place, output).wait(300)
            output.seek(0)
            return code, output.read()


def named_in(output: str) -> set[str]:
    """The inputs that are refused: each stands at the beginning of a sentence."""
    return set(re.findall(r'(?:"|\. )(\w+) is ', output)) & BY_NAME


@pytest.fixture(name="runner")
def a_runner(edge_core: str, tmp_path: Path) -> Runner:
    return Runner(tmp_path, edge_core)


def test_every_input_is_by_name_and_nothing_but_a_lookup() -> None:
    import yaml

    inputs = yaml.safe_load(TYPED.read_text(encoding="utf-8"))
    assert set(inputs) == BY_NAME | {"outcome_file", "services", "lines"}
    lists = {"accept": " | split(',') | map('trim') | select | list"}
    for name, template in inputs.items():
        assert template == "{{ lookup('ansible.builtin.env', 'DEPLOY_" + name.upper() + "')" + lists.get(name, "") + " }}"


def test_files_of_a_component_may_name_the_colour(runner: Runner) -> None:
    """Which is not known yet when the inputs are checked: only what is missing is refused."""
    component = {"name": "web", "port": {"blue": 1, "green": 1}, "files": [{"path": "/etc/color", "content": "{{ app_color }}\n"}]}
    (runner.place / "deploy/app.yml").write_text(json.dumps(APP | {"app_strategy": "incus", "app_components": [component]}))
    code, output = runner.play("deploy_app", {"env": "staging"})
    assert code == 2 and "app_color" not in output and "app_components" not in output and named_in(output) == {"release_sha"}, output


@pytest.mark.every_version
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("run", RUNS)
def test_nothing_that_is_typed_is_run(runner: Runner, run: str, text: str) -> None:
    hostile = TEXTS[text].format(marker=runner.marker)
    typed = dict.fromkeys(BY_NAME | {"services", "lines"}, hostile) | RUNS[run]
    code, output = runner.play(run.split()[0], typed)
    assert not runner.marker.exists(), output
    assert code == 2 and "Nothing was changed." in output and "Traceback" not in output, output
    # Each by itself: a run with this one alone would be refused as well.
    refused = {name for name in BY_NAME if typed[name] == hostile} - ({"reason", "by"} if text == "template" else set())
    refused = {"mode"} if run == "rollback unknown" else refused
    assert named_in(output) == refused, output


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["deploy", "rollback", "cleanup-failed", "restore-test", "status", "check", "logs"])
def test_nothing_that_is_typed_into_a_workflow_is_run(one_core: str, tmp_path: Path, name: str, text: str) -> None:
    """Also where a form has a choice: who asks the forge by its interface may send anything."""
    runner = Runner(tmp_path, one_core)
    hostile = TEXTS[text].format(marker=runner.marker)
    workflow = load(ROOT / f"collection/docs/workflows/forgejo/{name}.yml")
    says = {f"inputs.{each}": hostile for each in workflow["on"]["workflow_dispatch"]["inputs"]}
    says |= {"inputs.env || 'prod'": hostile, "github.run_number": "7", "github.ref_type == 'tag' && 'prod' || 'staging'": "staging", "github.sha": "0" * 40}
    says |= {f"secrets.{each}": "a secret" for each in ("DEPLOY_SSH_KEY", "DEPLOY_KNOWN_HOSTS", "FORGE_TOKEN")}
    good, output = play(workflow, tmp_path, runner.environment(), says, str)
    assert not good and not runner.marker.exists(), output
    assert "Nothing was changed." in output and ("unlock" if name == "deploy" else "env") in named_in(output) and "Traceback" not in output, output


def test_lines_of_the_logs_are_a_number(runner: Runner) -> None:
    code, output = runner.play("logs", {"env": "staging", "lines": TEXTS["template"].format(marker=runner.marker)})
    assert code == 2 and "Nothing was changed. lines is not a number from 1 to 1000." in output and not runner.marker.exists(), output


WRONG = {
    "env": ["Staging", "staging\n", "a/b", "-"], "release_sha": ["0" * 39, "0" * 40 + "\n", "A" * 40], "target_color": ["red", "blue\n"],
    "color": ["Blue"], "mode": ["fast\n"], "to": ["20261121t084500z-7f3a\n", "latest"], "take_over": ["true", "20261121t084500z-7F3A"], "unlock": ["true", "yes"],
    "confirm": ["plan-0123456789a", "plan-0123456789abc", "plan-0123456789ab\n", "maybe"], "accept": ["a b", "newer_snapshots,x-y"],
    "reason": ["two\nlines", "x" * 501, "a bell \a"], "by": ["run 7\r"],
}
RIGHT = {
    "env": "staging-2.eu", "release_sha": "0" * 40, "target_color": "green", "color": "blue", "mode": "full", "to": "20261121t084500z-7f3a",
    "take_over": "20261121t084500z-7f3a", "unlock": "20261121t084500z-7f3a", "confirm": "plan-0123456789ab", "accept": "newer_snapshots, data_written", "reason": "x" * 500, "by": "run 7",
}


def test_what_a_variable_lacks_is_named(runner: Runner) -> None:
    """It is there, and needs what only a host has."""
    app = APP | {"app_components": "{{ components_of[place_of_the_host] }}", "components_of": {"here": [{"name": "web"}]}}
    (runner.place / "deploy/app.yml").write_text(json.dumps(app))
    code, output = runner.play("status", {"env": "staging"})
    assert code == 2 and "app_components cannot be read: 'place_of_the_host' is undefined" in output and "is missing" not in output, output


def test_what_is_not_of_its_form_is_refused(runner: Runner) -> None:
    """All wrong forms of the inputs, as many runs as one of them has; then what is right, which the check lets through."""
    for number in range(max(map(len, WRONG.values()))):
        typed = {name: texts[number] for name, texts in WRONG.items() if number < len(texts)}
        code, output = runner.play("status", {"env": "staging"} | typed)
        assert code == 2 and named_in(output) == set(typed), output
    code, output = runner.play("restore_test", RIGHT)
    assert code == 2 and "app_strategy is host and app_databases is empty: only backups of the strategy compose" in output, output
    code, output = runner.play("restore_test", {"env": "staging"})
    assert code == 2 and "app_strategy is host and app_databases is empty: only backups of the strategy compose" in output, "what is empty counts as not given"
