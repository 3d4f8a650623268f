# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh: OpenSSH's own server on this machine, for the ways in that need real accounts and sudo."""
from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from labkit import Fail, apt, daemon, run
from labkit.login import Login, learn_host_keys, make_keys, write_inventory

HELP = "sshd on loopback; logs in as root, rd-alice (may sudo to root and rd-bob) and rd-bob"
PACKAGES = ["openssh-server", "openssh-client", "openssh-sftp-server", "sudo"]
CACHES: list[str] = []

USERS = ("rd-alice", "rd-bob")
HOSTS = {"ssh_root": "root", "ssh_alice": "rd-alice", "ssh_bob": "rd-bob"}
# Not in the state folder: /run is often mounted noexec, and the users must reach their homes by a path of root's alone.
PUBLIC = Path("/var/lib/reversible-lab/ssh")
SUDO_RULES = Path("/etc/sudoers.d/reversible-lab")
PARTIAL_RULES = Path("/etc/sudoers.d/reversible-lab.partial")   # sudo reads no file with a dot in its name


def prepare() -> None:
    apt.install(*PACKAGES)


def up(folder: Path) -> str:
    if status(folder)[0] == "up":
        return (folder / "inventory.yml").read_text()
    down(folder)
    if _owner():
        raise Fail(f"ssh is up already for the lab in {_owner()}, and there is one set of accounts: end it there first")
    folder.mkdir(mode=0o700)
    port = daemon.free_port()
    _make_accounts(folder, make_keys(folder))
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"])
    (folder / "sshd_config").write_text(_config(folder, port))
    Path("/run/sshd").mkdir(exist_ok=True)   # sshd insists on it, and only systemd or an init script would make it
    daemon.start(folder, "sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"])
    daemon.wait_for(lambda: learn_host_keys(folder, port), "sshd", folder, "sshd")
    # The system's Python, not the one that root's own shell set-up puts first on PATH (a pyenv shim, say).
    inventory = write_inventory(folder, "ssh", {host: Login(folder, port, user) for host, user in HOSTS.items()},
                                ansible_python_interpreter="/usr/bin/python3")
    state, words = status(folder)
    if state != "up":
        raise Fail(f"{words}; see {folder}/sshd.log")
    return inventory


def down(folder: Path) -> None:
    if _owner() not in ("", str(folder)):
        return   # the accounts are another lab's (its REVERSIBLE_LAB differs)
    daemon.stop(folder, "sshd")
    # Sessions outlive the server that made them. Ours are those on our port, and whatever the two users run.
    daemon.end(daemon.children(daemon.holders(_port(folder), "sshd")) | _processes_of(USERS), signal.SIGKILL)
    for rules in (SUDO_RULES, PARTIAL_RULES):
        rules.unlink(missing_ok=True)
    for user in USERS:
        if _account_is_ours(user):
            run(["userdel", user])
        if PUBLIC.exists() and not _account(user):
            run(["groupdel", user], ok=(0, 6))   # a useradd that was killed leaves its group; 6: there is none
    for place in (PUBLIC, folder):
        if place.exists():
            shutil.rmtree(place)
    if PUBLIC.parent.exists() and not any(PUBLIC.parent.iterdir()):
        PUBLIC.parent.rmdir()


def status(folder: Path) -> tuple[str, str]:
    port = _port(folder)
    if not port:
        return "down", ""
    refused = [user for user in HOSTS.values() if (Login(folder, port, user).ask("id", "-un") or "").strip() != user]
    if refused:
        return "broken", f"no login on 127.0.0.1:{port} as {', '.join(refused)}"
    if Login(folder, port, "rd-alice").ask("sudo", "-n", "-u", "rd-bob", "id", "-un") != "rd-bob\n":
        return "broken", "rd-alice cannot sudo to rd-bob"
    return "up", f"127.0.0.1:{port} logs in {', '.join(HOSTS.values())}"


def _config(folder: Path, port: int) -> str:
    # Without PAM sshd refuses an account whose password is locked with '!', as root's is on some installations.
    locked = run(["getent", "shadow", "root"]).stdout.split(":")[1].startswith("!")
    return f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {PUBLIC}/authorized_keys
AllowUsers {' '.join(HOSTS.values())}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM {'yes' if locked else 'no'}
MaxSessions 100
MaxStartups 100:30:200
PrintMotd no
LogLevel VERBOSE
Subsystem sftp /usr/lib/openssh/sftp-server
"""


def _owner() -> str:
    """The state folder of the lab that has made the accounts; empty if that is gone (after a reboot, say)."""
    owner = (PUBLIC / "owner").read_text() if (PUBLIC / "owner").exists() else ""
    return owner if owner and Path(owner).exists() else ""


def _make_accounts(folder: Path, public_key: str) -> None:
    for user in USERS:
        if _account(user) or run(["getent", "group", user], ok=(0, 2)).stdout:
            raise Fail(f"an account or group {user} exists already and is not the lab's: remove or rename it")
    PUBLIC.mkdir(parents=True, mode=0o755)
    (PUBLIC / "owner").write_text(str(folder))
    (PUBLIC / "authorized_keys").write_text(public_key)
    (PUBLIC / "authorized_keys").chmod(0o644)
    for user in USERS:
        home = PUBLIC / user
        run(["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh",
             "--password", "*", "--comment", "made by the reversible.deploy lab", user])
        home.mkdir(mode=0o700)
        shutil.chown(home, user, user)
    PARTIAL_RULES.write_text("# made by the reversible.deploy lab; gone after `lab down ssh`\n"
                             "rd-alice ALL=(root, rd-bob) NOPASSWD: ALL\n")
    PARTIAL_RULES.chmod(0o440)
    run(["visudo", "-c", "-q", "-f", PARTIAL_RULES])
    os.replace(PARTIAL_RULES, SUDO_RULES)


def _account(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return None


def _account_is_ours(user: str) -> bool:
    account = _account(user)
    return account is not None and account.pw_dir == str(PUBLIC / user)


def _port(folder: Path) -> int:
    config = folder / "sshd_config"
    return int(re.findall(r"(?m)^Port (\d+)", config.read_text())[0]) if config.exists() else 0


def _processes_of(users: tuple[str, ...]) -> set[int]:
    ids = {pwd.getpwnam(user).pw_uid for user in users if _account_is_ours(user)}
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid in ids:
                found.add(int(path.name))
    return found
