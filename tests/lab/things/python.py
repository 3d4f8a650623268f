# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian 13's Python for an older Debian, whose own is too old for the newest ansible-core: unpacked, with its own libraries beside it."""
from __future__ import annotations

from pathlib import Path

from labkit import Skip, apt, run
from labkit.cache import entry
from things.haproxy import patchelf

PACKAGES: list[str] = []
CACHES = ["Python 3.13 of trixie"]
VERSION = "3.13"


def python() -> Path:
    if apt.os_release().get("ID") != "debian":
        raise Skip(f"Python {VERSION} comes from Debian's archive, this machine's apt sources name {apt.os_release().get('NAME')}'s")

    def build(folder: Path) -> None:
        archive, root = apt.Archive(apt.architecture(), "trixie"), folder / "root"
        apt.merge(root)
        archive.unpack(archive.closure(f"python{VERSION}-venv", "tzdata"), root)
        program = root / f"usr/bin/python{VERSION}"
        loader = next(path for path in sorted(root.glob("usr/lib*/ld-linux*.so.*")) if path.is_file())
        libraries = sorted({path.parent for path in root.glob("usr/lib/*/lib*.so.*")})
        run([patchelf(), "--set-interpreter", loader, "--force-rpath", "--set-rpath", ":".join(map(str, libraries)), program])
        # Where ensurepip looks for pip.
        for path in root.glob("usr/lib/python3*/_sysconfigdata*.py"):
            path.write_text(path.read_text().replace("'/usr/share/python-wheels/'", f"'{root}/usr/share/python-wheels/'"))
        run([program, "-m", "compileall", "-q", root / f"usr/lib/python{VERSION}"])   # Debian's packages do that when they are installed
        run([program, "-c", "import bz2, ctypes, curses, ensurepip, hashlib, lzma, sqlite3, ssl, venv, zlib"])
    return entry(f"python-{VERSION}-{apt.codename()}", build) / f"root/usr/bin/python{VERSION}"


THINGS = {f"python-{VERSION}": python}
