# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_rollout with state: migrated on a real API server: a Job of the new image, once for each deploy."""
from __future__ import annotations

import json
import typing as t

import pytest
from harness import wait_for
from kube import VERSIONS, Namespace, namespace

FIRST, SECOND = "20261121t084500z-7f3a", "20261121t085500z-8a4b"
JOB = f"web-migrate-{FIRST}"


@pytest.fixture(name="place")
def one_namespace() -> t.Iterator[Namespace]:
    with namespace() as place:
        place.create(place.workload(replicas=1))
        place.settled("deployments", "shop:1")
        yield place


def migration(image: str = "shop:2", deploy_id: str = FIRST, **more: t.Any) -> dict[str, t.Any]:
    return {"state": "migrated", "image": image, "command": ["migrate", "--up"], "deploy_id": deploy_id, **more}


def pods_of_jobs(place: Namespace) -> list[str]:
    return [pod["metadata"]["uid"] for pod in place.get("pods", "", "reversible.deploy/job=migrate")]


@pytest.mark.parametrize("version", VERSIONS)
def test_it_runs_once_before_any_pod_changes(version: str) -> None:
    with namespace(version) as place:
        place.create(place.workload(replicas=1))
        place.settled("deployments", "shop:1")
        planned = place.do(check=True, **migration())
        assert planned["changed"] and f"run `migrate --up` as Job {JOB}" in planned["plan"][0] and not place.get("jobs")
        done = place.do(**migration())
        assert (done["plan_id"], done["job"]) == (planned["plan_id"], JOB) and done["log"][-1].startswith("fatal: schema 41"), done
        [pod] = pods_of_jobs(place)
        for check in (True, False):
            again = place.do(check=check, **migration())
            assert not again["changed"] and pods_of_jobs(place) == [pod]
        assert place.is_out("deployments", "shop:1")
        [job] = place.get("jobs")
        assert job["spec"]["backoffLimit"] == 0 and "ttlSecondsAfterFinished" not in job["spec"]
        # The same once more is refused where it is not the same.
        assert JOB in place.refused("migration_changed", **migration(command=["other"]))["msg"]
        place.do(**migration(deploy_id=SECOND))
        assert len(pods_of_jobs(place)) == 2
        place.refused("superseded", **migration())


@pytest.mark.parametrize("tag, reason, words", [
    ("crash", "migration_failed", "exit code 3; the last line of its log: fatal: schema 41"), ("oom", "oom_killed", "memory limit"),
    ("bad", "image_pull", "ImagePullBackOff"), ("unconfigured", "container_config", "configmap"), ("slow", "migration_timed_out", "after 2 s")])
def test_one_that_fails_is_named_and_never_started_again(place: Namespace, tag: str, reason: str, words: str) -> None:
    failed = place.fails(reason, **migration(f"shop:{tag}", deadline=2))
    assert words in failed["msg"] and JOB in failed["msg"] and failed["job"] == JOB, failed["msg"]
    [job] = place.get("jobs")
    assert any(one["type"] == "Failed" and one["status"] == "True" for one in job["status"]["conditions"]), "it may still start"
    before = pods_of_jobs(place)
    again = place.refused(reason, **migration(f"shop:{tag}", deadline=2))
    assert "has failed before" in again["msg"] and "a new deploy_id starts it again" in again["msg"], again["msg"]
    assert set(pods_of_jobs(place)) <= set(before) and place.is_out("deployments", "shop:1")


def test_one_of_a_killed_run_is_waited_for(place: Namespace) -> None:
    run = place.start(**migration("shop:slow"))
    wait_for(lambda: pods_of_jobs(place), "it has begun")
    run.kill()
    before = pods_of_jobs(place)
    looked = place.do(check=True, **migration("shop:slow"))
    assert looked["plan"] == ["wait until it has ended, for 600 s at most"], looked["plan"]
    # Another deploy does not run its own beside it.
    assert JOB in place.fails("migration_running", **migration(deploy_id=SECOND, deadline=1))["msg"] and pods_of_jobs(place) == before
    place.fails("migration_timed_out", **migration("shop:slow", deadline=1))
    place.do(**migration(deploy_id=SECOND))


