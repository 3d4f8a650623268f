# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images without a registry, as `docker load` takes them: a static busybox, and PostgreSQL 15 on top of it, out of Debian's packages.

Made by hand and without the time of day, so that their ids and layers are the same wherever the packages are.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

from labkit import HERE, apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["an image of busybox-static", "an image of postgresql-15"]

BUSYBOX, POSTGRES = "reversible-lab/busybox:1", "reversible-lab/postgres:15"
DATA = "/var/lib/postgresql/data"
USER = 999
PROGRAMS = ("postgres", "initdb", "psql", "pg_dump", "pg_dumpall", "pg_restore", "pg_isready")
PATH = "/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def images() -> Path:
    """One archive with both; they share the layer of busybox."""
    def build(folder: Path) -> None:
        archive, everything = apt.Archive(apt.architecture(), "bookworm"), folder / "everything"
        for here in ("bin", "sbin", "lib", "lib64"):
            (everything / "usr" / here).mkdir(parents=True)
            (everything / here).symlink_to(f"usr/{here}")
        wanted = ["postgresql-15", "postgresql-client-15", "tzdata", "busybox-static"]
        archive.unpack(wanted + apt.libraries(archive.closure("postgresql-15")), everything)
        base, database = folder / "busybox", folder / "postgres"
        _busybox(everything, base)
        _postgres(everything, database)
        layers = [_layer(base), _layer(database)]
        with tarfile.open(folder / "images.tar", "w", format=tarfile.PAX_FORMAT) as out:
            manifest = [
                _image(out, BUSYBOX, layers[:1], {"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}),
                _image(out, POSTGRES, layers, {
                    "Entrypoint": ["/entrypoint"], "User": f"{USER}:{USER}", "Env": [f"PATH={PATH}", f"PGDATA={DATA}", "PGUSER=postgres"],
                    "ExposedPorts": {"5432/tcp": {}}, "Volumes": {DATA: {}}, "StopSignal": "SIGINT"})]
            for layer in layers:
                _add(out, f"{_sha(layer)}/layer.tar", layer)
            _add(out, "manifest.json", json.dumps(manifest).encode())
        for tree in (everything, base, database):
            shutil.rmtree(tree)
    return entry(f"docker-images-{apt.architecture()}", build) / "images.tar"


THINGS = {"docker-images": images}


def _busybox(everything: Path, tree: Path) -> None:
    for name in ("bin", "etc", "tmp", "root", "var/run", "proc", "sys", "dev"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    program = next(everything / place for place in ("usr/bin/busybox", "bin/busybox") if (everything / place).is_file())
    shutil.copy(program, tree / "bin/busybox")
    for applet in run([tree / "bin/busybox", "--list"]).stdout.split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\npostgres:x:{USER}:{USER}::/var/lib/postgresql:/bin/sh\n")
    (tree / "etc/group").write_text(f"root:x:0:\npostgres:x:{USER}:\n")


def _postgres(everything: Path, tree: Path) -> None:
    """The programs, what they load, and their shared files; no compiler of queries (its library is larger than all the rest)."""
    here = "usr/lib/postgresql/15"
    wanted = {f"{here}/bin/{name}" for name in PROGRAMS}
    wanted |= {f"{here}/lib/{path.name}" for path in (everything / here / "lib").glob("*.so") if not path.name.startswith("llvmjit")}
    for program in sorted(wanted):
        if program.startswith(f"{here}/bin/"):
            wanted |= apt.libraries_of(everything, program)
    apt.pick(everything, wanted, tree)
    for name in ("usr/share/postgresql", "usr/share/zoneinfo"):
        shutil.copytree(everything / name, tree / name, symlinks=True)
    for name in ("lib", "lib64"):   # the loader is called by these names
        if (tree / "usr" / name).is_dir():
            (tree / name).symlink_to(f"usr/{name}")
    for name, mode in ((DATA, 0o700), ("/var/run/postgresql", 0o2775)):
        (tree / name[1:]).mkdir(parents=True)
        os.chown(tree / name[1:], USER, USER)
        (tree / name[1:]).chmod(mode)
    shutil.copy(HERE / "inside/postgres_entrypoint.sh", tree / "entrypoint")
    (tree / "entrypoint").chmod(0o755)


def _layer(tree: Path) -> bytes:
    """The tar of a folder, always in the same order and of the same time."""
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uname, member.gname = 0, "", ""
        return member
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for path in sorted(tree.rglob("*")):
            out.add(path, str(path.relative_to(tree)), recursive=False, filter=plain)
    return buffer.getvalue()


def _image(out: tarfile.TarFile, name: str, layers: list[bytes], config: dict) -> dict:
    arch = {"amd64": "amd64", "arm64": "arm64"}.get(apt.architecture(), apt.architecture())
    text = json.dumps({
        "architecture": arch, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha(layer)}" for layer in layers]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "the lab"} for _ in layers]}).encode()
    _add(out, f"{_sha(text)}.json", text)
    return {"Config": f"{_sha(text)}.json", "RepoTags": [name], "Layers": [f"{_sha(layer)}/layer.tar" for layer in layers]}


def _add(out: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    out.addfile(member, io.BytesIO(content))


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
