#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users notice of deploys in place: an app with one server, which restarts in each deploy in 1.5 s, while HAProxy holds new requests.

The goals (exit status 1 where one is missed): no request fails in any deploy; none takes 3 s. On a machine that others keep busy the longest one is told
without being judged. The small version of it is test_requests_wait_while_it_changes.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from edge import Edge, wait_for  # noqa: E402  pylint: disable=wrong-import-position
from harness import CORES  # noqa: E402  pylint: disable=wrong-import-position
from holds import BACKEND, nothing_is_held, waited  # noqa: E402  pylint: disable=wrong-import-position
from in_place import Pair  # noqa: E402  pylint: disable=wrong-import-position
from releases import sha  # noqa: E402  pylint: disable=wrong-import-position

RESTART, LONGEST = 1.5, 3000.0
# Together about 5,000 requests while a deploy lasts.
LOAD = {"connections": 20, "pause": 36}


class Restarting(Pair):
    """An app in one container, behind an HAProxy whose server restarts when the deploy's hook asks for it."""

    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self.core, self.edge = CORES[-1], edge
        self.asked, self.done, hook = (self.folder / name for name in ("asked", "restarted", "restart.yml"))
        # As `systemctl restart`: one command that ends when the service runs.
        words = f"touch {self.asked}; until [ -e {self.done} ]; do sleep 0.02; done"
        hook.write_text(json.dumps([{"name": "Restart the service", "ansible.builtin.command": {"argv": ["timeout", "60", "sh", "-c", words]}}]))
        self.own["lb1"] = {}
        self.vars |= {"app_hosts": ["pve1"], "app_hold_hosts": ["lb1"], "app_hold_backends": [BACKEND], "app_hold_stats_socket": [edge.stats],
                      "app_hooks": {"migrate": [str(hook)]}}

    def restart(self) -> None:
        """As a service does it that needs a while to come up again."""
        wait_for(self.asked.exists, "the hook", 120)
        began = time.monotonic()
        self.edge.stop_app("blue")
        time.sleep(RESTART)
        self.edge.start_app("blue")
        self.took = time.monotonic() - began
        self.asked.unlink()
        self.done.write_text("")

    def one(self, number: int) -> dict[str, t.Any]:
        """One deploy under load, and what its users have seen."""
        self.done.unlink(missing_ok=True)
        server = threading.Thread(target=self.restart)
        with self.edge.load(**LOAD) as load:
            server.start()
            run = self.deploy("2.0" if number % 2 else "1.0", sha(number))
            server.join()
        assert run.code == 0, run.output
        nothing_is_held(self.edge)
        return load.report | {"waited": waited(run)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deploys", type=int, default=10)
    asked = parser.parse_args()
    requests = failed = 0
    longest, kinds = 0.0, {}
    print(f"{'deploy':8}{'requests':>10}{'failed':>8}{'waited':>8}{'longest':>12}{'restart':>10}")
    with Edge(hold=True) as edge, Restarting(edge) as app:
        for number in range(1, asked.deploys + 1):
            seen = app.one(number)
            print(f"{number:<8}{seen['requests']:>10}{seen['failed']:>8}{seen['waited']:>8}{seen['milliseconds']['max']:>9.0f} ms{app.took:>8.2f} s", flush=True)
            requests, failed, longest = requests + seen["requests"], failed + seen["failed"], max(longest, seen["milliseconds"]["max"])
            kinds |= seen["kinds"]
    busy = os.getloadavg()[0] > (os.cpu_count() or 1) + 1
    print(f"ansible-core {CORES[-1]}, all on this machine; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{requests} requests, {failed} failed {kinds if failed else ''}; at most 0: {'missed' if failed else 'met'}")
    late = longest >= LONGEST
    print(f"the longest took {longest:.0f} ms; under {LONGEST:.0f}: {'missed' if late else 'met'}{' (not judged: others keep this machine busy)' if busy else ''}")
    return 1 if failed or late and not busy else 0


if __name__ == "__main__":
    sys.exit(main())
