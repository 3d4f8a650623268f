# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration that a release was deployed from, and the commands that go back to it as well. Pure: no I/O, no Ansible.

A run cannot change its own playbooks and roles while it runs, so that a rollback says what to type instead.
"""
from __future__ import annotations

import typing as t
from urllib.parse import urlsplit, urlunsplit

SHOWN = 12   # characters of a commit in a folder's name
LEFT_ITS_RELEASE = ("done", "failed_not_reverted")
KEEPS_RELEASE = ("maintenance", "lock")

Deploy = t.Mapping[str, t.Any]


def without_password(remote: str) -> str:
    """An address as `git remote` says it, that may be written down. In scp's form (git@host:path) there is no password."""
    try:
        parts = urlsplit(remote)
        if not parts.scheme or not parts.netloc or "@" not in parts.netloc:
            return remote
        user, host = parts.netloc.rsplit("@", 1)
        named = f"{user.partition(':')[0]}@" if parts.scheme == "ssh" else ""   # a token may be the user of https
        return urlunsplit(parts._replace(netloc=named + host))
    except ValueError:
        return ""


def before(deploys: t.Sequence[Deploy], deploy_id: str) -> Deploy:
    """Of the deploys, newest first, the one whose release was in place before this one; empty when that is not known."""
    older = [one for one in deploys if one["deploy_id"] < deploy_id and one.get("outcome") in LEFT_ITS_RELEASE and one.get("purpose") not in KEEPS_RELEASE]
    return older[0] if older else {}


def commands(then: t.Mapping[str, t.Any] | None, now: t.Mapping[str, t.Any] | None, env: str, release: str) -> list[str]:
    """What to type to go back to the configuration `then`; nothing when it is not known, or is the one that is used `now`."""
    commit = (then or {}).get("commit")
    if not then or not commit or commit == (now or {}).get("commit"):
        return []
    folder = f"../config-{commit[:SHOWN]}"
    where = f" of {then['remote']}" if then.get("remote") else ""
    lines = [f"That release was deployed from the configuration {commit}{where}. A run does not change the playbooks and roles that it is made of. To go back "
             "with them as well:"]
    if then.get("dirty"):
        lines.append("  (it held changes that are in no commit, and those are not in it)")
    lines.append(f"  git fetch && git worktree add --detach {folder} {commit}")
    if release:
        lines.append(f"  cd {folder} && ansible-playbook -i INVENTORY reversible.deploy.rollback -e @... -e env={env} -e mode=full -e release_sha={release}")
    lines.append(f"  git revert --no-edit {commit}..HEAD    (on the branch, so that the next run does not bring it back)")
    return lines


def configuration_commands(deploys: t.Sequence[Deploy], deploy_id: str, env: str) -> list[str]:
    """What to type to go back to the configuration of the release that was in place before this deploy."""
    then = before(deploys, deploy_id)
    now = next((one["config"] for one in deploys if one.get("config")), None)
    return commands(then.get("config"), now, env, then.get("release") or "")
