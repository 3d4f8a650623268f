# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Kubernetes API server for tests, and a namespace of its own for each of them. What becomes of a pod says the tag of its image: see
tests/lab/inside/kubelet.py."""
from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import ssl
import subprocess
import typing as t
import urllib.parse

from edge import Call, call
from harness import lab, wait_for

MODULE, INFO = "kube_rollout", "kube_rollout_info"
VERSIONS = ("1.20", "1.32")
GROUPS = {"/apis/apps/v1": ("deployments", "statefulsets", "daemonsets", "replicasets"), "/apis/batch/v1": ("jobs",),
          "/api/v1": ("configmaps", "pods", "resourcequotas", "secrets", "services"),
          "/apis/rbac.authorization.k8s.io/v1": ("roles", "rolebindings")}
PLACE_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds}


class Api:
    """Requests of the tests themselves. A start of kubectl takes twenty times the processor time of such a request."""

    def __init__(self, server: str) -> None:
        self.host = urllib.parse.urlsplit(server).netloc
        self.context = ssl._create_unverified_context()   # the server has made its certificate itself

    def ask(self, method: str, path: str, body: t.Any = None) -> t.Any:
        headers = {"Authorization": "Bearer lab-token", "Content-Type": "application/json"}
        with contextlib.closing(http.client.HTTPSConnection(self.host, context=self.context, timeout=30)) as connection:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            said = answer.read().decode()
        assert answer.status < 300, f"{method} {path}: {said}"
        return json.loads(said)


class Namespace:
    """A namespace with nothing in it; `options` lead the module to it."""

    def __init__(self, version: str = "1.20", context: str = "lab") -> None:
        self.offer = json.loads(lab("up", "kubernetes"))
        self.name, self.program = f"test-{secrets.token_hex(4)}", self.offer["kubectl"][version]
        self.options = {"kubectl": self.program, "kubeconfig": self.offer["kubeconfig"], "context": context, "namespace": self.name}
        self.api = Api(self.offer["server"])
        self.api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.name}})

    def kubectl(self, *words: str, ok: bool = True) -> str:
        argv = [self.program, "--kubeconfig", self.offer["kubeconfig"], "--context", "lab", "--namespace", self.name, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not ok, f"{words}: {done.stderr}"
        return done.stdout

    def path(self, kind: str) -> str:
        return f"{PLACE_OF[kind]}/namespaces/{self.name}/{kind}"

    def get(self, kind: str, name: str = "", labels: str = "") -> t.Any:
        if name:
            return self.api.ask("GET", f"{self.path(kind)}/{name}")
        return self.api.ask("GET", f"{self.path(kind)}?labelSelector={urllib.parse.quote(labels)}")["items"]

    def create(self, *objects: dict[str, t.Any]) -> None:
        for one in objects:
            self.api.ask("POST", self.path(f"{one['kind'].lower()}s"), one)

    def workload(self, kind: str = "Deployment", image: str = "shop:1", replicas: int = 2, *, template: t.Any = None, **spec: t.Any) -> dict:
        labels = {"app": "web"}
        pod = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": image}],
                                                        **(template or {})}}
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"},
                "spec": {"selector": {"matchLabels": labels}, "template": pod, **({} if kind == "DaemonSet" else {"replicas": replicas}), **spec}}

    def images(self) -> list[str]:
        """Of the pods of workloads that are there, each once."""
        return sorted({one["image"] for pod in self.get("pods", "", "!job-name") if not pod["metadata"].get("deletionTimestamp")
                       for one in pod["spec"]["containers"]})

    def is_out(self, kind: str, image: str) -> bool:
        """Whether nothing else runs, and all of it is ready."""
        [one] = self.get(kind)
        status = one["status"]
        wanted = status.get("desiredNumberScheduled", one["spec"].get("replicas"))
        ready = status.get("numberReady", status.get("readyReplicas", 0))
        return self.images() == [image] and ready == wanted and status.get("observedGeneration") == one["metadata"]["generation"]

    def settled(self, kind: str, image: str) -> None:
        wait_for(lambda: self.is_out(kind, image), f"{kind} runs {image}")

    def do(self, *, check: bool = False, **more: t.Any) -> dict[str, t.Any]:
        """A run that must go well."""
        done = call(MODULE, self.task(**more), check=check)
        assert not done.get("failed"), done
        return done

    def fails(self, reason: str, **more: t.Any) -> dict[str, t.Any]:
        done = call(MODULE, self.task(**more))
        assert done.get("failed") and done["reason"] == reason, done
        return done

    def refused(self, reason: str, *, checks: t.Sequence[bool] = (True, False), **more: t.Any) -> dict[str, t.Any]:
        """A run that must change nothing, in check mode as well where that asks the same."""
        before = self.versions()
        for check in checks:
            done = call(MODULE, self.task(**more), check=check)
            assert done.get("failed") and done["reason"] == reason, done
        assert self.versions() == before
        return done

    def start(self, below: t.Sequence[str] = (), **more: t.Any) -> Call:
        return Call(MODULE, self.task(**more), below=below)

    def task(self, **more: t.Any) -> dict[str, t.Any]:
        return {**self.options, "name": "web", **more}

    def info(self, **more: t.Any) -> dict[str, t.Any]:
        done = call(INFO, {**self.options, "name": "web", **more})
        assert not done.get("failed"), done
        return done

    def versions(self) -> dict[str, int]:
        """What somebody has written of it: status is none of that."""
        kinds = "deployments", "statefulsets", "daemonsets", "jobs"
        return {f"{kind}/{one['metadata']['name']}": one["metadata"].get("generation", 0) for kind in kinds for one in self.get(kind)}


@contextlib.contextmanager
def namespace(version: str = "1.20", context: str = "lab") -> t.Iterator[Namespace]:
    place = Namespace(version, context)
    try:
        yield place
    finally:
        place.api.ask("DELETE", f"/api/v1/namespaces/{place.name}")
