# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples in the documentation run, in their order, on a real target, as they stand there: in check mode, then for real."""
from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from harness import LOCAL, ROOT, Ansible, lab, system

from registry import Registry
from releases import TOKEN, member, targz

MODULES = ROOT / "collection/plugins/modules"
RELEASE, OLDER = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a", "0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a4f2a9c1e"

# What must have happened before an example makes sense.
BEFORE: dict[str, list[dict[str, t.Any]]] = {
    "Take over from a run whose controller died": [
        {
            "name": "before",
            "reversible.deploy.deploy_ledger": {"app": "shop", "env": "staging", "deploy_id": "20261121t091500z-44d0", "state": "open"},
        }
    ],
    "Which releases are here": [
        {
            "name": f"before {name}",
            "reversible.deploy.release_artifact": {
                "url": "https://forge.example.org/api/packages/acme/generic/shop-backend/{sha}/shop-backend-{sha}.tar.zst",
                "sha": name,
                "token": "{{ forge_token }}",
                "dest": "/opt/shop/backend",
                "state": "current",
            },
        }
        for name in (OLDER, RELEASE)
    ],
    "Which backups are there, and are they what was written?": [
        {
            "name": "before",
            "become": True,
            "reversible.deploy.compose_backup": {"project_dir": "/opt/shop", "backup_dir": "/var/backups/shop"},
        }
    ],
    "See where the app's data can go back to": [
        {
            "name": "before",
            "reversible.deploy.zfs_pre_deploy": {"datasets": ["tank/shop"], "app": "shop-prod", "deploy_id": "20261121t084500z-7f3a"},
        }
    ],
}


@dataclasses.dataclass
class Scene:
    """Where the examples of a module run."""

    host: str = "bare_root"  # without Python
    system: str = "bare"  # "": this machine itself
    clean: str = "true"  # takes away what they leave behind
    # What of an example is this machine's own: addresses, releases.
    edits: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # beside the playbook
    variables: dict[str, str] = dataclasses.field(default_factory=dict)  # that a user would have
    # Ended after the examples.
    open: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)


def ledger() -> Scene:
    return Scene(clean="rm -rf /var/lib/reversible/shop-staging /root/shop-staging*")


def haproxy() -> Scene:
    """Debian's own HAProxy under systemd."""
    edge = system("systemd")["systemd_root"]["edge"]
    by_config = edge["configs"]["green"].replace("use_backend shop-web-%[str(shop-staging),map(/etc/haproxy/active.map,missing)]", "default_backend shop-web-green")
    return Scene(
        host="systemd_root",
        system="systemd",
        clean=f"""
            rm -rf /var/lib/reversible
            echo 'shop-staging blue' > /etc/haproxy/active.map
            cat > /etc/haproxy/haproxy.cfg <<'END'\n{edge["configs"]["blue"]}\nEND
            systemctl reload haproxy && sleep 1
        """,
        edits={"http://127.0.0.1/": edge["url"], "4f2d1c9a0b8e7d6c5b4a39281706f5e4d3c2b1a0": "2222222", '"watch": 60': '"watch": 1'},  # and nobody has a minute
        files={"haproxy.cfg.j2": by_config + "\n"},
    )


def services() -> Scene:
    edge = system("systemd")["systemd_root"]["edge"]
    return Scene(host="systemd_root", system="systemd", edits={"http://127.0.0.1/": edge["url"]})


def proxmox() -> Scene:
    """A container on the fake Proxmox, which lies beside systemd's own programs."""
    fake, root = Path(lab("get", "fake-pve")), Path(system("systemd")["systemd_root"]["edge"]["root"])
    (root / "usr/local/sbin").mkdir(exist_ok=True)
    for name in ("fake-pve", "pct", "pvesh"):
        shutil.copy(fake, root / "usr/local/sbin" / name)
    (root / "usr/local/sbin/fake-pve-home").write_text("/root/pve\n")
    asked = {"argv": ["curl", "-fsS", "http://127.0.0.1:8080/health"]}
    world = {
        "storages": {"local-lvm": {"type": "lvmthin", "place": "pve/data"}},
        "containers": {
            "101": {
                "config": {"hostname": "shop", "rootfs": "local-lvm:vm-101-disk-0,size=4G"},
                "running": True,
                "guest": {"exec": [asked]},
            }
        },
        "volumes": {"local-lvm:vm-101-disk-0": {"content": "system"}},
    }
    (root / "root/world.json").write_text(json.dumps(world))
    clean = "rm -rf /var/lib/reversible /root/pve; fake-pve init /root/pve /root/world.json"
    return Scene(host="systemd_root", system="systemd", clean=clean)


