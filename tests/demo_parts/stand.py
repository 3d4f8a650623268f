# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shop of the demo: that of the tests (HAProxy, a package registry, both colours of a small web app), and people who use it all the
time.

Invariant: from the first release on somebody asks without a break. The next load has begun before the one before it ends.
"""
from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
import typing as t
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "lab")]

from edge import Load  # noqa: E402  (the path comes first)
from flows import Shop  # noqa: E402
from harness import CORES, ROOT, Ansible, Run, venv  # noqa: E402
from labkit import STATE, daemon  # noqa: E402
from releases import TOKEN, folder, member, sha, tar, zstd  # noqa: E402

VERSIONS = {sha(number): f"v{number}" for number in range(1, 6)}
REPORTS = ROOT / "target/demo/incidents"
# Its health page has moved: what asks for it at the old place gets an answer, but not that of a health page.
FORGETFUL = '#!/bin/sh\nexec "${0%/*}/web" "$@" --health /healthz\n'


class Stand(Shop):
    HEAD = ("step", "seconds", "requests", "failed", "flip", "serves now")

    def __init__(self, proxy: str) -> None:
        STATE.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.releases = Path(tempfile.mkdtemp(prefix="shop-", dir=STATE))
        self.asking: Load | None = None
        self.crowds: list[t.Any] = []
        # Checks by the second: on a machine that is busy, quicker ones would call an app dead that is only slow.
        super().__init__(self.releases, version=proxy, inter="1s")
        self.vars |= {
            "ledger_report_dir": str(REPORTS),
            # From elsewhere, after the flip: the page that the monitoring looks at.
            "app_outside": [{"name": "health page", "kind": "http", "url": f"{self.url}health", "release": "{{ app_release_sha }}",
                             "release_field": "version", "tries": 3, "delay": 0.2}],
        }

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        known = super().hosts()
        return {name: {key: value for key, value in host.items() if key != "lost_file"} | {"ansible_connection": "local"}
                for name, host in known.items()}

    def publish_forgetful(self, number: int) -> None:
        """A release that starts and serves; only its health page is not where it was."""
        archive = tar(folder("./"), folder("./bin"), member("./bin/app", FORGETFUL.encode(), mode=0o755),
                      member("./bin/web", Path(self._web).read_bytes(), mode=0o755), member("./RELEASE", sha(number).encode()))
        self.registry.publish(sha(number), zstd(archive, "-1"), package="shop-web")

    def cells(self, run: Run, seen: dict[str, t.Any]) -> tuple[str, str, str]:
        """Of a step: what became of the requests, and the milliseconds of each change of the live map, those of a way back among them."""
        times = " + ".join(f"{each:.1f}" for each in flips(run))
        counts = (f"{seen['requests']:,}", str(seen["failed"])) if seen else ("-", "-")
        return (*counts, f"{times} ms" if times else "-")

    def serving(self) -> str:
        """The colour and the version that answer."""
        color, release = self.serves()
        return f"{color} {VERSIONS.get(release, release[:7])}"

    def order(self, many: int) -> None:
        """Here they are not kept."""

    def ask_on(self) -> dict[str, t.Any]:
        """What the people saw since the last time; others have begun to ask before they end."""
        following = self.load(connections=4, pause=50)
        load = following.__enter__()
        before, self.asking = self.asking, load
        self.crowds.append(following)
        if before is None:
            return {}
        self.crowds.pop(0).__exit__(None, None, None)
        return before.report

    def timed(self) -> tuple[float, float]:
        """Milliseconds of a ping by Ansible and of one of our tasks, ten of each in a loop."""
        ours = {"app": "shop", "env": "staging", "path": str(self.folder / "ledger")}
        tasks = [{"name": name, "loop": list(range(10)), module: given} for name, module, given in
                 (("ping", "ansible.builtin.ping", {}), ("ours", "reversible.deploy.deploy_ledger_info", ours))]
        run = Ansible(CORES[-1], self.folder, self.hosts()).play(tasks, "app1")
        assert run.code == 0, run.output
        return run.named("ping").seconds * 100, run.named("ours").seconds * 100

    def keep(self) -> list[str]:
        """Makes it go on without us; the words that say how to use it."""
        registry, port = self.registry, self.registry.server.server_address[1]
        packages = self.folder / "packages"
        shutil.copytree(registry.folder, packages)
        registry.__exit__()
        argv = [sys.executable, TESTS / "fakes/registry/registry.py", "--folder", packages, "--port", port, "--token", TOKEN]
        daemon.start(self.folder, "registry", argv)
        self.variables.write_text(json.dumps(self.vars, indent=2))
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": self.hosts()}}, indent=2))
        settings = {"PATH": f"{venv(CORES[-1]) / 'bin'}:$PATH", "ANSIBLE_COLLECTIONS_PATH": ROOT / ".dev", "ANSIBLE_INVENTORY": inventory,
                    "ANSIBLE_LOCALHOST_WARNING": "0"}
        (self.folder / "environment").write_text("".join(f'export {name}="{value}"\n' for name, value in settings.items()))
        book = "ansible-playbook reversible.deploy."
        given = "-e @shop.json -e env=staging"
        return [f"cd {shlex.quote(str(self.folder))} && . ./environment", f"curl -i {self.url}", f"{book}status {given}",
                f"{book}deploy_app {given} -e release_sha={sha(1)}", f"{book}rollback {given} -e mode=fast",
                f"{ROOT / 'tests/demo'} end       # ends and removes all of it"]

    def leave(self) -> None:
        """Nobody asks any more; the rest stays."""
        while self.crowds:
            self.crowds.pop().__exit__(None, None, None)

    def close(self) -> None:
        self.leave()
        super().close()
        shutil.rmtree(self.releases)


def flips(run: Run) -> list[float]:
    found = []
    for task in run.tasks:
        took = (task.result.get("flip") or {}).get("milliseconds") or {}
        found += [took[what] for what in ("flip", "back") if what in took]
    return found


def answered_by(report: dict[str, t.Any], color: str) -> tuple[int, float]:
    """How many answers a colour gave, and for how many seconds."""
    runs = [(first, last, many) for word, first, last, many in report.get("runs", []) if word == color]
    if not runs:
        return 0, 0.0
    return sum(many for _first, _last, many in runs), (max(last for _f, last, _m in runs) - min(first for first, _l, _m in runs)) / 1e9


def wait(running: t.Any, look: t.Callable[[str], None], kill_at: str = "") -> Run:
    """Until a run ends, telling its last task; or until a task was done at which its controller is to die."""
    try:
        _watch(running, look, kill_at)
    except BaseException:
        # Whoever interrupts the demo must not leave a deploy at work behind it.
        running.process.kill()
        raise
    finally:
        run = running.wait()
    return run


def _watch(running: t.Any, look: t.Callable[[str], None], kill_at: str) -> None:
    last, place = "Ansible starts", 0
    while running.process.poll() is None:
        ended, place = _tasks_after(running.record, place)
        if kill_at and kill_at in ended:
            os.kill(running.process.pid, 9)
        last = ended[-1] if ended else last
        look(last)
        time.sleep(0.1)


def _tasks_after(record: Path, place: int) -> tuple[list[str], int]:
    """The tasks that have ended since a place in the record, and the place after them. What a task returned is long: each is read once."""
    if not record.exists():
        return [], place
    with record.open("rb") as file:
        file.seek(place)
        whole, end, _begun = file.read().rpartition(b"\n")
    return [json.loads(line)["task"] for line in whole.splitlines()], place + len(whole + end)
