# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that incusd runs on, as a root folder, and images for its containers: busybox or systemd as init, and the C library for
programs of the tests. Unpacked and not installed, from Debian 13 on every Debian, else from the host's own release.
"""
from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from labkit import HERE, Skip, apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["incus 6, with what it needs", "images for it: busybox-static, systemd"]

IMAGE, IMAGE_SYSTEMD = "busybox", "systemd"
# Of what systemd starts before everything else: the rest is for real machines.
EARLY = ("systemd-journald.service", "systemd-tmpfiles-setup.service")
PROGRAMS = ["incus-base", "incus-client", "dnsmasq-base", "nftables", "iproute2", "rsync", "tar", "xz-utils", "gzip", "mount", "util-linux",
            "base-files", "base-passwd", "bash", "coreutils", "dash", "grep", "sed", "findutils", "procps", "kmod", "hostname", "libc-bin"]
UNNEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/zoneinfo", "usr/share/bash-completion",
            "usr/lib/systemd", "usr/lib/udev")
# What a C library brings that no program of ours asks for.
UNUSED = ("gconv", "audit", "perl-base")


def machine() -> Path:
    def build(folder: Path) -> None:
        archive, root = _archive(), folder / "root"
        if not any(version.startswith("6.") for version in archive.versions("incus-base")):
            raise Skip(f"{archive.suite} has no incus 6")
        apt.merge(root)
        archive.unpack(archive.closure(*PROGRAMS), root)
        for path in UNNEEDED:
            shutil.rmtree(root / path, ignore_errors=True)
        for path in ("dev", "proc", "sys", "run", "tmp", "root", "etc", "usr/local/bin", "var/lib/incus", "var/log/incus",
                     "var/cache/incus", "var/tmp"):
            (root / path).mkdir(parents=True, exist_ok=True)
        for name in ("passwd", "group"):
            shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
        for name in ("subuid", "subgid"):
            (root / "etc" / name).write_text("root:1000000:1000000000\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (root / "etc/resolv.conf").write_text("")
        run(["chroot", root, "/sbin/ldconfig"])
        run(["chroot", root, "/usr/bin/incus", "version", "--force-local"], ok=(0, 1))
    return entry(f"incus-{_archive().suite}-{apt.architecture()}", build) / "root"


def image() -> Path:
    """A folder with metadata.tar and rootfs.tar, as `incus image import` takes them: busybox is init."""
    def build(folder: Path) -> None:
        archive, everything, root = _archive(), folder / "everything", folder / "root"
        apt.merge(everything)
        archive.unpack(["busybox-static", *archive.closure("libc6")], everything)
        _base(everything, root)
        for library in sorted((everything / "usr/lib").glob("*-linux-gnu*")):
            shutil.copytree(library, root / "usr/lib" / library.name, symlinks=True, ignore=shutil.ignore_patterns(*UNUSED))
        for link in (everything / "usr/lib64").glob("*"):
            shutil.copy(link, root / "usr/lib64" / link.name, follow_symlinks=False)
        (root / "etc/inittab").write_text("::sysinit:/etc/rc\nnull::respawn:/bin/udhcpc -f -i eth0 -t 30 -T 1 -s /etc/udhcpc\n")
        _pack(folder, IMAGE, root)
        for tree in (everything, root):
            shutil.rmtree(tree)
    return entry(f"incus-image-{_archive().suite}-{apt.architecture()}-1", build)   # the number: of the scripts in inside/


def image_systemd() -> Path:
    """The same with systemd, whose journal works; its network comes from a unit."""
    def build(folder: Path) -> None:
        archive, root = _archive(), folder / "root"
        apt.merge(root)
        archive.unpack(["busybox-static", *archive.closure("systemd", "systemd-sysv", "base-passwd", "libc-bin", "dash")], root)
        for path in ("usr/share", "usr/lib/udev", "usr/lib/systemd/system-generators", "usr/lib/systemd/user-generators"):
            if path == "usr/share":
                for name in ("passwd", "group"):
                    (root / "etc").mkdir(exist_ok=True)
                    shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
            shutil.rmtree(root / path, ignore_errors=True)
        for wants in (root / "usr/lib/systemd/system").glob("*.target.wants/*"):
            if wants.parent.name in ("sysinit.target.wants", "local-fs.target.wants") and wants.name not in EARLY:
                wants.unlink()
        _base(root, root)
        with open(root / "etc/group", "a", encoding="utf-8") as groups:
            groups.write("systemd-journal:x:990:\n")
        (root / "etc/machine-id").write_text("")
        units = root / "etc/systemd/system"
        (units / "multi-user.target.wants").mkdir(parents=True)
        (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
        (units / "address.service").write_text("[Service]\nExecStart=/bin/busybox udhcpc -f -i eth0 -t 30 -T 1 -s /etc/udhcpc\n")
        (units / "multi-user.target.wants/address.service").symlink_to("/etc/systemd/system/address.service")
        run(["chroot", root, "/sbin/ldconfig"])
        run(["chroot", root, "/usr/lib/systemd/systemd", "--version"])
        _pack(folder, IMAGE_SYSTEMD, root)
        shutil.rmtree(root)
    return entry(f"incus-image-systemd-{_archive().suite}-{apt.architecture()}-1", build)


def _base(everything: Path, root: Path) -> None:
    """What both images have: busybox for all that they lack, and what it calls."""
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "var/log", "opt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    if not (root / "sbin").is_symlink():
        (root / "usr/sbin").symlink_to("bin")
        (root / "sbin").symlink_to("usr/bin")
    (root / "tmp").chmod(0o1777)
    if everything != root:
        program = next(everything / place for place in ("usr/bin/busybox", "bin/busybox") if (everything / place).is_file())
        shutil.copy(program, root / "usr/bin/busybox")
    for applet in run([root / "usr/bin/busybox", "--list"]).stdout.split():
        if not any(os.path.lexists(root / place / applet) for place in ("usr/bin", "usr/sbin")):
            (root / "usr/bin" / applet).symlink_to("busybox")
    if not (root / "etc/passwd").exists():
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    for name in ("rc", "udhcpc"):
        shutil.copy(HERE / f"inside/incus_guest_{name}.sh", root / "etc" / name)
        (root / "etc" / name).chmod(0o755)


def _pack(folder: Path, name: str, root: Path) -> None:
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(apt.architecture(), apt.architecture())
    about = f"{{description: {name}, os: {name}}}"
    (folder / "metadata.yaml").write_text(f"architecture: {arch}\ncreation_date: 1767225600\nproperties: {about}\n")
    with tarfile.open(folder / "metadata.tar", "w") as out:
        out.add(folder / "metadata.yaml", "metadata.yaml")
    with tarfile.open(folder / "rootfs.tar", "w") as out:
        out.add(root, ".")


def _archive() -> apt.Archive:
    return apt.Archive(apt.architecture(), "trixie" if apt.os_release().get("ID") == "debian" else apt.codename())


THINGS = {"incus": machine, "incus-image": image, "incus-image-systemd": image_systemd}
