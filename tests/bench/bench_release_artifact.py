#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to fetch, check and unpack a release, beside what people do without this module, all in the same run.

    release_artifact            the module alone: fetched, hashed, unpacked, synced, renamed
    curl | zstd -d | tar -x     nothing hashed and nothing synced; and the same with a sync of the filesystem behind it
    get_url + unarchive         Ansible's own two modules, on this machine, with the checksum, and a sync; against the module by Ansible

The archive is made of this machine's own programs and libraries. The registry is a process of its own, on loopback. The order turns from
round to round; the first round only warms up. Each rests on a tmpfs, where only the work counts, and on this machine's disk.
On the disk nothing is removed before the end: ext4 makes new files slowly where many were just deleted (it passes over their inodes for
minutes), and most of what is measured would be that. It takes up to 10 GiB there for a while.
The goals (exit status 1 where one is missed): at least as fast as the pipeline (on a tmpfs as it is, on the disk with its sync, since the
module's release is on the disk when it returns), and twice as fast as get_url + unarchive, on both. Where others keep the machine busy, the
time of the processors is judged in place of the clock's.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/fakes/registry")]

from harness import BIN, CORES, LOCAL, Ansible, staged  # noqa: E402  pylint: disable=wrong-import-position

SHA, TOKEN = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a", "t0ken"
OURS, PIPE, SYNCED = "release_artifact", "curl | zstd -d | tar -x", "the same, synced"
OURS_BY_ANSIBLE, BUILTIN = "release_artifact by Ansible", "get_url + unarchive, synced"
NOISE = 1.05  # Two medians of a busy machine are not closer than this.


def make_archive(path: Path, size: int, level: str) -> None:
    """Programs, libraries and text, up to so many bytes."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        tree, total = Path(name), 0
        for top in ("/usr/lib/python3", "/usr/share/perl", "/usr/lib", "/usr/bin", "/usr/share"):
            for folder, _, files in os.walk(top):
                for file in sorted(files):
                    source = Path(folder, file)
                    if total < size and source.is_file() and not source.is_symlink() and source.stat().st_size < 64 << 20:
                        target = tree / source.relative_to("/")
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(source, target)
                        total += source.stat().st_size
        count = sum(len(files) for _, _, files in os.walk(tree))
        subprocess.run(["tar", f"--use-compress-program=zstd -q -T0 {level}", "-cf", path, "-C", tree, "."], check=True)
    print(f"the archive: {count} files, {total >> 20} MiB, {path.stat().st_size >> 20} MiB compressed (zstd {level})")


class Bench:
    def __init__(self, url: str, archive: Path, place: Path) -> None:
        self.url, self.place = url, place
        self.binary = staged() / BIN / f"release_artifact_{platform.machine()}"
        self.sum = hashlib.sha256(archive.read_bytes()).hexdigest()

    def ways(self, ansible: Ansible | None) -> dict[str, t.Callable[[Path], None]]:
        ways = {OURS: self.ours, PIPE: self.pipe, SYNCED: self.synced}
        if ansible:
            ways |= {OURS_BY_ANSIBLE: lambda dest: self.by_ansible(ansible, dest), BUILTIN: lambda dest: self.builtin(ansible, dest)}
        return ways

    def options(self, dest: Path) -> dict[str, t.Any]:
        return {"_ansible_module_name": "release_artifact", "url": self.url, "sha": SHA, "token": TOKEN, "sha256": self.sum, "dest": str(dest)}

    def ours(self, dest: Path) -> None:
        done = subprocess.run([self.binary, "-"], input=json.dumps(self.options(dest)).encode(), stdout=subprocess.PIPE, check=False)
        assert json.loads(done.stdout)["changed"], done.stdout

    def pipe(self, dest: Path) -> None:
        dest.mkdir()
        url = self.url.replace("{sha}", SHA)
        curl = subprocess.Popen(["curl", "-sSf", "-H", f"Authorization: token {TOKEN}", url], stdout=subprocess.PIPE)
        zstd = subprocess.Popen(["zstd", "-d", "-q", "-c"], stdin=curl.stdout, stdout=subprocess.PIPE)
        tar = subprocess.Popen(["tar", "-x", "-f", "-", "-C", dest], stdin=zstd.stdout)
        curl.stdout.close()
        zstd.stdout.close()
        assert [process.wait() for process in (curl, zstd, tar)] == [0, 0, 0]

    def synced(self, dest: Path) -> None:
        self.pipe(dest)
        subprocess.run(["sync", "-f", dest], check=True)

    def by_ansible(self, ansible: Ansible, dest: Path) -> None:
        run = ansible.play([{"reversible.deploy.release_artifact": self.options(dest)}], "local")
        assert run.code == 0 and run.only["changed"], run.output

    def builtin(self, ansible: Ansible, dest: Path) -> None:
        dest.mkdir()
        archive = dest.with_suffix(".tar.zst")
        get = {"url": self.url.replace("{sha}", SHA), "dest": str(archive), "checksum": f"sha256:{self.sum}"}
        get["headers"] = {"Authorization": f"token {TOKEN}"}
        unpack = {"src": str(archive), "dest": str(dest), "remote_src": True}
        run = ansible.play([{"ansible.builtin.get_url": get}, {"ansible.builtin.unarchive": unpack}], "local")
        assert run.code == 0, run.output
        archive.unlink()
        subprocess.run(["sync", "-f", dest], check=True)

    def measure(self, rounds: int, ansible: Ansible | None, keep: bool) -> "tuple[Times, Times]":
        """Seconds of the clock, and of the processors. `keep`: what was unpacked stays."""
        ways = self.ways(ansible)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        work: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            names = list(ways)
            for name in names[turn % len(names):] + names[: turn % len(names)]:
                dest = self.place / f"dest-{turn}-{list(ways).index(name)}"
                os.sync()  # What the one before has left to be written is not to be paid by the next.
                start, before = time.perf_counter(), os.times()
                ways[name](dest)
                took, after = time.perf_counter() - start, os.times()
                if not keep:
                    shutil.rmtree(dest)
                if turn:
                    seconds[name].append(took)
                    work[name].append(sum(after[2:4]) - sum(before[2:4]))
        return seconds, work


Times = dict[str, list[float]]


def table(title: str, seconds: Times, work: Times) -> None:
    print(f"\n{title} ({len(seconds[OURS])} of each; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    print(f"{'':30} {'median':>9} {'min':>9} {'max':>9} {'x ours':>8} {'processor':>11}")
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = median / statistics.median(seconds[OURS_BY_ANSIBLE if name == BUILTIN else OURS])
        figures = f"{median:7.2f} s {min(values):7.2f} s {max(values):7.2f} s {ratio:8.2f} {statistics.median(work[name]):9.2f} s"
        print(f"{name:30} {figures}")


def judge(title: str, seconds: Times, work: Times, goals: list[tuple[str, str, float]]) -> list[str]:
    """Each goal: ours, the other, and how often ours must fit into the other's time."""
    busy = os.getloadavg()[0] > (os.cpu_count() or 1) + 1
    if busy:
        print("Others kept this machine busy: the time of the processors is judged, not the clock's.")
    missed = []
    for ours, other, times in goals:
        first, second = (statistics.median((work if busy else seconds)[name]) for name in (ours, other))
        if first * times > second * NOISE:
            missed.append(f"{title}: {first:.2f} s, and {second:.2f} s for {other}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=400, help="how large the release is, unpacked")
    parser.add_argument("--level", default="-10")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="a folder on the disk")
    parser.add_argument("--core", default=CORES[-1], help="the version of ansible-core; none: without Ansible")
    asked = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, tempfile.TemporaryDirectory(dir=asked.disk) as disk:
        file = Path(memory, "packages/acme/shop", SHA, f"shop-{SHA}.tar.zst")
        file.parent.mkdir(parents=True)
        make_archive(file, asked.mib << 20, asked.level)
        argv = [sys.executable, ROOT / "tests/fakes/registry/registry.py", "--folder", Path(memory, "packages"), "--token", TOKEN]
        registry = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        try:
            url = registry.stdout.readline().strip() + "/api/packages/acme/generic/shop/{sha}/shop-{sha}.tar.zst"
            for title, place, pipe in (("on a tmpfs", memory, PIPE), ("on the disk", disk, SYNCED)):
                ansible = None if asked.core == "none" else Ansible(asked.core, Path(memory), LOCAL)
                seconds, work = Bench(url, file, Path(place)).measure(asked.rounds, ansible, keep=place == disk)
                table(title, seconds, work)
                goals = [(OURS, pipe, 1.0)]
                if ansible:
                    goals.append((OURS_BY_ANSIBLE, BUILTIN, 2.0))
                missed += judge(title, seconds, work, goals)
        finally:
            registry.terminate()
            registry.wait()
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "All goals are met."))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
