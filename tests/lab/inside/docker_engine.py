# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first process of the lab's Docker, in a network namespace of its own: starts the engine, and is the parent of all that lose theirs.

So every container stays in its family and no zombie stays in the machine's. SIGUSR1 stops the engine as its service would, SIGUSR2 starts
it again; a killed engine stays dead until then. Arguments: where the engine's pid goes, then its command.
"""
from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER, SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 36, 0x8913, 0x8914, 1


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        name, flags = struct.unpack("16sh", fcntl.ioctl(line, SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))
        fcntl.ioctl(line, SIOCSIFFLAGS, struct.pack("16sh", name, flags | IFF_UP))


def start(pidfile: Path, command: list[str]) -> int:
    for stale in (pidfile, Path(command[command.index("--exec-root") + 1]) / "containerd/containerd.pid"):
        stale.unlink(missing_ok=True)   # of a killed engine: its number may be another's by now
    child = subprocess.Popen(command, start_new_session=True)
    pidfile.with_suffix(".partial").write_text(f"{child.pid}\n")
    pidfile.with_suffix(".partial").rename(pidfile)
    return child.pid


def main() -> None:
    pidfile, command = Path(sys.argv[1]), sys.argv[2:]
    awaited = {signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become the parent of orphans")
    loopback_up()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)   # for the engine, which inherits the mask
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    engine = start(pidfile, command)
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while True:
        got = signal.sigwait(awaited)
        if got == signal.SIGUSR1 and engine:
            os.kill(engine, signal.SIGTERM)
        elif got == signal.SIGUSR2 and not engine:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
            engine = start(pidfile, command)
            signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        while True:
            try:
                ended, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not ended:
                break
            if ended == engine:
                engine = 0
                pidfile.unlink(missing_ok=True)


main()
