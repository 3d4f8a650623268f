# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What deploy_ledger does on the controller, beside its binary on the ledger's host: it asks git which configuration a run was started
from, writes the outcome for a workflow, keeps the report, and makes a warning of a record that is not required.

Each of these was a task of its own, and most of the time that a fast rollback took.
"""
from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.reversible.deploy.plugins.plugin_utils import fast_path
from ansible_collections.reversible.deploy.plugins.plugin_utils.configuration import without_password
from ansible_collections.reversible.deploy.plugins.plugin_utils.fast_path import Result

GIT_SECONDS = 10
# Why a ledger that answers does not let a run begin. Whatever else is wrong with one must not keep anybody from going back.
REFUSALS = ("lease_held", "nothing_to_take_over", "locked", "deploy_ended", "superseded", "id_ahead", "other_ledger", "bad_options")
MOST_MIB = 64   # of a report that is there already: more than any that we write


class ActionModule(fast_path.ActionModule):
    """Run the module, and do its part on the controller."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> Result:
        args, check = self._task.args, self._task.check_mode
        required = boolean(args.get("required", True), strict=False)
        outcome_to, bring_to, state = args.get("outcome_to"), args.get("bring_to"), args.get("state")
        try:
            if state == "open" and not check:
                # Before anything else: whoever is refused the lease must not read the outcome of an earlier run as its own.
                _remove(outcome_to)
            if state == "open" and args.get("config_dir"):
                self._task.args = {**args, **_configuration(args["config_dir"])}
            result = super().run(tmp, task_vars)
        except AnsibleConnectionFailure as why:
            if required:
                raise
            result = {"failed": True, "reason": "unreachable", "msg": str(why)}
        except OSError as why:
            result = {"failed": True, "reason": "controller", "msg": f"on the controller: {why}"}

        refused = state == "open" and result.get("reason") in REFUSALS
        if result.get("failed") and not required and not refused:
            result = _unrecorded(result["msg"], self._task.delegate_to or "its host")
        try:
            if state == "closed" and not check and not result.get("failed"):
                _write(outcome_to, f"{args.get('outcome')}\n", 0o644)
            report = result.pop("report", None)
            if bring_to and report:
                result["report"], written = _keep(str(bring_to), str(args.get("deploy_id")), report)
                result["changed"] = bool(result.get("changed")) or written
        except OSError as why:
            failed = {"failed": True, "reason": "controller", "msg": f"it was recorded, but on the controller: {why}"}
            result = {**result, **failed} if required else {**result, **_unrecorded(failed["msg"], "the controller")}
        return result


def _unrecorded(msg: str, where: str) -> Result:
    return {"changed": False, "unrecorded": msg, "warnings": [f"The ledger on {where} does not know of this: {msg}"]}


def _configuration(folder: str) -> dict[str, t.Any]:
    """Which commit it is at, whether it holds what is in none, and where it can be fetched. Where that cannot be known, nothing is recorded of it."""
    lines = _git(folder, "status", "--porcelain=v2", "--branch")
    commit = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    # A repository without a commit says "(initial)".
    if not commit or not commit[0].isalnum():
        return {}
    found = {"config_commit": commit[0], "config_dirty": any(not line.startswith("#") for line in lines)}
    remote = [without_password(line) for line in _git(folder, "remote", "get-url", "origin")[:1]]
    return {**found, "config_remote": remote[0]} if remote and remote[0] else found


def _git(folder: str, *words: str) -> list[str]:
    argv = ["git", "-C", folder, *words]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _keep(name: str, deploy_id: str, report: dict[str, str]) -> tuple[str, bool]:
    """The page is written again; the Markdown of this deploy is left as it is, since somebody may have written into it."""
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    owner = _content(f"{name}.md")
    if owner is not None and deploy_id not in owner:
        name = f"{name}-{deploy_id}"
        owner = _content(f"{name}.md")
    if owner is None:
        _write(f"{name}.md", report["markdown"], 0o600)
    other = _content(f"{name}.html") != report["html"]
    if other:
        _write(f"{name}.html", report["html"], 0o600)
    return f"{name}.md", owner is None or other


def _content(path: str) -> str | None:
    """Of a report that is there already. The folder may be another user's, who could have put anything there: nothing is waited for."""
    if not _is_a_file(path):
        return None
    # Opened as what it was seen to be, so that a swap in between gains nothing.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    with open(handle, "rb") as file:
        content = file.read((MOST_MIB << 20) + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else None
    if content is None or len(content) > MOST_MIB << 20:
        raise _not_a_file(path)
    return content.decode(errors="replace")


def _is_a_file(path: str) -> bool:
    """Whether there is anything; what is no regular file is neither read nor removed nor replaced."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(there.st_mode):
        raise _not_a_file(path)
    return True


def _not_a_file(path: str) -> OSError:
    return OSError(f"{path}: expected a regular file of at most {MOST_MIB} MiB, or nothing; move away what is there, or give another path")


def _remove(path: str | None) -> None:
    if path and _is_a_file(path):
        os.remove(path)


def _write(path: str | None, text: str, mode: int) -> None:
    """Whole or not at all."""
    if not path:
        return
    _is_a_file(path)   # a device, such as /dev/null, would be gone
    handle, new = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)   # by its name, it could be another's by now
        os.replace(new, path)
    except OSError:
        os.remove(new)
        raise
