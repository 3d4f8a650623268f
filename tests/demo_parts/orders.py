# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shop's orders of the demo: PostgreSQL in a Compose project, on an engine of its own, changed in place with a backup as the way back.

Invariant: what is counted is what the database answers, and a release is what the running container says of itself.
"""
from __future__ import annotations

import subprocess
import sys
import typing as t

import stand as shop  # also finds the tests' modules
from compose import Project, engine
from harness import CORES, ROOT, Run, Running
from in_place import InPlace, example
from releases import sha

COMPOSE = """\
services:
  db:
    image: reversible-lab/postgres:15
    environment: {RELEASE: "${VERSION}", POSTGRES_PASSWORD: none-from-outside}
    volumes: [orders:/var/lib/postgresql/data]
    healthcheck: {test: [CMD, pg_isready, -q], interval: 1s, timeout: 5s, retries: 60}
volumes: {orders: {}}
"""
TABLE = "CREATE TABLE IF NOT EXISTS orders (id serial PRIMARY KEY, what text NOT NULL)"
# By release. The second is harmless; the third means to tidy up.
MIGRATIONS = {2: "ALTER TABLE orders ADD COLUMN note text", 3: "DELETE FROM orders WHERE id % 8 <> 0"}


class Orders(InPlace):
    HEAD = ("step", "seconds", "", "", "stood still", "has now")

    def __init__(self) -> None:
        self.project = Project(engine(), COMPOSE, "orders")
        self.project.file.rename(self.project.place / "compose.yml")
        super().__init__(example("compose") | {
            "app_name": "orders", "app_title": "Orders", "ledger_report_dir": str(shop.REPORTS),
            "compose_app_project_dir": str(self.project.folder), "compose_app_backup_dir": str(self.project.backups),
            "compose_app_state_dir": str(self.project.state), "compose_app_source": str(self.project.place),
            "compose_app_source_files": ["compose.yml"], "compose_app_wait_timeout": 60,
        }, {"shop1": {}})
        self.core = CORES[-1]
        self.environ |= self.project.engine.environ

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        here = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        return {name: here | own for name, own in self.own.items()}

    def start_book(self, book: str, **inputs: t.Any) -> Running:
        number = next((number for number in range(1, 4) if sha(number) == inputs.get("release_sha")), 0)
        sql = MIGRATIONS.get(number)
        words = ["docker", "compose", "--project-directory", str(self.project.folder), "exec", "-T", "db", "psql", "-qc", sql]
        self.vars["app_hooks"] = {"migrate": [words]} if sql else {}
        return self.start(book, **({"compose_app_env": {"VERSION": f"v{number}"}} if number else {}), **inputs)

    def order(self, many: int) -> None:
        """So many come in. The first ones find no table yet."""
        if many and self.serving() != "nothing runs":
            self.project.sql(f"{TABLE}; INSERT INTO orders (what) SELECT 'a lamp' FROM generate_series(1, {many})")

    def serving(self) -> str:
        """The release that runs, and how many orders it knows."""
        running = [one for one in self.project.containers() if one["State"]["Running"]]
        if not running:
            return "nothing runs"
        release = next(word for word in running[0]["Config"]["Env"] if word.startswith("RELEASE=")).removeprefix("RELEASE=")
        there = self.project.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'orders'") == "1"
        return f"{release}, {self.project.sql('SELECT count(*) FROM orders') if there else 0} orders"

    def ask_on(self) -> dict[str, t.Any]:
        """Nobody asks without a pause: what is changed in place is away for a moment."""
        return {}

    def cells(self, run: Run, _seen: dict[str, t.Any]) -> tuple[str, str, str]:
        """Of a step: for how long its backup made the database stand still."""
        times = [task.result["freeze_ms"] for task in run.tasks if task.result.get("freeze_ms")]
        return "", "", f"{sum(times):.0f} ms" if times else "-"

    def close(self) -> None:
        self.project.remove()
        super().close()
        lab = [sys.executable, str(ROOT / "tests/lab/lab"), "down", "docker"]
        subprocess.run(lab, stdout=subprocess.DEVNULL, check=True)
