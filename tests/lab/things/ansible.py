# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments: each supported ansible-core with a Python that it wants, the linters, pytest, Molecule."""
from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from labkit import CACHE, HERE, Fail, Skip, apt, run, say
from labkit.cache import entry
from things import python

SYSTEM = Path("/usr/bin")
PACKAGES: list[str] = []   # python3-venv, where the Python that is chosen is Debian's own and lacks it
CACHES = ["virtual environments by pip"]

# The Pythons that each ansible-core runs its controller on; the first that is found is taken, Debian's before all others: as they are built,
# they need two thirds of the time of one that was made by hand.
PYTHONS = {
    "2.16": ("3.11", "3.12", "3.10"),
    "2.17": ("3.11", "3.12", "3.10"),
    "2.18": ("3.11", "3.12", "3.13"),
    "2.19": ("3.11", "3.12", "3.13"),
    "2.20": ("3.12", "3.13", "3.14"),
    "2.21": ("3.13", "3.12", "3.14"),
    "2.22": ("3.13", "3.12", "3.14"),
}
# What is not released yet.
CANDIDATES = {"2.22": "rc1"}
# The tools whose versions pins.txt says, by the environment that they stand in. What a Hub checks an archive with brings the ansible-lint that it runs.
PINS = HERE / "pins.txt"
ENVIRONMENTS = {
    "linters": ("ansible-lint", "antsibull-changelog", "antsibull-docs", "galaxy-importer", "pytest", "reuse", "yamllint"),
    "molecule": ("molecule",),
    "pytest": ("pytest",),
}
# The get-pip that ansible-test of 2.16 and 2.17, of 2.18 and 2.19, of 2.20 to 2.22 looks for.
GET_PIP = ("23_1_2", "24_2", "25_2")
ANY = ("3.13", "3.12", "3.14", "3.11", "3.10")


def ansible(release: str) -> Path:
    return _venv(f"ansible-{release}", PYTHONS[release], [f"ansible-core~={release}.0{CANDIDATES.get(release, '')}"], "ansible-playbook")


def pins() -> dict[str, str]:
    """The version of each tool, by its name."""
    return dict(re.findall(r"(?m)^([a-z-]+)==(\S+)$", PINS.read_text()))


def linters() -> Path:
    return _pinned("linters", ANY, ["ansible-core"], "ansible-lint")


def pytest() -> Path:
    return _pinned("pytest", ANY, ["ansible-core", "pyyaml"], "pytest")


def molecule() -> Path:
    """With the oldest ansible-core that a Python here runs: a scenario is long, and the newest needs half as much time again."""
    for release, pythons in PYTHONS.items():
        with suppress(Skip):
            _find(pythons)
            return _pinned("molecule", pythons, [f"ansible-core=={release}.*"], "molecule")
    raise Skip("no Python on this machine runs an ansible-core")


def ansible_test_home() -> Path:
    """A HOME for ansible-test: it finds its get-pip in the cache there instead of downloading it."""
    def build(folder: Path) -> None:
        cache = folder / ".ansible/test/cache"
        cache.mkdir(parents=True)
        for release in GET_PIP:
            (cache / f"get_pip_{release}.py").write_text(
                "# stands in for the download of get-pip: the pip that comes with Python\n"
                "import ensurepip\nensurepip.bootstrap(default_pip=True)\n")
    return entry("ansible-test-home", build)


THINGS = {
    **{f"ansible-{release}": partial(ansible, release) for release in PYTHONS},
    "ansible-test-pip": ansible_test_home,
    "linters": linters,
    "molecule": molecule,
    "pytest": pytest,
}


def _pinned(environment: str, pythons: tuple[str, ...], packages: list[str], proof: str) -> Path:
    """Other versions are another entry."""
    known = pins()
    wanted = [f"{name}=={known[name]}" for name in ENVIRONMENTS[environment]] + packages
    return _venv(f"{environment}-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]}", pythons, wanted, proof)


def _venv(name: str, pythons: tuple[str, ...], packages: list[str], proof: str) -> Path:
    version, program = _find(pythons)
    label = f"unpacked-py{version}" if program.is_relative_to(CACHE) else f"py{version}"

    def build(folder: Path) -> None:
        if not _has_venv(program):
            apt.install(f"python{version}-venv")
        say(f"{name}: Python {version} at {program}, pip installs {' '.join(packages)}")
        run([program, "-m", "venv", folder])
        run([folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages], timeout=1200)
        # Molecule asks for ansible's programs by their names.
        run([folder / "bin" / proof, "--version"], timeout=120, env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})
    return entry(f"{name}-{label}", build)


def _find(versions: tuple[str, ...]) -> tuple[str, Path]:
    for version, path in _candidates(versions):
        if os.access(path, os.X_OK) and _answers(path, version):
            return version, path
    raise Skip(f"none of the Pythons that this needs is on this machine: {', '.join(sorted(versions))}")


def _candidates(versions: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    yield from ((version, SYSTEM / f"python{version}") for version in versions)
    if python.VERSION in versions:
        with suppress(Skip):
            yield python.VERSION, python.python()
    for version in versions:
        folders = ["/usr/local/bin", *os.environ.get("PATH", "").split(":")]
        yield from ((version, Path(folder) / f"python{version}") for folder in folders if folder)
        yield from ((version, path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python3"), reverse=True))
        yield from ((version, path) for place in ("/opt", "/usr/local") for path in sorted(Path(place).glob(f"*/bin/python{version}")))


def _answers(path: Path, version: str) -> bool:
    """Does it run, is it that version (a pyenv shim may not be), and can it make a venv or be given what it lacks?"""
    try:
        says = run([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], timeout=30).stdout.strip()
    except Fail:
        return False
    return says == version and (_has_venv(path) or path.parent == SYSTEM)


def _has_venv(path: Path) -> bool:
    return run([path, "-c", "import ensurepip, venv"], ok=(0, 1)).returncode == 0
