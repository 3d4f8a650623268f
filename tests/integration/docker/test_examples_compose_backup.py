# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of compose_backup and compose_backup_info, on a project of a real engine."""
from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from compose import PLACES, Engine, an_engine  # noqa: F401  (one is a fixture)
from examples import Scene, modules_of, run_examples

BACKED_UP = {
    "Which backups are there, and are they what was written?": [
        {
            "name": "before",
            "become": True,
            "reversible.deploy.compose_backup": {"project_dir": "/opt/shop", "backup_dir": "/var/backups/shop"},
        }
    ],
}
SHOP = """\
services:
  db:
    image: reversible-lab/postgres:15
    environment: {POSTGRES_PASSWORD: secret}
    volumes: ["data:/var/lib/postgresql/data"]
    healthcheck: {test: [CMD, pg_isready, -q], interval: 1s, timeout: 5s, retries: 60}
  web:
    image: reversible-lab/busybox:1
    init: true
    depends_on: {db: {condition: service_healthy}}
    command: [httpd, -f, -p, "80", -h, /www]
    volumes: ["./www:/www", "cache:/cache"]
volumes: {data: {}, cache: {}}
"""


def shop(on: Engine) -> Scene:
    """A project on the lab's Docker, which this machine sees as its own."""
    environment = on.environ
    place = PLACES / "reversible-examples"
    folder = place / "shop"
    (folder / "www").mkdir(parents=True, exist_ok=True)
    (folder / "compose.yml").write_text(SHOP)
    (folder / "www/index.html").write_text("hello\n")
    compose = ["docker", "compose", "--project-directory", str(folder)]
    subprocess.run([*compose, "up", "-d", "--wait", "--pull", "never"], env={**os.environ, **environment}, check=True, timeout=120)
    exported = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return Scene(
        host="local",
        system="",
        # Asked for before and after: the second time it takes everything away.
        clean=f"""
            if [ -e {place}/used ]; then
                env {exported} {shlex.join(compose)} down -v
                rm -rf {place} /var/lib/reversible/compose-shop
            else
                touch {place}/used
            fi
        """,
        before=BACKED_UP,
        edits={
            "/opt/shop": str(folder),
            "/var/backups/shop": str(place / "backups"),
            '"become": true': '"become": true, "environment": ' + json.dumps(environment),
        },
    )


@pytest.mark.parametrize("module", modules_of("docker"))
def test_the_examples_run(on: Engine, one_core: str, tmp_path: Path, module: str) -> None:
    run_examples(module, shop(on), one_core, tmp_path)
