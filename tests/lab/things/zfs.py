# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel with OpenZFS and a small user land, to be started by QEMU: Debian's packages, unpacked; the modules are built from its
source package. Nothing of it is loaded into this machine's kernel, and nothing in it is Python.

The kernel is kept unpacked: an emulated processor spends more seconds on unpacking it than on all the rest of its start.
"""
from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
from pathlib import Path

from labkit import HERE, Fail, Skip, apt, run, say
from labkit.cache import entry

PACKAGES = ["gcc-12", "make", "binutils", "libelf1", "libc6-dev"]
CACHES = ["Debian's amd64 kernel, and OpenZFS of its backports built for it (some 8 minutes of one processor, once)"]

SUITE, LATER = "bookworm", "bookworm-backports"   # the VM's Debian, whatever this machine's is
ZFS = ["zfs-dkms", "zfsutils-linux", "libzfs6linux", "libzpool6linux", "libnvpair3linux", "libuutil3linux", "libzfsbootenv1linux"]
LAND = ["busybox-static", "dropbear-bin", "openssh-sftp-server"]
LIBRARIES = ["libtirpc3", "libudev1", "libblkid1", "libuuid1", "libssl3", "zlib1g"]
# What comes into the machine, with the libraries that it loads.
PROGRAMS = ("usr/sbin/zfs", "usr/sbin/zpool", "usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/lib/openssh/sftp-server",
            "usr/lib/udev/zvol_id")
MODULES = ("virtio_pci", "virtio_net", "virtio_rng", "loop", "ext4", "crc32c_generic", "zfs")
LOADED = "usr/lib/*/libgcc_s.so.1"   # by name, where `zfs send` ends a thread; no list of libraries names it
RECIPE = 3   # to be raised when what is made below changes
# Libraries that every call of `zfs` loads and hardly any uses: a stand-in of a few lines for each, and the version of its symbols. The real
# ones would be half of what a call costs.
LEAN = {"libcrypto.so.3": ("zfs_crypto.c", "OPENSSL_3.0.0"), "libgssapi_krb5.so.2": ("zfs_gssapi.c", "gssapi_krb5_2_MIT")}


def machine() -> Path:
    """A folder with `vmlinux`, `initrd` (all but what is made of inside/, which `initrd` below adds at each start) and `busybox`."""
    if apt.architecture() != "amd64":
        raise Skip(f"the ZFS machine is built and emulated on amd64, this is {apt.architecture()}")

    def build(folder: Path) -> None:
        apt.install(*PACKAGES)
        kernels, later = apt.Archive("amd64", SUITE), apt.Archive("amd64", LATER, "contrib")
        headers = [package for package in kernels.closure("linux-headers-amd64") if re.match(r"linux-(headers-\d|kbuild-)", package)]
        [image] = [package for package in kernels.closure("linux-image-amd64") if re.match(r"linux-image-\d", package)]
        work, tree = folder / "work", folder / "tree"
        work.mkdir()
        kernels.unpack([*headers, image], work / "kernel")
        apt.merge(tree)
        later.unpack(ZFS, tree)
        kernels.unpack(LAND + apt.libraries(kernels.closure(*LAND, *LIBRARIES)), tree)
        release = next((work / "kernel/lib/modules").iterdir()).name
        build_modules(work, tree, release)
        (folder / "vmlinux").write_bytes(unpacked((work / f"kernel/boot/vmlinuz-{release}").read_bytes()))
        root = work / "root"
        furnish(root, tree, work / "kernel", release)
        shutil.copy(tree / "usr/bin/busybox", folder)
        archive(root, folder / "busybox", folder / "initrd")
        shutil.rmtree(work)
        shutil.rmtree(tree)
    return entry(f"zfs-machine-{SUITE}-{RECIPE}", build)


THINGS = {"zfs-machine": machine}


def lean() -> Path:
    """A folder with the stand-ins of LEAN. Apart from the machine: they are made in a moment."""
    sources = hashlib.sha256(b"".join((HERE / "inside" / source).read_bytes() for source, _version in LEAN.values())).hexdigest()

    def build(folder: Path) -> None:
        apt.install(*PACKAGES)
        for library, (source, version) in LEAN.items():
            symbols = folder / f"{library}.symbols"
            symbols.write_text(f"{version} {{ global: gss_*; GSS_*; PKCS5_*; local: *; }};\n")
            run(["gcc-12", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{library}", f"-Wl,--version-script,{symbols}",
                 "-o", folder / library, HERE / "inside" / source])
            symbols.unlink()
    return entry(f"zfs-lean-libraries-{SUITE}-{sources[:12]}", build)


def build_modules(work: Path, tree: Path, release: str) -> None:
    """spl.ko and zfs.ko, from the dkms package's source by the kernel's own headers; stripped, into extra/ of the kernel's modules."""
    sources = work / "kernel/usr/src"
    objects, common = sources / f"linux-headers-{release}", sources / f"linux-headers-{release.rpartition('-')[0]}-common"
    makefile = objects / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{sources}/"))   # it includes the other by its installed place
    [source] = (tree / "usr/src").glob("zfs-*")
    jobs = str(os.cpu_count() or 1)
    say("builds the modules of OpenZFS: some minutes, once")
    environ = {**os.environ, "TEST_JOBS": jobs}
    configure = ["./configure", "--disable-dependency-tracking", "--with-config=kernel",
                 f"--with-linux={common}", f"--with-linux-obj={objects}"]
    run(configure, cwd=source, env=environ)
    run(["make", f"-j{jobs}", "KCFLAGS=-g0"], cwd=source, env=environ)
    extra = work / f"kernel/lib/modules/{release}/extra"
    extra.mkdir()
    for name in ("spl", "zfs"):
        [module] = (source / "module").glob(f"**/{name}.ko") or [source / f"module/{name}.ko"]
        run(["strip", "--strip-debug", "-o", extra / module.name, module])


