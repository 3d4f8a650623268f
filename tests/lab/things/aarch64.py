# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Building for aarch64 on x86_64, and running what was built.

A rustup compiler has no standard library for aarch64 until the network gives it one; Debian has a compiler together with it.
Both, and the cross linker, are unpacked and not installed; a small wrapper around cargo makes it use them.
"""
from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from labkit import Skip, apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["rustc-web", "libstd-rust-web-dev:arm64", "gcc-aarch64-linux-gnu", "qemu-user-static"]

# The compiler and its library, by their names in Debian; the first with a new enough version is taken.
COMPILERS = (("rustc-web", "libstd-rust-web-dev"), ("rustc", "libstd-rust-dev"))
OLDEST = (1, 85)   # rust-version of the workspace
TARGET = "aarch64-unknown-linux-gnu"


def toolchain() -> Path:
    """The wrapper: `cargo-aarch64 build --release --target aarch64-unknown-linux-gnu` in any workspace."""
    if apt.architecture() != "amd64":
        raise Skip(f"the aarch64 toolchain is a cross toolchain for amd64 machines, this is {apt.architecture()}")

    def build(folder: Path) -> None:
        amd64, arm64 = apt.Archive("amd64"), apt.Archive("arm64")
        compiler, library, version = _compiler(amd64, arm64)
        closure = amd64.closure(f"{compiler}={version}", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")
        root = folder / "root"
        amd64.unpack([package for package in closure if _needed(package)], root)
        arm64.unpack([f"{library}={version}"], root)
        _point_linker_scripts(root)
        _write_wrappers(folder, root)
        run([folder / "rustc", "--version"])
        run([folder / "aarch64-linux-gnu-gcc", "--version"])
    return entry(f"aarch64-toolchain-{apt.codename()}", build) / "cargo-aarch64"


def emulator() -> Path:
    """qemu-aarch64-static."""
    def build(folder: Path) -> None:
        archive, root = apt.Archive(apt.architecture()), folder / "root"
        program = root / "usr/bin/qemu-aarch64-static"
        for package in ("qemu-user-static", "qemu-user"):   # since Debian 13 a link into the second, which is static now
            if not program.exists():
                archive.unpack([package], root)
        shutil.copy(program, folder)
        shutil.rmtree(root)
        run([folder / "qemu-aarch64-static", "--version"])
    return entry(f"qemu-aarch64-{apt.codename()}", build) / "qemu-aarch64-static"


THINGS = {"aarch64-toolchain": toolchain, "qemu-aarch64": emulator}


def _compiler(amd64: apt.Archive, arm64: apt.Archive) -> tuple[str, str, str]:
    """A compiler that is new enough and has its library for arm64 in the very same version."""
    seen = []
    for compiler, library in COMPILERS:
        for version in amd64.versions(compiler):
            seen.append(f"{compiler} {version}")
            number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
            if number >= OLDEST and version in arm64.versions(library):
                return compiler, library, version
    raise Skip(f"no Rust of at least {OLDEST[0]}.{OLDEST[1]} with a library for arm64 in {amd64.suite}: {', '.join(seen) or 'none'}")


def _needed(package: str) -> bool:
    """Not what the host has anyway (its own C library) and not the native compiler that comes along."""
    name = package.partition("=")[0]
    if "rust" in name or "aarch64" in name or "arm64-cross" in name:
        return True
    return name != "libc6" and not name.endswith("-dev") and bool(apt.libraries([package]))


def _point_linker_scripts(root: Path) -> None:
    """Some of the C library's .a and .so are texts that name others by their installed place."""
    place = "/usr/aarch64-linux-gnu/lib/"
    for path in (root / place[1:]).iterdir():
        if path.is_file() and path.stat().st_size < 4096 and not path.read_bytes().startswith((b"\x7fELF", b"!<arch>")):
            path.write_text(path.read_text().replace(place, f"{root}{place}"))


def _write_wrappers(folder: Path, root: Path) -> None:
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    for name in ("rustc", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-ar"):
        _script(folder / name, f"LD_LIBRARY_PATH={shlex.quote(libraries)} exec {shlex.quote(f'{root}/usr/bin/{name}')} \"$@\"")
    variable = TARGET.replace("-", "_")
    settings = {"RUSTC": "rustc", f"CARGO_TARGET_{variable.upper()}_LINKER": "aarch64-linux-gnu-gcc",
                f"CC_{variable}": "aarch64-linux-gnu-gcc", f"AR_{variable}": "aarch64-linux-gnu-ar"}
    exports = [f"export {name}={shlex.quote(str(folder / program))}" for name, program in settings.items()]
    _script(folder / "cargo-aarch64", "\n".join([*exports, 'exec cargo "$@"']))


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
