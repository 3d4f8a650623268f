# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that the tests start, built by cargo from this checkout: once for the same sources and the same compiler, whatever the checkout.

They are built in a target folder of their own, since whoever builds the modules holds the lock of the other for minutes.
"""
from __future__ import annotations

import hashlib
import os
import re
import shutil
from functools import cache
from pathlib import Path

from labkit import CACHE, HERE, Fail, apt, run
from labkit.cache import entry, remove

PACKAGES: list[str] = []
CACHES = ["programs of the tests, built by cargo"]
ROOT = HERE.parent.parent
SETTINGS = ("Cargo.toml", "Cargo.lock", ".cargo/config.toml")
# Variables that change what cargo builds, by how their names begin.
HEARD = ("CARGO_BUILD_", "CARGO_ENCODED_", "CARGO_PROFILE_", "CARGO_TARGET_", "CC", "CFLAGS", "RUSTC", "RUSTFLAGS")
KEPT = 8   # of each program, those that were used last: for more branches than anyone works on side by side


@cache
def web() -> Path:
    return _built("web", "tests/fakes/web", "web")


@cache
def fake_pve() -> Path:
    return _built("pve", "tests/fakes/pve", "fake-pve")


THINGS = {"web": web, "fake-pve": fake_pve}


def _built(package: str, crate: str, name: str) -> Path:
    sources = _sources(ROOT / crate)

    def build(folder: Path) -> None:
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute() / "programs"
        run(["cargo", "build", "--locked", "--release", "--quiet", "--package", package, "--target-dir", target], cwd=ROOT)
        listed = (target / f"release/{name}.d").read_text().partition(": ")[2].replace("\\ ", "\0").split()
        known = {str(path) for path in sources}
        foreign = [path for path in (word.replace("\0", " ") for word in listed) if path.startswith(f"{ROOT}/") and path not in known]
        if foreign:
            raise Fail(f"{name} is also made of {', '.join(foreign)}, which its name in the cache says nothing of")
        shutil.copy(target / "release" / name, folder)

    start = f"program-{name}-"
    folder = entry(f"{start}{_content(sources)}-{apt.codename()}-{apt.architecture()}", build)
    _remove_old(start, folder)
    return folder / name


def _sources(crate: Path) -> list[Path]:
    """Every file of the crate and of those of the workspace that it depends on, but their tests of whole programs; and the settings."""
    libraries = dict(re.findall(r'(?m)^(\w+) = \{ path = "([^"]+)"', (ROOT / "Cargo.toml").read_text()))
    folders = [crate]
    for folder in folders:
        names = re.findall(r"(?m)^(\w+)(?:\.workspace)? =", (folder / "Cargo.toml").read_text())
        folders += [ROOT / libraries[name] for name in names if name in libraries and ROOT / libraries[name] not in folders]
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "tests"}
    return sorted(files | {ROOT / name for name in SETTINGS})


def _content(sources: list[Path]) -> str:
    digest = hashlib.sha256(run(["rustc", "-vV"], cwd=ROOT).stdout.encode())
    for variable in sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(HEARD) and name != "CARGO_TARGET_DIR"):
        digest.update(f"{variable}\n".encode())
    for path in sources:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def _remove_old(start: str, used: Path) -> None:
    """A cache that is mounted read-only stays as it is."""
    if not os.access(CACHE, os.W_OK):
        return
    os.utime(used.with_name(f"{used.name}.manifest"))
    manifests = sorted(CACHE.glob(f"{start}*.manifest"), key=lambda path: path.stat().st_mtime, reverse=True)
    for manifest in manifests[KEPT:]:
        folder = manifest.with_suffix("")
        manifest.unlink(missing_ok=True)   # first: without it the entry does not count
        remove(folder)
        folder.with_name(f"{folder.name}.times").unlink(missing_ok=True)
