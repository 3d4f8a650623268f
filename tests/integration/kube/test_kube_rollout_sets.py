# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_rollout of StatefulSets and DaemonSets on a real API server: their revisions are ControllerRevisions, and their pods are their own."""
from __future__ import annotations

import typing as t

import pytest
from kube import Namespace, namespace

FIRST, BACK, LATER = "20261121t084500z-7f3a", "20261121t091500z-1c2d", "20261121t092500z-2d3e"
PLURAL = {"StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}


@pytest.fixture(name="place")
def one_namespace() -> t.Iterator[Namespace]:
    with namespace() as place:
        yield place


def made(place: Namespace, kind: str, **spec: t.Any) -> dict[str, t.Any]:
    """One that is out with shop:1; what leads the module to it."""
    place.create(place.workload(kind, **({"serviceName": "web"} if kind == "StatefulSet" else {}), **spec))
    place.settled(PLURAL[kind], "shop:1")
    return {"kind": kind}


@pytest.mark.parametrize("kind", PLURAL)
def test_there_and_back_again(place: Namespace, kind: str) -> None:
    here = made(place, kind)
    planned = place.do(check=True, image="shop:2", deploy_id=FIRST, **here)
    assert planned["changed"] and place.images() == ["shop:1"] and f"{kind} {place.name}/web" in planned["plan"][0]
    out = place.do(image="shop:2", deploy_id=FIRST, **here)
    assert out["plan_id"] == planned["plan_id"] and place.is_out(PLURAL[kind], "shop:2"), "it is not out when the module says so"
    assert out["after"] == {"revision": 2, "images": {"web": "shop:2"}, "deploy_id": FIRST}
    assert not place.do(image="shop:2", deploy_id=FIRST, **here)["changed"]
    told = place.info(**here)
    assert told["out"] and [one["images"]["web"] for one in told["revisions"]] == ["shop:2", "shop:1"], told
    assert {(pod["revision"], pod["ready"]) for pod in told["pods"]} == {(2, True)}, told["pods"]
    back = place.do(state="rolled_back", rollback_id=BACK, **here)
    assert place.is_out(PLURAL[kind], "shop:1") and back["after"]["images"] == {"web": "shop:1"}
    assert not place.do(state="rolled_back", rollback_id=BACK, **here)["changed"]
    # The release that was left, deployed once more, is the very same revision.
    [left] = [one["name"] for one in told["revisions"] if one["current"]]
    place.do(image="shop:2", deploy_id=LATER, **here)
    assert [one["name"] for one in place.info(**here)["revisions"] if one["current"]] == [left] and place.is_out(PLURAL[kind], "shop:2")


@pytest.mark.parametrize("tag, reason", [("bad", "image_pull"), ("crash", "crash_loop")])
def test_a_daemon_that_does_not_come_up_is_taken_back(place: Namespace, tag: str, reason: str) -> None:
    here = made(place, "DaemonSet")
    failed = place.fails(reason, image=f"shop:{tag}", deploy_id=FIRST, **here)
    assert failed["reverted"] and place.is_out("daemonsets", "shop:1"), failed["msg"]


def test_a_pod_that_keeps_a_stateful_set_from_going_back(place: Namespace) -> None:
    here = made(place, "StatefulSet")
    failed = place.fails("image_pull", image="shop:bad", deploy_id=FIRST, **here)
    assert not failed["reverted"] and "pod web-1 of another revision does not get ready" in failed["msg"], failed["msg"]
    assert f"-n {place.name} delete pod web-1" in failed["msg"]
    # Its template has gone back, and its controller waits for the pod.
    [one] = place.get("statefulsets")
    assert one["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:1" and "shop:bad" in place.images()
    place.do(state="rolled_back", to_revision=place.info(**here)["revisions"][0]["revision"], rollback_id=BACK, delete_stuck_pods=True, **here)
    assert place.is_out("statefulsets", "shop:1") and place.info(**here)["out"]


def test_a_stateful_set_goes_back_in_the_same_run_where_it_may_delete(place: Namespace) -> None:
    here = made(place, "StatefulSet")
    failed = place.fails("crash_loop", image="shop:crash", deploy_id=FIRST, delete_stuck_pods=True, **here)
    assert failed["reverted"] and place.is_out("statefulsets", "shop:1") and not place.info(**here)["unfinished"], failed["msg"]


@pytest.mark.parametrize("strategy, reason", [({"type": "OnDelete"}, "on_delete"), ({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}, "partition")])
def test_a_strategy_that_leaves_pods_as_they_are_is_refused(place: Namespace, strategy: dict[str, t.Any], reason: str) -> None:
    here = made(place, "StatefulSet", updateStrategy=strategy)
    place.refused(reason, image="shop:2", deploy_id=FIRST, **here)
