# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflows that users copy: allowed by Forgejo's documentation, their shell sound, their commands there. test_docs.py runs them."""
from __future__ import annotations

import copy
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
from harness import ROOT, lab
from runbooks import unknown_in, words_that_are_known
from workflows import EXPRESSION, faults, load, scripts

WORKFLOWS = sorted((ROOT / ".forgejo/workflows").glob("*.yml"))
FLOWS = [path for path in WORKFLOWS if path.stem != "ci"]


def test_there_are_those_that_the_documents_name() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "cleanup-failed", "deploy", "restore-test", "rollback"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_sound(path: Path) -> None:
    workflow, text = load(path), path.read_text(encoding="utf-8")
    assert not faults(workflow)
    known = words_that_are_known()
    for script in scripts(workflow):
        assert not unknown_in(" ".join(script.split()), known), script
        assert EXPRESSION.sub("", script) == script, "by env, so that no shell reads it"
        argv = [lab("get", "shellcheck"), "--shell=bash", "-"]
        checked = subprocess.run(argv, input=f"#!/bin/bash\n{script}", capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    deploy = (ROOT / ".forgejo/workflows/deploy.yml").read_text(encoding="utf-8")
    for secret in re.findall(r"secrets\.(\w+)", text):
        assert secret in deploy.partition("name: deploy")[0], f"{secret}: named at the head of deploy.yml, where users look"


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_runs_of_one_environment_wait_for_each_other(path: Path) -> None:
    workflow = load(path)
    assert workflow["concurrency"]["group"].startswith("deploy-${{") and workflow["concurrency"]["cancel-in-progress"] == "false"


def test_they_are_started_as_the_runbook_says() -> None:
    events = {path.stem: load(path)["on"] for path in FLOWS}
    assert events["deploy"] == {"push": {"branches": ["main"], "tags": ["v*"]}}
    asked = {name: set(events[name]["workflow_dispatch"]["inputs"]) for name in ("rollback", "cleanup-failed")}
    assert asked["rollback"] >= {"env", "mode", "target_color", "release_sha"} and asked["cleanup-failed"] >= {"env", "color"}
    assert set(events["rollback"]) == set(events["cleanup-failed"]) == {"workflow_dispatch"}
    assert set(events["restore-test"]) == {"schedule", "workflow_dispatch"}
    modes = events["rollback"]["workflow_dispatch"]["inputs"]["mode"]["options"]
    assert {"fast", "full"} <= set(modes) <= {"fast", "full", "snapshot", "data", "backup"}


def spoil(words: str) -> tuple[t.Any, str]:
    """deploy.yml with one mistake, and what is to be said of it."""
    workflow = copy.deepcopy(load(ROOT / ".forgejo/workflows/deploy.yml"))
    job = workflow["jobs"]["deploy"]
    match words:
        case "a key":
            job["runs_on"] = job.pop("runs-on")
        case "an event":
            workflow["on"]["pushed"] = {}
        case "a filter":
            workflow["on"]["push"]["branch"] = ["main"]
        case "both":
            job["steps"][1]["uses"] = "actions/checkout@v4"
        case "a function":
            job["env"]["X"] = "${{ toJson(inputs) }}"
        case "a context":
            job["env"]["X"] = "${{ secret.FORGE_TOKEN }}"
        case "an input":
            job["env"]["X"] = "${{ inputs.env }}"
        case "an injection":
            job["steps"][1]["run"] = "echo ${{ github.ref_name }}"
        case "cancelled":
            workflow["concurrency"]["cancel-in-progress"] = "true"
        case "a cron":
            workflow["on"]["schedule"] = [{"cron": "monthly"}]
        case "an action":
            job["steps"][0]["uses"] = "actions/checkuot@v4"
    return workflow, words


MISTAKES = ["a key", "an event", "a filter", "both", "a function", "a context", "an input", "an injection",
            "cancelled", "a cron", "an action"]


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_found(words: str) -> None:
    workflow, _words = spoil(words)
    assert faults(workflow), words
