# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's ZFS machine for tests: commands and module runs in it over one ssh connection, and a fresh pool for each test.

    with machine.pool() as pool:
        data = pool.make("data")
        result = machine.module({"datasets": [data], "deploy_id": FIRST, **pool.options})

A pool is of a sparse file in the machine's memory; whatever a test leaves mounted, held or running in it goes with it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shlex
import subprocess
import typing as t
from pathlib import Path

from harness import BIN, staged, system

HOST = "zfs_root"
TOOLS = "/run/zfs-tests"  # in the machine: binaries, and the stand-ins of Watched
ANSWER = 180.0  # seconds that one command may take; the machine is emulated, and others use the processors
NUMBERS = itertools.count(1)

# Stands before zfs and zpool on the PATH: writes down each call, and at the wanted one ends the module by SIGKILL, before it is made or
# just after, or fails, or hangs. What only reads is written down as well, but is no such moment.
WATCH = """\
#!/bin/sh
name=${0##*/}
case $name,$1 in
    zfs,list|zfs,get|zfs,holds|zfs,diff|zfs,version|zpool,list|zpool,get|zpool,status|zpool,sync) kind=read ;;
    *) kind=change; case " $* " in *" -n"*) kind=read ;; esac ;;
esac
echo "$kind $name $*" >> @HERE@/calls
if [ $kind = change ] && [ -s @HERE@/kill ]; then
    read -r when count < @HERE@/kill
    count=$((count - 1))
    echo "$when $count" > @HERE@/kill
    if [ $count -eq 0 ]; then
        case $when in
            fail) echo "cannot $1: injected" >&2; exit 1 ;;
            hang) while [ -e @HERE@/hang ]; do sleep 0.2; done; exec @REAL@/$name "$@" ;;
            after) @REAL@/$name "$@" >/dev/null 2>&1 ;;
        esac
        kill -9 $PPID
        exit 99
    fi
fi
exec @REAL@/$name "$@"
"""


