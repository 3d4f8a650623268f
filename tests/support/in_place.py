# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apps that the playbooks change in place, on this machine: `Pair` is an app in two containers of the fake Proxmox node, one for each host.

The playbooks are run as a person runs them; what a container holds is read from the fake's own record. A host is lost as long as a file
is there.
"""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import typing as t
from pathlib import Path

from edge import STATE
from flows import BOOKS, ledger_of, unlocking
from harness import HERE, OLDEST, PIPELINING, ROOT, Ansible, Run, Running, staged, wait_for
from pct_app import GUEST, PACKAGE, answers, install
from pve import calls_of, fake

VMIDS = {"pve1": "301", "pve2": "302"}
EXAMPLES = ROOT / "collection/docs/examples"


def example(kind: str, name: str = "app.yml") -> dict[str, t.Any]:
    """The variables of an example, as they stand there."""
    import yaml

    return yaml.safe_load((EXAMPLES / kind / name).read_text(encoding="utf-8"))


class InPlace:
    """An app's variables, its hosts on this machine, and a folder for all that it leaves."""

    def __init__(self, variables: dict[str, t.Any], hosts: t.Mapping[str, dict[str, t.Any]]) -> None:
        STATE.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="in-place-", dir=STATE))
        self._saved = self.folder.with_name(f"{self.folder.name}-saved")
        self.environ: dict[str, str] = {}
        self.core, self.own = OLDEST, hosts
        self.vars: dict[str, t.Any] = variables | {
            "app_hosts": list(hosts), "app_ledger_path": str(self.folder / "ledger"), "ledger_report_dir": str(self.folder / "incidents"),
            "ledger_config_dir": "",
        }

    def __enter__(self) -> "t.Any":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)   # a program that a test killed may still write
        shutil.rmtree(self._saved, ignore_errors=True)   # there is none where nothing was saved

    def lost(self, host: str) -> Path:
        """While this file exists, the host does not answer."""
        return self.folder / f"lost-{host}"

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        here = {"ansible_connection": "lost", "ansible_python_interpreter": "/usr/bin/python3", "ansible_become": False}
        return {name: here | {"lost_file": str(self.lost(name))} | own for name, own in self.own.items()}

    def start(self, book: str, *options: str, **inputs: t.Any) -> Running:
        file = self.folder / "shop.json"
        file.write_text(json.dumps(self.vars))
        environ = {"ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"), **PIPELINING, **self.environ}
        ansible = Ansible(self.core, self.folder, self.hosts(), environ)
        given = {"env": "staging", "outcome_file": str(self.folder / "outcome"), **unlocking(book, self.vars), **inputs}
        words = ["-e", f"@{file}", "-e", json.dumps(given), *options]
        return ansible._start(["ansible-playbook", str(staged() / BOOKS / f"{book}.yml"), *words])

    def run(self, book: str, *options: str, **inputs: t.Any) -> Run:
        return self.start(book, *options, **inputs).wait(600)

    def good(self, book: str, *options: str, **inputs: t.Any) -> Run:
        run = self.run(book, *options, **inputs)
        assert run.code == 0 and self.outcome == "done", run.output
        return run

    @property
    def outcome(self) -> str:
        file = self.folder / "outcome"
        return file.read_text().strip() if file.exists() else ""

    def ledger(self) -> dict[str, t.Any]:
        return ledger_of(self.vars)

    def status(self) -> dict[str, t.Any]:
        file = self.folder / "status.json"
        run = self.run("status", status_file=str(file))
        assert run.code == 0, run.output
        return json.loads(file.read_text()) | {"text": run.output}