def forge() -> Scene:
    """A package registry with a release and the one before, and the same release built by hand on the target."""
    scene = Scene(variables={"forge_token": TOKEN})
    registry = scene.open.enter_context(Registry([TOKEN]))
    archive = targz(member("RELEASE", RELEASE.encode()))
    for name in (RELEASE, OLDER):
        registry.publish(name, archive, package="shop-backend")
    scene.edits = {"https://forge.example.org": registry.origin}
    rebuilt = f"/tmp/shop-backend-{RELEASE}.tar.zst"
    scene.clean = f"rm -rf /opt/shop && mkdir -p /opt && echo {base64.b64encode(archive).decode()} | base64 -d > {rebuilt}"
    return scene


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


def shop() -> Scene:
    """A project on the lab's Docker, which this machine sees as its own."""
    environment = json.loads(lab("up", "docker"))["environment"]
    place = Path("/var/tmp/reversible-examples")
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
        edits={
            "/opt/shop": str(folder),
            "/var/backups/shop": str(place / "backups"),
            '"become": true': '"become": true, "environment": ' + json.dumps(environment),
        },
    )


def datasets() -> Scene:
    """A pool in the machine with ZFS, where root is the user and there is no sudo."""
    clean = """
        zpool list -H -o name tank >/dev/null 2>&1 && zpool destroy -f tank
        rm -rf /mnt/tank.img /var/lib/reversible/zfs-shop-prod
        truncate -s 256M /mnt/tank.img
        zpool create -f tank /mnt/tank.img && zfs create tank/shop && zfs create tank/shop/db
    """
    return Scene(host="zfs_root", system="zfs", clean=clean, edits={'"become": true': '"become": false'})


def processes() -> Scene:
    """Nobody has their programs, so others stand for them. Busybox, on the bare machine, has another start-stop-daemon."""
    return Scene(
        host="systemd_root",
        system="systemd",
        clean="for file in /run/shop-*.pid; do kill $(cat $file) 2>/dev/null; done; rm -rf /run/shop-*.pid /var/log/shop; mkdir -p /opt/shop",
        edits={
            '"/opt/shop/web/green/current/bin/web", "--port", "18082"': '"/bin/sleep", "60"',
            '"/opt/shop/backend/green/current/bin/backend", "--port", "18084"': '"/bin/sleep", "60"',
            "/opt/shop/web/green/current": "/opt/shop",
        },
        variables={"vault_database_url": "postgres://shop:hunter2@db/shop"},
    )


SCENES: dict[str, t.Callable[[], Scene]] = {
    "app_processes": processes,
    "compose_backup": shop,
    "compose_backup_info": shop,
    "deploy_ledger": ledger,
    "deploy_ledger_info": ledger,
    "health_gate": services,
    "haproxy_color_switch": haproxy,
    "haproxy_color_switch_info": haproxy,
    "pct_snapshot": proxmox,
    "pct_snapshot_info": proxmox,
    "release_artifact": forge,
    "release_artifact_info": forge,
    "zfs_pre_deploy": datasets,
    "zfs_pre_deploy_info": datasets,
}


def examples_of(module: str) -> list[dict[str, t.Any]]:
    import yaml

    spec = importlib.util.spec_from_file_location(module, MODULES / f"{module}.py")
    documented = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documented)
    return yaml.safe_load(documented.EXAMPLES)


def as_they_run(module: str, scene: Scene) -> list[dict[str, t.Any]]:
    tasks = []
    for example in examples_of(module):
        tasks += BEFORE.get(example["name"], []) + [example]
    text = json.dumps(tasks)
    for written, here in scene.edits.items():
        text = text.replace(written, here)
    return json.loads(text)


@pytest.mark.parametrize("module", sorted(path.stem for path in MODULES.glob("*.py")))
def test_the_examples_run(one_core: str, tmp_path: Path, module: str) -> None:
    assert module in SCENES, f"say in SCENES where the examples of {module} run"
    scene = SCENES[module]()
    with scene.open:
        ansible = Ansible(one_core, tmp_path, system(scene.system) if scene.system else LOCAL)
        for name, text in scene.files.items():
            (tmp_path / name).write_text(text)
        tasks = as_they_run(module, scene)
        ansible.on(scene.host, scene.clean)
        checked = ansible.play(tasks[:1], scene.host, "--check", "--diff", vars=scene.variables)
        assert checked.code == 0, checked.output
        real = ansible.play(tasks, scene.host, vars=scene.variables)
        assert real.code == 0, real.output
        assert len(real.tasks) == len(tasks)
        ansible.on(scene.host, scene.clean)


def test_the_example_playbook_runs(one_core: str, tmp_path: Path) -> None:
    edge = Ansible(one_core, tmp_path, system("bare"))
    edge.on("bare_root", "rm -rf /root/ledger-example")
    book = ROOT / "collection/docs/examples/ledger.yml"
    run = edge._start(
        ["ansible-playbook", "-e", "ledger_host=bare_root", "-e", "ledger_path=/root/ledger-example", str(book)]
    ).wait()
    assert run.code == 0, run.output
    edge.on("bare_root", "rm -rf /root/ledger-example")
