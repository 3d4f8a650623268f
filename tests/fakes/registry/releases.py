# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of release_artifact share: archives, good and evil, and a folder of releases with the built module before it."""
from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest
from registry import Registry

TOKEN = "t0ken"


def sha(number: int) -> str:
    """A commit SHA."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def member(name: str, data: bytes = b"", **fields: t.Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 1_700_000_000, 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def folder(name: str, **fields: t.Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def link(name: str, target: str, **fields: t.Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target, **fields)


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def targz(*members: tuple[tarfile.TarInfo, bytes], **keywords: t.Any) -> bytes:
    return gzip.compress(tar(*members, **keywords), 1)


def zstd(data: bytes, *options: str) -> bytes:
    if not shutil.which("zstd"):
        pytest.skip("there is no zstd on this machine to make an archive with")
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, stdout=subprocess.PIPE, check=True).stdout


def release(number: int, size: int = 3_000_000) -> bytes:
    """A small release of a few files, which differs from the next, and does not compress away."""
    noise = b"".join(hashlib.sha256(f"{number} {at}".encode()).digest() for at in range(size // 32))
    return tar(
        folder("./"),
        member("./RELEASE", f"{sha(number)}\n".encode()),
        folder("./bin"),
        member("./bin/app", noise, mode=0o755),
        link("./bin/latest", "app"),
        *(member(f"./static/{at}.txt", b"x" * at) for at in range(50)),
    )


class Place:
    """A folder of releases, and the module that works on it."""

    def __init__(self, dest: Path, registry: Registry, binary: Path) -> None:
        self.dest, self.registry, self.binary = dest, registry, binary

    def options(self, number: int, state: str = "present", **options: t.Any) -> dict[str, t.Any]:
        known = {"url": self.registry.template, "owner": "acme", "package": "shop", "sha": sha(number), "token": TOKEN, "state": state}
        known |= {"dest": str(self.dest), "timeout": 60, "tries": 3} | options
        return {key: value for key, value in known.items() if value is not None}

    def start(
        self, options: dict[str, t.Any], name: str = "release_artifact", below: t.Sequence[str] = (), **ansible: t.Any,
    ) -> subprocess.Popen:
        """`below` is a program, with its arguments, that is to run it."""
        args = options | {"_ansible_module_name": f"reversible.deploy.{name}"}
        args |= {f"_ansible_{key}": value for key, value in ansible.items()}
        process = subprocess.Popen([*below, self.binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        process.stdin.write(json.dumps(args).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, options: dict[str, t.Any], name: str = "release_artifact", **ansible: t.Any) -> dict[str, t.Any]:
        return answer(self.start(options, name, **ansible))

    def ok(self, number: int, state: str = "present", **options: t.Any) -> dict[str, t.Any]:
        result = self.run(self.options(number, state, **options))
        assert not result.get("failed"), result
        return result

    def fails(self, number: int, state: str = "present", **options: t.Any) -> dict[str, t.Any]:
        result = self.run(self.options(number, state, **options))
        assert result.get("failed"), result
        assert TOKEN not in json.dumps(result)
        return result

    def info(self, **options: t.Any) -> dict[str, t.Any]:
        result = self.run({"dest": str(self.dest), **options}, "release_artifact_info")
        assert not result.get("failed"), result
        return result

    def path(self, number: int) -> Path:
        return self.dest / "releases" / sha(number)

    def is_whole(self, number: int) -> bool:
        """What was unpacked is what was packed, file by file."""
        with tarfile.open(fileobj=io.BytesIO(release(number))) as archive:
            for info in archive:
                path = self.path(number) / info.name
                if info.isfile() and path.read_bytes() != archive.extractfile(info).read():
                    return False
        return os.readlink(self.path(number) / "bin/latest") == "app"

    @property
    def names(self) -> list[str]:
        releases = self.dest / "releases"
        return sorted(path.name for path in releases.iterdir()) if releases.exists() else []

    def pointer(self, name: str = "current") -> str | None:
        path = self.dest / name
        return os.readlink(path).removeprefix("releases/") if path.is_symlink() else None


def answer(process: subprocess.Popen, seconds: float = 120) -> dict[str, t.Any]:
    out, _ = process.communicate(timeout=seconds)
    assert out.count(b"\n") == 1, out
    return json.loads(out)


def binary_of(staged: Path, bin_folder: Path) -> Path:
    return staged / bin_folder / f"release_artifact_{platform.machine()}"
