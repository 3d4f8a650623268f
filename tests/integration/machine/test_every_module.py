# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module that is shipped, as the archive installs it, in each way in which a task can reach its program: the fast path, Ansible's ordinary way,
async. The stage `archive` installs it, and sees that each ansible-core installs the same files."""
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from harness import COLLECTION, GOES_ON, LOCAL, ROOT, Ansible, staged

SHIPPED = sorted(path.stem for path in (ROOT / "collection/plugins/modules").glob("*.py"))
ID, NOWHERE = "20261121t084500z-7f3a", "/nonexistent"
HAPROXY = {"config": f"{NOWHERE}/haproxy.cfg", "state_dir": f"{NOWHERE}/state"}
KUBE = {"context": "none", "namespace": "shop", "name": "web", "kubectl": f"{NOWHERE}/kubectl"}
POSTGRES = {"database": "shop", "host": NOWHERE, "os_user": "root"}
RELEASE = {"url": "http://127.0.0.1:1/{owner}/{package}/{sha}.tar.gz", "owner": "shop", "package": "web", "dest": f"{NOWHERE}/web"}
# What is enough for each to be asked. None finds here what it is for, so that none changes anything; in check mode where that can be (async cannot).
OPTIONS: dict[str, dict[str, t.Any]] = {
    "host_command": {"argv": ["true"], "removes": NOWHERE},
    "host_files_info": {"paths": [NOWHERE]},
    "host_files": {"dest": NOWHERE, "files": [{"path": "web", "src": f"{NOWHERE}/web"}]},
    "app_processes": {"processes": [{"name": "web", "pidfile": f"{NOWHERE}/web.pid", "argv": ["true"]}], "state": "stopped"},
    "compose_backup": {"project_dir": NOWHERE, "backup_dir": f"{NOWHERE}/backups", "deploy_id": ID},
    "compose_backup_info": {"project_dir": NOWHERE, "backup_dir": f"{NOWHERE}/backups"},
    "deploy_ledger": {"app": "shop", "env": "prod", "path": f"{NOWHERE}/ledger", "state": "closed", "deploy_id": ID, "outcome": "done"},
    "deploy_ledger_info": {"app": "shop", "env": "prod", "path": f"{NOWHERE}/ledger"},
    "haproxy_color_switch": {**HAPROXY, "color": "green"},
    "haproxy_color_switch_info": HAPROXY,
    "haproxy_hold": {"map_key": "shop-staging", "stats_socket": [f"{NOWHERE}/admin.sock"]},
    "haproxy_hold_info": {"stats_socket": [f"{NOWHERE}/admin.sock"]},
    "health_gate": {"probes": [{"name": "it", "kind": "tcp", "host": "127.0.0.1", "port": 1}]},
    "kube_rollout": {**KUBE, "image": "shop:2", "deploy_id": ID},
    "kube_rollout_info": KUBE,
    "pct_snapshot": {"vmid": 100, "deploy_id": ID},
    "pct_snapshot_info": {"vmid": 100},
    "postgres_restore_point": {**POSTGRES, "deploy_id": ID},
    "postgres_restore_point_info": POSTGRES,
    "release_artifact": {**RELEASE, "sha": "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a"},
    "release_artifact_info": {"dest": f"{NOWHERE}/web"},
    "zfs_pre_deploy": {"datasets": ["tank/data"], "deploy_id": ID},
    "zfs_pre_deploy_info": {"datasets": ["tank/data"]},
}


def test_all_are_asked() -> None:
    assert sorted(OPTIONS) == SHIPPED


def test_what_runs_is_what_the_archive_has_installed() -> None:
    assert (staged() / COLLECTION / "MANIFEST.json").is_file(), "a staged collection: tests/run.py --only runs these tests on the installed one"


# An async task takes seconds: a module, and one that another one's crate serves.
ASYNC = ["health_gate", "pct_snapshot_info"]


@pytest.mark.every_version
@pytest.mark.parametrize("way", ["fast", "ordinary", "async"])
def test_every_module_is_reached(core: str, tmp_path: Path, way: str) -> None:
    environ = {"ANSIBLE_KEEP_REMOTE_FILES": "1"} if way == "ordinary" else {}
    more = {"async": 60, "poll": 1} if way == "async" else {"check_mode": True}
    names = ASYNC if way == "async" else SHIPPED
    ansible = Ansible(core, tmp_path, {"local": LOCAL["local"] | {"ansible_remote_tmp": str(tmp_path / "remote")}}, environ)
    run = ansible.play([{f"reversible.deploy.{name}": OPTIONS[name], **more, **GOES_ON} for name in names], "local", "-vv")
    for name, task in zip(names, run.tasks, strict=True):
        # What only a program says: a failure of the controller's own check has another reason.
        said = task.result.get("reason", "bad_options") != "bad_options" if task.result.get("failed") else "changed" in task.result
        assert said, f"{name}: {task.result}"
    assert ("taking the ordinary way" in run.output) == (way != "fast")
