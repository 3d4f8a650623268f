# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache: folders that are made once. An entry is complete only when its manifest stands beside it.

An entry is built in its final place (a venv and a patched binary hold absolute paths), and the manifest is written
last, to a partial name, and renamed: without it the entry does not count. Every use hashes the recorded files again,
so that a file that was cut short, changed or deleted makes the entry new instead of making a test fail oddly.
"""
from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from . import CACHE, LOCKS, say


@contextmanager
def lock(path: Path, what: str):
    """Hold an exclusive lock on a file or folder; it goes with the process (and what it waits for), however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another lab command that works on {what}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        LOCKS.add(handle)
        yield
    finally:
        LOCKS.discard(handle)
        os.close(handle)


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, built by `build(folder)` if it is not there or not whole."""
    folder, manifest = CACHE / name, CACHE / f"{name}.manifest"
    with lock(CACHE / f"{name}.lock", name):
        fault = _fault(folder, manifest)
        if fault is None:
            return folder
        if manifest.exists():
            say(f"cached {name} is damaged ({fault}): making it again")
        manifest.unlink(missing_ok=True)
        remove(folder)
        folder.mkdir(parents=True)
        say(f"making {folder}")
        build(folder)
        partial = manifest.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in [folder, *_fingerprints(folder)]))
        os.replace(partial, manifest)
    return folder


def remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _fault(folder: Path, manifest: Path) -> str | None:
    """Why the entry cannot be used; None if every recorded file is as it was."""
    if not manifest.exists():
        return "not made yet"
    place, *lines = manifest.read_text().splitlines()
    if place != str(folder):
        return f"made for {place}"
    for line in lines:
        path = folder / line.split(" ", 1)[1]
        if not os.path.lexists(path):
            return f"{path} is missing"
        if _fingerprint(folder, path) != line:
            return f"{path} has changed"
    return None


def _fingerprints(folder: Path) -> list[str]:
    lines = []
    for here, dirs, files in os.walk(folder):
        dirs[:] = [d for d in dirs if d != "__pycache__"]
        links = [d for d in dirs if (Path(here) / d).is_symlink()]
        lines += [_fingerprint(folder, Path(here) / name) for name in files + links]
    return sorted(lines)


def _fingerprint(folder: Path, path: Path) -> str:
    if path.is_symlink():
        # A link that leaves the entry (a venv's python) must still lead somewhere.
        content = os.readlink(path) + (" leads somewhere" if path.exists() else " dangles")
        digest = hashlib.sha256(content.encode())
    else:
        digest = hashlib.sha256(path.read_bytes())
    return f"{digest.hexdigest()} {path.relative_to(folder)}"
