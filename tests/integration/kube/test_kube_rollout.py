# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_rollout on a real API server: out, back, what does not come up, and what is refused."""
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from harness import ROOT, wait_for
from kube import VERSIONS, Namespace, call, namespace

FIRST, SECOND, THIRD = "20261121t084500z-7f3a", "20261121t085500z-8a4b", "20261121t090500z-9b5c"
BACK, AGAIN, BACK_AGAIN, LATER = "20261121t091500z-1c2d", "20261121t091600z-3c4d", "20261121t091700z-4d5e", "20261121t092500z-2d3e"


@pytest.fixture(name="place")
def one_namespace() -> t.Iterator[Namespace]:
    with namespace() as place:
        yield place


def history(place: Namespace) -> dict[int, tuple[str, str]]:
    """The image and the change cause of each revision."""
    return {one["revision"]: (one["images"]["web"], one["cause"]) for one in place.info()["revisions"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_there_and_back_again(version: str) -> None:
    with namespace(version) as place:
        place.create(place.workload())
        place.settled("deployments", "shop:1")
        planned = place.do(check=True, image="shop:2", deploy_id=FIRST)
        assert planned["changed"] and place.images() == ["shop:1"] and place.name in planned["plan"][0] and "context lab" in planned["plan"][0]
        out = place.do(image="shop:2", deploy_id=FIRST)
        assert (out["plan"], out["plan_id"]) == (planned["plan"], planned["plan_id"])
        assert place.is_out("deployments", "shop:2"), "it is not out when the module says so"
        assert out["after"] == {"revision": 2, "images": {"web": "shop:2"}, "deploy_id": FIRST}
        for check in (True, False):
            assert not place.do(check=check, image="shop:2", deploy_id=FIRST)["changed"]
        place.do(image="shop:3", deploy_id=SECOND, cause="the autumn sale")
        assert history(place) == {1: ("shop:1", None), 2: ("shop:2", f"deploy {FIRST}: shop:2"), 3: ("shop:3", "the autumn sale")}

        planned = place.do(check=True, state="rolled_back", rollback_id=BACK)
        assert planned["before"]["template"] == {"spec.containers[web].image": "shop:3"}
        back = place.do(state="rolled_back", rollback_id=BACK)
        assert back["plan_id"] == planned["plan_id"] and place.is_out("deployments", "shop:2")
        assert back["after"] == {"revision": 4, "images": {"web": "shop:2"}, "deploy_id": FIRST}
        for check in (True, False):
            assert not place.do(check=check, state="rolled_back", rollback_id=BACK)["changed"]
        # The release that was left, deployed once more, is exactly that release: its pods are of the very same ReplicaSet.
        [left] = [one["name"] for one in place.info()["revisions"] if one["images"]["web"] == "shop:3"]
        place.do(image="shop:3", deploy_id=AGAIN)
        [current] = [one["name"] for one in place.info()["revisions"] if one["current"]]
        assert current == left and place.is_out("deployments", "shop:3")
        place.do(state="rolled_back", rollback_id=BACK_AGAIN)
        assert place.is_out("deployments", "shop:2")
        # Once more is further back: the second highest number is what was left as bad, and is never gone back to.
        place.do(state="rolled_back", rollback_id=LATER)
        assert place.is_out("deployments", "shop:1")
        place.refused("no_good_revision", state="rolled_back")
        place.do(state="rolled_back", to_revision=5)
        assert place.is_out("deployments", "shop:3")
        place.do(state="rolled_back", deploy_id=FIRST)
        assert place.is_out("deployments", "shop:2") and not place.info()["unfinished"]


@pytest.mark.parametrize("tag, reason, words", [
    ("bad", "image_pull", "ImagePullBackOff"), ("crash", "crash_loop", "schema 41"), ("oom", "oom_killed", "memory limit"),
    ("unconfigured", "container_config", "configmap")])
def test_what_does_not_come_up_is_named_and_taken_back(place: Namespace, tag: str, reason: str, words: str) -> None:
    place.create(place.workload())
    place.settled("deployments", "shop:1")
    failed = place.fails(reason, image=f"shop:{tag}", deploy_id=FIRST)
    assert words in failed["msg"] and "container web of pod web-" in failed["msg"] and failed["reverted"], failed["msg"]
    assert place.is_out("deployments", "shop:1") and not place.info()["unfinished"]
    # The same release, once it is repaired, is a deploy like any other.
    place.do(image="shop:2", deploy_id=FIRST)
    assert place.is_out("deployments", "shop:2")


def test_a_probe_that_fails_is_named_after_the_deadline(place: Namespace) -> None:
    place.create(place.workload())
    place.settled("deployments", "shop:1")
    failed = place.fails("not_out_in_time", image="shop:unready", progress_timeout=3)
    assert "Readiness probe failed" in failed["msg"] and failed["reverted"] and place.is_out("deployments", "shop:1")


def test_it_is_left_where_the_task_says_so(place: Namespace) -> None:
    place.create(place.workload())
    place.settled("deployments", "shop:1")
    failed = place.fails("image_pull", image="shop:bad", deploy_id=FIRST, on_failure="none")
    assert not failed["reverted"] and "shop:bad" in place.images()
    told = place.info()
    assert told["unfinished"] and not told["out"] and "ImagePullBackOff" in told["why"]
    # What was left was never good: a later failure goes back behind it.
    assert place.fails("crash_loop", image="shop:crash", deploy_id=SECOND)["reverted"] and place.is_out("deployments", "shop:1")


def test_a_container_that_starts_at_the_second_try_is_no_failure(place: Namespace) -> None:
    place.create(place.workload())
    place.settled("deployments", "shop:1")
    place.do(image="shop:crash-once")
    assert place.is_out("deployments", "shop:crash-once")


def test_a_quota_is_named(place: Namespace) -> None:
    place.create(place.workload(strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}))
    place.settled("deployments", "shop:1")
    place.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "2"}}})
    wait_for(lambda: place.get("resourcequotas", "few").get("status", {}).get("used"), "the quota is counted")
    assert "exceeded quota: few" in place.fails("quota", image="shop:2")["msg"]
    assert place.is_out("deployments", "shop:1")


