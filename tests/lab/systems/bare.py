# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bare: a machine without Python, of busybox and two ssh servers, in namespaces of its own.

Its first process ends everything: processes, mounts and all. The root folder is a tmpfs that only it sees.
"""
from __future__ import annotations

import shutil
import signal
from pathlib import Path

from labkit import HERE, Fail, apt, daemon, run
from labkit.cache import entry
from labkit.login import Login, learn_host_keys, make_keys, write_inventory

HELP = "busybox + dropbear, no Python; users with a full, read-only, noexec, unsafe or missing home"
PACKAGES = ["openssh-client"]
CACHES = ["busybox-static", "dropbear-bin", "openssh-server", "openssh-sftp-server"]

# account -> uid. What is odd about each home is made in bare_init.sh.
USERS = {"root": 0, "user": 1000, "tiny": 1001, "readonly": 1002, "noexec": 1003, "groupwritable": 1004, "homeless": 1005}
# dropbear wants the authorized keys in a safe home: those who have none log in by an sshd that does not look.
SSHD_USERS = ("groupwritable", "homeless")
PROGRAMS = ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/sbin/sshd", "usr/lib/openssh/sftp-server",
            "usr/lib/openssh/sshd-session", "usr/lib/openssh/sshd-auth")   # the last two since OpenSSH 9.8


def prepare() -> None:
    apt.install(*PACKAGES)
    root_folder(apt.architecture())


def up(folder: Path) -> str:
    return start(folder, "bare", root_folder(apt.architecture()))


def down(folder: Path) -> None:
    daemon.stop(folder, "bare", signal.SIGKILL)
    if folder.exists():
        shutil.rmtree(folder)


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "ports").exists():
        return "down", ""
    logins = _logins(folder)
    refused = [user for user in logins if (logins[user].ask("id", "-un") or "").strip() != user]
    if refused:
        return "broken", f"no login as {', '.join(refused)}"
    return "up", f"{(logins['root'].ask('uname', '-m') or '?').strip()}, dropbear on 127.0.0.1:{logins['root'].port}, " \
                 f"sshd on 127.0.0.1:{logins['homeless'].port}; logs in {', '.join(logins)}"


def start(folder: Path, name: str, tree: Path, emulator: Path | None = None) -> str:
    """Bring a machine up from a root folder (shared with bare-aarch64) and return its inventory."""
    if status(folder)[0] == "up":
        return (folder / "inventory.yml").read_text()
    down(folder)
    folder.mkdir(mode=0o700)
    ports = daemon.free_port(), daemon.free_port()
    _furnish(folder / "tree", tree, make_keys(folder))
    (folder / "root").mkdir()
    command = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--",
               "sh", HERE / "inside/bare_init.sh", folder / "tree", folder / "root", name, *ports]
    if emulator:
        daemon.start_in_user_namespace(folder, "bare", [*command, emulator])
    else:
        daemon.start(folder, "bare", command)
    daemon.wait_for(lambda: learn_host_keys(folder, *ports), name, folder, "bare")
    (folder / "ports").write_text("%d %d" % ports)
    inventory = write_inventory(folder, name, {f"{name}_{user}": login for user, login in _logins(folder).items()})
    state, words = status(folder)
    if state != "up":
        raise Fail(f"{name}: {words}; see {folder}/bare.log")
    return inventory


def root_folder(arch: str, emulator: Path | None = None) -> Path:
    """The cached programs of such a machine: what is named in PROGRAMS, and the libraries that it loads."""
    def build(folder: Path) -> None:
        archive = apt.Archive(arch)
        everything = folder / "everything"
        apt.merge(everything)
        archive.unpack(CACHES + apt.libraries(archive.closure(*CACHES)), everything)
        root = folder / "root"
        wanted = {"usr/bin/busybox"}
        for program in PROGRAMS:
            if (everything / program).exists():
                wanted |= {program, *apt.libraries_of(everything, program, emulator)}
        apt.pick(everything, wanted, root)
        shutil.rmtree(everything)
    return entry(f"bare-{apt.codename()}-{arch}", build) / "root"


def _furnish(tree: Path, programs: Path, public_key: str) -> None:
    """A copy of the programs with the files of /etc and the homes."""
    shutil.copytree(programs, tree, symlinks=True)
    apt.merge(tree)
    for name in ("dev", "proc", "tmp", "run/sshd", "var/tmp", "etc/dropbear", "etc/ssh", "home", "root"):
        (tree / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (tree / name).chmod(0o1777)
    (tree / "usr/lib/sftp-server").symlink_to("openssh/sftp-server")   # where dropbear looks
    homes = {user: "/root" if user == "root" else f"/home/{user}" for user in USERS}
    etc = {
        "passwd": [f"{user}:x:{uid}:{uid}::{homes[user]}:/bin/sh" for user, uid in USERS.items()]
        + ["sshd:x:100:65534::/run/sshd:/bin/false"],
        "group": [f"{user}:x:{uid}:" for user, uid in USERS.items()] + ["nogroup:x:65534:", "tty:x:5:"],
        "shadow": [f"{user}:*:19000::::::" for user in USERS],
        "shells": ["/bin/sh"],
        "hosts": ["127.0.0.1 localhost"],
        "ssh/sshd_config": ["HostKey /etc/ssh/host_key", "AuthorizedKeysFile /etc/ssh/authorized_keys", "StrictModes no",
                            "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PrintMotd no", "PidFile none",
                            "MaxSessions 100", "Subsystem sftp /usr/lib/openssh/sftp-server"],
        "ssh/authorized_keys": [public_key.strip()],
    }
    for name, lines in etc.items():
        (tree / "etc" / name).write_text("\n".join(lines) + "\n")
        (tree / "etc" / name).chmod(0o600 if name == "shadow" else 0o644)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tree / "etc/ssh/host_key"])
    for user, uid in USERS.items():
        keys = tree / homes[user].lstrip("/") / ".ssh"
        if user == "homeless":
            continue
        keys.mkdir(parents=True, mode=0o700)
        shutil.copy(tree / "etc/ssh/authorized_keys", keys)
        for path in (keys.parent, keys, keys / "authorized_keys"):
            shutil.chown(path, uid, uid)
        keys.parent.chmod(0o775 if user == "groupwritable" else 0o755)


def _logins(folder: Path) -> dict[str, Login]:
    dropbear, sshd = (int(word) for word in (folder / "ports").read_text().split())
    return {user: Login(folder, sshd if user in SSHD_USERS else dropbear, user) for user in USERS}