class Pair(InPlace):
    """The example for containers, on two hosts. Both hold version 1.0; 2.0 is well, and how 3.0 behaves a test says by host."""

    def __init__(self, kind: str = "lvmthin") -> None:
        own = {name: {"pct_app_vmid": vmid} for name, vmid in VMIDS.items()}
        variables = example("pct")
        assert variables.pop("pct_app_vmid") == "301" and variables["pct_app_package"] == PACKAGE
        super().__init__(variables | {"pct_app_settle": 0, "pct_app_probe_retries": 1, "pct_app_probe_delay": 0.1}, own)
        for host, known in self.own.items():
            known["pct_app_state_dir"] = str(self.folder / f"state-{host}")
        self.home = self.folder / "pve"
        config = {vmid: {"hostname": f"shop{vmid}", "rootfs": f"st:disk-{vmid},size=4G"} for vmid in VMIDS.values()}
        guest = {"exec": answers("1.0", more=[{"argv": install("3.0")}]), **GUEST}
        self.tool("init", str(self.home), "-", given=json.dumps({
            "storages": {"st": {"type": kind, "place": {"zfspool": "rpool/data", "lvmthin": "pve/data"}[kind]}},
            "containers": {vmid: {"running": True, "guest": guest, "config": config[vmid]} for vmid in VMIDS.values()},
            "volumes": {f"st:disk-{vmid}": {"content": "1.0"} for vmid in VMIDS.values()},
        }))
        self.lvm()
        self.environ["PATH"] = f"{self.home / 'bin'}:{os.environ['PATH']}"
        self.behave()

    def save(self) -> None:
        """What there is now, on both hosts and in the ledger, is what `reset` leads back to."""
        shutil.copytree(self.folder, self._saved, symlinks=True)

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._saved, self.folder, symlinks=True)

    def tool(self, *words: str, given: str = "") -> str:
        done = subprocess.run([fake(), *words], input=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=60)
        assert done.returncode == 0, f"fake-pve {' '.join(words)}: {done.stderr}"
        return done.stdout

    def lvm(self) -> None:
        """LVM itself cannot be had everywhere: a program says what it says of the thin pool."""
        pool = {"vg_name": "pve", "lv_name": "data", "lv_size": "100000.00", "data_percent": "25.00", "metadata_percent": "3.10",
                "vg_free": "16384.00"}
        path = self.home / "bin/lvs"
        path.write_text("#!/bin/sh\ncat <<'END'\n" + json.dumps({"report": [{"lv": [pool]}]}) + "\nEND\n")
        path.chmod(0o755)

    def behave(self, bad: t.Mapping[str, dict[str, t.Any]] | None = None, back_to: str | t.Mapping[str, str] = "1.0",
               forth_to: str = "2.0", more: t.Sequence[dict[str, t.Any]] = (), inside: t.Sequence[dict[str, t.Any]] = ()) -> None:
        """What a container says once a version was installed, or it went back; `bad` is how 3.0 behaves, by host. A restore point of a
        deploy holds `back_to` (it may be by host), one of a rollback `forth_to`. `inside` is what else it says from then on."""
        faults: list[dict[str, t.Any]] = []
        both = [{"argv": install("3.0")}, *inside]
        for host, vmid in VMIDS.items():
            for version in ("1.0", "2.0", "3.0"):
                after = answers(version, more=both, **((bad or {}).get(host, {}) if version == "3.0" else {}))
                patch = {"containers": {vmid: {"guest": {"exec": after}}}}
                call = " ".join([vmid, "--", *install(version)])
                faults.append({"command": "pct exec", "args": call, "at": "begin", "patch": patch})
                before = back_to if isinstance(back_to, str) else back_to[host]
                for snapshot in [name for name, held in (("pre-deploy-", before), ("failed-", forth_to)) if held == version]:
                    faults.append({"command": "pct rollback", "args": f"{vmid} {snapshot}", "at": "end", "patch": patch})
        (self.home / "faults.json").write_text(json.dumps([*more, *faults]))

    def deploy(self, version: str, release: str, *options: str, **inputs: t.Any) -> Run:
        return self.run("deploy_app", *options, release_sha=release, pct_app_version=version, **inputs)

    def version(self, host: str) -> str:
        """What the container of this host has now."""
        world = json.loads(self.tool("show", str(self.home)))
        return world["containers"][VMIDS[host]]["guest"]["exec"][0]["stdout"].split("|")[1]

    @property
    def versions(self) -> list[str]:
        return [self.version(host) for host in VMIDS]

    def kill(self, *words: str) -> None:
        """Ends the `pct` that hangs with these words."""
        def pids() -> list[int]:
            commands = {int(path.parent.name): path.read_bytes().decode().split("\0")[:-1] for path in Path("/proc").glob("[0-9]*/cmdline")}
            return [pid for pid, command in commands.items() if command and command[0].endswith("pct") and command[1:] == list(words)]

        for pid in wait_for(pids, f"pct {' '.join(words)} runs"):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not pids(), "its end")

    def calls(self, *words: str) -> list[list[str]]:
        return calls_of(self.home, words)
