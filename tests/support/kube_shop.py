# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An app of two Deployments, which the playbooks deploy to a real API server."""
from __future__ import annotations

import typing as t

from harness import Run
from in_place import InPlace, example
from kube import Namespace
from releases import sha


class KubeShop(InPlace):
    """The example, with two Deployments in a namespace of the test's own. How a release behaves says the tag of its image: see `kubelet.py` of the lab."""

    def __init__(self, place: Namespace) -> None:
        self.place = place
        for name in ("web", "worker"):
            made = place.workload()
            made["metadata"]["name"] = name
            made["spec"]["selector"]["matchLabels"]["app"] = made["spec"]["template"]["metadata"]["labels"]["app"] = name
            place.create(made)
        super().__init__(example("kube") | {
            "kube_app_context": "lab", "kube_app_namespace": place.name, "kube_app_kubeconfig": place.options["kubeconfig"],
            "kube_app_kubectl": place.program, "kube_app_timeout": 60,
            "kube_app_workloads": [{"name": "web", "image": "shop:{release}"}, {"name": "worker", "image": "shop:{release}", "container": "web"}],
        }, {"kube1": {}})

    def images(self) -> dict[str, str]:
        """Of each workload, as it is asked for."""
        return {one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]["image"] for one in self.place.get("deployments")}

    def both(self, image: str) -> dict[str, str]:
        return {"web": image, "worker": image}

    def deploy(self, number: int, **inputs: t.Any) -> Run:
        return self.run("deploy_app", release_sha=sha(number), **inputs)
