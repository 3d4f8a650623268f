# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for a scheduler and a kubelet: `kubelet.py SERVER TOKEN PORT CERTIFICATE KEY READY` is the node `lab`. No container runs.

It binds pods, says of them what a kubelet would, and lets those go that are deleted. What becomes of a pod says the tag of its containers' images:

    bad        its image is not there (ErrImagePull, then ImagePullBackOff)
    crash      it ends again and again (CrashLoopBackOff); its log says why
    crash-once it ends once, and runs then
    oom        the same, by the memory limit (OOMKilled)
    unready    it runs, and its readiness probe fails
    unconfigured  a ConfigMap that it names is not there (CreateContainerConfigError)
    any other  it runs and is ready

A pod that is not restarted (of a Job) ends: well, or as `crash` and `oom` say, or with `slow` only when it is deleted.

A pod with the node selector `lab: nowhere` is never bound.
"""
from __future__ import annotations

import http.client
import http.server
import json
import ssl
import sys
import threading
import time
import typing as t
import urllib.parse
from pathlib import Path

SERVER, TOKEN, PORT, CERTIFICATE, KEY, READY = sys.argv[1:]
HOST = urllib.parse.urlsplit(SERVER).netloc
NODE = "lab"
CRASH_EVERY, MOST_CRASHES = 0.4, 8
STRATEGIC = "application/strategic-merge-patch+json"
WHY_UNREADY = "Readiness probe failed: HTTP probe failed with statuscode: 503"


class Api:
    """One connection that is kept; after an error a new one."""

    def __init__(self) -> None:
        self.line: http.client.HTTPSConnection | None = None

    def open(self, timeout: float | None = 30) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(HOST, context=ssl._create_unverified_context(), timeout=timeout)

    def ask(self, method: str, path: str, body: dict | None = None, kind: str = "application/json") -> tuple[int, dict]:
        self.line = self.line or self.open()
        try:
            self.line.request(method, path, json.dumps(body) if body is not None else None,
                              {"Content-Type": kind, "Authorization": f"Bearer {TOKEN}"})
            answer = self.line.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self.line.close()
            self.line = None
            raise

    def watch(self) -> t.Iterator[dict]:
        """Every pod that is there, and whatever becomes of one, as long as the server goes on."""
        line = self.open(None)
        line.request("GET", "/api/v1/pods?watch=1", headers={"Authorization": f"Bearer {TOKEN}"})
        for event in line.getresponse():
            yield json.loads(event)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Kubelet:
    def __init__(self) -> None:
        self.api = Api()
        self.lock = threading.Lock()
        self.addresses = 0
        self.crashing: dict[str, tuple[dict, int]] = {}   # by uid: the pod, and how often it has crashed

    def register(self) -> None:
        self.api.ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        status = {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
                  "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": "127.0.0.1"}],
                  "daemonEndpoints": {"kubeletEndpoint": {"Port": int(PORT)}}, "capacity": {"pods": "500"}, "allocatable": {"pods": "500"}}
        code, said = self.api.ask("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, STRATEGIC)
        assert code == 200, said
        # The API server marks a new node as not ready, and no controller of nodes runs here that would take that away.
        self.api.ask("PATCH", f"/api/v1/nodes/{NODE}", {"spec": {"taints": None}}, "application/merge-patch+json")

    def follow(self) -> None:
        while True:
            try:
                for event in self.api.watch():
                    with self.lock:
                        self.look(event["type"], event["object"])
            except (OSError, http.client.HTTPException, ValueError) as error:
                print(error, flush=True)
                time.sleep(0.2)

    def look(self, event: str, pod: dict) -> None:
        meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
        here = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if event == "DELETED":
            self.crashing.pop(meta["uid"], None)
        elif meta.get("deletionTimestamp"):
            self.api.ask("DELETE", here, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}})
        elif spec.get("nodeSelector", {}).get("lab") == "nowhere":
            if not status.get("conditions"):
                message = "0/1 nodes are available: 1 node(s) didn't match node selector."
                self.say(pod, {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                                               "lastTransitionTime": now()}]})
        elif not spec.get("nodeName"):
            self.api.ask("POST", f"{here}/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]},
                                                     "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}})
        elif not status.get("startTime"):
            self.addresses += 1
            self.run(pod)

    def run(self, pod: dict, crashes: int = 0) -> None:
        if pod["spec"].get("restartPolicy") == "Never" and self.end(pod):
            return
        containers = [self.container(one, crashes) for one in pod["spec"]["containers"]]
        ready = all(one["ready"] for one in containers)
        runs = all("running" in one["state"] or one["restartCount"] for one in containers)
        conditions = [{"type": kind, "status": "True" if ready or kind in ("PodScheduled", "Initialized") else "False", "lastTransitionTime": now(),
                       **({} if ready or kind in ("PodScheduled", "Initialized") else {"reason": "ContainersNotReady"})}
                      for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
        if any(tag(one) in ("crash", "oom", "crash-once") for one in pod["spec"]["containers"]):
            self.crashing[pod["metadata"]["uid"]] = (pod, crashes)
        self.say(pod, {"phase": "Running" if runs else "Pending", "conditions": conditions, "containerStatuses": containers, "startTime": now(),
                       "podIP": f"10.9.{self.addresses // 250 % 250}.{self.addresses % 250 + 1}"})
        if any(tag(one) == "unready" for one in pod["spec"]["containers"]):
            self.tell(pod, "Unhealthy", WHY_UNREADY)

    def end(self, pod: dict) -> bool:
        """What becomes of a pod that is not restarted; whether it has ended."""
        kinds = {tag(one) for one in pod["spec"]["containers"]}
        if kinds & {"bad", "unconfigured", "slow"}:
            return False
        how = {"reason": "OOMKilled", "exitCode": 137} if "oom" in kinds else {"reason": "Error", "exitCode": 3} if "crash" in kinds else \
            {"reason": "Completed", "exitCode": 0}
        containers = [{"name": one["name"], "image": one["image"], "imageID": "", "ready": False, "started": False, "restartCount": 0,
                       "state": {"terminated": {**how, "startedAt": now(), "finishedAt": now()}}} for one in pod["spec"]["containers"]]
        self.say(pod, {"phase": "Failed" if how["exitCode"] else "Succeeded", "containerStatuses": containers, "startTime": now()})
        return True

    def container(self, spec: dict, crashes: int) -> dict:
        said = {"name": spec["name"], "image": spec["image"], "imageID": "", "ready": False, "started": False, "restartCount": crashes}
        kind = tag(spec)
        if kind == "bad":
            said["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": f"Back-off pulling image \"{spec['image']}\""}}
        elif kind == "unconfigured":
            said["state"] = {"waiting": {"reason": "CreateContainerConfigError", "message": "configmap \"gone\" not found"}}
        elif kind in ("crash", "oom") or (kind == "crash-once" and not crashes):
            how = {"reason": "OOMKilled", "exitCode": 137} if kind == "oom" else {"reason": "Error", "exitCode": 3}
            said["lastState" if crashes else "state"] = {"terminated": {**how, "startedAt": now(), "finishedAt": now()}}
            if crashes:
                message = f"back-off 10s restarting failed container={spec['name']}"
                said["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        else:
            said.update(ready=kind != "unready", started=True, state={"running": {"startedAt": now()}})
        return said

    def say(self, pod: dict, status: dict) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        self.api.ask("PATCH", path, {"metadata": {"uid": meta["uid"]}, "status": status}, STRATEGIC)

    def tell(self, pod: dict, reason: str, message: str) -> None:
        meta = pod["metadata"]
        of = {"kind": "Pod", "apiVersion": "v1", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
        self.api.ask("POST", f"/api/v1/namespaces/{meta['namespace']}/events", {
            "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": f"{meta['name']}."}, "involvedObject": of, "reason": reason,
            "message": message, "type": "Warning", "firstTimestamp": now(), "lastTimestamp": now(), "count": 1, "source": {"component": "kubelet"}})

    def crash(self) -> None:
        """What crashes does so again, at a steady pace in place of one that doubles."""
        while True:
            time.sleep(CRASH_EVERY)
            with self.lock:
                for uid, (pod, crashes) in list(self.crashing.items()):
                    if crashes >= MOST_CRASHES or (crashes and all(tag(one) == "crash-once" for one in pod["spec"]["containers"])):
                        continue
                    try:
                        self.run(pod, crashes + 1)
                    except (OSError, http.client.HTTPException) as error:
                        print(uid, error, flush=True)


def tag(container: dict) -> str:
    return container["image"].rpartition(":")[2]


class Logs(http.server.BaseHTTPRequestHandler):
    """/containerLogs/<namespace>/<pod>/<container>"""

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        asked = urllib.parse.parse_qs(parts.query)
        _, kind, _namespace, pod, container = (parts.path.split("/") + [""] * 5)[:5]
        text = f"{container} of {pod} starts\nreads its schema\nfatal: schema 41 is not known to this release\n" if kind == "containerLogs" else ""
        lines = text.splitlines()[-int(asked.get("tailLines", ["1000"])[0]):]
        body = "".join(f"{line}\n" for line in lines).encode()
        self.send_response(200 if kind == "containerLogs" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Nobody reads it."""


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(PORT)), Logs)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    kubelet = Kubelet()
    kubelet.register()
    for work in (server.serve_forever, kubelet.crash):
        threading.Thread(target=work, daemon=True).start()
    Path(READY).touch()
    kubelet.follow()


if __name__ == "__main__":
    main()
