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

from crates import KEPT as KEPT_ENTRIES, Crates  # noqa: E402  pylint: disable=wrong-import-position,import-error

BUILT = {".fingerprint/serde-aa11/lib-serde": "how", ".fingerprint/host-bb22/lib-host": "how", "build/ring-sys-cc33/out/ring.a": "C",
         "deps/libserde-aa11.rlib": "code", "deps/serde-aa11.d": "files", "deps/libhost-bb22.rlib": "ours", "deps/folder-dd44": "a test of ours"}
KEPT = {".fingerprint/serde-aa11/lib-serde", "build/ring-sys-cc33/out/ring.a", "deps/libserde-aa11.rlib", "deps/serde-aa11.d"}
FOLDERS = {"debug": ["debug"], "release": ["release", "x86_64-unknown-linux-gnu/release"],
           "draft": ["lab-toolchain/draft", "lab-toolchain/aarch64-unknown-linux-gnu/draft"]}


@pytest.fixture(name="cache")
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from labkit import cache

    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def clone(cache: Path, name: str, key: str = "1", group: str = "debug") -> Crates:
    return Crates(cache.parent / name / "target", group, {"host"}, cache, key)


def build(crates: Crates, folders: list[str] = FOLDERS["debug"]) -> None:
    for folder in folders:
        for number, (name, text) in enumerate(BUILT.items()):
            file = crates.target / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            os.utime(file, ns=(0, 1_700_000_000_123_456_789 + number))


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("group", FOLDERS)
def test_a_fresh_clone_gets_the_crates_of_the_registry_alone(cache: Path, group: str) -> None:
    from labkit.cache import entry

    first, second = clone(cache, "first", group=group), clone(cache, "second", group=group)
    assert not first.take(entry)
    build(first, FOLDERS[group])
    first.keep(entry)
    assert second.take(entry)
    # cargo goes by the times of files.
    kept = {f"{folder}/{name}" for folder in FOLDERS[group] for name in KEPT}
    assert files(second.target) == {name: when for name, when in files(first.target).items() if name in kept}
    other = clone(cache, "third", "2", group)
    assert not other.take(entry) and not other.target.exists()
    # Whoever has built something goes on with it; what is of another group does not count.
    assert not clone(cache, "first", group=group).take(entry)
    build(clone(cache, "fourth"), [name for names in FOLDERS.values() for name in names if names != FOLDERS[group]])
    assert clone(cache, "fourth", group=group).take(entry)


def test_what_is_damaged_is_not_used_and_kept_once_more(cache: Path) -> None:
    from labkit.cache import entry

    first = clone(cache, "first")
    build(first)
    first.keep(entry)
    (cache / "crates-1-debug/debug/deps/libserde-aa11.rlib").write_text("cod")
    second = clone(cache, "second")
    assert not second.take(entry) and not files(second.target)
    build(second)
    second.keep(entry)
    assert clone(cache, "third").take(entry)


def test_a_few_are_kept(cache: Path) -> None:
    from labkit.cache import entry

    for number in range(KEPT_ENTRIES + 1):
        crates = clone(cache, f"clone {number}", str(number))
        build(crates)
        crates.keep(entry)
        os.utime(cache / f"crates-{number}-debug.manifest", (number, number))
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == [f"crates-{number}-debug" for number in range(1, KEPT_ENTRIES + 1)]
    assert [clone(cache, f"other {number}", str(number)).take(entry) for number in range(3)] == [False, True, True]
