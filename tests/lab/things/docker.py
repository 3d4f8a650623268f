# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker's engine, client and Compose in the versions of the supported distributions, unpacked and not installed; Debian's registry,
restic and strace. What their programs load comes from the oldest of these distributions, so that any newer C library runs it.
"""
from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

from labkit import Fail, Skip, apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["docker.io and docker-compose of bookworm, trixie and sid", "docker-registry", "restic", "strace"]

# version -> the suites of the engine and of Compose (bookworm has only the first Compose, which is another program).
SUITES = {"20.10": ("bookworm", "trixie"), "26.1": ("trixie", "trixie"), "28": ("sid", "sid")}
BASE = "bookworm"
PROGRAMS = ("dockerd", "docker", "docker-proxy", "containerd", "containerd-shim-runc-v2")
OF_BASE = ("runc", "tini-static", "xtables-nft-multi")
# The C library's own parts stay the host's: mixed with another loader they would not start.
C_LIBRARY = re.compile(r"lib(c|m|dl|rt|pthread|resolv|nsl|nss_\w+|util|anl|BrokenLocale|thread_db|mvec|c_malloc_debug|memusage|pcprofile)"
                       r"\.so")


def engine(version: str) -> Path:
    """A folder with bin/ (engine, client, runc, iptables), lib/, xtables/ and cli-plugins/docker-compose."""
    def build(folder: Path) -> None:
        suite, compose = SUITES[version]
        base, archive = apt.Archive(apt.architecture(), BASE), apt.Archive(apt.architecture(), suite)
        offered = archive.versions("docker.io")
        if not offered or not offered[0].startswith(f"{version}."):
            raise Skip(f"Debian {suite} has docker.io {' '.join(offered[:1]) or 'not at all'} now, not {version}")
        trees = {name: folder / f"unpacked-{name}" for name in ("base", "engine", "compose")}
        base.unpack(["runc", "iptables", "tini", *apt.libraries(base.closure("docker.io", "iptables"))], trees["base"])
        client = ["docker-cli"] if archive.versions("docker-cli") else []
        archive.unpack(["docker.io", "containerd", *client], trees["engine"])
        apt.Archive(apt.architecture(), compose).unpack(["docker-compose"], trees["compose"])
        for name in ("bin", "lib", "cli-plugins"):
            (folder / name).mkdir()
        for names, tree in ((PROGRAMS, trees["engine"]), (OF_BASE, trees["base"])):
            for name in names:
                shutil.copy(_program(tree, name), folder / "bin" / name)
        (folder / "bin/docker-init").symlink_to("tini-static")   # the engine's name for it
        shutil.copy(next(trees["compose"].rglob("cli-plugins/docker-compose")).resolve(), folder / "cli-plugins")
        for path in trees["base"].rglob("lib*.so.*"):
            if path.is_file() and "/xtables/" not in str(path) and not C_LIBRARY.match(path.name):
                shutil.copy(path, folder / "lib")
        shutil.copytree(next(trees["base"].rglob("xtables/libxt_addrtype.so")).parent, folder / "xtables")
        for tree in trees.values():
            shutil.rmtree(tree)
        run([folder / "bin/docker", "--version"])
        run([folder / "bin/dockerd", "--version"], env={"LD_LIBRARY_PATH": str(folder / "lib")})
    return entry(f"docker-{version}-{apt.architecture()}", build)


def registry() -> Path:
    return _one("docker-registry")


def restic() -> Path:
    return _one("restic")


def strace() -> Path:
    """A wrapper: what it loads of its own lies beside it."""
    def build(folder: Path) -> None:
        archive = apt.Archive(apt.architecture(), BASE)
        archive.unpack(["strace", *apt.libraries(archive.closure("strace"))], folder / "unpacked")
        (folder / "lib").mkdir()
        for path in (folder / "unpacked").rglob("lib*.so.*"):
            if path.is_file() and not C_LIBRARY.match(path.name):
                shutil.copy(path, folder / "lib")
        shutil.copy(_program(folder / "unpacked", "strace"), folder / "strace.real")
        shutil.rmtree(folder / "unpacked")
        (folder / "strace").write_text(f'#!/bin/sh\nexec env LD_LIBRARY_PATH={folder}/lib {folder}/strace.real -E LD_LIBRARY_PATH "$@"\n')
        (folder / "strace").chmod(0o755)
        run([folder / "strace", "-V"])
    return entry(f"strace-{BASE}-{apt.architecture()}", build) / "strace"


THINGS = {**{f"docker-{version}": partial(engine, version) for version in SUITES},
          "docker-registry": registry, "restic": restic, "strace": strace}


def _one(name: str) -> Path:
    """A program that is one file, and its package's name."""
    def build(folder: Path) -> None:
        apt.Archive(apt.architecture(), BASE).unpack([name], folder / "unpacked")
        shutil.copy(_program(folder / "unpacked", name), folder / name)
        shutil.rmtree(folder / "unpacked")
        run([folder / name, "--version" if name == "docker-registry" else "version"])
    return entry(f"{name}-{BASE}-{apt.architecture()}", build) / name


def _program(tree: Path, name: str) -> Path:
    for place in ("usr/sbin", "usr/bin", "sbin", "bin"):
        if (tree / place / name).is_file():
            return (tree / place / name).resolve()
    raise Fail(f"the packages have no program {name}")