def test_what_an_old_revision_needs_is_looked_for(place: Namespace) -> None:
    place.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"a": "1"}})
    named = {"containers": [{"name": "web", "image": "shop:1", "envFrom": [{"configMapRef": {"name": "web"}}]}]}
    place.create(place.workload(template=named))
    place.settled("deployments", "shop:1")
    place.do(image="shop:2", deploy_id=FIRST)
    assert not place.do(check=True, state="rolled_back").get("warnings")
    place.kubectl("patch", "configmap", "web", "-p", json.dumps({"data": {"a": "2"}}))
    [warning] = place.do(check=True, state="rolled_back")["warnings"]
    assert "ConfigMap web was changed at" in warning
    place.kubectl("delete", "configmap", "web")
    assert "ConfigMap web does not exist" in place.refused("revision_unreachable", state="rolled_back")["msg"]
    assert [one["ready_to_roll_back"] for one in place.info()["revisions"]] == [False, False]


@pytest.mark.parametrize("marks, words", [
    ({"labels": {"argocd.argoproj.io/instance": "shop"}}, "argocd app rollback shop"),
    ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux"}},
     "flux suspend kustomization apps -n flux"),
    ({"annotations": {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "x"}}, "helm rollback web <revision> -n x --kube-context lab"),
])
def test_what_another_tool_would_undo_is_refused(place: Namespace, marks: dict[str, t.Any], words: str) -> None:
    workload = place.workload()
    workload["metadata"].update(marks)
    place.create(workload)
    place.settled("deployments", "shop:1")
    refused = place.refused("owned_by_other", image="shop:2")
    assert words in refused["msg"] and place.info()["owner"]["owner"] == refused["owner"]
    place.do(image="shop:2", owner=refused["owner"])


def test_what_is_not_sound_is_refused(place: Namespace) -> None:
    place.refused("no_workload", image="shop:2")
    place.create(place.workload())
    place.settled("deployments", "shop:1")
    place.refused("no_context", image="shop:2", context="gone")
    place.refused("bad_options", image="shop:2", context=" ")
    place.refused("bad_options", image="shop:2", container="gone")
    place.refused("no_revision", state="rolled_back", to_revision=7)
    place.refused("forbidden", image="shop:2", context="deployer")
    place.do(image="shop:2", deploy_id=SECOND)
    place.refused("superseded", image="shop:1", deploy_id=FIRST)
    place.refused("superseded", state="rolled_back", rollback_id=FIRST)
    place.kubectl("rollout", "pause", "deployment/web")
    assert "rollout resume deployment/web" in place.refused("paused", image="shop:3")["msg"]


def test_a_newer_run_ends_the_wait_of_an_older_one(place: Namespace) -> None:
    place.create(place.workload())
    place.settled("deployments", "shop:1")
    older = place.start(image="shop:unready", deploy_id=FIRST)
    wait_for(lambda: "shop:unready" in place.images(), "the older run has written")
    place.do(image="shop:2", deploy_id=SECOND)
    stopped = older.wait()
    assert stopped["reason"] == "changed_meanwhile" and SECOND in stopped["msg"]
    assert place.is_out("deployments", "shop:2"), "the older run has gone back over what the newer had written"


