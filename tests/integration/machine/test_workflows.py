# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflows that users copy: allowed by their forge's documentation, their shell sound, their commands there, and the same on every forge.
test_docs.py and test_typed_inputs.py run them."""
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

COPIED = ROOT / "collection/docs/workflows"
FORGES = ("forgejo", "github")
FLOWS = sorted(path for forge in FORGES for path in (COPIED / forge).iterdir())
# What runs for this project itself.
LOOKS = ("check", "logs", "status")
OWN = sorted((ROOT / ".forgejo/workflows").iterdir())


def named(path: Path) -> str:
    return f"{path.parent.name} {path.stem}"


def test_there_are_those_that_the_documents_name() -> None:
    names = ["check", "cleanup-failed", "deploy", "logs", "restore-test", "rollback", "status"]
    assert [named(path) for path in FLOWS] == [f"{forge} {name}" for forge in FORGES for name in names]
    assert [path.name for path in OWN] == ["ci.yml", "release.yml", "renew.yml"]


@pytest.mark.parametrize("path", OWN + FLOWS, ids=named)
def test_a_workflow_is_sound(path: Path) -> None:
    workflow, text = load(path), path.read_text(encoding="utf-8")
    assert not faults(workflow, "github" if path.parent.name == "github" else "forgejo")
    known = words_that_are_known()
    for script in scripts(workflow):
        assert not unknown_in(" ".join(script.split()), known), script
        assert EXPRESSION.sub("", script) == script, "by env, so that no shell reads it"
        argv = [lab("get", "shellcheck"), "--shell=bash", "-"]
        checked = subprocess.run(argv, input=f"#!/bin/bash\n{script}", capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    for secret in re.findall(r"secrets\.(\w+)", text):
        where = path if path in OWN else path.parent / "deploy.yml"
        head = where.read_text(encoding="utf-8").partition("\nname: ")[0]
        assert secret in head, f"{secret}: named at the head of {where.name}, where users look"


@pytest.mark.parametrize("path", FLOWS, ids=named)
def test_secrets_reach_the_steps_that_need_them_alone(path: Path) -> None:
    workflow, text = load(path), path.read_text(encoding="utf-8")
    assert "secrets." not in str(workflow.get("env", {})) and "~/.ssh" not in text
    [job] = workflow["jobs"].values()
    assert "secrets." not in str(job.get("env", {}))
    with_key = [step for step in job["steps"] if "DEPLOY_SSH_KEY" in str(step)]
    assert len(with_key) == 1 and "StrictHostKeyChecking=yes" in with_key[0]["run"]
    assert "rm -rf" in job["steps"][-1]["run"] and job["steps"][-1]["if"] == "always()"


@pytest.mark.parametrize("path", FLOWS, ids=named)
def test_runs_of_one_environment_wait_for_each_other(path: Path) -> None:
    workflow = load(path)
    if path.stem in LOOKS:
        assert "concurrency" not in workflow, "a look is wanted most while a deploy hangs"
        return
    assert workflow["concurrency"]["group"].startswith("deploy-${{") and workflow["concurrency"]["cancel-in-progress"] == "false"


def test_they_are_started_as_the_runbook_says() -> None:
    events = {path.stem: load(path)["on"] for path in FLOWS if path.parent.name == "forgejo"}
    assert events["deploy"].pop("push") == {"branches": ["main"], "tags": ["v*"]}
    assert set(events["deploy"].pop("workflow_dispatch")["inputs"]) == {"unlock", "take_over", "reason"} and not events["deploy"]
    asked = {name: set(events[name]["workflow_dispatch"]["inputs"]) for name in ("rollback", "cleanup-failed")}
    assert asked["rollback"] == {"env", "mode", "target_color", "release_sha", "to", "services", "confirm", "accept", "reason", "take_over",
                                 "config"}
    assert asked["cleanup-failed"] == {"env", "color", "confirm", "reason", "take_over"}
    assert {name: set(events[name]["workflow_dispatch"]["inputs"]) for name in LOOKS} == {
        "check": {"env", "release_sha"}, "logs": {"env", "color", "lines"}, "status": {"env"}}
    assert all(set(events[name]) == {"workflow_dispatch"} for name in LOOKS)
    assert set(events["rollback"]) == set(events["cleanup-failed"]) == {"workflow_dispatch"}
    assert set(events["restore-test"]) == {"schedule", "workflow_dispatch"}
    modes = events["rollback"]["workflow_dispatch"]["inputs"]["mode"]["options"]
    assert set(modes) == {"fast", "full", "snapshot", "data", "database", "backup", "rollout"}


def what_differs_by_forge(path: Path) -> str:
    """A workflow's text without what only one forge knows, and without its own name for an action."""
    text = path.read_text(encoding="utf-8").replace("https://data.forgejo.org/", "")
    text = re.sub(r"(?m)^permissions:\n  contents: read\n\n|^    # Has the secrets.*\n|^    environment: .*\n|^    runs-on: .*\n", "", text)
    return re.sub(r"upload-artifact@\S+ # \S+", "upload-artifact", text).replace("github run ", "forgejo run ")


