#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands in namespaces of their own, so that tests side by side share nothing: `tests/sandbox.py COMMAND...` runs one.

Of its own are: processes (all of them end with the first), the network (loopback alone), `/run`, `/etc` (accounts are made there), and of
home, `/var/lib` and the folder for temporary files what this project puts there. All else is the machine's, and so is the clock.
"""
from __future__ import annotations

import fcntl
import json
import os
import pwd
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

# What this project's things are called in home and in /var/lib; and where Ansible keeps the sockets of its connections, by host and port.
OURS = ("reversible", ".reversible", ".ansible")
KINDS = ("--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "private")
GROUPS = ("docker", "incus", "systemd")   # systems of the lab that make control groups
LAB = Path(__file__).resolve().parent / "lab/lab"
KEEP_COMPILED = LAB.parent / "inside/keep_compiled.py"


class Sandbox:
    """One that stays while commands are given to it, one after the other; what the lab has started in it stays up between them."""

    def __init__(self) -> None:
        self.place = new_place()
        self.process = subprocess.Popen(enter(["--serve"], self.place), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)   # Ctrl-C is for whoever holds it

    def run(self, argv: list, env: dict[str, str], log: Path, timeout: float, evidence: Path | None = None) -> tuple[int | None, float]:
        """How the command ended and the processor time it took; no status when it did not end in time, and the sandbox with it.
        With `evidence`, the logs of the lab's systems are copied there when it fails."""
        order = {"argv": [str(word) for word in argv], "env": env, "log": str(log), "evidence": str(evidence or "")}
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], timeout)[0] and (line := self.process.stdout.readline()):
                return tuple(json.loads(line))
        except OSError:
            pass   # it was ended
        self.end()
        return None, 0.0

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """With all that runs in it."""
        self.process.kill()

    def close(self) -> list[str]:
        """Ends it, and all that runs in it. What stays of it is given back: it should be nothing."""
        if self.alive:
            self.run([LAB, "down"], {}, Path(os.devnull), 120)
        return end_of(self.process, self.place)


