# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deploy to Kubernetes whose controller dies between two workloads, and what a person does next."""
from __future__ import annotations

from flows import kill_when
from kube import namespace
from kube_shop import KubeShop
from releases import sha


def killed(shop: KubeShop, number: int) -> str:
    """A deploy whose controller dies when the first workload has the release; its id."""
    running = shop.start("deploy_app", release_sha=sha(number))
    kill_when(running, lambda: shop.images()["web"] == f"shop:{sha(number)}", "the first workload has the release")
    assert shop.images()["worker"] != f"shop:{sha(number)}"
    return shop.ledger()["holder"]["deploy_id"]


def test_killed_between_two_workloads() -> None:
    with namespace() as place, KubeShop(place) as shop:
        assert shop.deploy(1).code == 0
        dead = killed(shop, 2)
        refused = shop.deploy(2)
        assert refused.code == 2 and f"take_over: {dead}" in refused.output, refused.output
        # Back to what was before it.
        back = shop.run("rollback", to=dead, take_over=dead, confirm=True)
        assert back.code == 0 and shop.images() == shop.both(f"shop:{sha(1)}"), back.output
        # Or on with the same release.
        dead = killed(shop, 2)
        on = shop.deploy(2, take_over=dead)
        assert on.code == 0 and shop.images() == shop.both(f"shop:{sha(2)}"), on.output
        # What the killed run had left half way is no restore point: this leads to what was before it.
        back = shop.run("rollback", mode="rollout", confirm=True)
        assert back.code == 0 and shop.images() == shop.both(f"shop:{sha(1)}"), back.output


def test_a_rollback_that_is_killed_between_two_workloads() -> None:
    with namespace() as place, KubeShop(place) as shop:
        for number in (1, 2):
            assert shop.deploy(number).code == 0
        running = shop.start("rollback", mode="rollout", confirm=True)
        kill_when(running, lambda: shop.images()["web"] == f"shop:{sha(1)}", "the first workload is back")
        dead = shop.ledger()["deploys"][0]
        assert shop.images()["worker"] == f"shop:{sha(2)}"
        # The way back from it stands in the ledger before anything goes back.
        assert [point["data"]["workload"] for point in dead["restore_points"]["rollout"]] == ["web"], dead
        on = shop.run("rollback", mode="rollout", confirm=True, take_over=dead["deploy_id"])
        assert on.code == 0 and shop.images() == shop.both(f"shop:{sha(1)}"), on.output
