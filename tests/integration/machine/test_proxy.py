# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package registry that is reached by an HTTP proxy alone: by the module, and by a whole deploy. The proxy's password shows nowhere."""
from __future__ import annotations

import json
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from flows import Shop
from harness import BIN, staged
from proxy import ADDRESS, PASSWORD, TYPED, Proxy, proxy

from registry import Registry
from releases import TOKEN, Place, binary_of, release, sha, zstd


@pytest.fixture(name="through")
def a_proxy(tmp_path: Path) -> t.Iterator[Proxy]:
    with proxy(tmp_path) as there:
        yield there


def hides(text: str) -> bool:
    return not any(word in text for word in (PASSWORD, TYPED, TOKEN))


def test_by_name_and_by_tunnel(through: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain HTTP names the whole URL, TLS asks for a tunnel; fetched, looked for and pushed."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    assert shutil.which("openssl")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=registry"]
    argv += ["-addext", f"subjectAltName=IP:{ADDRESS}", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    src = tmp_path / "a.tar.zst"
    src.write_bytes(zstd(release(2)))
    for scheme, pair, more in (("http", None, {}), ("https", (certificate, key), {"ca_file": str(certificate)})):
        with Registry([TOKEN], certificate=pair, host=ADDRESS) as registry:
            place = Place(tmp_path / scheme, registry, binary_of(staged(), BIN))
            registry.publish(sha(1), zstd(release(1)))
            monkeypatch.setenv(f"{scheme}_proxy", through.url)
            before = len(through.asked())
            done = place.ok(1, "current", **more)
            assert place.is_whole(1) and place.ok(2, "pushed", src=str(src), **more)["changed"]
            seen = through.asked()[before:]
            assert len(seen) >= len(registry.log) > 1, (seen, registry.log)
            first = f"CONNECT {registry.origin.partition('://')[2]} HTTP/1.1" if pair else f" {registry.origin}/api/packages/acme/generic/shop/"
            assert all(first in line for line in seen), seen

            # Nothing goes around a proxy that refuses, and what is asked directly does not meet it.
            monkeypatch.setenv(f"{scheme}_proxy", through.nameless)
            reached = len(registry.log)
            refused = place.fails(3, **more)
            assert refused["reason"] == "unanswered" if pair else refused["failed"], refused
            assert "407" in refused["msg"] and len(registry.log) == reached and hides(json.dumps([done, refused])), refused
            monkeypatch.setenv("no_proxy", f"example.org,{ADDRESS}")
            assert place.ok(2, **more)["changed"] and len(registry.log) > reached
            monkeypatch.delenv("no_proxy")
            monkeypatch.delenv(f"{scheme}_proxy")


def test_a_whole_deploy(through: Proxy, tmp_path: Path) -> None:
    with Shop(tmp_path) as shop, Registry([TOKEN], folder=shop.registry.folder, host=ADDRESS) as registry:
        shop.publish(1)
        by = {"url": registry.template, "owner": "acme", "token": TOKEN, "environment": {"http_proxy": through.url}}
        shop.vars["host_app_artifact"] = by
        done = shop.deploy(1, "-vvv")
        assert done.code == 0 and shop.serves() == ("green", sha(1)) and hides(done.output), done.output
        assert registry.log and not shop.registry.log and len(through.asked()) >= len(registry.log)
        kept = [path for path in shop.folder.rglob("*") if path.is_file() and path != shop.variables and TYPED.encode() in path.read_bytes()]
        assert not kept, "in no record, report or unit either"
        by["environment"] = {"http_proxy": through.nameless}
        refused = shop.deploy(2)
        assert refused.code == 2 and "407" in refused.output and shop.serves() == ("green", sha(1)) and hides(refused.output), refused.output
