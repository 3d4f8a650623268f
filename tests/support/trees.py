# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of tests: one with everything that a file system can hold, and any two compared byte for byte with all their metadata."""
from __future__ import annotations

import hashlib
import os
import random
import socket
import stat
import struct
import typing as t
from pathlib import Path


def odd_tree(folder: Path) -> None:
    """One of everything that a file system can hold, and that a backup may lose."""
    at = os.fsencode(folder)
    folder.mkdir(exist_ok=True)
    (folder / "plain").write_bytes(random.Random(1).randbytes(300_000))
    for name in (b"new\nline", b"not-utf8-\xff\xfe", "umlaut-ü".encode(), b" space ", b"-rf", b"a" * 255):
        with open(os.path.join(at, name), "wb") as file:
            file.write(name)
    deep = folder.joinpath(*["deep" * 20] * 5)
    deep.mkdir(parents=True)
    (deep / "below").write_text("a path of more than 400 characters\n")
    (folder / "empty").mkdir(mode=0o700)
    (folder / "empty-file").touch()
    os.link(folder / "plain", folder / "hard-link")
    os.link(folder / "plain", folder / "empty" / "another")
    (folder / "link").symlink_to("plain")
    (folder / "dangling").symlink_to("/nowhere/at all")
    os.chown(folder / "link", 77, 88, follow_symlinks=False)
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with open(folder / "sparse", "wb") as file:
        for where in (0, 40 << 20, 199 << 20):
            file.seek(where)
            file.write(b"island")
        file.truncate(200 << 20)
    (folder / "owned").write_text("by someone\n")
    os.chown(folder / "owned", 1234, 4321)
    (folder / "setuid").write_text("#!/bin/sh\n")
    (folder / "setuid").chmod(0o6755)
    (folder / "sticky").mkdir()
    (folder / "sticky").chmod(0o3777)
    os.setxattr(folder / "owned", "user.note", b"\x00binary\xff")
    os.setxattr(folder / "sticky", "trusted.note", b"for root")
    # An access list: version 2, then (tag, permissions, id) of owner, user 1234, group, mask, others.
    entries = [(1, 6, 2**32 - 1), (2, 4, 1234), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder / "owned", "system.posix_acl_access", acl)
    os.setxattr(folder / "sticky", "system.posix_acl_default", acl)
    for name, nanoseconds in (("owned", 1_234_567_890_123_456_789), ("empty", 987_654_321_000_000_001), ("fifo", 1)):
        os.utime(folder / name, ns=(nanoseconds, nanoseconds))
    os.utime(folder / "link", ns=(5_000_000_007, 5_000_000_007), follow_symlinks=False)
    os.utime(folder, ns=(1_600_000_000_500_000_000,) * 2)


def with_socket(folder: Path) -> socket.socket:
    """A socket in a folder; it is no data."""
    line = socket.socket(socket.AF_UNIX)
    line.bind(str(folder / "socket"))
    return line


def tree(folder: Path) -> dict[bytes, tuple[t.Any, ...]]:
    """All that is to be the same after a restore, by path: content and metadata, hard links, and how much of the disk a file takes."""
    top, found = os.fsencode(folder), {}
    links: dict[tuple[int, int], list[bytes]] = {}
    stack = [b""]
    while stack:
        name = stack.pop()
        path = os.path.join(top, name) if name else top
        seen = os.lstat(path)
        kind = stat.S_IFMT(seen.st_mode)
        if kind == stat.S_IFSOCK:
            continue
        content: t.Any = None
        if kind == stat.S_IFDIR:
            stack += [os.path.join(name, entry) for entry in os.listdir(path)]
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFREG:
            with open(path, "rb") as file:
                content = (seen.st_size, hashlib.file_digest(file, "sha256").hexdigest(), _is_sparse(seen))
            links.setdefault((seen.st_dev, seen.st_ino), []).append(name)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = seen.st_rdev
        attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
        found[name] = (oct(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, content, tuple(sorted(attributes.items())))
    for names in links.values():
        for name in names:
            found[name] += (tuple(sorted(names)),)
    return found


def _is_sparse(seen: os.stat_result) -> bool:
    """Whether it takes less than half of its size: extents may be cut otherwise, holes may not be filled."""
    return seen.st_blocks * 1024 < seen.st_size


def unlike(before: dict[bytes, t.Any], after: dict[bytes, t.Any]) -> dict[bytes, t.Any]:
    """Where two trees differ, for the message of an assert."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def readable_by_others(folder: Path) -> list[str]:
    """What somebody else than root could read in a folder that he can reach, going by modes alone."""
    found = []
    for here, folders, files in os.walk(folder):
        if os.lstat(here).st_mode & 0o001 == 0:
            folders[:] = []
            continue
        found += [str(Path(here, name)) for name in files if _others_read(os.lstat(Path(here, name)).st_mode)]
    return found


def _others_read(mode: int) -> bool:
    return stat.S_ISREG(mode) and bool(mode & 0o004)
