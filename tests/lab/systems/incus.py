# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""incus: a real incusd on a machine of its own, with a bridge that has DHCP and DNS, a pool, and a small image.

Its root, its mounts, its processes, its network and its control group are namespaces of one first process: an Incus of the host is never
seen, and with that process all is gone. The client runs on the host, and is led in by an environment.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import zlib
from contextlib import suppress
from pathlib import Path

from labkit import HERE, Fail, Skip, daemon, run
from things.incus import IMAGE, image, machine

HELP = "incusd with a bridge (DHCP, DNS), a pool of the kind dir, an image of busybox; its network is its own"
PACKAGES: list[str] = []
CACHES: list[str] = []   # see things/incus.py

BRIDGE, ADDRESS = "incusbr0", "10.206.7.1/24"
PRESEED = f"""\
config: {{}}
storage_pools:
  - {{name: default, driver: dir}}
networks:
  - {{name: {BRIDGE}, type: bridge, config: {{ipv4.address: {ADDRESS}, ipv4.nat: "false", ipv6.address: none, dns.mode: managed}}}}
profiles:
  - name: default
    devices:
      root: {{type: disk, path: /, pool: default}}
      eth0: {{type: nic, name: eth0, network: {BRIDGE}}}
"""


def prepare() -> None:
    """Nothing of the host: the programs come from the cache."""
    machine()
    image()


def up(folder: Path) -> str:
    if status(folder)[0] == "up":
        return (folder / "offer.json").read_text()
    down(folder)
    kinds = ["--mount", "--uts", "--ipc", "--net", "--pid"]
    refused = run(["unshare", *kinds, "--cgroup", "--fork", "--kill-child", "true"], ok=tuple(range(256)))
    if refused.returncode != 0:
        raise Skip(f"no namespaces can be made here: {refused.stderr.strip()}")
    tree, files = machine(), image()
    folder.mkdir(mode=0o700)
    for name in ("root", "cgroup", "bin", "config"):
        (folder / name).mkdir()
    daemon.start(folder, "incus", ["unshare", *kinds, "--fork", "--kill-child", "--", "sh", HERE / "inside/own_cgroup.sh", "start", folder,
                                   tree, _name(folder), HERE / "inside/incus_init.sh"])
    _client(folder, tree)
    try:
        daemon.wait_for(lambda: _first(folder) > 0 and _answers(folder), "incus", folder, "incus", 60)
    except Fail as fail:
        skipped = re.search(r"(?m)^SKIP: (.*)", (folder / "incus.log").read_text(errors="replace"))
        raise (Skip(skipped[1]) if skipped else fail) from fail
    _ask(folder, "admin", "init", "--preseed", given=PRESEED)
    _ask(folder, "image", "import", files / "metadata.tar", files / "rootfs.tar", "--alias", IMAGE)
    (folder / "offer.json").write_text(json.dumps(_offer(folder), indent=2) + "\n")
    return (folder / "offer.json").read_text()


def down(folder: Path) -> None:
    daemon.stop(folder, "incus", signal.SIGKILL)
    if (folder / "cgroup").exists():
        run(["unshare", "--mount", "--", "sh", HERE / "inside/own_cgroup.sh", "tidy", folder, _name(folder)])
    if folder.exists():
        shutil.rmtree(folder)


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "offer.json").exists():
        return "down", ""
    try:
        said = json.loads(_ask(folder, "query", "/1.0"))
        instances = json.loads(_ask(folder, "query", "/1.0/instances?recursion=1&all-projects=true"))
    except (Fail, ValueError) as error:
        return "broken", str(error)
    running = sum(instance["status"] == "Running" for instance in instances)
    return "up", f"Incus {said['environment']['server_version']}, {len(instances)} instances, {running} running, bridge {ADDRESS}"


def _first(folder: Path) -> int:
    """The first process of its machine, once it has become its init; or 0."""
    parent = daemon.running(folder, "incus")
    for pid in daemon.children({parent}) - {parent} if parent else ():
        with suppress(OSError):   # it may just have ended
            inside = re.search(r"(?m)^NSpid:\s.*\s1$", Path(f"/proc/{pid}/status").read_text())
            if inside and b"incus_run" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def _client(folder: Path, tree: Path) -> None:
    """The client of the same release, with its own loader and libraries: it sees the host's files, to push and to pull them."""
    loader = next(path for pattern in ("lib64/ld-*.so.*", "lib/ld-*.so.*", "lib/*/ld-*.so.*") for path in sorted(tree.glob(pattern)))
    libraries = ":".join(str(path) for path in sorted((tree / "usr/lib").glob("*-linux-gnu*")))
    program = folder / "bin/incus"
    program.write_text(f'#!/bin/sh\nexec {loader} --library-path {libraries} {tree}/usr/bin/incus "$@"\n')
    program.chmod(0o755)


def _answers(folder: Path) -> bool:
    try:
        _ask(folder, "query", "/1.0")
    except Fail:
        return False
    return True


def _offer(folder: Path) -> dict:
    first = _first(folder)
    return {
        "first": first, "root": f"/proc/{first}/root", "image": IMAGE, "bridge": BRIDGE, "address": ADDRESS.partition("/")[0],
        "enter": ["nsenter", "--net", "--target", str(first), "--"], "path": str(folder / "bin"), "environment": _environment(folder),
        "control": f"/proc/{first}/root/run/incus-lab",
    }


def _environment(folder: Path) -> dict[str, str]:
    return {"INCUS_SOCKET": f"/proc/{_first(folder)}/root/var/lib/incus/unix.socket", "INCUS_CONF": str(folder / "config"),
            "PATH": f"{folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def _ask(folder: Path, *words: str | Path, given: str = "") -> str:
    command = [folder / "bin/incus", *words]
    if not given:
        return run(command, env={**os.environ, **_environment(folder)}, timeout=120).stdout
    (folder / "given").write_text(given)
    with open(folder / "given", encoding="utf-8") as file:
        return run(command, env={**os.environ, **_environment(folder)}, timeout=120, stdin=file).stdout


def _name(folder: Path) -> str:
    """Of its control group, which the host sees: another lab's has another."""
    return f"reversible-lab-incus-{zlib.crc32(str(folder).encode()):08x}"