def test_a_run_that_was_killed_is_finished_by_the_next(place: Namespace) -> None:
    place.create(place.workload())
    place.settled("deployments", "shop:1")
    run = place.start(image="shop:unready", deploy_id=FIRST)
    wait_for(lambda: place.info()["unfinished"], "it has begun")
    run.kill()
    failed = place.fails("not_out_in_time", image="shop:unready", deploy_id=FIRST, progress_timeout=2)
    assert failed["reverted"] and place.is_out("deployments", "shop:1"), "the next run does not know where to go back to"
    run = place.start(image="shop:2", deploy_id=SECOND)
    wait_for(lambda: place.info()["unfinished"], "it has begun")
    run.kill()
    place.do(image="shop:2", deploy_id=SECOND)
    assert place.is_out("deployments", "shop:2") and not place.info()["unfinished"]
    run = place.start(state="rolled_back", rollback_id=BACK)
    wait_for(lambda: place.info()["unfinished"], "it has begun")
    run.kill()
    # Another run finishes it as its own, and is done then: it does not go back once more.
    for changes in (True, False):
        assert place.do(state="rolled_back", rollback_id=LATER)["changed"] == changes
        assert place.is_out("deployments", "shop:1") and not place.info()["unfinished"]


def test_the_rights_of_the_example_are_enough() -> None:
    """And no more are needed; which are, stands in the collection's documentation."""
    import yaml

    objects = yaml.safe_load((ROOT / "collection/docs/examples/kube/rbac.yml").read_text())["items"]
    with namespace(context="deployer") as place:
        for one in objects:
            one["metadata"]["namespace"] = place.name
            if one["kind"] == "RoleBinding":
                one["subjects"] = [{"kind": "Group", "name": "deployers", "apiGroup": "rbac.authorization.k8s.io"}]
        place.create(*objects)
        place.create(place.workload())
        place.settled("deployments", "shop:1")
        migration = {"state": "migrated", "command": ["migrate"]}
        place.do(**migration, image="shop:2", deploy_id=FIRST)
        place.fails("image_pull", **migration, image="shop:bad", deploy_id=SECOND)
        place.do(image="shop:2", deploy_id=FIRST)
        assert "schema 41" in place.fails("crash_loop", image="shop:crash", deploy_id=SECOND)["msg"]
        place.do(state="rolled_back", rollback_id=BACK)
        assert place.is_out("deployments", "shop:1") and call("kube_rollout_info", {**place.options, "name": "web"})["out"]


# kubectl, where the API server has one more group. The lab's cannot have it: it ends when an object of a CustomResourceDefinition is made, and
# why is not known.
WITH_GROUP = """#!/bin/sh
case "$*" in
*"get --raw /apis") cat {folder}/groups ;;
*"get --raw /apis/{version}") cat {folder}/kinds ;;
*"get --raw /apis/{version}/namespaces/{namespace}/{plural}") cat {folder}/objects ;;
*) exec {kubectl} "$@" ;;
esac
"""


@pytest.mark.parametrize("version, plural, reference, owner, words", [
    ("argoproj.io/v1alpha1", "rollouts", "workloadRef", "argo_rollouts", "kubectl argo rollouts abort shop --context lab"),
    ("flagger.app/v1beta1", "canaries", "targetRef", "flagger", "wait canary/shop --for=condition=promoted")])
def test_what_shifts_traffic_by_itself_is_refused(place: Namespace, tmp_path: Path, version: str, plural: str, reference: str, owner: str, words: str) -> None:
    group = {"name": version.partition("/")[0], "preferredVersion": {"groupVersion": version}}
    one = {"metadata": {"name": "shop"}, "spec": {reference: {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}
    program = tmp_path / "kubectl"
    program.write_text(WITH_GROUP.format(folder=tmp_path, version=version, namespace=place.name, plural=plural, kubectl=place.program))
    program.chmod(0o755)

    def has(kinds: list[str], objects: list[dict[str, t.Any]]) -> None:
        answers = {"groups": {"groups": [group]}, "kinds": {"resources": [{"name": kind} for kind in kinds]}, "objects": {"items": objects}}
        for name, answer in answers.items():
            (tmp_path / name).write_text(json.dumps(answer))

    place.create(place.workload())
    place.settled("deployments", "shop:1")
    here = {"kubectl": str(program)}
    has([plural], [one])
    refused = place.refused("owned_by_other", image="shop:2", **here)
    assert refused["owner"] == owner and words in refused["msg"] and f"-n {place.name} rollout undo deployment/web" in refused["msg"], refused["msg"]
    assert place.info(**here)["owner"] == {"owner": owner, "name": "shop"}
    place.refused("owned_by_other", state="migrated", image="shop:2", command=["x"], deploy_id=FIRST, **here)
    # Another tool has the group, or no object refers to the workload.
    for kinds, objects in ((["applications"], [one]), ([plural], [])):
        has(kinds, objects)
        place.do(check=True, image="shop:2", **here)
    has([plural], [one])
    place.do(image="shop:2", owner=owner, **here)
