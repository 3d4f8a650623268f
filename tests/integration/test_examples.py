# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples in the documentation run, in their order, on a real target, as they stand there: in check mode, then for real."""
from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import typing as t
from pathlib import Path

import pytest
from harness import ROOT, Ansible, lab, system

MODULES = ROOT / "collection/plugins/modules"

# What must have happened before an example makes sense.
BEFORE: dict[str, list[dict[str, t.Any]]] = {
    "Take over from a run whose controller died": [
        {
            "name": "before",
            "reversible.deploy.deploy_ledger": {"app": "shop", "env": "staging", "deploy_id": "20261121t091500z-44d0", "state": "open"},
        }
    ],
}


@dataclasses.dataclass
class Scene:
    """Where the examples of a module run."""

    host: str = "bare_root"  # without Python
    system: str = "bare"
    clean: str = "true"  # takes away what they leave behind
    # What of an example is this machine's own: addresses, releases.
    edits: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # beside the playbook


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


SCENES: dict[str, t.Callable[[], Scene]] = {
    "deploy_ledger": ledger,
    "deploy_ledger_info": ledger,
    "health_gate": services,
    "haproxy_color_switch": haproxy,
    "haproxy_color_switch_info": haproxy,
    "pct_snapshot": proxmox,
    "pct_snapshot_info": proxmox,
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
def test_the_examples_run(edge_core: str, tmp_path: Path, module: str) -> None:
    assert module in SCENES, f"say in SCENES where the examples of {module} run"
    scene = SCENES[module]()
    ansible = Ansible(edge_core, tmp_path, system(scene.system))
    for name, text in scene.files.items():
        (tmp_path / name).write_text(text)
    tasks = as_they_run(module, scene)
    ansible.on(scene.host, scene.clean)
    checked = ansible.play(tasks[:1], scene.host, "--check", "--diff")
    assert checked.code == 0, checked.output
    real = ansible.play(tasks, scene.host)
    assert real.code == 0, real.output
    assert len(real.tasks) == len(tasks)
    ansible.on(scene.host, scene.clean)


def test_the_example_playbook_runs(edge: Ansible) -> None:
    edge.on("bare_root", "rm -rf /root/ledger-example")
    book = ROOT / "collection/docs/examples/ledger.yml"
    run = edge._start(
        ["ansible-playbook", "-e", "ledger_host=bare_root", "-e", "ledger_path=/root/ledger-example", str(book)]
    ).wait()
    assert run.code == 0, run.output
    edge.on("bare_root", "rm -rf /root/ledger-example")
