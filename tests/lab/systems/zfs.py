# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs: a machine with OpenZFS in its kernel and without Python, emulated by QEMU; it needs no KVM and no module of this kernel.

All of it is in memory, so nothing outlives it. Its network reaches this machine's loopback and nothing else.
"""
from __future__ import annotations

import shutil
import signal
from pathlib import Path

from labkit import Fail, apt, daemon
from labkit.login import Login, learn_host_keys, make_keys, write_inventory
from things.qemu import qemu
from things.zfs import initrd, lean, machine

HELP = "OpenZFS in an emulated machine, no Python; pools are made of files in its /mnt"
PACKAGES = ["openssh-client"]
CACHES: list[str] = []   # what it is made of is a thing's
MEMORY = 2048            # MiB; /mnt may take most of it
# Seconds: a start takes 5 on an idle machine, of processor time; others may want the processors as well. Now and then an emulated one hangs in it.
PATIENCE, STARTS = 200, 2
HOST = "zfs_root"


def prepare() -> None:
    apt.install(*PACKAGES)
    qemu()
    machine()
    lean()


def up(folder: Path) -> str:
    if status(folder)[0] == "up":
        return (folder / "inventory.yml").read_text()
    for last in (False,) * (STARTS - 1) + (True,):
        try:
            port = start(folder)
            break
        except Fail:
            if last:
                raise
    (folder / "port").write_text(f"{port}")
    inventory = write_inventory(folder, "zfs", {HOST: _login(folder)})
    state, words = status(folder)
    if state != "up":
        raise Fail(f"zfs: {words}; see {folder}/zfs.log")
    return inventory


def start(folder: Path) -> int:
    """Its port, once it answers."""
    parts, program = machine(), qemu()
    down(folder)
    folder.mkdir(mode=0o700)
    port = daemon.free_port()
    key = make_keys(folder).split()[1]
    # With one processor it needs a quarter less of ours: two that are emulated spend their time on waiting for each other. With programs always
    # at the same address (norandmaps), the emulator uses what it has translated: a call of `zfs` costs half of what it would. Memory is copied
    # by plain instructions (clearcpuid=rep_good), of which it makes better ones than of those that repeat themselves.
    daemon.start(folder, "zfs", [
        program, "-name", "reversible-lab-zfs", "-machine", "pc,vmport=off", "-accel", "tcg,tb-size=512",
        "-smp", "1", "-m", MEMORY, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", parts / "vmlinux", "-initrd", initrd(parts, folder),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off norandmaps init_on_alloc=0 clearcpuid=rep_good tsc=reliable "
        f"random.trust_cpu=on cryptomgr.notests login={key}",
        "-device", "virtio-rng-pci", "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22",
        "-device", "virtio-net-pci,netdev=net,romfile=",
    ])
    daemon.wait_for(lambda: learn_host_keys(folder, port), "the ZFS machine", folder, "zfs", PATIENCE)
    return port


def down(folder: Path) -> None:
    daemon.stop(folder, "zfs", signal.SIGKILL)
    if folder.exists():
        shutil.rmtree(folder)


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "port").exists():
        return "down", ""
    said = _login(folder).ask("zfs", "version")
    if said is None or "kmod" not in said:
        return "broken", "no login, or no ZFS in it"
    return "up", f"{said.split()[0]}, kernel module {said.split()[-1]}, ssh on 127.0.0.1:{_login(folder).port}"


def _login(folder: Path) -> Login:
    return Login(folder, int((folder / "port").read_text()), "root")
