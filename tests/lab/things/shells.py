# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shells that a target may have and this machine need not: in one folder, by their usual names, unpacked and not installed."""
from __future__ import annotations

from pathlib import Path

from labkit import apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["busybox-static", "ksh93u+m", "zsh"]
# The name that tests use, and where Debian puts the program.
SHELLS = {"busybox": "busybox", "ksh": "ksh93", "zsh": "zsh"}


def shells() -> Path:
    def build(folder: Path) -> None:
        root = folder / "root"
        apt.Archive(apt.architecture()).unpack(CACHES, root)
        (folder / "bin").mkdir()
        for name, program in SHELLS.items():
            found = next(root / place / program for place in ("bin", "usr/bin") if (root / place / program).is_file())
            (folder / "bin" / name).symlink_to(Path("..") / found.relative_to(folder))
            run([folder / "bin" / name, *(["sh"] if name == "busybox" else []), "-c", ":"])
    return entry(f"shells-{apt.codename()}", build) / "bin"


THINGS = {"shells": shells}
