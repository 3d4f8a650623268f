# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy in the versions that the supported distributions have, each with its own libraries beside it."""
from __future__ import annotations

from functools import partial
from pathlib import Path

from labkit import Fail, Skip, apt, run, say
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["haproxy of bookworm, trixie and sid", "patchelf"]

# The Debian suite that has each version; sid moves on, so the version is checked.
SUITES = {"2.6": "bookworm", "3.0": "trixie", "3.2": "sid"}


def binary(version: str) -> Path:
    def build(folder: Path) -> None:
        archive = _archive(version)
        root = folder / "root"
        archive.unpack(["haproxy", *apt.libraries(archive.closure("haproxy"))], root)
        program, libraries = root / "usr/sbin/haproxy", sorted({path.parent for path in root.glob("**/lib*.so.*")})
        loader = sorted(root.glob("**/ld-linux*.so.*"))[0]
        # The host's C library may be older than what this was built for: it gets its own, by absolute paths.
        run([patchelf(), "--set-interpreter", loader, "--force-rpath", "--set-rpath", ":".join(map(str, libraries)), program])
        has = run([program, "-v"]).stdout.split()[2]
        if not has.startswith(f"{version}."):
            say(f"haproxy-{version} is {has} here: this distribution has no other")
    return entry(f"haproxy-{version}-{apt.architecture()}", build) / "root/usr/sbin/haproxy"


THINGS = {f"haproxy-{version}": partial(binary, version) for version in SUITES}


def _archive(version: str) -> apt.Archive:
    if apt.os_release().get("ID") != "debian":
        if version != next(iter(SUITES)):
            raise Skip(f"HAProxy {version} comes from Debian's archive, this machine's apt sources name {apt.os_release().get('NAME')}'s")
        return apt.Archive(apt.architecture())
    archive = apt.Archive(apt.architecture(), SUITES[version])
    offered = archive.versions("haproxy")
    if not offered:
        raise Fail(f"Debian {archive.suite} offers no haproxy")
    if not offered[0].startswith(f"{version}."):
        raise Skip(f"Debian {archive.suite} has HAProxy {offered[0]} now, not {version}")
    return archive


def patchelf() -> Path:
    def build(folder: Path) -> None:
        apt.Archive(apt.architecture()).unpack(["patchelf"], folder / "root")
        run([folder / "root/usr/bin/patchelf", "--version"])
    return entry(f"patchelf-{apt.codename()}", build) / "root/usr/bin/patchelf"
