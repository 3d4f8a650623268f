# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A person locks deploys, and unlocks them; a rollback works all the same."""
from __future__ import annotations

from pathlib import Path

from flows import Shop
from releases import sha


def test_deploys_are_locked_until_they_are_unlocked(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        for number in (1, 2):
            shop.publish(number)
            assert shop.deploy(number).code == 0
        unlocked = shop.run("unlock")
        assert unlocked.code == 0 and "Deploys of shop staging are not locked." in unlocked.output, unlocked.output
        unasked = shop.run("lock")
        assert unasked.code == 2 and "reason is missing" in unasked.output, unasked.output
        asked = shop.run("lock", "--check", reason="the index is built by hand", by="anna")
        assert asked.code == 0 and not shop.ledger()["locked"], asked.output

        locked = shop.run("lock", reason="the index is built by hand", by="anna")
        lock = shop.ledger()["locked"]
        assert locked.code == 0 and f"-e unlock={lock['deploy_id']}" in " ".join(locked.output.split()), locked.output
        twice = shop.run("lock", reason="another one", by="bert")
        assert twice.code == 2 and "the index is built by hand" in twice.output, twice.output

        back = shop.run("rollback", mode="fast")
        rows = [line for line in shop.run("status").output.splitlines() if line.startswith("20") or '"20' in line]
        assert any(lock['deploy_id'] in row and "  done  " in row and "lock by anna: the index is built by hand" in row for row in rows), rows
        assert back.code == 0 and shop.serves() == ("green", sha(1)), back.output
        refused = shop.run("deploy_app", release_sha=sha(2), again=True, unlock="")
        assert refused.code == 2 and "are locked" in refused.output and shop.serves() == ("green", sha(1)), refused.output

        why = shop.run("unlock")
        told = shop.ledger()["locked"]
        assert why.code == 2 and told["deploy_id"] != lock["deploy_id"] and f"-e unlock={told['deploy_id']}" in " ".join(why.output.split()), why.output
        wrong = shop.run("unlock", unlock=lock["deploy_id"])
        assert wrong.code == 2 and shop.ledger()["locked"] == told, wrong.output
        # The lock by anna is named as well, and does not end with that of the rollback.
        assert "the index is built by hand" in told["why"], told
        both = shop.run("deploy_app", release_sha=sha(2), again=True, unlock=told["deploy_id"])
        assert both.code == 2 and "are locked by several runs" in " ".join(both.output.split()) and shop.serves() == ("green", sha(1)), both.output
        done = shop.run("unlock", unlock=told["deploy_id"])
        assert done.code == 0 and shop.ledger()["locked"]["deploy_id"] == lock["deploy_id"], done.output
        done = shop.run("unlock", unlock=lock["deploy_id"])
        assert done.code == 0 and not shop.ledger()["locked"], done.output
        assert shop.deploy(2).code == 0
