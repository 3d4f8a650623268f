# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages, in two ways: installed on the host (said first, starting no service), or only unpacked.

Unpacking goes through an apt configuration of our own: own lists, an empty dpkg status, any suite or architecture. The
host's apt sources and dpkg are never changed; from them comes the mirror to ask.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from . import CACHE, Fail, Skip, must_be_root, run, say
from .cache import lock

LISTS_LAST = 3600   # seconds
LOCK_WAIT = "DPkg::Lock::Timeout=900"
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_MARK = "# made by the reversible.deploy lab for one apt run; safe to delete"
DEBIAN_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"

# ---------------------------------------------------------------- installed on the host


def missing(packages: list[str]) -> list[str]:
    if not packages:
        return []
    asked = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages], ok=(0, 1)).stdout
    installed = {line.split()[0] for line in asked.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in installed]


def install(*packages: str) -> None:
    """Install what is missing. Nothing is started by it, now or (units of ours disabled) at the next boot."""
    wanted = missing(list(packages))
    if not wanted:
        return
    must_be_root(f"install {' '.join(wanted)}")
    say(f"apt installs {' '.join(wanted)}")
    units_before = _units()
    with lock(CACHE / "apt-install.lock", "apt"), _no_service_starts():
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "-o", LOCK_WAIT, "install", "-y", "--no-install-recommends", *wanted]
        if run(command, ok=tuple(range(256)), env=env).returncode != 0:
            run(["apt-get", "-o", LOCK_WAIT, "update"], env=env)   # the lists may be absent or old
            run(command, env=env)
    for unit in _units() - units_before:
        run(["systemctl", "disable", unit], ok=(0, 1))


def _units() -> set[str]:
    """Units that systemd would start at boot; none where systemd is not the init."""
    if not Path("/run/systemd/system").is_dir():
        return set()
    listed = run(["systemctl", "list-unit-files", "--state=enabled", "--no-legend", "--plain"], ok=(0, 1)).stdout
    return {line.split()[0] for line in listed.splitlines() if line}


@contextmanager
def _no_service_starts():
    """A policy-rc.d that forbids starts, only for the duration, unless the host already has one that does."""
    ours = not POLICY.exists() or POLICY_MARK in POLICY.read_text(errors="replace")   # a killed run may have left ours
    if ours:
        POLICY.write_text(f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n")
        POLICY.chmod(0o755)
    elif run([POLICY, "any", "start"], ok=tuple(range(256))).returncode != 101:
        raise Fail(f"{POLICY} would let packages start their services: make it exit 101 while the lab installs")
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()

# ---------------------------------------------------------------- where the host gets its packages


class Source(NamedTuple):
    uri: str
    suites: list[str]
    components: list[str]
    keys: str


def os_release() -> dict[str, str]:
    text = Path("/etc/os-release").read_text()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in text.splitlines())}


def codename() -> str:
    return os_release().get("VERSION_CODENAME", "")


def architecture() -> str:
    return run(["dpkg", "--print-architecture"]).stdout.strip()


def host_sources() -> list[Source]:
    found: list[Source] = []
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            found += _deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            found += _one_line(path.read_text())
    return found


def _deb822(text: str) -> list[Source]:
    found = []
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {key.lower(): value.strip() for key, value in re.findall(r"(?m)^([\w-]+):(.*(?:\n[ \t].*)*)", stanza)}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        keys = fields.get("signed-by", "")
        if "\n" in keys:
            keys = ""   # a whole key in the file: what apt trusts by itself must do
        found += [Source(uri, fields["suites"].split(), fields.get("components", "").split(), keys) for uri in fields["uris"].split()]
    return found


def _one_line(text: str) -> list[Source]:
    found = []
    for options, rest in re.findall(r"(?m)^deb\s+(?:\[([^\]]*)\]\s+)?(.+)$", text):
        uri, suite, *components = rest.split("#")[0].split()
        keys = re.search(r"signed-by=(\S+)", options)
        found.append(Source(uri, [suite], components, keys.group(1) if keys else ""))
    return found


def _lines_for(suite: str, arch: str, more: str = "") -> list[str]:
    """apt source lines for a suite: the host's own with its updates and security, or another suite of the same mirror."""
    host, lines = codename(), set()
    for source in host_sources():
        if suite == host:
            suites = {suite, f"{suite}-updates", f"{suite}-security"}.intersection(source.suites)
            keys = source.keys
        else:
            suites = {suite} if host in source.suites else set()
            keys = DEBIAN_KEYS
        options = f"arch={arch}" + (f" signed-by={keys}" if keys else "")
        components = " ".join(["main", *(["universe"] if "universe" in source.components else []), *([more] if more else [])])
        lines |= {f"deb [{options}] {source.uri} {name} {components}" for name in suites if not source.uri.startswith("cdrom:")}
    if not lines:
        raise Skip(f"the apt sources of this machine name no mirror for {suite}")
    return sorted(lines)

# ---------------------------------------------------------------- only unpacked


