# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's tinyproxy, unpacked and not installed: a real HTTP proxy that wants a user and a password."""
from __future__ import annotations

import shutil
from pathlib import Path

from labkit import apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["tinyproxy"]


def tinyproxy() -> Path:
    """The server. It needs no library of its own but the C library."""
    def build(folder: Path) -> None:
        root = folder / "root"
        apt.Archive(apt.architecture()).unpack(["tinyproxy-bin"], root)
        shutil.copy(root / "usr/bin/tinyproxy", folder)
        shutil.rmtree(root)
        run([folder / "tinyproxy", "-v"])
    return entry(f"tinyproxy-{apt.codename()}-{apt.architecture()}", build) / "tinyproxy"


THINGS = {"tinyproxy": tinyproxy}
