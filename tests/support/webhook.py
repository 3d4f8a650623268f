# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A chat, as far as the role notify sees one."""
from __future__ import annotations

import http.server
import json
import threading
import typing as t

SECRET_PATH = "T0secretpath9"


class Hook:
    """A webhook that answers what it is told to, and remembers what it got, and what `look` saw at that moment."""

    def __init__(self, look: t.Callable[[], t.Any] = lambda: None) -> None:
        self.seen: list[t.Any] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # pylint: disable=invalid-name
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hook.got.append((self.path, dict(self.headers), body))
                hook.seen.append(look())
                status = hook.answers.pop(0) if hook.answers else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", hook.url + "/elsewhere")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_words: t.Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{SECRET_PATH}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def bodies(self) -> list[t.Any]:
        return [json.loads(body) for _path, _headers, body in self.got]
