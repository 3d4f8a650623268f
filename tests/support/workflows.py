# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows of Forgejo and of GitHub, as far as a machine without them can judge them: what their documentation allows, and the `run:` steps
run as they stand.

Not a stand-in for the runner: actions (`uses:`) are known by name only, and an expression is looked up in what a test says it is, never
evaluated.
"""
from __future__ import annotations

import re
import subprocess
import typing as t
from pathlib import Path

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}", re.DOTALL)
# What Forgejo's reference and basic concepts name. What it takes for GitHub's sake and ignores is in ONLY_GITHUB: there it would do nothing.
WORKFLOW = {"name", "run-name", "on", "env", "concurrency", "defaults", "jobs"}
EVENTS = {
    "push": {"branches", "branches-ignore", "tags", "tags-ignore", "paths", "paths-ignore"},
    "pull_request": {"branches", "branches-ignore", "types", "paths", "paths-ignore"},
    "schedule": None,
    "workflow_dispatch": {"inputs"},
}
INPUT = {"description", "default", "required", "type", "options"}
TYPES = {"choice", "boolean", "number", "string"}
JOB = {"name", "runs-on", "needs", "if", "env", "strategy", "container", "services", "steps", "timeout-minutes", "outputs",
       "concurrency", "defaults"}
STEP = {"id", "name", "if", "uses", "with", "run", "shell", "env", "working-directory", "continue-on-error", "timeout-minutes"}
CONTEXTS = {"github", "forgejo", "forge", "env", "vars", "job", "steps", "runner", "secrets", "strategy", "matrix", "needs", "inputs"}
FUNCTIONS = {"contains", "startsWith", "endsWith", "format", "join", "toJSON", "fromJSON", "hashFiles", "success", "always",
             "cancelled", "failure"}
ONLY_GITHUB = {"workflow": {"permissions"}, "job": {"environment"}}
# By commit, since a tag can be moved. Version 4 of upload-artifact needs a service that Forgejo has not.
ACTIONS = {
    "forgejo": {"https://data.forgejo.org/actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683",
                "https://data.forgejo.org/actions/upload-artifact@ff15f0306b3f739f7b6fd43fb5d26cd321bd4de5"},
    "github": {"actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683", "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02"},
}
INSTALLS = "Install ansible-core and the collection"  # from the network, which a test has not: the only step of a script that is not run


def load(path: Path) -> dict[str, t.Any]:
    import yaml

    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # all words: `on` is no truth


def scripts(workflow: t.Mapping[str, t.Any]) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def faults(workflow: t.Any, forge: str = "forgejo") -> list[str]:
    """What is wrong with a workflow of that forge; empty when nothing is."""
    more = ONLY_GITHUB if forge == "github" else {"workflow": set(), "job": set()}
    if not isinstance(workflow, dict) or not isinstance(workflow.get("jobs"), dict) or not workflow["jobs"]:
        return ["no jobs"]
    wrong = _others("workflow", workflow, WORKFLOW | more["workflow"])
    wrong += _faults_of_events(workflow.get("on")) + _faults_of_concurrency(workflow.get("concurrency"))
    inputs = ((workflow["on"].get("workflow_dispatch") or {}) if isinstance(workflow.get("on"), dict) else {}) or {}
    known = set((inputs.get("inputs") or {}) if isinstance(inputs, dict) else {})
    for name, job in workflow["jobs"].items():
        wrong += _faults_of_job(name, job, JOB | more["job"], ACTIONS[forge])
    for where, text in _texts(workflow):
        for expression in EXPRESSION.findall(text):
            wrong += _faults_of_expression(where, expression, known)
        if where.endswith("/if") and not EXPRESSION.search(text):
            wrong += _faults_of_expression(where, text, known)
        if where.endswith("/run") and re.search(r"\$\{\{\s*(inputs|github\.event|github\.head_ref|github\.ref_name)", text):
            wrong.append(f"{where}: what somebody types would become a part of the command; pass it by env")
    return wrong


def _others(where: str, given: t.Any, known: t.Collection[str]) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where}: expected keys"]
    return [f"{where}: {key} is not known" for key in given if key not in known]


def _faults_of_events(events: t.Any) -> list[str]:
    if not isinstance(events, dict) or not events:
        return ["on: no event"]
    wrong = _others("on", events, EVENTS)
    for event, given in events.items():
        if event == "schedule":
            crons = [each.get("cron", "") for each in given] if isinstance(given, list) else [""]
            wrong += [f"schedule: {cron!r} is no cron" for cron in crons if not re.fullmatch(r"([\d*/,-]+ ){4}[\d*/,-]+", cron)]
        elif given and EVENTS.get(event) is not None:
            wrong += _others(event, given, EVENTS[event] or ())
            for name, spec in (given.get("inputs") or {}).items():
                wrong += _others(f"input {name}", spec, INPUT)
                kind = spec.get("type", "string")
                wrong += [] if kind in TYPES else [f"input {name}: type {kind}"]
                if kind == "choice" and (not spec.get("options") or spec.get("default", spec["options"][0]) not in spec["options"]):
                    wrong.append(f"input {name}: a choice wants options, and its default among them")
    return wrong


def _faults_of_concurrency(given: t.Any) -> list[str]:
    if given is None:
        return []
    wrong = _others("concurrency", given, {"group", "cancel-in-progress"})
    queued = given.get("group") and given.get("cancel-in-progress") == "false"
    return wrong if queued else wrong + ["concurrency: a run must be queued, not cancelled half way"]


def _faults_of_job(name: str, job: t.Any, keys: t.Collection[str], actions: t.Collection[str]) -> list[str]:
    wrong = _others(f"job {name}", job, keys)
    if not job.get("timeout-minutes"):
        wrong.append(f"job {name}: it may hang for ever without timeout-minutes")
    if not job.get("runs-on") or not job.get("steps"):
        return wrong + [f"job {name}: it has no runs-on or no steps"]
    for number, step in enumerate(job["steps"], 1):
        where = f"job {name}, step {number}"
        wrong += _others(where, step, STEP)
        if ("run" in step) == ("uses" in step):
            wrong.append(f"{where}: either run or uses")
        if "uses" in step and step["uses"] not in actions:
            wrong.append(f"{where}: {step['uses']} is not known")
        if "with" in step and "uses" not in step:
            wrong.append(f"{where}: with belongs to uses")
    return wrong


def _faults_of_expression(where: str, expression: str, inputs: set[str]) -> list[str]:
    bare = re.sub(r"'(?:[^']|'')*'", "", expression)
    wrong = [f"{where}: {name}() is not known" for name in re.findall(r"(\w+)\s*\(", bare) if name not in FUNCTIONS]
    for name, path in re.findall(r"(?<![\w.])([A-Za-z_]\w*)((?:\.[\w-]+)*)(?!\s*\(|\w)", bare):
        if name in ("true", "false", "null"):
            continue
        if name not in CONTEXTS:
            wrong.append(f"{where}: {name} is not known")
        elif name == "inputs" and path and path.split(".")[1] not in inputs:
            wrong.append(f"{where}: there is no input{path}")
    return wrong


def _texts(value: t.Any, where: str = "") -> t.Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, f"{where}/{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, f"{where}/{number}")
    elif isinstance(value, str):
        yield where, value


def play(workflow: t.Mapping[str, t.Any], place: Path, environ: t.Mapping[str, str], says: t.Mapping[str, str],
         edited: t.Callable[[str], str]) -> tuple[bool, str]:
    """The run steps of the only job, in a folder that is checked out already: whether all ended well, and what they wrote.

    `says` has the value of each expression; one that is missing there is an error. As the runner does, a failed step leaves only those
    with `if: always()` to run, and what a step writes to GITHUB_ENV is in the environment of the next ones.
    """
    [job] = workflow["jobs"].values()

    def known(text: str) -> str:
        return EXPRESSION.sub(lambda found: says[found[1]], text)
    good, output, passed = True, "", place / "passed-on"
    passed.write_text("", encoding="utf-8")
    for step in job["steps"]:
        if "run" not in step or step.get("name") == INSTALLS or not (good or step.get("if") == "always()"):
            continue
        own = {name: known(value) for name, value in {**job.get("env", {}), **step.get("env", {})}.items()}
        lines = passed.read_text(encoding="utf-8").splitlines()
        own |= {"GITHUB_ENV": str(passed), "RUNNER_TEMP": str(place), **dict(line.split("=", 1) for line in lines)}
        argv = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", edited(known(step["run"]))]
        done = subprocess.run(argv, cwd=place, env={**environ, **own}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=600, check=False)
        output += done.stdout
        good = good and done.returncode == 0
    return good, output
