# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's HAProxy is a real one: each version flips by its map, and is gone afterwards."""
from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import pytest
from harness import lab


def said(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def tell(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(f"{command}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode()


@pytest.mark.parametrize("version", ["2.6", "3.0", "3.2"])
def test_haproxy_flips_and_ends(version: str) -> None:
    offer = json.loads(lab("up", "haproxy", version))
    try:
        assert said(offer["url"]).startswith("blue ")
        tell(offer["stats_socket"], f"set map {offer['map']} {offer['map_key']} green")
        assert said(offer["url"]).startswith("green ")
    finally:
        lab("down", "haproxy")
    with pytest.raises(urllib.error.URLError):
        said(offer["url"])
    if not offer["version"].startswith(version):
        pytest.skip(f"this distribution has HAProxy {offer['version']} in place of {version}; that one works")
