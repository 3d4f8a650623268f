#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a backup of a Compose project takes, how long its services stand still, and how long going back takes; beside other ways.

    compose_backup      the module alone, with checked sums and everything synced
    zstd by hand        services stopped, `docker save | zstd -T0`, `tar | zstd -T0`, services started; back: `docker load`, `tar -x`
    restic              services stopped, data and `docker save` into one repository, services started; back: restored in place

On the lab's engine, with three images and one folder of mixed data: text, programs, what cannot be compressed, many small files and
few large ones. All ways find the same state, in one run. The goals (exit status 1 where one is missed), each against the quickest of the
others: the first backup 1.2 times faster, the second (images as they were, 1 % of the data changed) and back 2 times; services stand still
for a tenth of the time; less than 100 MB of memory; four times the data takes no more than about four times the processor.

    tests/lab/lab get pytest   prints the environment to run this file in; some 12 minutes on two idle cores with all that there is
    --mib 512 --growth none --without-restic   a first impression; the shares of starting and stopping are larger then

It wants some 5 times the data on the disk of /var/tmp (REVERSIBLE_BIG: another place). A clock tells nothing on a machine that others
use too: hence the processor time and the bytes read from and written to the disk, of the commands that were run (not of the engine),
stand beside it, and growth is judged by processor time.
"""
from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/support"))

from compose import Project, engine  # noqa: E402  pylint: disable=wrong-import-position
from harness import lab  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
IDS = (f"20261121t{number // 60:02}{number % 60:02}00z-{number:04x}" for number in range(1400))
TEXT = """\
services:
  db:
    image: reversible-lab/postgres:15
    environment: {POSTGRES_PASSWORD: bench}
    volumes: ["db:/var/lib/postgresql/data"]
    healthcheck: {test: [CMD, pg_isready, -q], interval: 1s, timeout: 5s, retries: 60}
  app:
    image: reversible-bench/app:1
    init: true
    volumes: ["./data:/data"]
    command: [sleep, "100000"]
  cache:
    image: reversible-lab/busybox:1
    init: true
    command: [sleep, "100000"]
