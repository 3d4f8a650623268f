# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that the tests ask the lab for, fetched and built before the first of them begins: they run without a network.

Two at a time, each a lab command of its own: one of those that wait for the network, one of those that keep a processor busy.
"""
from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque

from . import HERE, Fail, Skip, apt, must_be_root, say

# Systems with their packages on the host and what they are made of; things with their versions. What takes longest, or is wanted first, comes first.
FETCHED = ("pytest", "ansible-2.16", "systemd", "python-3.13", "ansible-2.22", "bare", "ssh", "haproxy-2.6", "haproxy-3.0", "haproxy-3.2", "haproxy",
           "docker-20.10", "docker-images", "docker-registry", "docker", "strace", "incus", "incus-image", "incus-image-systemd", "molecule",
           "ansible-2.17", "ansible-2.18", "ansible-2.19", "ansible-2.20", "linters", "ansible-test-pip", "aarch64-toolchain", "qemu-aarch64",
           "bare-aarch64", "postgres-15", "postgres-17", "postgres", "kubectl-1.20", "kubectl-1.32", "prometheus", "busybox", "shells", "shellcheck",
           "tinyproxy")
BUILT = ("web", "fake-pve", "qemu-system-x86", "zfs-machine", "kubernetes-programs", "kubernetes", "zfs", "cargo-deny")
# With REVERSIBLE_LONG=1, as in the tests.
LONG = ("docker-26.1", "docker-28")


def everything() -> list[str]:
    return [*FETCHED, *BUILT, *(LONG if os.environ.get("REVERSIBLE_LONG") else ())]


def prepare(names: list[str], systems: dict, things: dict) -> None:
    """Prints a line for each. What this machine cannot have is named and left out; what should work and does not is a Fail at the end."""
    unknown = [name for name in names if name not in systems and name not in things]
    if unknown:
        raise Fail(f"neither a system nor a thing: {', '.join(unknown)}; there are: {', '.join([*systems, *things])}")
    if set(names) & set(systems):
        must_be_root("prepare systems")
        # In one go: what each system installs is there when its turn comes.
        apt.install(*sorted({package for name in names if name in systems for package in systems[name].PACKAGES}))
    if len(names) == 1:
        return _one(names[0], systems, things)
    left, failed, count = deque(names), [], Count(len(names))
    workers = [threading.Thread(target=_work, args=(left, prefers_built, failed, count)) for prefers_built in (False, True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise Fail(f"cannot be prepared: {', '.join(sorted(failed))}")


def _one(name: str, systems: dict, things: dict) -> None:
    """A name that both have is a system with a thing in it: both."""
    place = things[name]() if name in things else None
    if name in systems:
        systems[name].prepare()
    print(f"{name}: {place or 'ready'}", flush=True)


class Count:
    """Which of how many is begun: what a line of progress starts with."""

    def __init__(self, number: int):
        self.number, self.begun, self.lock = number, 0, threading.Lock()

    def begin(self, name: str) -> None:
        """Says so while it holds the lock: two workers at once would else print their lines in the other order."""
        with self.lock:
            self.begun += 1
            say(f"{self.begun} of {self.number}: {name}")


def _work(left: deque, prefers_built: bool, failed: list[str], count: Count) -> None:
    """Takes what is of its own kind first, then what the other has left."""
    while True:
        try:
            name = next((name for name in list(left) if (name in BUILT) == prefers_built), None) or left[0]
            left.remove(name)
        except IndexError:
            return
        except ValueError:   # the other has just taken it
            continue
        count.begin(name)
        child = subprocess.Popen([sys.executable, HERE / "lab", "prepare", name], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in child.stderr:
            said.append(line.removeprefix("lab: ").rstrip())
            say(f"{name}: {said[-1]}")
        if child.wait() == Skip.EXIT:
            reason = next(number for number, line in enumerate(said) if line.startswith("SKIPPED: "))
            print(f"{name}: {' '.join(said[reason:])}", flush=True)
        elif child.returncode != 0:
            failed.append(name)
