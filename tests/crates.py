# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cargo has built of the registry's crates, kept in the lab's cache: a fresh clone begins with it, and builds only what is its own.

Invariant: whether something can be used, cargo itself decides, by all that it remembers of how it was built; what it does not know of is in the
name of the entry (the C compiler, variables). A clone gets a copy with the same times and shares no folder with another, so no run waits for one
or sees its sources. Nothing that belongs to a crate of the workspace is kept.
"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from jobs import ROOT

# What is built together: with which stage of the tests, and the folders of the target folder. A draft is of the lab's toolchain alone.
GROUPS = {
    "debug": (("cargo-test", "clippy"), ("debug",)),
    "release": (("collection",), ("release", "*-linux-*/release")),
    "draft": (("dist",), ("lab-toolchain/draft", "lab-toolchain/*-linux-*/draft")),
}
# Of each of these folders; the names of what is in the first two are `<package>-<hash>`, in the third `<anything>-<hash>.<kind>`.
UNITS = (".fingerprint", "build")
FILES = "deps"
KEPT = 2 * len(GROUPS)   # entries, of up to 600 MB


class Crates:
    """Those of one group."""

    def __init__(self, target: Path, group: str, own: set[str], cache: Path, key: str) -> None:
        self.target, self.own, self.cache, self.name = target, own, cache, f"crates-{key}-{group}"
        self.stages, self.folders = GROUPS[group]
        self.fresh = not self.built()

    @classmethod
    def here(cls, cache: Path) -> list[Crates]:
        said = json.loads(output("cargo", "metadata", "--no-deps", "--format-version", "1", "--quiet"))
        heard = sorted(f"{name}={value}" for name, value in os.environ.items()
                       if name.startswith(("CARGO_BUILD", "CARGO_ENCODED", "CARGO_PROFILE", "CC", "CFLAGS", "RUST", "TARGET_", "ZSTD_")))
        parts = [output("rustc", "-vV"), output("cc", "--version"), repr(heard), *((ROOT / name).read_text() for name in ("Cargo.toml", "Cargo.lock"))]
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        return [cls(Path(said["target_directory"]), group, {package["name"] for package in said["packages"]}, cache, key) for group in GROUPS]

    def built(self, below: Path | None = None) -> list[Path]:
        return [folder for pattern in self.folders for folder in (below or self.target).glob(pattern) if (folder / FILES).is_dir()]

    def take(self, entry) -> bool:
        """Into a clone that has built nothing yet. `entry(name, build)` is that of the lab's cache."""
        if not self.fresh or not (self.cache / f"{self.name}.manifest").exists():
            return False
        partial = self.target / f"{self.name}.partial-{os.getpid()}"
        try:
            shutil.copytree(entry(self.name, refuse), partial, symlinks=True)
            for folder in self.built(partial):
                place = self.target / folder.relative_to(partial)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(folder, place)
        except OSError:   # another run removes it, or the disk is full: then they are built
            return False
        finally:
            shutil.rmtree(partial, ignore_errors=True)   # what is left of it has a name that nobody looks for
        with suppress(OSError):   # of a cache that is mounted read-only
            os.utime(self.cache / f"{self.name}.manifest")
        return True

    def keep(self, entry) -> None:
        """After everything was built, from nothing: else there may be much that nobody asks for any more."""
        if self.fresh and self.built() and os.access(self.cache, os.W_OK) and not (self.cache / f"{self.name}.manifest").exists():
            entry(self.name, self.copy)
            self.remove_old()

    def copy(self, place: Path) -> None:
        for folder in self.built():
            self.copy_folder(folder, place / folder.relative_to(self.target))

    def copy_folder(self, folder: Path, place: Path) -> None:
        hashes = set()
        for kind in UNITS:
            for unit in (folder / kind).iterdir():
                package, _dash, mark = unit.name.rpartition("-")
                if package not in self.own:
                    hashes.add(mark)
                    shutil.copytree(unit, place / kind / unit.name, symlinks=True)
        (place / FILES).mkdir(parents=True)
        for file in (folder / FILES).iterdir():
            if file.stem.rpartition("-")[2] in hashes:
                shutil.copy2(file, place / FILES / file.name)

    def remove_old(self) -> None:
        """All but those that were last used. Without its manifest an entry does not count."""
        def used(manifest: Path) -> float:
            with suppress(OSError):
                return manifest.stat().st_mtime
            return 0.0

        for manifest in sorted(self.cache.glob("crates-*.manifest"), key=used)[:-KEPT]:
            manifest.unlink(missing_ok=True)
            manifest.with_suffix(".times").unlink(missing_ok=True)
            shutil.rmtree(manifest.with_suffix(""), ignore_errors=True)   # another run may remove it at the same time


def refuse(_place: Path) -> None:
    """What is damaged cannot be made here: it is left to the end of this run."""
    raise OSError("the crates that were kept are not whole")


def output(*argv: str) -> str:
    return subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