volumes: {db: {}}
"""


class Row(t.NamedTuple):
    seconds: float
    still: float        # for how long services did not run
    megabytes: float    # what it added to the disk
    memory: float = 0   # the module's most, in MB
    cpu: float = 0      # of all processes that were started and waited for
    read: float = 0     # MB from the disk, and to it
    written: float = 0


class Used:
    """What the commands that end meanwhile have cost."""

    def __enter__(self) -> Used:
        self.before = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self

    def __exit__(self, *_error: t.Any) -> None:
        self.after = resource.getrusage(resource.RUSAGE_CHILDREN)

    def row(self, *known: float) -> Row:
        old, new = self.before, self.after
        return Row(*known)._replace(cpu=new.ru_utime + new.ru_stime - old.ru_utime - old.ru_stime,
                                    read=(new.ru_inblock - old.ru_inblock) / 1953, written=(new.ru_oublock - old.ru_oublock) / 1953)


def make_data(folder: Path, size: int) -> None:
    """A third of this machine's programs and libraries, a third of text and small files, a third that cannot be compressed."""
    rng, third, words = random.Random(7), size // 3, [f"word{number}" for number in range(5000)]
    for name in ("programs", "text", "noise"):
        (folder / name).mkdir(parents=True)
    written, number = 0, 0
    sources = [path for top in ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib") for path in sorted(Path(top).rglob("*"))
               if path.is_file() and not path.is_symlink() and 4096 < path.stat().st_size < 64 * MIB]
    while written < third:
        source = sources[number % len(sources)]
        target = folder / f"programs/{number % 50}/{number}"
        target.parent.mkdir(exist_ok=True)
        # Another beginning each time round, so that no two files are the same.
        target.write_bytes(b"%d\n" % number + source.read_bytes())
        written, number = written + source.stat().st_size, number + 1
    written, number = 0, 0
    while written < third:
        target = folder / f"text/{number // 500}/{number}"
        target.parent.mkdir(exist_ok=True)
        length = 3 * MIB if number % 40 == 0 else rng.randrange(200, 20_000)
        block = " ".join(rng.choices(words, k=2000))
        target.write_text((block * (length // len(block) + 1))[:length] if length < 30_000 else "\n".join(
            f"{rng.random():.9f} {rng.choice(words)} {line}" for line in range(length // 32)))
        written, number = written + target.stat().st_size, number + 1
    for number in range(max(third // (64 * MIB), 1)):
        with open(folder / f"noise/{number}", "wb") as file:
            for _ in range(min(third, 64 * MIB) // MIB):
                file.write(rng.randbytes(MIB))


def change(folder: Path, share: float, seed: int) -> int:
    """So much of the data is written again."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 8 * MIB)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    changed = 0
    while changed < total * share:
        path = rng.choice(files)
        size = path.stat().st_size
        path.write_bytes(rng.randbytes(min(size, 4096)) + path.read_bytes()[min(size, 4096):])
        changed += size
    return changed


def make_project() -> Project:
    on = engine()
    project = Project(on, TEXT, "bench")
    context = project.place / "image"
    context.mkdir()
    make_data(context / "app", 90 * MIB)
    (context / "Dockerfile").write_text("FROM reversible-lab/busybox:1\nCOPY app /app\n")
    on.docker("build", "--quiet", "--tag", "reversible-bench/app:1", context)
    shutil.rmtree(context)
    return project


def size_of(folder: Path) -> float:
    if not folder.exists():
        return 0
    said = subprocess.run(["du", "-s", "--block-size=1", folder], stdout=subprocess.PIPE, check=True, text=True).stdout
    return int(said.split()[0]) / MIB


def started(project: Project) -> None:
    project.compose("--progress", "quiet", "up", "-d", "--wait", "--pull", "never", "--no-build")


class Ours:
    name = "compose_backup"

    def __init__(self, project: Project):
        self.project, self.latest = project, ""

    def backup(self) -> Row:
        before = size_of(self.project.backups)
        with Used() as used:
            done, seconds, memory = self._run(deploy_id=next(IDS), dumps=[], logs=10)
        self.latest = done["backup"]
        return used.row(seconds, done["freeze_ms"] / 1000, size_of(self.project.backups) - before, memory)

    def restore(self) -> Row:
        with Used() as used:
            _, seconds, memory = self._run(state="restored", name=self.latest, confirm=True, rollback_id=next(IDS))
        self.project.ok(state="absent", parked=["all"], confirm=True)
        return used.row(seconds, seconds, 0, memory)

    def _run(self, **options: t.Any) -> tuple[dict[str, t.Any], float, float]:
        os.sync()
        start, peak = time.perf_counter(), 0
        call = self.project.start(**options)
        while call.process.poll() is None:
            try:
                lines = Path(f"/proc/{call.pid}/status").read_text().splitlines()
            except OSError:   # it has just ended
                break
            peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))])
            time.sleep(0.01)
        result = call.wait(3600)
        seconds = time.perf_counter() - start
        assert not result.get("failed"), result
        return result, seconds, peak / 1000


class Stopping:
    """What the other ways share: all is stopped for as long as it takes."""

    name = ""

    def __init__(self, project: Project):
        self.project, self.place = project, project.place / self.name.replace(" ", "-")
        self.place.mkdir()
        self.images = ["reversible-lab/postgres:15", "reversible-bench/app:1", "reversible-lab/busybox:1"]
        self.data = [project.folder / "data", project.engine.volume(f"{project.name}_db")]
        self.count = 0

    def backup(self) -> Row:
        os.sync()
        self.count += 1
        before, start = size_of(self.place), time.perf_counter()
        with Used() as used:
            self.project.compose("stop")
            self.save()
            os.sync()   # as ours: what it made is on the disk when it says so
            started(self.project)
        seconds = time.perf_counter() - start
        return used.row(seconds, seconds, size_of(self.place) - before)

    def restore(self) -> Row:
        os.sync()
        start = time.perf_counter()
        with Used() as used:
            self.project.compose("down")
            self.load()
            os.sync()
            started(self.project)
        seconds = time.perf_counter() - start
        return used.row(seconds, seconds, 0)

    def save(self) -> None:
        raise NotImplementedError

    def load(self) -> None:
        raise NotImplementedError

    def empty(self) -> None:
        for folder in self.data:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def pipe(self, *commands: list[t.Any], out: t.IO[bytes] | None = None) -> None:
        environ, before, running = {**os.environ, **self.project.engine.environ, "RESTIC_PASSWORD": "bench"}, None, []
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            running.append(subprocess.Popen([str(word) for word in command], stdin=before or subprocess.DEVNULL, env=environ,
                                            stdout=(out or subprocess.DEVNULL) if last else subprocess.PIPE))
            before = running[-1].stdout
        assert [process.wait() for process in running] == [0] * len(running), commands


class Zstd(Stopping):
    """What a good runbook does, with all cores."""

    name = "zstd by hand"

    def save(self) -> None:
        folder = self.place / str(self.count)
        folder.mkdir()
        for name, program in (("images", ["docker", "save", *self.images]),
                              ("data", ["tar", "-c", "-C", "/", *(path.relative_to("/") for path in self.data)])):
            with open(folder / f"{name}.tar.zst", "wb") as file:
                self.pipe(program, ["zstd", "-q", "-T0"], out=file)

    def load(self) -> None:
        folder = self.place / str(self.count)
        self.pipe(["zstd", "-dc", folder / "images.tar.zst"], ["docker", "load", "-q"])
        self.empty()
        self.pipe(["zstd", "-dc", folder / "data.tar.zst"], ["tar", "-x", "-C", "/"])


class Restic(Stopping):
    name = "restic"

    def __init__(self, project: Project):
        super().__init__(project)
        self.program = [lab("get", "restic"), "--quiet", "--no-cache", "--repo", self.place / "repository"]
        self.pipe([*self.program, "init"])

    def save(self) -> None:
        into = [*self.program, "backup", "--stdin", "--stdin-filename", "images.tar", "--tag", "images"]
        self.pipe(["docker", "save", *self.images], into)
        self.pipe([*self.program, "backup", "--tag", "data", *self.data])

    def load(self) -> None:
        self.pipe([*self.program, "dump", "--tag", "images", "latest", "images.tar"], ["docker", "load", "-q"])
        self.empty()
        self.pipe([*self.program, "restore", "--tag", "data", "latest", "--target", "/"])


def measure(project: Project, ways: list[t.Any]) -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {way.name: {} for way in ways}
    for number, label in enumerate(("first backup", "second backup")):
        if number:
            change(project.folder / "data", 0.01, number)
        for way in ways:
            rows[way.name][label] = way.backup()
            print(f"  {label:14} {way.name:16} {rows[way.name][label]}", file=sys.stderr)
    for way in ways:
        change(project.folder / "data", 0.01, 99)
        rows[way.name]["back"] = way.restore()
        print(f"  {'back':14} {way.name:16} {rows[way.name]['back']}", file=sys.stderr)
    return rows


def table(rows: dict[str, dict[str, Row]]) -> None:
    print(f"\n{'':34}{'seconds':>9}{'x ours':>8}{'processor':>11}{'read':>9}{'written':>10}{'services still':>16}"
          f"{'on the disk':>13}{'memory':>9}")
    for label in ("first backup", "second backup", "back"):
        for name, found in rows.items():
            row, ours = found[label], rows[Ours.name][label]
            print(f"{label:16}{name:18}{row.seconds:9.2f}{row.seconds / ours.seconds:8.1f}"
                  f"{row.cpu:9.2f} s{row.read:6.0f} MB{row.written:7.0f} MB{row.still:14.2f} s{row.megabytes:9.0f} MiB"
                  + (f"{row.memory:6.0f} MB" if row.memory else ""))


def judge(rows: dict[str, dict[str, Row]], growth: dict[int, Row]) -> list[str]:
    ours, missed = rows[Ours.name], []
    for label, times in (("first backup", 1.2), ("second backup", 2), ("back", 2)):
        rival, best = min(((name, found[label]) for name, found in rows.items() if name != Ours.name), key=lambda one: one[1].seconds)
        if ours[label].seconds * times > best.seconds:
            missed.append(f"{label}: {best.seconds / ours[label].seconds:.2f} times as fast as {rival}, the goal is {times}")
        if label != "back" and ours[label].still * 10 > best.still:
            missed.append(f"{label}: services stood still for {ours[label].still:.2f} s, more than a tenth of {best.still:.2f} s")
    memory = max(row.memory for row in [*ours.values(), *growth.values()])
    if memory >= 100:
        missed.append(f"{memory:.0f} MB of memory, the goal is less than 100")
    sizes = sorted(growth)
    if len(sizes) > 1:
        least, most = growth[sizes[0]].cpu / sizes[0], growth[sizes[-1]].cpu / sizes[-1]
        if most > least * 1.3:
            longer = growth[sizes[-1]].cpu / growth[sizes[0]].cpu
            missed.append(f"{sizes[-1] // sizes[0]} times the data took {longer:.1f} times the processor")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=int(os.environ.get("REVERSIBLE_BENCH_MIB") or 2048), help="how much data there is")
    parser.add_argument("--growth", default="1,2,4", help="how many times 1 GiB (of half of --mib) to show growth with; none: do not")
    parser.add_argument("--without-restic", action="store_true")
    asked = parser.parse_args()
    project, growth = make_project(), {}
    try:
        data = project.folder / "data"
        make_data(data, asked.mib * MIB)
        count = sum(len(files) for _, _, files in os.walk(data))
        print(f"{count} files, {size_of(data):.0f} MiB, 3 images; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        started(project)
        ways = [Ours(project), Zstd(project), *([] if asked.without_restic else [Restic(project)])]
        rows = measure(project, ways)
        for way in ways[1:]:
            shutil.rmtree(way.place)
        for factor in [] if asked.growth == "none" else map(int, asked.growth.split(",")):
            shutil.rmtree(data)
            make_data(data, factor * asked.mib * MIB // 2)
            shutil.rmtree(project.backups)
            growth[factor] = Ours(project).backup()
    finally:
        project.remove()
    table(rows)
    if growth:
        print("\nfirst backup, by data: " + ", ".join(
            f"{factor * asked.mib / 2048:g} GiB {row.seconds:.1f} s (processor {row.cpu:.1f} s, memory {row.memory:.0f} MB)"
            for factor, row in growth.items()))
    missed = judge(rows, growth)
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "All goals are met.") + f" (load {os.getloadavg()[0]:.1f})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
