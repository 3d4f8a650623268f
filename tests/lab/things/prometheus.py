# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's Prometheus, unpacked and not installed; with promtool beside it."""
from __future__ import annotations

import shutil
from pathlib import Path

from labkit import apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["prometheus"]


def prometheus() -> Path:
    """The server. It is written in Go and needs no library of its own but the C library."""
    def build(folder: Path) -> None:
        root = folder / "root"
        apt.Archive(apt.architecture()).unpack(["prometheus"], root)
        for program in ("prometheus", "promtool"):
            shutil.copy(root / "usr/bin" / program, folder)
            run([folder / program, "--version"])
        shutil.rmtree(root)
    return entry(f"prometheus-{apt.codename()}-{apt.architecture()}", build) / "prometheus"


THINGS = {"prometheus": prometheus}