@pytest.mark.parametrize("name", [path.name for path in FLOWS if path.parent.name == "forgejo"])
def test_the_forges_do_not_drift_apart(name: str) -> None:
    """The same inputs, choices, playbooks, limits of time and steps."""
    assert what_differs_by_forge(COPIED / "github" / name) == what_differs_by_forge(COPIED / "forgejo" / name)


@pytest.mark.parametrize("path", FLOWS, ids=named)
def test_what_is_typed_goes_by_name(path: Path) -> None:
    """Each input of the form is the variable of the environment that inputs.yml reads, of the whole job or of the step that runs the playbook."""
    workflow = load(path)
    [job] = workflow["jobs"].values()
    [step] = [step for step in job["steps"] if "run" in step and step["run"].startswith("ansible-playbook")]
    passed = {**job["env"], **step.get("env", {})}
    asked = set((workflow["on"].get("workflow_dispatch") or {}).get("inputs", {}))
    # The commit that the run is begun from, since it cannot change what it is made of.
    assert job["steps"][0]["with"].get("ref") == ("${{ inputs.config }}" if "config" in asked else None)
    for name in asked - {"config"}:
        assert f"inputs.{name}" in passed[f"DEPLOY_{name.upper()}"], name
    known = set(re.findall(r"'(DEPLOY_\w+)'", (COPIED / "inputs.yml").read_text(encoding="utf-8")))
    assert {name for name in passed if name.startswith("DEPLOY_")} <= known
    assert step["run"].endswith("-e @deploy/app.yml -e @deploy/inputs.yml"), "what is typed is no part of the command"


