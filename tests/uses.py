# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each file of tests uses, and so which tests a change touches: for `make test-changed`.

A run looks at which files of its collection were read (each worker has a copy of its own, whose times of access are set back before each
file of tests), which of the tests' own modules were imported, and what was asked of the lab. `tests/run.py --record` writes it to uses.json.
A use is a path in the repository (a file of tests, a role, a plugin, a binary's crate), or `lab up ...`, `lab get ...`.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from jobs import ROOT

MAP = ROOT / "tests/uses.json"
COLLECTION = "ansible_collections/reversible/deploy"
CRATES = ("modules/", "tests/fakes/")
ALL_MODULES = "modules/reversible_deploy/"   # the program that they are shipped as
# What a program of the tests is built from.
BUILT_FROM = {"lab get web": "tests/fakes/web", "lab get fake-pve": "tests/fakes/pve"}
# What tests read where it lies in the repository, by how its path begins: a run does not see that.
MACHINE = "tests/integration/machine/test_"
READ = {
    "collection/docs/": (f"{MACHINE}docs.py", f"{MACHINE}examples.py"),
    "collection/docs/workflows": (f"{MACHINE}workflows.py", f"{MACHINE}typed_inputs.py"),
    ".forgejo/": (f"{MACHINE}workflows.py",),
}


class Copy:
    """A worker's copy of a staged collection, which says afterwards what of it was read."""

    def __init__(self, staged: Path, place: Path) -> None:
        self.path = place / staged.name.replace(" ", "-")
        shutil.copytree(staged, self.path, symlinks=True)
        self.files = [path for path in (self.path / COLLECTION).rglob("*") if path.is_file() and not path.is_symlink()]

    def begin(self) -> None:
        for path in self.files:
            os.utime(path, ns=(0, path.stat().st_mtime_ns))

    def used(self) -> set[str]:
        names = {name for path in self.files if path.stat().st_atime_ns and (name := source(str(path.relative_to(self.path / COLLECTION))))}
        # All modules are one program: those count whose tasks were run.
        tasks = {name.rpartition("/")[2].removesuffix(".py").removesuffix("_info") for name in names if name.startswith("collection/plugins/action/")}
        return names | {crate for task in tasks for folder in CRATES if (ROOT / (crate := f"{folder}{task}")).is_dir()}


def source(path: str) -> str:
    """Where in the repository a file of a collection comes from, as coarse as a change is looked at; nothing for what each run reads."""
    if path.startswith("plugins/plugin_utils/bin/"):
        return ""
    if role := re.match(r"roles/\w+", path):
        return role[0]
    if path.startswith("playbooks/"):
        return "playbooks"
    return f"collection/{path}" if path.startswith("plugins/") else ""


def told(file: Path) -> set[str]:
    """What the tests themselves said that they used (see conftest.py)."""
    names = set(file.read_text().splitlines()) if file.exists() else set()
    return names | {BUILT_FROM[name] for name in names & set(BUILT_FROM)}


def known() -> dict[str, set[str]]:
    return {name: set(uses) for name, uses in json.loads(MAP.read_text()).items()} if MAP.exists() else {}


def write(uses: dict[str, set[str]]) -> None:
    MAP.write_text(json.dumps({name: sorted(uses[name]) for name in sorted(uses)}, indent=1) + "\n")


def lacking(uses: dict[str, set[str]]) -> list[str]:
    """What was used and does not stand in the map."""
    there = known()
    return [f"{name}: {', '.join(sorted(used - there.get(name, set())))}" for name, used in sorted(uses.items()) if used - there.get(name, set())]


def changed_files() -> tuple[str, list[str]]:
    """What differs from the main branch, committed or not; and which commit that is."""
    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        return done.stdout.splitlines() if done.returncode == 0 else []

    base = next((found[0] for name in ("origin/main", "main") if (found := git("merge-base", "HEAD", name))), "HEAD")
    return base, sorted({*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")})


def workspace() -> dict[str, set[str]]:
    """Its crates, and what each depends on."""
    said = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1", "--offline"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {package["name"]: {one["name"] for one in package["dependencies"]} for package in json.loads(said.stdout)["packages"]}


def crates(names: set[str]) -> set[str]:
    """These crates and those of the workspace that are built with them."""
    depends = workspace()
    found = set(names)
    while more := {name for name, others in depends.items() if others & found} - found:
        found |= more
    return found


def touched(files: list[str]) -> tuple[set[str], set[str], list[str]]:
    """The uses that these changes touch, the crates whose own tests they touch, and the files that may touch anything."""
    uses: set[str] = set()
    packages: set[str] = set()
    anything: list[str] = []
    for file in files:
        readers = {test for start, tests in READ.items() if file.startswith(start) for test in tests}
        readers |= {f"{MACHINE}docs.py"} if file.endswith("README.md") else set()
        uses |= readers
        if file.startswith(ALL_MODULES):
            anything.append(file)
        elif crate := re.match(r"(?:modules|tests/fakes)/(\w+)/", file):
            packages.add(crate[1])
        elif role := re.match(r"roles/\w+", file):
            uses.add(role[0])
        elif file.startswith("playbooks/"):
            uses.add("playbooks")
        elif file.startswith(("tests/integration/", "tests/faults/", "tests/support/", "collection/plugins/", "tests/fakes/registry/")):
            uses.add(file)
        elif system := re.fullmatch(r"tests/lab/systems/(\w+)\.py", file):
            uses.add(f"lab up {system[1].replace('_', '-')}")
        elif file.startswith(("tests/demo", "tests/bench", "collection/changelogs/", "collection/CHANGELOG")) or file.endswith((".md", ".png")):
            uses.add(file)
        elif not readers:
            anything.append(file)
    built = crates(packages) if packages else set()
    uses |= {f"modules/{name}" for name in built} | {f"tests/fakes/{name}" for name in built}
    return uses, packages, anything