def end_of(process: subprocess.Popen, place: Path) -> list[str]:
    """Ends a sandbox with all that runs in it; what stays of it on the machine is given back."""
    first = [os.pidfd_open(pid) for pid in children(process.pid)]
    process.kill()
    process.wait()
    for handle in first:   # the kernel ends a first process after all others of its namespace
        select.select([handle], [], [], 60)
        os.close(handle)
    # From outside once more, for one that was ended in the middle: control groups are the machine's.
    lab = lab_of(place)
    subprocess.run([LAB, "down", *GROUPS], env={**os.environ, "REVERSIBLE_LAB": lab}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    # What cannot be removed is found, and named, right after.
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(lab, ignore_errors=True)
    names = [f"reversible-lab-{name}-{zlib.crc32(f'{lab}/{name}'.encode()):08x}" for name in GROUPS]
    left = [path for name in names for path in (*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}"))]
    return [str(path) for path in (*left, place) if path.exists()]


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):   # it has just ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def enter(words: list[str], place: Path) -> list[str]:
    """The command that goes on in a sandbox whose own files lie in `place`, a folder on a disk."""
    return ["unshare", *KINDS, "--", sys.executable, str(Path(__file__).resolve()), "--inside", str(place), *words]


def lab_of(place: Path) -> str:
    """Where the lab of a sandbox keeps its state. Names of control groups, which all of this machine share, are made of that path."""
    return f"/run/lab-{place.name}"


def new_place() -> Path:
    """A folder for one sandbox; its name is short, since paths of sockets begin with it."""
    return Path(tempfile.mkdtemp(prefix="rd-", dir="/var/tmp"))

# ---------------------------------------------------------------- inside


def furnish(place: Path) -> None:
    """Called in the new namespaces, before anything else."""
    # HOME may be somebody else's, as under sudo; the modules' cache goes by the database of users.
    homes = {Path.home().resolve(), Path(pwd.getpwuid(os.geteuid()).pw_dir).resolve()}
    own = {name: place / name for name in ("etc", "var-lib", "tmp", "cgroup", *(f"home-{number}" for number in range(len(homes))))}
    for name, folder in own.items():
        folder.mkdir(mode=0o700 if name.startswith("home") else 0o755)
    place.chmod(0o755)   # other users' temporary files are below it
    own["tmp"].chmod(0o1777)
    up_loopback()
    mount("--rbind", "/sys/fs/cgroup", own["cgroup"])
    mount("-t", "sysfs", "sysfs", "/sys")   # it shows the network of who mounts it
    mount("--rbind", own["cgroup"], "/sys/fs/cgroup")
    subprocess.run(["cp", "-a", "/etc/.", own["etc"]], check=True)
    # Debian's own Python begins with this file; ansible-core's modules run on it.
    for custom in own["etc"].glob("python3.*/sitecustomize.py"):
        if not custom.is_symlink():
            custom.write_text(f"{custom.read_text()}\n{KEEP_COMPILED.read_text()}")
    mount("--bind", own["etc"], "/etc")
    stand_in(Path("/var/lib"), own["var-lib"])
    for number, home in enumerate(sorted(homes)):
        stand_in(home, own[f"home-{number}"])
    mount("-t", "tmpfs", "-o", "mode=0755", "run", "/run")
    Path("/run/lock").mkdir(mode=0o1777)
    os.environ.update(TMPDIR=str(own["tmp"]), REVERSIBLE_LAB=lab_of(place), REVERSIBLE_SANDBOX="1")


def stand_in(folder: Path, ours: Path) -> None:
    """Another folder in its place, with all that it has but what is ours."""
    for entry in folder.iterdir():
        if entry.name.startswith(OURS):
            continue
        if entry.is_symlink():
            (ours / entry.name).symlink_to(os.readlink(entry))
        elif entry.is_dir():
            (ours / entry.name).mkdir()
            mount_unless_gone("--rbind", entry, ours / entry.name)
        elif entry.is_file():
            (ours / entry.name).touch()
            mount_unless_gone("--bind", entry, ours / entry.name)
    mount("--rbind", ours, folder)


def mount_unless_gone(how: str, entry: Path, place: Path) -> None:
    """Others make and remove temporary files meanwhile."""
    try:
        mount(how, entry, place)
    except subprocess.CalledProcessError:
        if os.path.lexists(entry):
            raise
        place.rmdir() if place.is_dir() else place.unlink()


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def up_loopback() -> None:
    """As `ip link set lo up`, which not every machine has."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))   # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


def serve() -> None:
    """Carry out each order that comes on stdin: one line of JSON, and one back."""
    for line in sys.stdin:
        order = json.loads(line)
        before = processor_time()
        with open(order["log"], "ab") as log:
            command = subprocess.Popen(order["argv"], env={**os.environ, **order["env"]}, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=subprocess.STDOUT)
        status = wait_as_first_process(command.pid)
        if status and order["evidence"]:
            keep_evidence(Path(order["evidence"]))
        for folder in Path(os.environ["TMPDIR"]).glob("pytest-of-*"):
            shutil.rmtree(folder, ignore_errors=True)   # else it goes with the sandbox
        print(json.dumps([status, processor_time() - before]), flush=True)


def wait_as_first_process(command: int) -> int:
    """Until the command ends; processes whose parent has ended are waited for as well, as any first process does."""
    while True:
        pid, status = os.wait()
        if pid == command:
            return os.waitstatus_to_exitcode(status) & 0xFF


def processor_time() -> float:
    """Of all that runs here or has run: a process that has ended is counted by the one that waited for it."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):   # it has just ended
            ticks += sum(map(int, path.read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def keep_evidence(folder: Path) -> None:
    """What the lab's systems wrote: it goes with the sandbox."""
    lab = Path(os.environ["REVERSIBLE_LAB"])
    for path in lab.rglob("*.log") if lab.exists() else ():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / str(path.relative_to(lab)).replace("/", "."))


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        furnish(Path(sys.argv[2]))
        signal.signal(signal.SIGINT, signal.SIG_IGN)   # a first process that ends takes all with it
        if sys.argv[3:] == ["--serve"]:
            serve()
            return 0
        command = subprocess.Popen(sys.argv[3:])   # kept: one that is forgotten waits for its process by itself
        return wait_as_first_process(command.pid)
    if len(sys.argv) < 2:
        sys.exit("usage: tests/sandbox.py COMMAND...")
    place = new_place()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(enter(sys.argv[1:], place))
    try:
        return process.wait()
    finally:
        end_of(process, place)


if __name__ == "__main__":
    sys.exit(main())
