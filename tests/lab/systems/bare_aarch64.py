# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bare-aarch64: the bare machine with an aarch64 user land, run by qemu.

The kernel learns to start aarch64 programs by qemu (binfmt_misc) in a user namespace of this machine's own, as Linux can since
6.7: the host does not see it, and it ends with the machine.
"""
from __future__ import annotations

import platform
from pathlib import Path

from labkit import Skip, apt
from systems import bare
from things.aarch64 import emulator

HELP = "as bare, for aarch64 (qemu-user, binfmt_misc in a user namespace)"
PACKAGES = bare.PACKAGES
CACHES = [f"{name}:arm64" for name in bare.CACHES] + ["qemu-user-static"]

down, status = bare.down, bare.status


def prepare() -> None:
    release = tuple(int(part) for part in platform.release().replace("-", ".").split(".")[:2])
    if release < (6, 7):
        raise Skip(f"binfmt_misc is not per user namespace before Linux 6.7, this is {platform.release()}")
    if "binfmt_misc" not in Path("/proc/filesystems").read_text():
        raise Skip("this kernel has no binfmt_misc (or has not loaded the module)")
    apt.install(*PACKAGES)
    bare.root_folder("arm64", emulator())


def up(folder: Path) -> str:
    return bare.start(folder, "aarch64", bare.root_folder("arm64", emulator()), emulator())
