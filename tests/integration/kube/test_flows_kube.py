# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on a real API server: a deploy of two workloads, one that does not come up, back to what ran before, and that undone."""
from __future__ import annotations

import typing as t

import pytest
from kube import namespace
from kube_shop import KubeShop
from releases import sha


@pytest.fixture(name="shop")
def a_shop() -> t.Iterator[KubeShop]:
    with namespace() as place, KubeShop(place) as shop:
        yield shop


def test_deployed_broken_back_and_forth(shop: KubeShop) -> None:
    for number in (1, 2):
        run = shop.deploy(number)
        assert run.code == 0 and (shop.outcome, shop.images()) == ("done", shop.both(f"shop:{sha(number)}")), run.output

    logs = shop.run("logs", lines=2)
    assert logs.code == 0 and "== web" in logs.output and "== worker" in logs.output and logs.output.count("reads its schema") == 2, logs.output
    assert "[pod/web-" in logs.output and "Found 2 pods" not in logs.output and "CANNOT BE READ" not in logs.output, logs.output

    # The second workload does not come up: the first one goes back as well.
    broken = [{"name": "web", "image": "shop:{release}"}, {"name": "worker", "image": "shop:crash"}]
    bad = shop.deploy(3, kube_app_workloads=broken)
    assert bad.code == 2 and (shop.outcome, shop.images()) == ("failed_reverted", shop.both(f"shop:{sha(2)}")), bad.output
    assert "fatal: schema 41 is not known" in bad.output and f"Every host is rolled back to {sha(2)}" in bad.output, bad.output
    # A hook that fails after all of them are out.
    smoke = shop.deploy(3, app_hooks={"smoke": [["/bin/false"]]})
    assert smoke.code == 2 and (shop.outcome, shop.images()) == ("failed_reverted", shop.both(f"shop:{sha(2)}")), smoke.output

    plan = shop.run("rollback", mode="rollout")
    assert plan.code == 2 and shop.images() == shop.both(f"shop:{sha(2)}"), plan.output
    assert plan.output.count("kube1, rollout (") == 2 and "Nothing was changed." in plan.output, plan.output
    shop.good("rollback", mode="rollout", confirm=plan.output.split("The plan: ")[1][:17])
    assert shop.images() == shop.both(f"shop:{sha(1)}")
    status = shop.status()
    newest = status["deploys"][0]
    assert newest["release"] == sha(1) and f"kube1: web runs shop:{sha(1)}, revision" in status["text"], status["text"]
    assert all(point["open"] for point in status["restore_points"] if point["deploy_id"] == newest["deploy_id"]), status["restore_points"]
    shop.good("rollback", to=newest["deploy_id"], confirm=True)
    assert shop.images() == shop.both(f"shop:{sha(2)}")


def test_what_cannot_be_done_changes_nothing(shop: KubeShop) -> None:
    before = shop.place.versions()
    missing = shop.deploy(1, kube_app_workloads=[{"name": "webb", "image": "shop:{release}"}])
    assert missing.code == 2 and "webb" in missing.output and "not" in missing.output, missing.output
    two = shop.run("deploy_app", release_sha=sha(1), app_hosts=["kube1", "kube1"])
    assert two.code == 2 and "the one that kubectl runs on" in two.output, two.output
    looked = shop.run("deploy_app", "--check", release_sha=sha(1))
    assert looked.code == 0, looked.output
    fast = shop.run("rollback", mode="fast")
    assert fast.code == 2 and "Nothing was changed." in fast.output, fast.output
    assert shop.place.versions() == before


def test_migrated_before_anything_rolls_out(shop: KubeShop) -> None:
    migrating: dict[str, t.Any] = {"kube_app_migrate": {"command": ["migrate", "{release}"], "deadline": 60}}
    before = shop.place.versions()
    refused = shop.deploy(1, **migrating)
    assert refused.code == 2 and "web, worker roll out" in refused.output and "-e compatible_back_to=" in refused.output, refused.output
    assert shop.place.versions() == before
    good = shop.deploy(1, **migrating, compatible_back_to=sha(0))
    assert good.code == 0 and shop.images() == shop.both(f"shop:{sha(1)}"), good.output
    [job] = shop.place.get("jobs")
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["command"]) == (f"shop:{sha(1)}", ["migrate", sha(1)]) and "reads its schema" in good.output
    # One that fails ends the deploy before a pod has changed.
    crash = [{"name": "web", "image": "shop:crash"}]
    bad = shop.deploy(2, **migrating, compatible_back_to=sha(0), kube_app_workloads=crash)
    assert bad.code == 2 and shop.images() == shop.both(f"shop:{sha(1)}"), bad.output
    assert "schema 41 is not known" in bad.output and "MIGRATIONS WERE STARTED AND DID NOT FINISH" in bad.output, bad.output


def test_its_pods_are_asked_by_name(shop: KubeShop) -> None:
    asked = {"app_probes": ["kubernetes"], "health_probes_kubernetes_labels": {"app": "web"}}
    assert shop.deploy(1).code == 0
    # The stand-in's logs have a line of an error.
    bad = shop.deploy(2, **asked)
    assert bad.code == 2 and (shop.outcome, shop.images()) == ("failed_reverted", shop.both(f"shop:{sha(1)}")), bad.output
    assert "new lines match, the first: fatal: schema 41" in bad.output, bad.output
    good = shop.deploy(3, **asked, health_probes_kubernetes_errors="no such line")
    assert good.code == 0 and shop.images() == shop.both(f"shop:{sha(3)}"), good.output
