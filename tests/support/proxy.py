# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HTTP proxy (tinyproxy) that wants a user and a password, and an address of this machine that is not its loopback: what is asked
there goes by a proxy."""
from __future__ import annotations

import contextlib
import socket
import subprocess
import typing as t
from pathlib import Path

from labkit import daemon
from harness import lab, wait_for

# For documentation (RFC 5737). It is there in the test's own network alone.
ADDRESS = "192.0.2.10"
PASSWORD, TYPED = "sword.fish-9", "sword%2Efish-9"


class Proxy:
    def __init__(self, port: int, log: Path) -> None:
        self.address, self.log = f"127.0.0.1:{port}", log
        self.url = f"http://me:{TYPED}@{self.address}"
        self.nameless = f"http://{self.address}"   # it answers 407 to whoever does not say who they are

    def asked(self) -> list[str]:
        """The first line of each request, such as `CONNECT 192.0.2.10:1234 HTTP/1.1`."""
        lines = [line for line in self.log.read_text(encoding="utf-8").splitlines() if "Request (file descriptor" in line]
        return [line.partition("): ")[2] for line in lines]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def proxy(folder: Path) -> t.Iterator[Proxy]:
    port = daemon.free_port()
    here = Proxy(port, folder / "proxy.log")
    config = folder / "proxy.conf"
    config.write_text(f'Port {port}\nListen 127.0.0.1\nBasicAuth me {PASSWORD}\nLogFile "{here.log}"\nLogLevel Connect\nMaxClients 20\nTimeout 60\n')
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    server = subprocess.Popen([lab("get", "tinyproxy"), "-d", "-c", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port), "the proxy listens")
        yield here
    finally:
        server.terminate()
        server.wait(10)
        subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo"], check=True)
