# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logging in to the lab's ssh targets: the same options for our own checks and for Ansible, and the inventory."""
from __future__ import annotations

import json
import shlex
from pathlib import Path

from . import Fail, run


class Login:
    """One user of one ssh server on loopback."""

    def __init__(self, folder: Path, port: int, user: str):
        self.folder, self.port, self.user = folder, port, user

    def options(self) -> list[str]:
        """Nothing of the person's own ssh set-up counts: not the config, not the agent, not the known hosts."""
        return ["-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=yes",
                "-o", f"UserKnownHostsFile={self.folder}/known_hosts", "-o", "GlobalKnownHostsFile=/dev/null"]

    def ask(self, *command: str) -> str | None:
        """What the command prints there; None if that login does not work."""
        try:
            return run(["ssh", *self.options(), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-i", self.folder / "id",
                        "-p", self.port, f"{self.user}@127.0.0.1", *command], timeout=20).stdout
        except Fail:
            return None

    def for_ansible(self) -> dict:
        return {"ansible_host": "127.0.0.1", "ansible_port": self.port, "ansible_user": self.user,
                "ansible_ssh_private_key_file": str(self.folder / "id"),
                "ansible_ssh_common_args": shlex.join([*self.options(), "-o", f"ControlPath={self.folder}/cp/%C"])}


def make_keys(folder: Path) -> str:
    """The key pair that the tests log in with, and the folder of the shared connections. Returns the public key."""
    if any(character.isspace() for character in str(folder)):
        raise Fail(f"{folder}: ssh options cannot hold a path with spaces, choose another REVERSIBLE_LAB")
    (folder / "cp").mkdir(mode=0o700)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "reversible-lab", "-f", folder / "id"])
    return (folder / "id.pub").read_text()


def learn_host_keys(folder: Path, *ports: int) -> bool:
    """Ask the servers for their keys (true when all answer): the connection does not leave this machine."""
    found = [run(["ssh-keyscan", "-T", "5", "-t", "ed25519", "-p", port, "127.0.0.1"], ok=(0, 1)).stdout for port in ports]
    (folder / "known_hosts").write_text("".join(found))
    return all(found)


def write_inventory(folder: Path, group: str, hosts: dict[str, Login], **more: str) -> str:
    """Write inventory.yml, and return its text; `more` are variables that every host gets."""
    text = f"{group}:\n  hosts:\n"
    for name, login in hosts.items():
        text += f"    {name}:\n"
        text += "".join(f"      {key}: {json.dumps(value)}\n" for key, value in {**login.for_ansible(), **more}.items())
    (folder / "inventory.yml").write_text(text)
    return text
