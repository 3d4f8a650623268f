# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL in the versions of Debian 12 and 13: server and clients of one major, with their own libraries beside them."""
from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from labkit import Skip, apt
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["postgresql of bookworm and trixie"]

# The Debian suite that has each major version.
SUITES = {"15": "bookworm", "17": "trixie"}
# For compiling queries while they run, and for procedures in other languages: large, and asked for by no test.
UNUSED = ("libllvm", "libpython", "libperl")


def root(version: str) -> Path:
    """A folder with their files as they lie on a Debian. Nobody but root may reach it: the system `postgres` copies it to where its user can."""
    def build(folder: Path) -> None:
        if apt.os_release().get("ID") != "debian":
            raise Skip(f"PostgreSQL {version} comes from Debian's archive, this machine's apt sources name {apt.os_release().get('NAME')}'s")
        archive, place = apt.Archive(apt.architecture(), SUITES[version]), folder / "root"
        packages = [f"postgresql-{version}", f"postgresql-client-{version}"]
        libraries = [library for library in apt.libraries(archive.closure(*packages)) if not library.startswith(UNUSED)]
        archive.unpack([*packages, *libraries], place)
        for unused in ("usr/share/doc", "usr/share/man", f"usr/lib/postgresql/{version}/lib/bitcode"):
            shutil.rmtree(place / unused, ignore_errors=True)
    return entry(f"postgres-{version}-{apt.architecture()}", build) / "root"


THINGS = {f"postgres-{version}": partial(root, version) for version in SUITES}
