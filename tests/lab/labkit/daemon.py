# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that the lab starts and ends. A pid counts only together with the start time of its process."""
from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable

from . import Fail, Skip

# Below those that the kernel takes for outgoing connections, so that what stops and starts again finds its port free.
PORTS = range(20000, 32000)
NEXT_PORT = Path("/run/reversible-next-port")   # for all who share this network, whatever the folder of their lab


def start(folder: Path, name: str, argv: list, stdin: int = subprocess.DEVNULL) -> subprocess.Popen:
    """Start in the background: output to <name>.log, identity to <name>.pid."""
    with open(folder / f"{name}.log", "ab") as log:
        child = subprocess.Popen([str(word) for word in argv], stdin=stdin, stdout=log, stderr=log, start_new_session=True, cwd="/")
    (folder / f"{name}.pid").write_text(f"{child.pid} {start_time(child.pid)}\n")
    return child


def start_in_user_namespace(folder: Path, name: str, argv: list) -> None:
    """Start as root of a user namespace of its own, in which the host's users are themselves."""
    waiting = ["unshare", "--user", "--", "sh", "-c", 'read -r mapped && exec "$@"', "sh", *argv]
    child = start(folder, name, waiting, stdin=subprocess.PIPE)
    own, new = os.readlink("/proc/self/ns/user"), f"/proc/{child.pid}/ns/user"
    if not _until(lambda: os.readlink(new) != own, 5):
        raise Skip("this kernel lets no user namespace be made")
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{child.pid}/{kind}").write_text("0 0 65536\n")
    assert child.stdin
    child.stdin.write(b"mapped\n")
    child.stdin.close()


def running(folder: Path, name: str) -> int:
    """The pid of what was started under that name, or 0."""
    try:
        pid, started = (folder / f"{name}.pid").read_text().split()
    except (FileNotFoundError, ValueError):
        return 0
    return int(pid) if start_time(int(pid)) == started else 0


def stop(folder: Path, name: str, how: int = signal.SIGTERM) -> None:
    pid = running(folder, name)
    if pid:
        end({pid}, how)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def end(pids: set[int], how: int = signal.SIGTERM, patience: float = 5) -> None:
    """End these processes, at last by SIGKILL. Descriptors make sure that a number used again is not hit."""
    handles = {}
    for pid in pids:
        started = start_time(pid)
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        handles[handle] = started == start_time(pid)

    def left() -> list[int]:
        ended = select.select(handles, [], [], 0)[0]   # a descriptor becomes readable when its process has ended
        return [handle for handle, same in handles.items() if same and handle not in ended]

    for sig in (how, signal.SIGKILL):
        for handle in left():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, sig)
        if _until(lambda: not left(), patience):
            break
    for handle in handles:
        os.close(handle)


def start_time(pid: int) -> str:
    """In clock ticks since boot, as the kernel says; empty for no such process and for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def wait_for(ready: Callable[[], bool], what: str, folder: Path, name: str, seconds: float = 20) -> None:
    """Wait until `ready`; if it never is, or the program ends before, fail with the end of its log."""
    if not _until(lambda: ready() or not running(folder, name), seconds) or not running(folder, name):
        log = (folder / f"{name}.log").read_text(errors="replace").strip()[-1500:]
        raise Fail(f"{what}: not ready within {seconds:g} s; the log of {name} ends with:\n{log}")


def free_port() -> int:
    """A port that nobody listens at, and that no other caller on this machine, or in this sandbox, is given for the next thousands of calls."""
    with open(NEXT_PORT, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        first = int(file.read() or PORTS.start) - PORTS.start
        for port in (PORTS[(first + further) % len(PORTS)] for further in range(len(PORTS))):
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("", port))
                file.truncate(0)
                file.write(f"{port + 1}\n")
                return port
    raise Fail(f"all ports from {PORTS.start} to {PORTS.stop - 1} are taken")


def children(pids: set[int]) -> set[int]:
    """These processes and all that descend from them."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = set(pids)
    while True:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        if not more:
            return family
        family |= more


def holders(port: int, program: str) -> set[int]:
    """Processes of a program (a word of its path) on the server's side of a loopback port: what a killed server left behind."""
    here = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == here and row[9] != "0"}
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        with suppress(OSError):
            if os.readlink(link) in sockets and program in os.readlink(link.parents[1] / "exe"):
                found.add(int(link.parts[2]))
    return found


def _until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
