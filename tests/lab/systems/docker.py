# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker: a real engine with Compose in a network namespace of its own, images made without a registry, and a registry on its loopback.

Own socket, data, pid files and control group: an engine of the machine is not touched. Mounts are the host's, below the engine's data.
"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

from labkit import HERE, Fail, daemon, run
from things.docker import SUITES, engine, registry
from things.docker_images import BUSYBOX, POSTGRES, images

# With the second store, an image's ID is the digest of its manifest instead of its configuration's.
STORE = "28-containerd"
HELP = f"[{'|'.join([*SUITES, STORE])}] dockerd with Compose, images of busybox and PostgreSQL, a registry"
OPTIONS = (*SUITES, STORE)
PACKAGES: list[str] = []
CACHES: list[str] = []   # see things/docker.py, things/docker_images.py

REGISTRY = "127.0.0.1:5000"   # in the engine's own network
SHIM_SOCKETS = Path("/run/containerd/s")   # fixed in containerd


def prepare() -> None:
    """Nothing of the host: the programs come from the cache. The engine of each version is a thing."""
    images()
    registry()


def up(folder: Path, version: str = "20.10") -> str:
    programs = engine(version.removesuffix("-containerd"))
    if status(folder)[0] == "up" and _offer(folder)["version"] == version:
        return _text(folder)
    down(folder)
    folder.mkdir(mode=0o700)
    data = _data(folder)
    data.mkdir(parents=True, mode=0o711)
    (folder / "config/cli-plugins").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "config/cli-plugins/docker-compose").symlink_to(programs / "cli-plugins/docker-compose")
    (folder / "bin/docker").symlink_to(programs / "bin/docker")   # only this: what is tested sees no more of the engine's programs
    (folder / "standalone").mkdir()
    (folder / "standalone/docker-compose").symlink_to(programs / "cli-plugins/docker-compose")
    (folder / "sbin").mkdir()
    for name, program in (("iptables", "xtables-nft-multi"), ("ip6tables", "xtables-nft-multi"), ("runc", "runc")):
        (folder / "sbin" / name).symlink_to(programs / "bin" / program)
    # Nothing leads out of its network, and a published port has docker-proxy: rules of its own would do nothing, and it calls iptables for each.
    settings = {"iptables": False, **({"features": {"containerd-snapshotter": True}} if version == STORE else {})}
    (folder / "daemon.json").write_text(json.dumps(settings))
    _start(folder, programs)
    offer = {
        "version": version, "socket": str(folder / "docker.sock"), "docker_config": str(folder / "config"), "path": str(folder / "bin"),
        "standalone": str(folder / "standalone/docker-compose"), "data_root": str(data / "data"), "registry": REGISTRY,
        "images": {"busybox": BUSYBOX, "postgres": POSTGRES},
        "pid": daemon.running(folder, "docker"), "engine_pidfile": str(folder / "engine"),
        "enter": ["nsenter", "--net", "--target", str(daemon.running(folder, "docker")), "--"],
        "environment": {"DOCKER_HOST": f"unix://{folder}/docker.sock", "DOCKER_CONFIG": str(folder / "config"), "DOCKER_BUILDKIT": "0",
                        "PATH": f"{folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    }
    (folder / "offer.json").write_text(json.dumps(offer, indent=2) + "\n")
    daemon.wait_for(lambda: status(folder)[0] == "up", "docker", folder, "docker", 60)
    _ask(folder, "load", "--quiet", "--input", images())
    return _text(folder)


def down(folder: Path) -> None:
    _end_all(folder)
    data = _data(folder)
    for root in (data, folder):
        _unmount(root)
    for path in Path("/sys/fs/cgroup").glob(f"*/{_name(folder)}"):
        _remove_group(path)
    _remove_group(Path("/sys/fs/cgroup") / _name(folder))
    for container in (data / "data/containers").glob("*"):   # as containerd names them
        asked = f"{folder}/exec/containerd/containerd.sock/moby/{container.name}"
        (SHIM_SOCKETS / hashlib.sha256(asked.encode()).hexdigest()).unlink(missing_ok=True)
    for root in (data, folder):
        if root.exists():
            shutil.rmtree(root)
    with suppress(OSError):   # another lab's engine may have its own beside
        data.parent.rmdir()


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "offer.json").exists():
        return "down", ""
    if not daemon.running(folder, "docker") or not daemon.running(folder, "registry"):
        return "broken", f"the engine's parent or the registry has ended, see {folder}/docker.log and registry.log"
    try:
        said = json.loads(_ask(folder, "version", "--format", "json" if _offer(folder)["version"][:2] == "28" else "{{json .}}"))
        compose = _ask(folder, "compose", "version", "--short").strip()
        running = len(_ask(folder, "ps", "--quiet").split())
        run([*_offer(folder)["enter"], sys.executable, "-c", f"import urllib.request as u; u.urlopen('http://{REGISTRY}/v2/', timeout=5)"])
    except (Fail, ValueError) as error:
        return "broken", str(error)
    return "up", f"engine {said['Server']['Version']}, Compose {compose}, {running} running, registry {REGISTRY} in its network"


def _start(folder: Path, programs: Path) -> None:
    """The engine below a parent that takes in orphans, and the registry beside it in the same network."""
    environment = [f"PATH={folder}/sbin:{programs}/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"LD_LIBRARY_PATH={programs}/lib",
                   f"XTABLES_LIBDIR={programs}/xtables"]
    dockerd = [programs / "bin/dockerd", "--host", f"unix://{folder}/docker.sock", "--group", "root", "--data-root", _data(folder) / "data",
               "--exec-root", folder / "exec", "--pidfile", folder / "dockerd.pid", "--config-file", folder / "daemon.json",
               "--cgroup-parent", f"/{_name(folder)}", "--shutdown-timeout", "5"]
    daemon.start(folder, "docker", ["unshare", "--net", "--", "env", *environment, sys.executable, HERE / "inside/docker_engine.py",
                                    folder / "engine", *dockerd])
    parent = daemon.running(folder, "docker")
    daemon.wait_for((folder / "engine").exists, "docker", folder, "docker")
    store = _data(folder) / "registry"
    (folder / "registry.yml").write_text(f"version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '{REGISTRY}'}}\n"
                                         f"storage: {{filesystem: {{rootdirectory: {store}}}, delete: {{enabled: true}}}}\n")
    daemon.start(folder, "registry", ["nsenter", "--net", "--target", parent, "--", registry(), "serve", folder / "registry.yml"])


def _end_all(folder: Path) -> None:
    """The engine first, so that nothing is started again; then shims and containers, whose parent takes them in; the parent last."""
    daemon.stop(folder, "registry")
    parent = daemon.running(folder, "docker")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        family = (daemon.children({parent}) - {parent} if parent else set()) | _strays(folder)
        first = {pid for pid in family if _command(pid) in ("dockerd", "containerd")}
        if not family:
            break
        daemon.end(first or family, signal.SIGKILL)
    daemon.stop(folder, "docker", signal.SIGKILL)


def _strays(folder: Path) -> set[int]:
    """What a lost parent left behind: processes in our control group, and those that were told of our folder by its programs' options."""
    found, group = set(), f"/{_name(folder)}/"
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = str(folder / "exec").encode() in (path / "cmdline").read_bytes() or str(folder / "docker.sock").encode() in (
                path / "cmdline").read_bytes()
            ours = told and os.readlink(path / "exe").rpartition("/")[2] in ("dockerd", "containerd", "containerd-shim-runc-v2")
            if (ours or group in (path / "cgroup").read_text()) and daemon.start_time(int(path.name)):
                found.add(int(path.name))
    return found


def _command(pid: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").rpartition("/")[2]
    return ""


def _unmount(root: Path) -> None:
    """What is mounted below a folder, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    for place in sorted((place for place in places if place.startswith(f"{root}/")), reverse=True):
        run(["umount", "--lazy", place])


def _remove_group(path: Path) -> None:
    for inner in path.glob("*/"):
        _remove_group(inner)
    with suppress(FileNotFoundError):
        path.rmdir()


def _name(folder: Path) -> str:
    """Of the control group and of the data, which the host sees: another lab's engine has another."""
    return f"reversible-lab-docker-{zlib.crc32(str(folder).encode()):08x}"


def _data(folder: Path) -> Path:
    """Images and volumes are large: not in /run, which is memory on many machines."""
    return Path("/var/lib/reversible-lab") / _name(folder)


def _ask(folder: Path, *words: str | Path) -> str:
    return run([folder / "bin/docker", *words], env={**os.environ, **_offer(folder)["environment"]}, timeout=120).stdout


def _offer(folder: Path) -> dict:
    return json.loads((folder / "offer.json").read_text())


def _text(folder: Path) -> str:
    return (folder / "offer.json").read_text()
