#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package registry that behaves as Forgejo's and Gitea's generic packages do, and as badly as a test wants it to.

    PUT     /api/packages/{owner}/generic/{package}/{version}/{file}    201; 409 when that file is there; 400 for a bad name
    GET     the same                                                    200; 206 for a range; 416 for one that is not there; 404
    HEAD    the same
    DELETE  the same, or without the file: 204; 404
    GET     /api/v1/packages/{owner}/generic/{package}/{version}/files  the files and their sums, as JSON

Packages are private: `Authorization: token ...` (or Bearer, or Basic with the token as password), else 401. As in the real one, neither a
digest header nor an ETag comes with a file. Standard library only; files lie in a folder, so that large ones cost no memory.

Faults are attributes of `Faults`; by hand they are set with `PUT /-/faults` and a JSON object, and `GET /-/log` tells who asked for what
(no value of a header is kept but those that a test must see). Invariant: a fault changes just what it says.
"""
from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
import typing as t
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9.+_-]+")
PACKAGE = re.compile(r"/api/packages/([^/]+)/generic/([^/]+)/([^/]+)(?:/([^/]+))?")
FILES = re.compile(r"/api/v1/packages/([^/]+)/generic/([^/]+)/([^/]+)/files")
PIECE = 256 << 10


@dataclasses.dataclass
class Faults:
    """What goes wrong. Numbers of bytes count in the body of one answer."""

    no_ranges: bool = False  # the whole comes, whatever was asked for
    cut_after: int | None = None  # the connection is cut after so many bytes ...
    cuts: int = 0  # ... so often; then no more
    stall_after: int | None = None  # nothing more comes after so many bytes; the connection stays
    pause: float = 0.0  # seconds before each piece
    piece: int = PIECE
    drip_after: int | None = None  # after so many bytes one comes at a time, and the pause is only between these
    flip_at: int | None = None  # a bit of this byte is another one
    end_at: int | None = None  # the file seems to end here
    status: int | None = None  # answer this ...
    statuses: int = 0  # ... so often
    digest: str = ""  # "right" or "wrong": send a Repr-Digest
    etag: str = ""  # send this
    change_after: int | None = None  # after so many requests, another file of the same name
    redirect_to: str = ""  # GET and HEAD lead to this origin
    no_head: bool = False  # HEAD is not allowed
    lose_answers: int = 0  # a PUT is stored, but its answer never comes, so often
    chunked: bool = False  # no Content-Length
    page: bool = False  # a page with status 200 in place of the file, as a proxy shows it


class Registry:
    """The registry, served on loopback by threads until it is closed."""

    def __init__(
        self,
        tokens: t.Iterable[str] = ("t0ken",),
        folder: Path | None = None,
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.tokens, self.faults, self.lock = set(tokens), Faults(), threading.Lock()
        self.folder = folder or Path(tempfile.mkdtemp(prefix="registry-"))
        self.own_folder = folder is None
        self.log: list[dict[str, t.Any]] = []
        self.closing = threading.Event()
        handler = type("Handler", (Handler,), {"registry": self})
        self.server = ThreadingHTTPServer((host, port), handler)
        self.server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*map(str, certificate))
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.scheme = "https" if certificate else "http"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "Registry":
        self.thread.start()
        return self

    def __exit__(self, *_error: t.Any) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        if self.own_folder:
            shutil.rmtree(self.folder)

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.server.server_address[0]}:{self.server.server_address[1]}"

    @property
    def template(self) -> str:
        return f"{self.origin}/api/packages/{{owner}}/generic/{{package}}/{{sha}}/{{package}}-{{sha}}.tar.zst"

    def path(self, owner: str, package: str, version: str, file: str | None = None) -> Path:
        folder = self.folder / owner / package / version
        return folder / file if file else folder

    def publish(self, sha: str, archive: Path | bytes, owner: str = "acme", package: str = "shop") -> Path:
        """Put an archive there, past HTTP."""
        path = self.path(owner, package, sha, f"{package}-{sha}.tar.zst")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(archive, bytes):
            path.write_bytes(archive)
        else:
            shutil.copyfile(archive, path)
        return path

    def asked(self, method: str) -> list[dict[str, t.Any]]:
        with self.lock:
            return [entry for entry in self.log if entry["method"] == method]

    def take(self, name: str) -> bool:
        """Whether this fault, which is counted, happens once more."""
        with self.lock:
            left = getattr(self.faults, name)
            setattr(self.faults, name, max(0, left - 1))
            return left > 0


class Handler(BaseHTTPRequestHandler):
    """One request a connection would do; more are served as well."""

    registry: Registry
    protocol_version = "HTTP/1.1"
    server_version = "registry"
    timeout = 60

    def log_message(self, format: str, *args: t.Any) -> None:  # pylint: disable=redefined-builtin
        """The log is data."""

    def do_GET(self) -> None:
        self.serve(body=True)

    def do_HEAD(self) -> None:
        self.serve(body=False)

    def serve(self, body: bool) -> None:
        faults = self.begin()
        path = urllib.parse.urlsplit(self.path).path
        if path == "/-/log":
            return self.answer(200, json.dumps(self.registry.log).encode())
        if faults.redirect_to:
            return self.answer(307, b"", {"Location": faults.redirect_to + self.path})
        if self.refused():
            return None
        if not body and faults.no_head:
            return self.answer(405, b"")
        listing, package = FILES.fullmatch(path), PACKAGE.fullmatch(path)
        if listing:
            return self.list_files(self.registry.path(*listing.groups()))
        if not package or not package[4]:
            return self.answer(404, b"")
        file = self.registry.path(*package.groups())
        asked = sum(entry["path"] == self.path and entry["method"] == "GET" for entry in self.registry.log)
        if faults.change_after is not None and asked > faults.change_after:
            file = file.with_suffix(".other")
        if not file.is_file():
            return self.answer(404, b"")
        if faults.page:
            return self.answer(200, b"<!DOCTYPE html><title>Sign in</title>" + b" " * 4096)
        return self.send_file(file, body, faults)

    def do_PUT(self) -> None:
        if self.path == "/-/faults":
            self.registry.faults = Faults(**json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            return self.answer(204, b"")
        faults = self.begin()
        if self.refused():
            return None
        match = PACKAGE.fullmatch(self.path)
        if not match or not match[4] or not all(NAME.fullmatch(urllib.parse.unquote(part)) for part in match.groups()):
            return self.answer(400, b"")
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        file = self.registry.path(*match.groups())
        file.parent.mkdir(parents=True, exist_ok=True)
        # The real one takes all of it before it looks whether the name is free.
        new = file.with_name(f".{file.name}.{threading.get_ident()}")
        left = int(self.headers.get("Content-Length", 0))
        with open(new, "wb") as out:
            while left:
                piece = self.rfile.read(min(left, PIECE))
                if not piece:
                    new.unlink()
                    return None
                out.write(piece)
                left -= len(piece)
                if faults.cut_after is not None and out.tell() >= faults.cut_after and self.registry.take("cuts"):
                    new.unlink()
                    return self.cut()
        try:
            os.link(new, file)
            status = 201
        except FileExistsError:
            status = 409
        new.unlink()
        if self.registry.take("lose_answers"):
            return self.cut()
        return self.answer(status, b"")

    def do_DELETE(self) -> None:
        self.begin()
        if self.refused():
            return None
        match = PACKAGE.fullmatch(self.path)
        path = self.registry.path(*match.groups()) if match else None
        if not path or not path.exists():
            return self.answer(404, b"")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self.answer(204, b"")

    def begin(self) -> Faults:
        """Write it down; the faults that hold for this request."""
        seen = {name: self.headers.get(name) for name in ("Authorization", "Private-Token", "Range", "Expect") if self.headers.get(name)}
        with self.registry.lock:
            self.registry.log.append({"method": self.command, "path": self.path, "at": time.monotonic(), **seen})
            return dataclasses.replace(self.registry.faults)

    def refused(self) -> bool:
        """Without a right token, or by a fault."""
        if self.registry.faults.status is not None and self.registry.take("statuses"):
            self.answer(self.registry.faults.status, b"")
            return True
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            with contextlib.suppress(ValueError):
                value = base64.b64decode(value).decode().partition(":")[2]
        tokens = self.registry.tokens
        if tokens and value not in tokens and self.headers.get("Private-Token") not in tokens:
            self.answer(401, b'{"errors":[{"message":"Unauthorized"}]}')
            return True
        return False

    def list_files(self, folder: Path) -> None:
        if not folder.is_dir():
            return self.answer(404, b"")
        files = [
            {"id": 1, "Size": file.stat().st_size, "name": file.name, "sha256": _sha256(file).hex()}
            for file in sorted(folder.iterdir())
        ]
        return self.answer(200, json.dumps(files).encode(), {"Content-Type": "application/json"})

    def send_file(self, file: Path, body: bool, faults: Faults) -> None:
        size = file.stat().st_size if faults.end_at is None else faults.end_at
        first, status = 0, 200
        headers = {"Content-Type": "application/octet-stream", "Last-Modified": "Sat, 21 Nov 2026 08:45:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        last = size - 1
        if not faults.no_ranges:
            headers["Accept-Ranges"] = "bytes"
            if asked:
                first, last = int(asked[1]), min(int(asked[2] or last), last)
                if first >= size:
                    return self.answer(416, b"", {"Content-Range": f"bytes */{size}"})
                status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{size}"
        if faults.digest:
            digest = _sha256(file) if faults.digest == "right" else bytes(32)
            headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(digest).decode()}:"
        if faults.etag:
            headers["ETag"] = faults.etag
        if faults.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(last - first + 1)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(OSError):  # Whoever asked has gone.
                self.send_body(file, first, last + 1, faults)
        return None

    def send_body(self, file: Path, at: int, end: int, faults: Faults) -> None:
        plain = faults == Faults() and not isinstance(self.connection, ssl.SSLSocket)
        with open(file, "rb") as source:
            if plain:
                self.wfile.flush()
                self.connection.sendfile(source, at, end - at)
                return
            source.seek(at)
            sent = 0
            while at < end:
                dripping = faults.drip_after is not None and sent >= faults.drip_after
                length = 1 if dripping else min(faults.piece, end - at)
                if faults.drip_after is not None and not dripping:
                    length = min(length, faults.drip_after - sent)
                for stop, happens in ((faults.cut_after, faults.cuts), (faults.stall_after, 1)):
                    if stop is not None and happens:
                        length = min(length, stop - sent)
                piece = bytearray(source.read(length))
                if faults.flip_at is not None and at <= faults.flip_at < at + length:
                    piece[faults.flip_at - at] ^= 0x10
                if faults.pause and (dripping or faults.drip_after is None):
                    time.sleep(faults.pause)
                if piece:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if faults.chunked else piece)
                at, sent = at + len(piece), sent + len(piece)
                if sent == faults.stall_after:
                    self.registry.closing.wait(60)
                    return
                if sent == faults.cut_after and self.registry.take("cuts"):
                    self.cut()
                    return
            if faults.chunked:
                self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Ends the connection, too: a body that was not read would be taken for the next request."""
        self.close_connection = True
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha256(file: Path) -> bytes:
    digest = hashlib.sha256()
    with open(file, "rb") as source:
        while piece := source.read(1 << 20):
            digest.update(piece)
    return digest.digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the packages lie (default: a temporary folder)")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", action="append", default=[], help="may be given several times; without any, all is public")
    asked = parser.parse_args()
    with Registry(asked.token, asked.folder, asked.port) as registry:
        print(registry.origin, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            registry.thread.join()


if __name__ == "__main__":
    main()