@dataclasses.dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Machine:
    """The machine. Its commands are argument lists; `sh` takes a script."""

    def __init__(self, hosts: dict[str, dict[str, t.Any]]) -> None:
        self.hosts, self.known = hosts, hosts[HOST]
        self.ssh = [
            "ssh",
            *shlex.split(self.known["ansible_ssh_common_args"]),
            "-o",
            "ControlMaster=auto",
            "-o",
            "ControlPersist=60",
            "-o",
            "BatchMode=yes",
            "-i",
            self.known["ansible_ssh_private_key_file"],
            "-p",
            str(self.known["ansible_port"]),
            f"{self.known['ansible_user']}@{self.known['ansible_host']}",
        ]
        self._sent: set[str] = set()

    def ask(self, *argv: str, given: bytes = b"", seconds: float = ANSWER) -> Said:
        done = subprocess.run(
            [*self.ssh, shlex.join(argv)], input=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=seconds
        )
        assert done.returncode != 255, f"no connection to the ZFS machine: {done.stderr.decode(errors='replace')}"
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))

    def run(self, *argv: str, given: bytes = b"") -> list[str]:
        """What a command that must succeed prints, by lines."""
        said = self.ask(*argv, given=given)
        assert said.code == 0, f"{shlex.join(argv)}: exit {said.code}: {said.err}{said.out}"
        return said.lines

    def sh(self, script: str) -> list[str]:
        return self.run("sh", "-euc", script)

    @staticmethod
    def until(condition: str) -> str:
        """Lines of a script that wait for that command to succeed, and fail if it never does."""
        return f"n=0; until {condition}; do n=$((n+1)); [ $n -lt 1000 ]; sleep 0.1; done"

    def start(self, *argv: str) -> int:
        """Leave a program running there; its pid. It ends with the test that calls `end`, or with its pool."""
        [pid] = self.sh(f"setsid {shlex.join(argv)} </dev/null >/dev/null 2>&1 & echo $!")
        return int(pid)

    def end(self, *pids: int) -> None:
        for pid in pids:
            self.sh(
                f"kill -9 {pid} 2>/dev/null || true; n=0; while [ -e /proc/{pid} ] && [ $n -lt 100 ]; do sleep 0.05; n=$((n+1)); done"
            )  # it may have ended by itself

    def send(self, local: Path, name: str) -> str:
        """A program of this machine, in there; sent once for each content."""
        content = local.read_bytes()
        place = f"{TOOLS}/{name}-{hashlib.sha256(content).hexdigest()[:12]}"
        if place not in self._sent:
            if self.ask("test", "-x", place).code != 0:
                self.run(
                    "sh", "-euc", f"mkdir -p {TOOLS}; cat > {place}.part; chmod 0755 {place}.part; mv {place}.part {place}", given=content
                )
            self._sent.add(place)
        return place

    def command(
        self,
        options: dict[str, t.Any],
        *,
        module: str = "zfs_pre_deploy",
        check: bool = False,
        diff: bool = False,
        watch: "Watched | None" = None,
    ) -> tuple[list[str], bytes]:
        """How the module is run there, and what it is given."""
        binary = self.send(staged() / BIN / "zfs_pre_deploy_x86_64", "zfs_pre_deploy")
        wanted = {"_ansible_module_name": module, "_ansible_check_mode": check, "_ansible_diff": diff, **options}
        argv = [binary, "-"] if watch is None else ["env", f"PATH={watch.folder}:/usr/sbin:/usr/bin:/sbin:/bin", binary, "-"]
        return argv, json.dumps(wanted).encode()

    def module(self, options: dict[str, t.Any], **how: t.Any) -> dict[str, t.Any]:
        """Run the module there; its result, failed or not."""
        argv, given = self.command(options, **how)
        said = self.ask(*argv, given=given)
        assert said.out, f"no answer, exit {said.code}: {said.err}"
        result = json.loads(said.out)
        assert said.code == (1 if result.get("failed") else 0), (said.code, result)
        return result

    def good(self, options: dict[str, t.Any], **how: t.Any) -> dict[str, t.Any]:
        result = self.module(options, **how)
        assert not result.get("failed"), json.dumps(result, indent=1)
        return result

    def info(self, **options: t.Any) -> dict[str, t.Any]:
        return self.good(options, module="zfs_pre_deploy_info")

    @contextlib.contextmanager
    def pool(self, size: str = "512M", **properties: str) -> t.Iterator["Pool"]:
        """A new pool."""
        pool = Pool(self, f"t{next(NUMBERS)}x{hashlib.sha256(str(id(properties)).encode()).hexdigest()[:4]}")
        pool.create(size, properties)
        try:
            yield pool
        finally:
            pool.destroy()

    @contextlib.contextmanager
    def watched(self) -> t.Iterator["Watched"]:
        watched = Watched(self, f"{TOOLS}/watch-{next(NUMBERS)}")
        try:
            yield watched
        finally:
            self.run("rm", "-rf", watched.folder)


