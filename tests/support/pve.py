# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake Proxmox node on a host of the lab: `pct` and `pvesh` in its sbin folder, and a world that a test sets and reads.

The host has a root file system of its own, which is reached from here through /proc. `remove` takes all of it away again.
"""
from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import time
import typing as t
from pathlib import Path

from harness import lab, system

HOST = "systemd_root"
WORLD = "/var/lib/fake-pve"
SBIN = "/usr/local/sbin"
PROGRAMS = ("fake-pve", "pct", "pvesh", "lvs", "vgs", "lxc-unfreeze", "lxc-info")
# What LXC's program does to the kernel; the fake's own knows only of the fake's files.
UNFREEZE = "#!/bin/sh\necho 0 >/sys/fs/cgroup/lxc/$2/cgroup.freeze\n"


@functools.cache
def fake() -> Path:
    """The built fake."""
    return Path(lab("get", "fake-pve"))


def container(kind: str = "lvmthin", vmid: str = "301", **guest: t.Any) -> dict[str, t.Any]:
    """A world with one running container of two volumes on this kind of storage."""
    place = {"zfspool": "rpool/data", "lvmthin": "pve/data"}[kind]
    return {
        "storages": {"st": {"type": kind, "place": place}},
        "containers": {vmid: {
            "config": {"hostname": "shop", "rootfs": "st:disk-0,size=4G", "mp0": "st:disk-1,mp=/srv,size=8G"},
            "running": True,
            "guest": guest,
        }},
        "volumes": {"st:disk-0": {"content": "system 1"}, "st:disk-1": {"content": "data 1"}},
    }


def calls_of(world: Path, words: tuple[str, ...]) -> list[list[str]]:
    """What `pct` was called with in this world, as far as it begins with these words."""
    log = world / "calls.jsonl"
    # The last line may be half written: a reader may see one page of a write before the next.
    whole = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
    calls = [json.loads(line) for line in whole]
    return [call["argv"] for call in calls if call["program"] == "pct" and tuple(call["argv"][:len(words)]) == words]


class Node:
    """The fake node."""

    def __init__(self) -> None:
        self.inside = Path(system("systemd")[HOST]["edge"]["root"])
        sbin = self.at(SBIN)
        sbin.mkdir(parents=True, exist_ok=True)
        shutil.copy(fake(), sbin / "fake-pve")
        for name in ("pct", "pvesh"):
            (sbin / name).unlink(missing_ok=True)
            (sbin / name).symlink_to("fake-pve")
        (sbin / "fake-pve-home").write_text(f"{WORLD}\n")

    def at(self, path: str) -> Path:
        """A path of the host, from here."""
        return self.inside / path.lstrip("/")

    def init(self, world: dict[str, t.Any], faults: t.Sequence[dict[str, t.Any]] = ()) -> None:
        """A new world; nothing of an earlier one or of the module's records is left."""
        self.clean()
        self.lvm()
        self._tool("init", WORLD, "-", given=json.dumps(world))
        self.faults(faults)

    def lvm(self, data: str = "25.00", metadata: str = "3.10", spare: str = "16384.00") -> None:
        """LVM itself cannot be had everywhere: two programs say what it says of the thin pool pve/data and of its group."""
        pool = {"vg_name": "pve", "lv_name": "data", "lv_size": "100000.00", "data_percent": data, "metadata_percent": metadata,
                "vg_free": spare}
        group = {"vg_name": "pve", "vg_free": spare}
        for program, kind, subject, row in (("lvs", "lv", "pve/data", pool), ("vgs", "vg", "pve", group)):
            path = self.at(f"{SBIN}/{program}")
            said = json.dumps({"report": [{kind: [row]}]})
            path.write_text(f"""#!/bin/sh
for last; do :; done
[ "$last" = {subject} ] || {{ echo "  $last not found" >&2; exit 5; }}
cat <<'END'\n{said}\nEND
""")
            path.chmod(0o755)

    def faults(self, faults: t.Sequence[dict[str, t.Any]]) -> None:
        self.at(f"{WORLD}/faults.json").write_text(json.dumps(list(faults)))

    def patch(self, patch: dict[str, t.Any]) -> None:
        self._tool("patch", WORLD, json.dumps(patch))

    def show(self) -> dict[str, t.Any]:
        return json.loads(self._tool("show", WORLD))

    def calls(self, *words: str) -> list[list[str]]:
        return calls_of(self.at(WORLD), words)

    def snapshots(self, vmid: str = "301") -> list[str]:
        return sorted(self.show()["containers"][vmid]["snapshots"])

    @contextlib.contextmanager
    def frozen(self, vmid: str = "301") -> t.Iterator[Path]:
        """A control group of the host where LXC has that of a container, with a process in it that stands still; the kernel's word for it."""
        program = self.at(f"{SBIN}/lxc-unfreeze")
        program.write_text(UNFREEZE)
        program.chmod(0o755)
        group = self.at(f"/sys/fs/cgroup/lxc/{vmid}")
        group.mkdir(parents=True)
        with subprocess.Popen(["sleep", "infinity"]) as inside:
            try:
                (group / "cgroup.procs").write_text(str(inside.pid))
                (group / "cgroup.freeze").write_text("1")
                events, end = group / "cgroup.events", time.monotonic() + 60
                while "frozen 1" not in events.read_text():
                    assert time.monotonic() < end, events.read_text()
                    time.sleep(0.01)
                yield events
            finally:
                inside.kill()
                inside.wait()
                group.rmdir()
                group.parent.rmdir()

    def clean(self) -> None:
        for path in (WORLD, "/var/lib/reversible"):
            shutil.rmtree(self.at(path), ignore_errors=True)

    def remove(self) -> None:
        self.clean()
        for name in (*PROGRAMS, "fake-pve-home"):
            self.at(f"{SBIN}/{name}").unlink(missing_ok=True)

    def _tool(self, *words: str, given: str = "") -> str:
        # In the host, whose paths are the ones that `init` writes down; a mere chroot would have no /proc/self.
        argv = ["nsenter", f"--target={self.inside.parent.name}", "--mount", "--pid", "--", f"{SBIN}/fake-pve", *words]
        done = subprocess.run(argv, input=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"fake-pve {' '.join(words)}: {done.stderr}"
        return done.stdout