class Archive:
    """Packages of one suite and architecture, to be unpacked and never installed; `more` is a component beside main."""

    def __init__(self, arch: str, suite: str = "", more: str = ""):
        self.arch, self.suite, self.more = arch, suite or codename(), more
        self.folder = CACHE / "apt" / "-".join([self.suite, arch, *([more] if more else [])])
        self.config = self.folder / "apt.conf"
        self._ready = False

    def closure(self, *packages: str) -> list[str]:
        """All packages that installing these on an empty machine would take, as name=version."""
        simulated = self._apt("-s", "-y", "--no-install-recommends", "install", *packages)
        return [f"{name}={version}" for name, version in re.findall(r"(?m)^Inst (\S+) \((\S+)", simulated)]

    def versions(self, package: str) -> list[str]:
        return re.findall(r"\|\s+(\S+)\s+\|", self._apt("madison", package, program="apt-cache"))

    def unpack(self, packages: list[str], into: Path) -> None:
        """Download (apt checks the archive's signature and each hash) and unpack."""
        say(f"downloads {len(packages)} packages of {self.suite} {self.arch}, to unpack and not install")
        debs = into.with_name(f"{into.name}.debs")
        debs.mkdir(parents=True)
        self._apt("download", *packages, cwd=debs)
        for deb in sorted(debs.iterdir()):
            _unpack(deb, into)
            deb.unlink()
        debs.rmdir()

    def source(self, package: str, into: Path) -> list[Path]:
        """The files of a source package, newest in the archive, downloaded and checked by apt like any other."""
        say(f"downloads the source of {package} of {self.suite}")
        into.mkdir(parents=True)
        lines = [line.replace("deb [", "deb-src [", 1) for line in _lines_for(self.suite, self.arch, self.more)]
        sources, lists = into / "sources.list", into / "lists"
        (lists / "partial").mkdir(parents=True)
        sources.write_text("\n".join(lines) + "\n")
        own = ["-o", f"Dir::Etc::sourcelist={sources}", "-o", f"Dir::State::lists={lists}"]
        self._apt(*own, "update")
        self._apt(*own, "source", "--download-only", "--only-source", package, cwd=into)
        shutil.rmtree(lists)
        return sorted(path for path in into.iterdir() if path != sources)

    def _apt(self, *words: str, program: str = "apt-get", **kwargs) -> str:
        if not self._ready:
            with lock(self.folder.with_suffix(".lock"), f"apt lists of {self.suite} {self.arch}"):
                self._configure()
                self._update()
            self._ready = True
        return run([program, "-c", self.config, *words], **kwargs).stdout

    def _update(self) -> None:
        """The lists, unless somebody has just fetched them from the same places."""
        updated, sources = self.folder / "updated", (self.folder / "sources.list").read_text()
        if updated.exists() and updated.read_text() == sources and time.time() - updated.stat().st_mtime < LISTS_LAST:
            return
        update = run(["apt-get", "-c", self.config, "-o", LOCK_WAIT, "update"], ok=tuple(range(256)))
        if update.returncode != 0:
            raise Skip(f"no package lists of {self.suite} {self.arch}:\n{update.stderr.strip()[-800:]}")
        _put(updated, sources)

    def _configure(self) -> None:
        for part in ("state/lists/partial", "cache/archives/partial", "parts"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        _put(self.folder / "sources.list", "\n".join(_lines_for(self.suite, self.arch, self.more)) + "\n")
        # The host's apt.conf.d still applies (proxies, certificates); its hooks and extra indexes do not. No cache of the
        # lists is kept: who reads it while somebody else updates them finds no package.
        _put(self.config, f"""\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear APT::Architectures;
APT::Architecture "{self.arch}";
APT::Architectures {{ "{self.arch}"; }};
APT::Sandbox::User "root";
Dir::State "{self.folder}/state";
Dir::State::status "{self.folder}/status";
Dir::Cache "{self.folder}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{self.folder}/sources.list";
Dir::Etc::sourceparts "{self.folder}/parts";
Dir::Etc::preferences "{self.folder}/none";
Dir::Etc::preferencesparts "{self.folder}/parts";
""")


def _put(path: Path, text: str) -> None:
    """Whole or not at all: another lab command's apt may read it now, and would take the host's settings where ours are missing."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def libraries(packages: list[str]) -> list[str]:
    """Of a closure, the shared libraries only."""
    return [package for package in packages if re.match(r"lib(?!.*-perl(=|$))|zlib1g", package)]


def merge(tree: Path) -> None:
    """Prepare an empty tree to be unpacked into as Debian lies on a disk: /bin and its like lead into /usr."""
    for here in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / here).mkdir(parents=True, exist_ok=True)
        (tree / here).symlink_to(f"usr/{here}")


def libraries_of(tree: Path, program: str, emulator: Path | None = None) -> set[str]:
    """The libraries of a program in a merged tree, and the loader, as that loader itself says: paths below usr."""
    loader = next(path for pattern in ("lib64/ld-*.so.*", "lib/ld-*.so.*", "lib/*/ld-*.so.*") for path in sorted(tree.glob(pattern)))
    inside = f"/{loader.relative_to(tree)}"
    command = [inside, "--list", f"/{program}"]
    if emulator:
        shutil.copy(emulator, tree / "emulator")
        command.insert(0, "/emulator")
    listed = run(["chroot", tree, *command]).stdout
    return {"usr" + word.removeprefix("/usr") for word in [*listed.split(), inside] if word.startswith("/")}


def pick(tree: Path, paths: Iterable[str], into: Path) -> None:
    """Copy files of an unpacked tree. Links are followed as if it were the root: the loader's leads to an absolute place, where the host has
    its own, of another C library."""
    for path in sorted(paths):
        found = tree / path
        while found.is_symlink():
            to = Path(os.readlink(found))
            found = tree / to.relative_to("/") if to.is_absolute() else found.parent / to
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, into / path)


def _unpack(deb: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    # --keep-directory-symlink: the tree may have bin -> usr/bin while the package still says ./bin/
    run(["tar", "-x", "--keep-directory-symlink", "-C", into], stdin=tar.stdout)
    if tar.wait() != 0:
        raise Fail(f"{deb.name}: cannot be unpacked")
