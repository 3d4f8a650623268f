# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How one goes back to the configuration of a release; that the ledger records it is seen in test_deploy_ledger.py, and that it is said in
tests/integration/flows."""
from __future__ import annotations

import importlib.util
import typing as t

import pytest
from harness import ROOT
from releases import sha

SPEC = importlib.util.spec_from_file_location("configuration", ROOT / "collection/plugins/plugin_utils/configuration.py")
assert SPEC and SPEC.loader
configuration = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(configuration)
OLD, NEW = {"commit": sha(7), "dirty": False, "remote": "https://forge.example/acme/shop"}, {"commit": sha(8), "dirty": False}


@pytest.mark.parametrize("remote, shown", [
    ("https://user:token@forge.example/a/b.git", "https://forge.example/a/b.git"), ("https://token@forge.example/a", "https://forge.example/a"),
    ("ssh://git:pw@forge.example:22/a", "ssh://git@forge.example:22/a"), ("git@forge.example:a/b.git", "git@forge.example:a/b.git"),
    ("/srv/git/shop", "/srv/git/shop"), ("https://[bad/a", ""),
])
def test_no_password_is_written_down(remote: str, shown: str) -> None:
    assert configuration.without_password(remote) == shown


def test_the_commands() -> None:
    said, *typed = configuration.commands(OLD, NEW, "staging", sha(1))
    assert f"from the configuration {sha(7)} of https://forge.example/acme/shop" in said and "does not change the playbooks and roles" in said
    folder = f"../config-{sha(7)[:12]}"
    assert [line.strip().split("    ")[0] for line in typed] == [
        f"git fetch && git worktree add --detach {folder} {sha(7)}",
        f"cd {folder} && ansible-playbook -i INVENTORY reversible.deploy.rollback -e @... -e env=staging -e mode=full -e release_sha={sha(1)}",
        f"git revert --no-edit {sha(7)}..HEAD",
    ]
    assert "in no commit" in configuration.commands(OLD | {"dirty": True}, NEW, "staging", sha(1))[1]
    for then, now in ((None, NEW), ({}, NEW), (OLD, OLD | {"dirty": True})):
        assert configuration.commands(then, now, "staging", sha(1)) == []


def test_what_was_in_place_before() -> None:
    def deploy(minute: int, outcome: str | None, **more: t.Any) -> dict[str, t.Any]:
        return {"deploy_id": f"20261121t08{minute:02}00z-7f3a", "outcome": outcome, "purpose": "deploy", **more}
    deploys = [deploy(5, "done"), deploy(4, "failed_reverted"), deploy(3, "done", purpose="maintenance"), deploy(2, None), deploy(1, "done", config=OLD)]
    assert configuration.before(deploys, deploys[0]["deploy_id"]) == deploys[4]
    assert configuration.before(deploys, deploys[4]["deploy_id"]) == {} == configuration.before([], deploys[0]["deploy_id"])