def unpacked(image: bytes) -> bytes:
    """The ELF file in a bzImage that was packed by xz."""
    start = image.find(b"\xfd7zXZ\0")
    kernel = lzma.LZMADecompressor().decompress(image[start:]) if start > 0 else b""
    if not kernel.startswith(b"\x7fELF"):
        raise Fail("the kernel's image does not hold a kernel packed by xz: its packing has changed")
    return kernel


def furnish(root: Path, tree: Path, kernel: Path, release: str) -> None:
    """The machine's files."""
    apt.merge(root)
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "root/.ssh", "etc/dropbear", "etc/zfs", "var/lib", "var/tmp", "usr/libexec"):
        (root / name).mkdir(parents=True)
    busybox = "usr/bin/busybox"
    [loaded] = [str(path.relative_to(tree)) for path in tree.glob(LOADED)]
    libraries = {library for program in PROGRAMS for library in apt.libraries_of(tree, program)}
    apt.pick(tree, {busybox, loaded, *PROGRAMS, *libraries}, root)
    for applet in run([tree / busybox, "--list-full"]).stdout.split():
        place = root / ("usr" / Path(applet.removeprefix("usr/")))
        if not place.exists():
            place.symlink_to("/usr/bin/busybox")
    for name in ("usr/lib/sftp-server", "usr/libexec/sftp-server"):   # where dropbear may look
        (root / name).symlink_to("/usr/lib/openssh/sftp-server")
    etc = {"passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", "group": "root:x:0:\nnogroup:x:65534:\n",
           "shadow": "root:*:19000::::::\n", "shells": "/bin/sh\n", "hosts": "127.0.0.1 localhost\n"}
    for name, text in etc.items():
        (root / "etc" / name).write_text(text)
    depmod = [tree / busybox, "depmod", "-b"]
    run([*depmod, kernel, release])
    place = Path("lib/modules") / release
    for path in needed_modules((kernel / place / "modules.dep").read_text()):
        target = root / place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kernel / place / path, target)
    run([*depmod, root, release])


def needed_modules(dependencies: str) -> list[str]:
    """The files of MODULES and of what they need, from lines like `kernel/fs/ext4/ext4.ko: kernel/fs/mbcache.ko ...`."""
    known = {name: needs.split() for name, _, needs in (line.partition(":") for line in dependencies.splitlines())}
    wanted = [path for path in known if Path(path).name.partition(".")[0].replace("-", "_") in MODULES]
    if len(wanted) != len(MODULES):
        raise Fail(f"the kernel's package has not all of the modules {', '.join(MODULES)}, only {', '.join(wanted)}")
    for path in wanted:
        wanted += [need for need in known[path] if need not in wanted]
    return wanted


def initrd(parts: Path, place: Path) -> Path:
    """In the folder `place`: the whole archive, with the scripts and the stand-ins as they are now. A kernel takes several archives in a row."""
    root = place / "scripts"
    shutil.copytree(lean(), root / "usr/lib/lean")
    for name, source in (("init", "zfs_init.sh"), ("usr/sbin/zvol-link", "zfs_zvol.sh")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "inside" / source, root / name)
        (root / name).chmod(0o755)
    archive(root, parts / "busybox", place / "initrd.scripts")
    with (place / "initrd").open("wb") as whole:
        for part in (parts / "initrd", place / "initrd.scripts"):
            whole.write(part.read_bytes())
    return place / "initrd"


def archive(root: Path, busybox: Path, file: Path) -> None:
    """An archive that a kernel unpacks into its root folder; not packed, for the same reason as the kernel."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    listing = file.with_suffix(".names")
    listing.write_text("\n".join([".", *names]) + "\n")
    with listing.open("rb") as given:
        run([busybox, "cpio", "-o", "-H", "newc", "-R", "0:0", "-F", file], cwd=root, stdin=given)
    listing.unlink()
