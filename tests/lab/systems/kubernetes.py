# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kubernetes: an API server with its etcd and the controllers of workloads; a stand-in is its only node, and scheduler and kubelet of it."""
from __future__ import annotations

import json
import shutil
import ssl
import sys
import urllib.request
from pathlib import Path

from labkit import HERE, daemon, run
from things.kubernetes import CLIENTS, control_plane, kubectl

HELP = "API server 1.20 and its controllers; a stand-in for the kubelet makes pods run, or not, by the tag of their image"
PACKAGES = ["openssl"]
CACHES: list[str] = []   # see things/kubernetes.py

CONTROLLERS = ("deployment", "replicaset", "statefulset", "daemonset", "job", "garbagecollector", "namespace", "resourcequota")
# Accounts by their tokens: one may do everything, one what the test's roles give it.
ACCOUNTS = {"lab": "system:masters", "deployer": "deployers"}
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kubelet")


def prepare() -> None:
    """Of the host only openssl: the programs come from the cache."""
    control_plane()
    for version in CLIENTS:
        kubectl(version)


def up(folder: Path) -> str:
    if status(folder)[0] == "up":
        return _text(folder)
    down(folder)
    programs = control_plane()
    folder.mkdir(mode=0o700)
    ports = {name: daemon.free_port() for name in ("etcd", "peer", "api", "controllers", "kubelet")}
    etcd = f"http://127.0.0.1:{ports['etcd']}"
    daemon.start(folder, "etcd", [programs / "etcd", "--data-dir", folder / "etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
                                  "--listen-peer-urls", f"http://127.0.0.1:{ports['peer']}", "--unsafe-no-fsync"])
    run(["openssl", "genrsa", "-out", folder / "accounts.key", "2048"])
    run(["openssl", "rsa", "-in", folder / "accounts.key", "-pubout", "-out", folder / "accounts.pub"])
    (folder / "tokens.csv").write_text("".join(f'{name}-token,{name},{name},"{group}"\n' for name, group in ACCOUNTS.items()))
    offer = {
        "version": run([programs / "kube-apiserver", "--version"]).stdout.split()[1], "server": f"https://127.0.0.1:{ports['api']}",
        "kubeconfig": str(folder / "kubeconfig"), "contexts": list(ACCOUNTS), "kubectl": {version: str(kubectl(version)) for version in CLIENTS},
    }
    (folder / "kubeconfig").write_text(json.dumps(_kubeconfig(offer["server"]), indent=2))
    (folder / "controllers.kubeconfig").write_text(json.dumps(_kubeconfig(offer["server"]) | {"current-context": "lab"}))
    # No network but loopback is needed: what it advertises is never reached.
    daemon.start(folder, "kube-apiserver", [
        programs / "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", "--advertise-address=192.0.2.2",
        f"--secure-port={ports['api']}", f"--cert-dir={folder / 'certificates'}", "--authorization-mode=RBAC",
        f"--token-auth-file={folder / 'tokens.csv'}", "--service-cluster-ip-range=10.96.0.0/24", "--service-account-issuer=https://lab",
        f"--service-account-signing-key-file={folder / 'accounts.key'}", f"--service-account-key-file={folder / 'accounts.pub'}",
        "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"])
    daemon.wait_for(lambda: _answers(offer["server"]), "the API server", folder, "kube-apiserver", 60)
    daemon.start(folder, "kube-controller-manager", [
        programs / "kube-controller-manager", f"--kubeconfig={folder / 'controllers.kubeconfig'}", "--bind-address=127.0.0.1", "--port=0",
        f"--secure-port={ports['controllers']}", f"--cert-dir={folder / 'certificates-of-controllers'}", "--leader-elect=false",
        f"--controllers={','.join(CONTROLLERS)}"])
    daemon.start(folder, "kubelet", [sys.executable, HERE / "inside/kubelet.py", offer["server"], "lab-token", ports["kubelet"],
                                     folder / "certificates/apiserver.crt", folder / "certificates/apiserver.key", folder / "node"])
    daemon.wait_for((folder / "node").exists, "the node", folder, "kubelet", 30)
    (folder / "offer.json").write_text(json.dumps(offer, indent=2) + "\n")
    return _text(folder)


def down(folder: Path) -> None:
    for name in reversed(NAMES):
        daemon.stop(folder, name)
    if folder.exists():
        shutil.rmtree(folder)


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "offer.json").exists():
        return "down", ""
    offer = json.loads(_text(folder))
    dead = [name for name in NAMES if not daemon.running(folder, name)]
    if dead:
        return "broken", f"{', '.join(dead)} has ended"
    if not _answers(offer["server"]):
        return "broken", f"the API server does not answer at {offer['server']}"
    return "up", f"{offer['version']} at {offer['server']}"


def _answers(server: str) -> bool:
    asked = urllib.request.Request(f"{server}/readyz", headers={"Authorization": "Bearer lab-token"})
    context = ssl._create_unverified_context()   # its certificate is one that it has made itself
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    try:
        with urllib.request.build_opener(*handlers).open(asked, timeout=5) as answer:
            return answer.read() == b"ok"
    except OSError:
        return False


def _kubeconfig(server: str) -> dict:
    """It has no current context: who uses it says which."""
    return {
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": name, "user": {"token": f"{name}-token"}} for name in ACCOUNTS],
        "contexts": [{"name": name, "context": {"cluster": "lab", "user": name}} for name in ACCOUNTS],
    }


def _text(folder: Path) -> str:
    return (folder / "offer.json").read_text()
