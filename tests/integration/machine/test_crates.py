# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cargo has built of the registry's crates goes from one clone to the next by the lab's cache, and nothing of the workspace with it."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from crates import Crates  # noqa: E402  pylint: disable=wrong-import-position,import-error

BUILT = {".fingerprint/serde-aa11/lib-serde": "how", ".fingerprint/host-bb22/lib-host": "how", "build/ring-sys-cc33/out/ring.a": "C",
         "deps/libserde-aa11.rlib": "code", "deps/serde-aa11.d": "files", "deps/libhost-bb22.rlib": "ours", "deps/folder-dd44": "a test of ours"}
KEPT = {".fingerprint/serde-aa11/lib-serde", "build/ring-sys-cc33/out/ring.a", "deps/libserde-aa11.rlib", "deps/serde-aa11.d"}


@pytest.fixture(name="cache")
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from labkit import cache

    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def clone(cache: Path, name: str, settings: str = "crates-1") -> Crates:
    return Crates(cache.parent / name / "target/debug", {"host"}, cache, settings)


def build(crates: Crates) -> None:
    for number, (name, text) in enumerate(BUILT.items()):
        (crates.debug / name).parent.mkdir(parents=True, exist_ok=True)
        (crates.debug / name).write_text(text)
        os.utime(crates.debug / name, ns=(0, 1_700_000_000_123_456_789 + number))


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_clone_gets_the_crates_of_the_registry_alone(cache: Path) -> None:
    from labkit.cache import entry

    first, second = clone(cache, "first"), clone(cache, "second")
    assert not first.take(entry)
    build(first)
    first.keep(entry)
    assert second.take(entry)
    # cargo goes by the times of files.
    assert files(second.debug) == {name: when for name, when in files(first.debug).items() if name in KEPT}
    other = clone(cache, "third", "crates-2")
    assert not other.take(entry) and not other.debug.exists()
    # Whoever has built something goes on with it.
    assert not clone(cache, "first").take(entry)


def test_what_is_damaged_is_not_used_and_kept_once_more(cache: Path) -> None:
    from labkit.cache import entry

    first = clone(cache, "first")
    build(first)
    first.keep(entry)
    (cache / "crates-1/deps/libserde-aa11.rlib").write_text("cod")
    second = clone(cache, "second")
    assert not second.take(entry) and not second.debug.parent.exists()
    build(second)
    second.keep(entry)
    assert clone(cache, "third").take(entry)


def test_two_are_kept(cache: Path) -> None:
    from labkit.cache import entry

    for number in range(3):
        crates = clone(cache, f"clone {number}", f"crates-{number}")
        build(crates)
        crates.keep(entry)
        os.utime(cache / f"crates-{number}.manifest", (number, number))
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == ["crates-1", "crates-2"]
    assert [clone(cache, f"other {number}", f"crates-{number}").take(entry) for number in range(3)] == [False, True, True]
