# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role data_snapshot and the playbook deploy_data on real ZFS, on a machine without Python: the README's own playbooks, what is stopped
and started around a rollback (also one that fails), and the datasets of containers as their storages name them.

Incus and Proxmox are stand-ins that answer what the role asks; that the names they lead to are right is seen by ZFS itself.
"""
from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
import yaml
import zfs
from harness import PIPELINING, ROOT, Ansible, Run
from zfs import HOST, Machine, Pool

FIRST, BACK = "20261121t084500z-7f3a", "20261121t090000z-1c2d"
NAME = f"pre-deploy-{FIRST}"
SERVICE = """#!/bin/sh
case $1 in
start) trap '' HUP  # the connection that started it may end before it has left its session
       (cd /@POOL@/shop; exec setsid sleep 3000 >/dev/null 2>&1 </dev/null) & echo $! > /run/@POOL@.pid; echo start >> /run/@POOL@.log ;;
stop) pid=$(cat /run/@POOL@.pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done
      rm /run/@POOL@.pid; echo stop >> /run/@POOL@.log ;;
status) [ -e /run/@POOL@.pid ] && kill -0 $(cat /run/@POOL@.pid) ;;
esac
"""


@pytest.fixture(scope="module")
def machine() -> Machine:
    return zfs.machine()


@pytest.fixture
def pool(machine: Machine) -> t.Iterator[Pool]:
    with machine.pool() as pool:
        pool.make("shop", "shop/db")
        machine.run("sh", "-euc", "mkdir -p /etc/init.d; cat > /etc/init.d/shop-db; chmod 0755 /etc/init.d/shop-db",
                    given=SERVICE.replace("@POOL@", pool.name).encode())
        machine.sh("/etc/init.d/shop-db start; rm -rf /var/lib/reversible/zfs-shop-staging")
        yield pool
        machine.sh("if /etc/init.d/shop-db status; then /etc/init.d/shop-db stop; fi")
        machine.sh(f"rm -rf /run/{pool.name}.* /var/lib/reversible/zfs-shop-staging")


@pytest.fixture
def data(machine: Machine, one_core: str, tmp_path: Path) -> Ansible:
    known = machine.known | {"ansible_python_interpreter": "/nowhere/python"}
    return Ansible(one_core, tmp_path, {"data": known, HOST: known}, PIPELINING)


def readme(pool: Pool) -> list[str]:
    """Its playbooks as they stand there, but for the name of the pool, and without sudo, which the machine has not."""
    text = (ROOT / "roles/data_snapshot/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(blocks) == 2, "the README has one playbook for the way there and one for the way back"
    return [block.replace("tank/", f"{pool.name}/").replace("become: true", "become: false") for block in blocks]


def book(ansible: Ansible, text: str, *options: str) -> Run:
    path = ansible.folder / "readme.yml"
    path.write_text(text, encoding="utf-8")
    return ansible._start(["ansible-playbook", *options, str(path)]).wait()


def test_what_the_readme_says(machine: Machine, pool: Pool, data: Ansible) -> None:
    there, back = readme(pool)
    log = f"/run/{pool.name}.log"
    for options in (["--check"], [], []):
        done = book(data, there, *options)
        assert done.code == 0, done.output
        assert pool.all("snapshot") == ([] if options else [f"shop@{NAME}", f"shop/db@{NAME}"])
    pool.write("shop", "spoilt")
    for options, said, parked in ((["--check"], "start", False), ([], "start stop start", True), ([], "start stop start", True)):
        done = book(data, back, *options)
        assert done.code == 0, done.output
        assert (" ".join(machine.run("cat", log)), f"shop-parked-{BACK}" in pool.all("filesystem")) == (said, parked)
    assert machine.ask("test", "-e", f"/{pool.name}/shop/file").code == 1
    machine.sh("/etc/init.d/shop-db status")


def test_what_was_stopped_is_started_again_when_going_back_is_refused(machine: Machine, pool: Pool, data: Ansible) -> None:
    there, back = readme(pool)
    assert book(data, there).code == 0
    other = machine.start("sh", "-c", f"cd /{pool.name}/shop/db && sleep 3000")
    before = pool.fingerprint()
    refused = book(data, back)
    assert (refused.code, pool.fingerprint() == before) == (2, True), refused.output
    assert f"used by pid {other}" in refused.output
    assert " ".join(machine.run("cat", f"/run/{pool.name}.log")) == "start stop start"
    machine.end(other)


def test_the_datasets_of_containers(machine: Machine, pool: Pool, data: Ansible) -> None:
    p = pool.name
    pool.make("incus/containers/shop-postgres", "incus/custom/default_files", "data/subvol-101-disk-0", "data/subvol-101-disk-1")
    root = {"type": "disk", "pool": "fast", "path": "/"}
    files = {"type": "disk", "pool": "fast", "path": "/srv", "source": "files"}
    instance = {"name": "shop-postgres", "type": "container", "expanded_devices": {"root": root, "files": files, "eth0": {"type": "nic"}}}
    answers = {
        "/1.0/instances/shop-postgres?project=default": instance,
        "/1.0/instances/shop-postgres/state?project=default": {"status": "Stopped"},
        "/1.0/storage-pools/fast": {"driver": "zfs", "config": {"source": f"{p}/incus", "zfs.pool_name": f"{p}/incus"}},
    }
    cases = "\n".join(f"'query {path}') echo '{json.dumps(answer)}' ;;" for path, answer in answers.items())
    config = "arch: amd64\nrootfs: zp:subvol-101-disk-0,size=4G\nmp0: zp:base-9-disk-0/subvol-101-disk-1,mp=/srv\nmp1: /mnt/bind,mp=/bind\n"
    storage = {"type": "zfspool", "pool": f"{p}/data"}
    stubs = {
        "incus": f'case "$*" in\n{cases}\n*) exit 1 ;; esac',
        "pct": f"case \"$*\" in 'config 101') printf '{config}' ;; 'status 101') echo 'status: stopped' ;; *) exit 1 ;; esac",
        "pvesh": f"case \"$*\" in 'get /storage/zp --output-format json') echo '{json.dumps(storage)}' ;; *) exit 1 ;; esac",
    }
    for name, script in stubs.items():
        machine.run("sh", "-euc", f"cat > /usr/bin/{name}; chmod 0755 /usr/bin/{name}", given=f"#!/bin/sh\n{script}\n".encode())
    try:
        users = [{"preset": "incus", "name": "shop-postgres"}, {"preset": "pct", "name": "101"}]
        wanted = {"app_name": "shop", "app_env": "staging", "deploy_id": FIRST, "data_snapshot_users": users}
        done = data.play([{"ansible.builtin.include_role": {"name": "reversible.deploy.data_snapshot"}, "vars": wanted}], HOST)
        assert done.code == 0, done.output
        found = ["data/subvol-101-disk-0", "data/subvol-101-disk-1", "incus/containers/shop-postgres", "incus/custom/default_files"]
        assert pool.all("snapshot") == [f"{name}@{NAME}" for name in found]
    finally:
        machine.run("rm", "-f", *(f"/usr/bin/{name}" for name in stubs))


def test_the_playbook_before_a_deploy(pool: Pool, data: Ansible) -> None:
    play = ["ansible-playbook", "reversible.deploy.deploy_data", "-e", "data_become=false", "-e", f"deploy_id={FIRST}"]
    known = {"data_snapshot_datasets": [pool.at("shop")], "data_snapshot_recursive": True, "data_hosts": "data"}
    wrong = data._start([*play, "-e", json.dumps(known), "-e", "app=shop", "-e", "env=staging", "-e", "release_sha=4f2d"]).wait()
    assert (wrong.code, pool.all("snapshot")) == (2, []), wrong.output
    right = known | {"app": "shop", "env": "staging", "release_sha": "4f" * 20}
    for options, snapshots in ((["--check"], []), ([], [f"shop@{NAME}", f"shop/db@{NAME}"])):
        done = data._start([*play, *options, "-e", json.dumps(right)]).wait()
        assert (done.code, pool.all("snapshot")) == (0, snapshots), done.output
    assert yaml.safe_load((ROOT / "playbooks/deploy_data.yml").read_text(encoding="utf-8"))
