# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's static busybox, unpacked and not installed: all the programs of a small guest in one file."""
from __future__ import annotations

import shutil
from pathlib import Path

from labkit import apt
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["busybox-static"]


def busybox() -> Path:
    def build(folder: Path) -> None:
        root = folder / "root"
        apt.Archive(apt.architecture()).unpack(["busybox-static"], root)
        found = next(path for path in (root / "usr/bin/busybox", root / "bin/busybox") if path.exists())
        shutil.copy(found, folder / "busybox")
        shutil.rmtree(root)
    return entry(f"busybox-{apt.codename()}-{apt.architecture()}", build) / "busybox"


THINGS = {"busybox": busybox}