class Pool:
    """A pool, and short names for what tests do with it."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine, self.name, self.file = machine, name, f"/mnt/{name}.img"
        self.state_dir = f"/var/lib/reversible/{name}"
        self.options: dict[str, t.Any] = {"state_dir": self.state_dir}

    def create(self, size: str, properties: dict[str, str]) -> None:
        words = [word for key, value in properties.items() for word in ("-O", f"{key}={value}")]
        self.machine.sh(f"truncate -s {size} {self.file}; {shlex.join(['zpool', 'create', '-f', *words, self.name, self.file])}")

    def destroy(self) -> None:
        # Whoever still works in it: by what keeps it mounted or open, never by name.
        self.machine.sh(f"""
            for try in 1 2 3 4 5; do
                zpool list -H -o name {self.name} >/dev/null 2>&1 || break
                zpool destroy -f {self.name} 2>/dev/null && break
                for pid in $(ls /proc | grep '^[0-9]'); do
                    [ $pid -gt 2 ] && grep -qs ' - zfs {self.name}[/ ]' /proc/$pid/mountinfo || continue
                    used="$(readlink /proc/$pid/cwd; readlink /proc/$pid/fd/* 2>/dev/null)" || true  # it may have ended
                    case $used in */{self.name}*) kill -9 $pid ;; esac
                done
                sleep 0.3
            done
            zpool list -H -o name {self.name} >/dev/null 2>&1 && {{ zpool status {self.name}; exit 1; }}
            rm -rf {self.file} {self.state_dir}* /{self.name}
        """)

    def at(self, name: str) -> str:
        return f"{self.name}/{name}"

    def make(self, *names: str, **properties: str) -> str:
        """New datasets; the full name of the first."""
        words = [word for key, value in properties.items() for word in ("-o", f"{key}={value}")]
        self.machine.sh("\n".join(shlex.join(["zfs", "create", "-p", *words, self.at(name)]) for name in names))
        return self.at(names[0])

    def wait_for_device(self, name: str) -> str:
        """A line of a script: the link to a volume's device is there a moment after the volume."""
        return self.machine.until(f"[ -e /dev/zvol/{self.at(name)} ]")

    def write(self, name: str, text: str, file: str = "file") -> None:
        self.machine.run("sh", "-euc", f"cat > /{self.at(name)}/{file}; sync /{self.at(name)}/{file}", given=text.encode())

    def read(self, name: str, file: str = "file") -> str:
        return "\n".join(self.machine.run("cat", f"/{self.at(name)}/{file}"))

    def all(self, kinds: str = "filesystem,volume,snapshot,bookmark") -> list[str]:
        """Names of what is in the pool, without the pool's own."""
        return [
            line.partition("/")[2]
            for line in self.machine.run("zfs", "list", "-H", "-o", "name", "-t", kinds, "-r", self.name)
            if "/" in line
        ]

    def get(self, name: str, *properties: str) -> list[str]:
        return self.machine.run("zfs", "get", "-Hp", "-o", "value", ",".join(properties), self.at(name))

    def fingerprint(self) -> list[str]:
        """All that identifies what is in it, and where it is mounted: the same before and after what changes nothing."""
        return self.machine.sh(f"""
            zfs list -Hp -t all -o name,guid,origin,userrefs,mountpoint,canmount,mounted -r {self.name}
            zfs get -Hp -s local,received -o name,property,value all -r {self.name} | grep -v ':time\\|keystatus' || true  # none may be set
            find /var/lib/reversible 2>/dev/null | grep {self.name} || true  # a refusal makes no folder
        """)


class Watched:
    """zfs and zpool that write down how they are called, and can end their caller, fail or hang."""

    def __init__(self, machine: Machine, folder: str) -> None:
        self.machine, self.folder = machine, folder
        text = WATCH.replace("@HERE@", folder).replace("@REAL@", "/usr/sbin")
        machine.run(
            "sh",
            "-euc",
            f"mkdir -p {folder}; cat > {folder}/zfs; cp {folder}/zfs {folder}/zpool; chmod 0755 {folder}/*; : > {folder}/calls",
            given=text.encode(),
        )

    def strike(self, count: int, when: str = "after") -> None:
        """At the `count`th changing call of the next run: SIGKILL `before` or `after` it, `fail`, or `hang` until `peace`."""
        self.machine.sh(f"echo '{when} {count}' > {self.folder}/kill; : > {self.folder}/hang; : > {self.folder}/calls")

    def peace(self) -> None:
        self.machine.sh(f": > {self.folder}/kill; rm -f {self.folder}/hang; : > {self.folder}/calls")

    def calls(self, kind: str = "") -> list[str]:
        """The calls, as they would be typed; only those that change something or that read."""
        lines = self.machine.run("cat", f"{self.folder}/calls")
        return [line.partition(" ")[2] for line in lines if line.startswith(kind)]


# An hour forward and back, every few seconds, as on a machine whose clock is corrected: set going once.
STEPS = "[ -e /run/steps ] || { touch /run/steps; setsid sh -c 'while sleep 3; do for by in +3600 -3600; do date -s @$(($(date +%s) $by)); sleep 3; done; done' \
    </dev/null >/dev/null 2>&1 & }"


def machine() -> Machine:
    there = Machine(system("zfs"))
    if os.environ.get("REVERSIBLE_CLOCK") == "steps":   # see tests/stress.py
        there.sh(STEPS)
    return there
