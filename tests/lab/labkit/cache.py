# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache: folders that are made once. An entry is complete only when its manifest stands beside it.

An entry is built in its final place (a venv and a patched binary hold absolute paths), and the manifest is written
last, to a partial name, and renamed: without it the entry does not count. It holds the hash of each file. Every use looks
at each file's size and time, which are kept in a second list: what is as it was is used at once, without a lock and
without writing, so that nobody waits for a build of another entry and a cache that is mounted read-only will do. Where
they differ the hashes decide: a file that was cut short, changed or deleted makes the entry new instead of making a
test fail oddly.
"""
from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from . import CACHE, LOCKS, Fail, say

# Seconds: more than any build takes, also when others want the processors.
LONGEST_WAIT = 3600


@contextmanager
def lock(path: Path, what: str):
    """Hold an exclusive lock on a file or folder; it goes with the process (and what it waits for), however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Fail(f"{what} cannot be worked on: {path}: {error.strerror}") from error
    try:
        _take(handle, what)
        LOCKS.add(handle)
        yield
    finally:
        LOCKS.discard(handle)
        os.close(handle)


def _take(handle: int, what: str) -> None:
    end, said = time.monotonic() + LONGEST_WAIT, False
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Fail(f"{what}: still worked on by {_holder(handle)} after {LONGEST_WAIT} s") from None
            if not said:
                say(f"waiting for {_holder(handle)}, which works on {what}")
                said = True
            time.sleep(0.2)


def _holder(handle: int) -> str:
    """Who has the lock, by the kernel's list of them; a process of another namespace is not in it."""
    inode = os.fstat(handle).st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            try:
                return f"process {words[4]} ({Path('/proc', words[4], 'cmdline').read_text().replace(chr(0), ' ').strip()})"
            except OSError:   # it has ended, and what it has started holds the lock on
                return f"what process {words[4]} has started"
    return "a process that cannot be seen from here"


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, built by `build(folder)` if it is not there or not whole."""
    folder, manifest, times = CACHE / name, CACHE / f"{name}.manifest", CACHE / f"{name}.times"
    if manifest.exists() and _untouched(folder, times):
        return folder
    if manifest.exists() and not os.access(CACHE, os.W_OK) and _fault(folder, manifest) is None:
        return folder
    with lock(CACHE / f"{name}.lock", name):
        fault = None if manifest.exists() and _untouched(folder, times) else _fault(folder, manifest)   # another may have made it meanwhile
        if fault is not None:
            if manifest.exists():
                say(f"cached {name} is damaged ({fault}): making it again")
            for path in (manifest, times):
                path.unlink(missing_ok=True)
            remove(folder)
            folder.mkdir(parents=True)
            say(f"making {folder}")
            build(folder)
            _write(manifest, [str(folder), *_lines(folder, _fingerprint)])
        _write(times, [str(folder), *_lines(folder, _look)])
    return folder


def remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write(path: Path, lines: list[str]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in lines))
    os.replace(partial, path)


def _untouched(folder: Path, times: Path) -> bool:
    """Whether every file has the size and the time that it was last found whole with."""
    try:
        place, *lines = times.read_text().splitlines()
        return place == str(folder) and all(_look(folder, line.split(" ", 3)[3]) == line for line in lines)
    except (OSError, ValueError):
        return False


def _fault(folder: Path, manifest: Path) -> str | None:
    """Why the entry cannot be used; None if the content of every recorded file is as it was."""
    if not manifest.exists():
        return "not made yet"
    place, *lines = manifest.read_text().splitlines()
    if place != str(folder):
        return f"made for {place}"
    for line in lines:
        name = line.split(" ", 1)[1]
        if not os.path.lexists(folder / name):
            return f"{folder / name} is missing"
        if _fingerprint(folder, name) != line:
            return f"{folder / name} has changed"
    return None


def _lines(folder: Path, of: Callable[[Path, str], str]) -> list[str]:
    lines = []
    for here, dirs, files in os.walk(folder):
        dirs[:] = [d for d in dirs if d != "__pycache__"]
        links = [d for d in dirs if os.path.islink(os.path.join(here, d))]
        lines += [of(folder, os.path.relpath(os.path.join(here, name), folder)) for name in files + links]
    return sorted(lines)


def _look(folder: Path, name: str) -> str:
    """By plain calls: each use of an entry looks at all of its files, of which some have thousands."""
    path = f"{folder}/{name}"
    about = os.lstat(path)
    # A link that leaves the entry (a venv's python) must still lead somewhere.
    kind = "file" if not stat.S_ISLNK(about.st_mode) else "link" if os.path.exists(path) else "dangling"
    return f"{kind} {about.st_size} {about.st_mtime_ns} {name}"


def _fingerprint(folder: Path, name: str) -> str:
    path = folder / name
    if path.is_symlink():
        content = os.readlink(path) + (" leads somewhere" if path.exists() else " dangles")
        digest = hashlib.sha256(content.encode())
    else:
        digest = hashlib.sha256(path.read_bytes())
    return f"{digest.hexdigest()} {name}"
