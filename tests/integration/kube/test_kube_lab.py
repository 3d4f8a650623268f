# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's Kubernetes rolls out and back as a real one does, and its pods are said to be what their images' tags say."""
from __future__ import annotations

import pytest
from harness import wait_for
from kube import VERSIONS, Namespace, namespace


def said(place: Namespace) -> list[str]:
    """What the containers that are not ready wait for."""
    return sorted({one["state"].get("waiting", {}).get("reason", "runs") for pod in place.get("pods")
                   for one in pod["status"].get("containerStatuses", []) if not one["ready"]})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_deployment_is_rolled_out_and_back(version: str) -> None:
    with namespace(version) as place:
        place.create(place.workload())
        place.settled("deployments", "shop:1")
        place.kubectl("set", "image", "deployment/web", "web=shop:2")
        place.settled("deployments", "shop:2")
        place.kubectl("rollout", "undo", "deployment/web")
        place.settled("deployments", "shop:1")


def test_other_kinds_run() -> None:
    with namespace() as place:
        place.create(place.workload("StatefulSet", serviceName="web"))
        place.settled("statefulsets", "shop:1")
        place.kubectl("delete", "statefulset", "web")
        place.create(place.workload("DaemonSet"))
        place.settled("daemonsets", "shop:1")


@pytest.mark.parametrize("tag, reason", [("bad", "ImagePullBackOff"), ("crash", "CrashLoopBackOff"), ("oom", "CrashLoopBackOff"),
                                         ("unready", "runs"), ("unconfigured", "CreateContainerConfigError")])
def test_a_pod_fails_as_its_tag_says(tag: str, reason: str) -> None:
    with namespace() as place:
        place.create(place.workload(image=f"shop:{tag}", replicas=1))
        wait_for(lambda: said(place) == [reason], f"it says {reason}")
        if tag == "crash":
            [pod] = place.get("pods")
            wait_for(lambda: "schema 41" in place.kubectl("logs", pod["metadata"]["name"], "--previous", "--tail=1"), "its log")
