# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine in software: QEMU for x86_64 with the libraries and the firmware that it needs to boot a kernel, unpacked and not installed."""
from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from labkit import Skip, apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["qemu-system-x86 with its libraries"]
PROGRAM = "usr/bin/qemu-system-x86_64"
# To start a kernel directly; no graphics, no boot from a disk or the network.
FIRMWARE = ("usr/share/seabios/bios-256k.bin", "usr/share/qemu/linuxboot_dma.bin", "usr/share/qemu/pvh.bin", "usr/share/qemu/kvmvapic.bin")


def qemu() -> Path:
    """A wrapper: `qemu-system-x86_64 ...`."""
    if apt.architecture() != "amd64":
        raise Skip(f"QEMU is unpacked for amd64 machines, this is {apt.architecture()}")

    def build(folder: Path) -> None:
        archive, everything, root = apt.Archive("amd64"), folder / "everything", folder / "root"
        apt.merge(everything)
        closure = archive.closure("qemu-system-x86")
        archive.unpack(apt.libraries(closure) + [package for package in closure if package.startswith(("qemu-", "seabios="))], everything)
        modules = [str(path.relative_to(everything)) for path in everything.glob("usr/lib/*/qemu/accel-tcg-x86_64.so")]
        apt.pick(everything, {PROGRAM, *modules, *apt.libraries_of(everything, PROGRAM)}, root)
        (root / "firmware").mkdir()
        for path in FIRMWARE:
            shutil.copy(everything / path, root / "firmware")
        shutil.rmtree(everything)
        loader = next((root / "usr").glob("lib*/ld-*.so.*"), None) or next((root / "usr/lib").glob("*/ld-*.so.*"))
        libraries = ":".join(sorted({str(path.parent) for path in root.glob("usr/lib/**/lib*.so*")}))
        program = str(root / PROGRAM)
        words = [str(loader), "--library-path", libraries, "--argv0", program, program, "-L", str(root / "firmware")]
        environ = f"QEMU_MODULE_DIR={shlex.quote(str(next(iter(root.glob('usr/lib/*/qemu')), root)))}"
        start = folder / "qemu-system-x86_64"
        start.write_text(f"#!/bin/sh\n{environ} exec {shlex.join(words)} \"$@\"\n")
        start.chmod(0o755)
        run([start, "-accel", "tcg", "-machine", "none", "-version"])
    return entry(f"qemu-system-x86-{apt.codename()}", build) / "qemu-system-x86_64"


THINGS = {"qemu-system-x86": qemu}
