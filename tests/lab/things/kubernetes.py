# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes' API server and controller manager, which Debian ships as source only, built by Debian's Go; its etcd; and kubectl in two versions.

The source package is vendored: nothing is fetched by Go. What a checkout of Kubernetes generates by its Makefile, the OpenAPI definitions, is made
by the generator in it. No compiled file is kept but the two programs.
"""
from __future__ import annotations

import os
import re
import shutil
from functools import partial
from pathlib import Path

from labkit import Fail, Skip, apt, run, say
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["Kubernetes 1.20 built from Debian's source (some 10 minutes of one processor, once), etcd, kubectl of bookworm and trixie"]

SUITE = "bookworm"
GO = ["golang-1.19-go", "golang-1.19-src"]
PROGRAMS = ("kube-apiserver", "kube-controller-manager")
ROOT = "k8s.io/kubernetes"
RECIPE = 1   # to be raised when what is made below changes
# The Debian suite and the package that have each version of the client.
CLIENTS = {"1.20": ("bookworm", "kubernetes-client"), "1.32": ("trixie", "kubectl")}


def only_debian(what: str) -> None:
    if apt.os_release().get("ID") != "debian":
        raise Skip(f"{what} comes from Debian's archive, this machine's apt sources name {apt.os_release().get('NAME')}'s")


def control_plane() -> Path:
    """A folder with the two programs and etcd."""
    def build(folder: Path) -> None:
        only_debian("Kubernetes")
        archive, work = apt.Archive(apt.architecture(), SUITE), folder / "work"
        archive.unpack(["etcd-server", *GO], work / "root")
        shutil.copy(work / "root/usr/bin/etcd", folder)
        [tarball] = [path for path in archive.source("kubernetes", work / "source") if path.name.endswith(".orig.tar.gz")]
        tree = work / "go/src" / ROOT
        tree.mkdir(parents=True)
        run(["tar", "-xzf", tarball, "-C", tree, "--strip-components=1"])
        say("builds Kubernetes: some minutes, once")
        compile_programs(tree, work, folder)
        for program in (*PROGRAMS, "etcd"):
            run([folder / program, "--version"])
        run(["chmod", "-R", "u+w", work])
        shutil.rmtree(work)
    return entry(f"kubernetes-{SUITE}-{apt.architecture()}-{RECIPE}", build)


def compile_programs(tree: Path, work: Path, into: Path) -> None:
    goroot = work / "root/usr/lib/go-1.19"
    version = re.sub(r".*really", "", next((work / "source").glob("*.dsc")).name.partition("_")[2].partition("-")[0])
    environ = {**os.environ, "PATH": f"{goroot}/bin:{os.environ['PATH']}", "GOROOT": str(goroot), "GOPATH": str(work / "go"), "GOFLAGS": "",
               "GOCACHE": str(work / "compiled"), "CGO_ENABLED": "0", "GO111MODULE": "off", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    run(["go", "install", f"{ROOT}/vendor/k8s.io/kube-openapi/cmd/openapi-gen"], cwd=tree, env=environ)
    run([work / "go/bin/openapi-gen", "--logtostderr", "-i", ",".join(described(tree)), "-p", f"{ROOT}/pkg/generated/openapi", "-O",
         "zz_generated.openapi", "-h", "hack/boilerplate/boilerplate.generatego.txt", "-r", work / "violations", "-o", work / "go/src"],
        cwd=tree, env=environ)
    major, minor, _patch = version.split(".")
    package = f"{ROOT}/vendor/k8s.io/component-base/version"
    known = f"-X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    run(["go", "build", "-ldflags", f"-s -w {known}", "-o", f"{into}/", *(f"{ROOT}/cmd/{program}" for program in PROGRAMS)], cwd=tree, env=environ)


def described(tree: Path) -> list[str]:
    """The packages whose types have OpenAPI definitions, by the mark in their source."""
    vendored = [path for path in (tree / "vendor/k8s.io").iterdir() if path.is_dir() and not path.is_symlink()]
    found = set()
    for place in (tree / "pkg", tree / "staging/src/k8s.io", *vendored):
        for path in place.rglob("*.go"):
            name = str(path.relative_to(tree))
            if re.search(r"kube-openapi|/test|sample|kubectl|zz_gen|code-generator", name):
                continue
            if re.search(rb"(?m)^// ?\+k8s:openapi-gen=true", path.read_bytes()):
                found.add(f"{ROOT}/{re.sub('^staging/src/', 'vendor/', str(Path(name).parent))}")
    if not found:
        raise Fail(f"{tree}: no package is marked for OpenAPI definitions")
    return sorted(found)


def kubectl(version: str) -> Path:
    """The client. It is written in Go and needs no library of its own but the C library."""
    def build(folder: Path) -> None:
        only_debian(f"kubectl {version}")
        suite, package = CLIENTS[version]
        apt.Archive(apt.architecture(), suite).unpack([package], folder / "root")
        shutil.copy(folder / "root/usr/bin/kubectl", folder)
        shutil.rmtree(folder / "root")
        run([folder / "kubectl", "version", "--client", "-o", "json"])
    return entry(f"kubectl-{version}-{apt.architecture()}", build) / "kubectl"


THINGS = {"kubernetes-programs": control_plane, **{f"kubectl-{version}": partial(kubectl, version) for version in CLIENTS}}