def test_gitlab_does_the_same() -> None:
    """Its jobs are the workflows of Forgejo: the same inputs and choices, playbooks and limits of time. One list of inputs serves all jobs."""
    pipeline = load(COPIED / "gitlab/gitlab-ci.yml")
    flows = {path.stem: load(path) for path in FLOWS if path.parent.name == "forgejo"}
    jobs = {name: job for name, job in pipeline.items() if name not in ("variables", "workflow", ".run", ".look")}
    assert set(jobs) == set(flows)
    known = {"extends", "timeout", "rules", "script", "image", "stage", "interruptible", "resource_group", "environment", "before_script",
             "after_script", "artifacts"}
    assert {name: job["extends"] for name, job in jobs.items()} == {name: ".look" if name in LOOKS else ".run" for name in flows}
    assert pipeline[".look"]["resource_group"] != pipeline[".run"]["resource_group"] and pipeline[".look"]["environment"]["action"] == "access"
    assert {key for job in (pipeline[".run"], pipeline[".look"], *jobs.values()) for key in job} <= known
    asked: dict[str, list[list[str]]] = {}
    for name, flow in flows.items():
        [job] = flow["jobs"].values()
        [command] = [step["run"].strip() for step in job["steps"] if step.get("run", "").startswith("ansible-playbook")]
        assert jobs[name]["script"][-1] == command and jobs[name]["timeout"] == f"{job['timeout-minutes']} minutes", name
        for given, spec in (flow["on"].get("workflow_dispatch") or {}).get("inputs", {}).items():
            asked.setdefault(f"DEPLOY_{given.upper()}", []).append(spec.get("options", []))
    # What can be typed is a text as it stands, also where only one of the forms has a choice; and nothing that can be chosen has another choice.
    offered = dict(pipeline["variables"])
    assert offered.pop("DEPLOY_ACTION")["options"] == ["none", "deploy", "rollback", "cleanup-failed", "restore-test", "status", "check", "logs"]
    assert {name: spec.get("options", []) for name, spec in offered.items()} == {name: min(choices) for name, choices in asked.items()}
    assert all("options" in spec or spec["expand"] == "false" for spec in offered.values())
    assert not re.search(r"\$DEPLOY_(MODE|TARGET|RELEASE|TO|SERVICES|COLOR|LINES|CONFIRM|ACCEPT|REASON|TAKE|UNLOCK)", str([job["script"] for job in jobs.values()]))
    assert "StrictHostKeyChecking=yes" in str(pipeline[".run"]["before_script"])


@pytest.mark.parametrize("commit, done", [("", True), ("<old>", True), ("--upload-pack=touch marker", False), ("0" * 40, False)])
def test_gitlab_begins_a_rollback_from_the_commit_that_is_named(tmp_path: Path, commit: str, done: bool) -> None:
    """Its lines as they stand, on a real repository; what git is installed by is not."""
    [lines] = [line for line in load(COPIED / "gitlab/gitlab-ci.yml")[".run"]["before_script"] if "DEPLOY_CONFIG" in line]
    checkout, origin = tmp_path / "checkout", tmp_path / "origin"

    def git(folder: Path, *words: str) -> str:
        argv = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    origin.mkdir()
    git(origin, "init", "--quiet")
    for text in ("old", "new"):
        (origin / "roles").write_text(text)
        git(origin, "add", "roles")
        git(origin, "commit", "--quiet", "--message", text)
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{origin}", str(checkout))
    old = git(origin, "rev-parse", "HEAD~1").strip()
    script = "apt-get() { :; }\n" + lines
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DEPLOY_ACTION": "rollback", "DEPLOY_CONFIG": commit.replace("<old>", old)}
    ended = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=checkout, env=environ, capture_output=True, text=True, check=False)
    assert (ended.returncode == 0) == done and not (checkout / "marker").exists(), ended
    assert (checkout / "roles").read_text() == ("old" if commit == "<old>" else "new")


def spoil(words: str) -> tuple[t.Any, str]:
    """deploy.yml with one mistake, and what is to be said of it."""
    workflow = copy.deepcopy(load(COPIED / "forgejo/deploy.yml"))
    job = workflow["jobs"]["deploy"]
    match words:
        case "a key":
            job["runs_on"] = job.pop("runs-on")
        case "an event":
            workflow["on"]["pushed"] = {}
        case "a filter":
            workflow["on"]["push"]["branch"] = ["main"]
        case "both":
            job["steps"][1]["uses"] = job["steps"][0]["uses"]
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
            job["steps"][0]["uses"] = "https://data.forgejo.org/actions/checkout@v4"
        case "of GitHub alone":
            workflow["permissions"] = {"contents": "read"}
        case "no limit":
            del job["timeout-minutes"]
    return workflow, words


MISTAKES = ["a key", "an event", "a filter", "both", "a function", "a context", "an input", "an injection",
            "cancelled", "a cron", "an action", "of GitHub alone", "no limit"]


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_found(words: str) -> None:
    workflow, _words = spoil(words)
    assert faults(workflow), words
