# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Compose project whose releases lie beside it, deployed by the role compose_app."""
from __future__ import annotations

import json
import shutil
import typing as t
from pathlib import Path

from compose import Engine, Project, an_engine, tree, unlike  # noqa: F401
from harness import Ansible, Run

HOST = "local"
FIRST, SECOND, BACK = "20261121t084500z-7f3a", "20261121t090000z-1c2d", "20261121t100000z-00aa"
SECRET = "s3cret-of-the-release-77d1"
FACTS = ("app_observed", "app_captured", "app_reverted", "app_outcome")
# The data is written by whoever runs, so that a failed release leaves traces.
APP = """\
services:
  web:
    image: NAME/web:${VERSION}
    stop_signal: SIGKILL
    environment: {PASSWORD: "${PASSWORD}"}
    volumes: ["./data:/data", "box:/box"]
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"], interval: 1s, timeout: 5s, retries: 5}
volumes: {box: {}}
"""
SERVES = "read line < /www/index.html; echo $line >> /data/log; echo x >> /box/x; exec httpd -f -h /www"
FALLS = "echo broken > /data/log; echo broken > /box/x; echo cannot open the database; exit 3"
DAMAGE = "import pathlib, sys; [path.write_bytes(b'') for path in pathlib.Path(sys.argv[1]).glob('backup-*/data/*.tar.zst')]"


class App(Project):
    """A project whose releases lie beside it, each with an image of its own."""

    def __init__(self, on: Engine):
        super().__init__(on, "", "app")
        self.file.unlink()
        (self.folder / "data").mkdir()
        (self.folder / ".env").write_text(f"VERSION=0\nPASSWORD={SECRET}\n")
        for version, command in (("1", SERVES), ("2", SERVES), ("3", FALLS)):
            self.release(version, command)

    def release(self, version: str, command: str) -> Path:
        folder = self.place / "releases" / version
        folder.mkdir(parents=True)
        text = APP.replace("NAME", self.name)
        (folder / "compose.yml").write_text(f"name: {self.name}\n# release {version}\n{text}")
        (folder / "index.html").write_text(f"release {version}\n")
        lines = ["FROM reversible-lab/busybox:1", "COPY index.html /www/index.html", f"CMD {json.dumps(['sh', '-c', command])}"]
        (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
        self.engine.docker("build", "--quiet", "--tag", f"{self.name}/web:{version}", folder)
        return folder

    def begin(self, version: str) -> None:
        """As if it had been deployed: what is looked at comes after that."""
        shutil.copy2(self.place / "releases" / version / "compose.yml", self.folder)
        (self.folder / ".env").write_text(f"VERSION={version}\nPASSWORD={SECRET}\n")
        self.up()

    @property
    def version(self) -> str:
        return self.page().removeprefix("release ")

    @property
    def outcome(self) -> str:
        return (self.place / "outcome").read_text().strip()

    def deploy(self, ansible: Ansible, version: str, *options: str, door: str = "", deploy_id: str = FIRST,
               hooks: dict[str, t.Any] | None = None, doors: t.Sequence[str] = (), **inputs: t.Any) -> Run:
        own = {"project_dir": str(self.folder), "backup_dir": str(self.backups), "state_dir": str(self.state), "pull": "never",
               "source": str(self.place / "releases" / version), "source_files": ["compose.yml"], "env": {"VERSION": version},
               "wait_timeout": 30, "ledger_host": HOST, "ledger_path": str(self.place / "ledger"), "outcome_file": str(self.place / "outcome")}
        given = {"app_name": "shop", "app_env": "prod", "app_release_sha": "2222222", "app_release_previous": "1111111", "deploy_id": deploy_id,
                 "app_hooks": hooks or {}} | {f"compose_app_{name}": value for name, value in (own | inputs).items()}
        roles = [{"name": "reversible.deploy.compose_app"} | ({"tasks_from": one} if one else {}) for one in doors or [door]]
        show = [{"name": name, "ansible.builtin.debug": {"var": name}, "when": f"{name} is defined"} for name in FACTS]
        tasks = [{"block": [{"ansible.builtin.include_role": role, "vars": given} for role in roles], "always": show}]
        run = ansible.play(tasks, HOST, *options, environment=self.engine.environ)
        assert SECRET not in run.output
        return run
