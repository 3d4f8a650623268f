#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command in namespaces of its own, so that tests side by side share nothing: `tests/sandbox.py COMMAND...`

Of its own are: processes (all of them end with the first), the network (loopback alone), `/run`, `/etc` (accounts are made there), and of
home, `/var/lib` and the folder for temporary files what this project puts there. All else is the machine's, and the clock with it.
"""
from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

# What this project's things are called in home and in /var/lib; and where Ansible keeps the sockets of its connections, by host and port.
OURS = ("reversible", ".reversible", ".ansible")
KINDS = ("--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "private")


def enter(argv: list[str], place: Path) -> list[str]:
    """The command that runs `argv` in a sandbox whose own files lie in `place`, a folder on a disk."""
    return ["unshare", *KINDS, "--", sys.executable, str(Path(__file__).resolve()), "--inside", str(place), "--", *argv]


def lab_of(place: Path) -> str:
    """Where the lab of a sandbox keeps its state. Names of control groups, which all of this machine share, are made of that path."""
    return f"/run/lab-{place.name}"


def furnish(place: Path) -> None:
    """Called in the new namespaces, before anything else."""
    home = Path.home()
    own = {name: place / name for name in ("etc", "home", "var-lib", "tmp", "cgroup")}
    for folder in own.values():
        folder.mkdir(mode=0o755)
    own["tmp"].chmod(0o1777)
    own["home"].chmod(0o700)
    up_loopback()
    mount("--rbind", "/sys/fs/cgroup", own["cgroup"])
    mount("-t", "sysfs", "sysfs", "/sys")   # it shows the network of who mounts it
    mount("--rbind", own["cgroup"], "/sys/fs/cgroup")
    subprocess.run(["cp", "-a", "/etc/.", own["etc"]], check=True)
    mount("--bind", own["etc"], "/etc")
    stand_in(Path("/var/lib"), own["var-lib"])
    stand_in(home, own["home"])
    mount("-t", "tmpfs", "-o", "mode=0755", "run", "/run")
    for name in ("lock", "user"):
        Path("/run", name).mkdir(mode=0o1777 if name == "lock" else 0o755)
    os.environ.update(TMPDIR=str(own["tmp"]), REVERSIBLE_LAB=lab_of(place), REVERSIBLE_SANDBOX="1")


def wait_as_first_process(command: int) -> int:
    """Until the command ends; processes whose parent has ended are waited for as well, as any first process does."""
    while True:
        pid, status = os.wait()
        if pid == command:
            return os.waitstatus_to_exitcode(status) & 0xFF


def stand_in(folder: Path, ours: Path) -> None:
    """Another folder in its place, with all that it has but what is ours."""
    for entry in folder.iterdir():
        if entry.name.startswith(OURS):
            continue
        if entry.is_symlink():
            (ours / entry.name).symlink_to(os.readlink(entry))
        elif entry.is_dir():
            (ours / entry.name).mkdir()
            mount("--rbind", entry, ours / entry.name)
        elif entry.is_file():
            (ours / entry.name).touch()
            mount("--bind", entry, ours / entry.name)
    mount("--rbind", ours, folder)


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def up_loopback() -> None:
    """As `ip link set lo up`, which not every machine has."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))   # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


def new_place() -> Path:
    """A folder for one sandbox; its name is short, since paths of sockets begin with it."""
    return Path(tempfile.mkdtemp(prefix="rd-", dir="/var/tmp"))


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        furnish(Path(sys.argv[2]))
        signal.signal(signal.SIGINT, signal.SIG_IGN)   # a first process that ends takes all with it
        return wait_as_first_process(subprocess.Popen(sys.argv[4:]).pid)
    if len(sys.argv) < 2:
        sys.exit("usage: tests/sandbox.py COMMAND...")
    place = new_place()
    try:
        return subprocess.run(enter(sys.argv[1:], place), check=False).returncode
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
