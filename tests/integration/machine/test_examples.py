# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of the modules that need neither Docker nor ZFS."""
from __future__ import annotations

import base64
import json
import shutil
import typing as t
from pathlib import Path

import pytest
from examples import Scene, modules_of, run_examples
from harness import ROOT, Ansible, lab, system

from registry import Registry
from releases import TOKEN, member, targz

RELEASE, OLDER = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a", "0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a4f2a9c1e"

OPEN_DEPLOY = {
    "Take over from a run whose controller died": [
        {
            "name": "before",
            "reversible.deploy.deploy_ledger": {"app": "shop", "env": "staging", "deploy_id": "20261121t091500z-44d0", "state": "open"},
        }
    ],
}
INSTALLED = {
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
}


def ledger() -> Scene:
    return Scene(clean="rm -rf /var/lib/reversible/shop-staging /root/shop-staging*", before=OPEN_DEPLOY)


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


def holding() -> Scene:
    """The same, with the script of the role haproxy."""
    scene, script = haproxy(), (ROOT / "roles/haproxy/templates/reversible-hold.lua.j2").read_text()
    for name, value in {"map": "/etc/haproxy/holds.map", "seconds | int": "60", "requests | int": "500"}.items():
        script = script.replace(f"{{{{ haproxy_hold_{name} }}}}", value)
    rule = "http-request lua.reversible-hold shop-staging if { str(shop-staging),map(/etc/haproxy/holds.map) -m found }"
    scene.clean = (f": > /etc/haproxy/holds.map\ncat > /etc/haproxy/reversible-hold.lua <<'END'\n{script}\nEND\n" + scene.clean).replace(
        "    chroot /var", "    lua-load /etc/haproxy/reversible-hold.lua\n    chroot /var").replace(
        "    use_backend shop-web-", f"    {rule}\n    use_backend shop-web-", 1)
    assert "lua-load" in scene.clean and rule in scene.clean
    scene.edits["shop-web.service"] = "web-blue.service"
    return scene


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
    scene = Scene(variables={"forge_token": TOKEN}, before=INSTALLED)
    registry = scene.open.enter_context(Registry([TOKEN]))
    archive = targz(member("RELEASE", RELEASE.encode()))
    for name in (RELEASE, OLDER):
        registry.publish(name, archive, package="shop-backend")
    scene.edits = {"https://forge.example.org": registry.origin}
    rebuilt = f"/tmp/shop-backend-{RELEASE}.tar.zst"
    scene.clean = f"rm -rf /opt/shop && mkdir -p /opt && echo {base64.b64encode(archive).decode()} | base64 -d > {rebuilt}"
    return scene


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


def project() -> Scene:
    """A release beside Debian's own HAProxy, whose unit is left as it was."""
    scene = haproxy()
    scene.clean += """
        rm -rf /srv/shop /srv/releases /etc/shop.env; mkdir -p /srv/releases/4f2a9c1/config; systemctl disable --quiet haproxy
        echo 'services: {}' > /srv/releases/4f2a9c1/compose.yaml; echo it > /srv/releases/4f2a9c1/config/it
    """
    return scene


SCENES: dict[str, t.Callable[[], Scene]] = {
    "app_processes": processes,
    "deploy_ledger": ledger,
    "deploy_ledger_info": ledger,
    "health_gate": services,
    "haproxy_color_switch": haproxy,
    "haproxy_color_switch_info": haproxy,
    "host_command": Scene,
    "host_files": project,
    "host_files_info": Scene,
    "haproxy_hold": holding,
    "haproxy_hold_info": holding,
    "pct_snapshot": proxmox,
    "pct_snapshot_info": proxmox,
    "release_artifact": forge,
    "release_artifact_info": forge,
}


@pytest.mark.parametrize("module", modules_of("machine"))
def test_the_examples_run(one_core: str, tmp_path: Path, module: str) -> None:
    assert module in SCENES, f"say in SCENES where the examples of {module} run, or in HOMES on which other kind of system"
    run_examples(module, SCENES[module](), one_core, tmp_path)


def test_the_example_playbook_runs(one_core: str, tmp_path: Path) -> None:
    edge = Ansible(one_core, tmp_path, system("bare"))
    edge.on("bare_root", "rm -rf /root/ledger-example")
    book = ROOT / "collection/docs/examples/ledger.yml"
    run = edge._start(
        ["ansible-playbook", "-e", "ledger_host=bare_root", "-e", "ledger_path=/root/ledger-example", str(book)]
    ).wait()
    assert run.code == 0, run.output
    edge.on("bare_root", "rm -rf /root/ledger-example")