def test_the_oldest_jobs_are_removed_once_a_later_one_has_ended_well(place: Namespace) -> None:
    ids = [f"20261121t08{minute}00z-7f3a" for minute in (10, 20, 30, 40)]
    jobs = [f"web-migrate-{one}" for one in ids]

    def there() -> list[str]:
        return sorted(job["metadata"]["name"] for job in place.get("jobs") if "deletionTimestamp" not in job["metadata"])
    place.fails("migration_failed", **migration("shop:crash", ids[0]))
    place.do(**migration(deploy_id=ids[1], retain=2))
    place.fails("migration_failed", **migration("shop:crash", ids[2], retain=1))
    assert there() == jobs[:3], "one that fails removes nothing"
    planned = place.do(check=True, **migration(deploy_id=ids[3], retain=2))
    assert [f"delete Job {job}" in step for job, step in zip(jobs, planned["plan"][-2:])] == [True, True] and there() == jobs[:3], planned["plan"]
    done = place.do(**migration(deploy_id=ids[3], retain=2))
    assert done["plan_id"] == planned["plan_id"] and there() == jobs[2:]
    wait_for(lambda: len(pods_of_jobs(place)) == 2, "their pods go with them")
    assert not place.do(**migration(deploy_id=ids[3], retain=1))["changed"] and there() == jobs[2:]
    place.refused("superseded", **migration(deploy_id=ids[0]))


def test_jobs_that_may_not_be_removed_are_a_warning(place: Namespace) -> None:
    """As with rights from before there was something to remove."""
    rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
             {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
             {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
             {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "create", "update"]}]
    here = {"name": "deployer", "namespace": place.name}
    place.create({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": here, "rules": rules},
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": here,
                  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer"},
                  "subjects": [{"kind": "Group", "name": "deployers", "apiGroup": "rbac.authorization.k8s.io"}]})
    place.do(**migration())
    done = place.do(**migration(deploy_id=SECOND, retain=1, context="deployer"))
    assert len(place.get("jobs")) == 2 and any(JOB in warning and "rbac.yml" in warning for warning in done["warnings"]), done["warnings"]


def test_values_of_its_secrets_are_not_shown() -> None:
    with namespace() as place:
        value = "schema 41 is not known"
        place.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"url": value}})
        named = {"containers": [{"name": "web", "image": "shop:1", "envFrom": [{"secretRef": {"name": "db", "optional": True}}]}]}
        place.create(place.workload(template=named, replicas=1))
        place.settled("deployments", "shop:1")
        for done in (place.do(**migration()), place.fails("migration_failed", **migration("shop:crash", SECOND))):
            assert "fatal: ********" in done["log"][-1] and value not in json.dumps(done), done


def test_no_service_sends_requests_to_it(place: Namespace) -> None:
    port = {"port": 80, "protocol": "TCP"}
    place.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [port]}})
    place.do(**migration())
    [pod] = place.get("pods", "", "reversible.deploy/job=migrate")
    assert "app" not in pod["metadata"]["labels"], pod["metadata"]["labels"]


def test_what_is_not_sound_is_refused(place: Namespace) -> None:
    place.refused("bad_options", state="migrated", image="shop:2", deploy_id=FIRST)
    place.refused("bad_options", state="migrated", image="shop:2", command=["migrate"])
    place.refused("bad_options", state="migrated", command=["migrate"], deploy_id=FIRST)
    place.refused("bad_options", image="shop:2", command=["migrate"])
    place.refused("forbidden", **migration(context="deployer"))
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": JOB}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "x", "image": "shop:2"}]}}}}
    place.create(job)
    place.refused("migration_changed", **migration())
