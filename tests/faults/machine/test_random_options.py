# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that have the right types and make no sense: every module answers with one line, and never with a bug of its own.

They run as nobody and in check mode, in a folder with what a path may lead to. A few rounds, always the same; many new ones with
REVERSIBLE_LONG. A failure names its seed: REVERSIBLE_SEED=n is round n alone.
"""
from __future__ import annotations

import json
import os
import platform
import random
import resource
import shutil
import subprocess
import tempfile
import time
import typing as t
from pathlib import Path

import pytest
from harness import BIN, ROOT, asked, staged

MODULES = sorted(path.stem for path in (ROOT / "collection/plugins/modules").glob("*.py"))
NOBODY = 65534
HANGS = 120          # seconds; nothing here waits for anybody
MEMORY = 512 << 20   # bytes; what reads without end must not take the machine with it

TEXTS = [
    "", " ", "x", "web", "blue", "green", "é\u202e", "a\0b", "two\nlines", "n" * 300, "-", "--help", "..", "a/b", "*", "(", "{", "[1]", "%s",
    "$(id)", "a=b", "~", "0", "1", "-1", "1e9", "true", "all", "10G", "20261121t084500z-7f3a", "99991231t235959z-ffff",
    "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a", "sha256:" + "a" * 64, "http://127.0.0.1:1/{sha}/x.tar.gz", "http://[",
    "https://me:secret@127.0.0.1:1", "127.0.0.1:1", "127.0.0.1", "tank/data", "tank/data@pre", "root", "65534:65534", "2026-11-21T08:45:00Z",
    "data.version", "/data/0", "^x(y|z)+$", "(((((((((((", "up > 0", "99999999999999999999",
]
WHOLE = [-2**63, -1, 0, 1, 2, 3, 100, 443, 70000, 2**31, 2**32, 2**63 - 1]
FLOATS = [-1.0, 0.0, 5e-324, 0.5, 1.0, 2.5, 100.0, 1e9, 1.8446744073709552e19, 1e300]
SIZES = ["0", "1", "10G", "1.5K", "7E"]

# What comes past the parsers; of it most is kept in most rounds.
ID, SHA = "20261121t084500z-7f3a", "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a"
REGISTRY = {"url": "http://127.0.0.1:1/{owner}/{package}/{sha}.tar.gz", "owner": "shop", "package": "web", "tries": 1}
HAPROXY = {"config": "FOLDER/haproxy.cfg", "map": "FOLDER/file", "map_key": "web", "stats_socket": ["FOLDER/pipe"], "state_dir": "FOLDER/new"}
KUBE = {"context": "lab", "namespace": "shop", "name": "web", "kubectl": "/bin/true", "kubeconfig": "FOLDER/file"}
SOUND: dict[str, dict[str, t.Any]] = {
    "host_command": {"argv": ["true"], "chdir": "FOLDER", "stdin": "x", "deadline": 5},
    "host_files": {"dest": "FOLDER/new", "files": [{"path": "it", "content": "x", "mode": "0600"}, {"path": "copy", "src": "FOLDER/file"},
                                                   {"path": "link", "state": "link", "target": "it"}, {"path": "old", "state": "absent"}],
                   "variables": {"A": "b"}},
    "host_files_info": {"paths": ["FOLDER/file"], "read": ["FOLDER/file"]},
    "app_processes": {"processes": [{"name": "web", "pidfile": "FOLDER/web.pid", "argv": ["/bin/true"], "environment": {"A": "b"}}]},
    "compose_backup": {"project_dir": "FOLDER", "project": "shop", "backup_dir": "FOLDER/new", "deploy_id": ID},
    "compose_backup_info": {"project_dir": "FOLDER", "project": "shop", "backup_dir": "FOLDER/new"},
    "deploy_ledger": {"app": "shop", "env": "prod", "path": "FOLDER/new", "state": "open", "deploy_id": ID, "phase": "flip", "outcome": "done"},
    "deploy_ledger_info": {"app": "shop", "env": "prod", "path": "FOLDER/new", "layers": {"color": {"open": True, "holds": ["blue"]}}},
    "haproxy_color_switch": {**HAPROXY, "color": "green", "prove": {"url": "http://127.0.0.1:1/", "tries": 1}, "probe": {}, "error_budget": {}},
    "haproxy_color_switch_info": HAPROXY,
    "haproxy_hold": {"map_key": "web", "stats_socket": ["FOLDER/pipe"], "master_socket": "FOLDER/pipe", "state_dir": "FOLDER/new", "deploy_id": ID},
    "haproxy_hold_info": {"stats_socket": ["FOLDER/pipe"], "master_socket": "FOLDER/pipe"},
    "health_gate": {"probes": [{"name": "it", "kind": "http", "url": "http://127.0.0.1:1/", "headers": {"Host": "x"}},
                               {"name": "program", "kind": "command", "argv": ["true"]}, {"name": "disk", "kind": "disk", "path": "/"}]},
    "kube_rollout": {**KUBE, "image": "shop:2", "deploy_id": ID},
    "kube_rollout_info": KUBE,
    "pct_snapshot": {"vmid": "100", "deploy_id": ID},
    "pct_snapshot_info": {"vmid": "100"},
    "postgres_restore_point": {"database": "shop", "host": "FOLDER", "os_user": "root", "state_dir": "FOLDER/new", "deploy_id": ID},
    "postgres_restore_point_info": {"database": "shop", "host": "FOLDER", "os_user": "root", "state_dir": "FOLDER/new"},
    "release_artifact": {**REGISTRY, "dest": "FOLDER/sub", "sha": SHA, "state": "present"},
    "release_artifact_info": {**REGISTRY, "dest": "FOLDER/sub", "sha": SHA},
    "zfs_pre_deploy": {"datasets": ["tank/data"], "deploy_id": ID},
    "zfs_pre_deploy_info": {"datasets": ["tank/data"]},
}


class Options:
    """Made from a module's spec by chance."""

    def __init__(self, seed: str, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.often = self.chance.choice([0, 0.01, 0.05, 0.3])   # how many of the options that may be left out are there
        self.kept = self.chance.choice([0, 0.8, 0.95, 1])     # how many of the sound ones are
        self.paths = ["", "/", "relative", "/no/such/thing", "/dev/null", "/dev/full", *(str(path) for path in folder.iterdir()),
                      str(folder / "new"), str(folder / "file/below"), str(folder / ("n" * 256)), str(folder) + "/../" + folder.name]

    def of(self, options: list[dict[str, t.Any]], sound: dict[str, t.Any]) -> dict[str, t.Any]:
        made = {}
        for option in options:
            name = option["name"]
            if name in sound and self.chance.random() < self.kept:
                made[name] = self.changed(option, sound[name])
            elif self.chance.random() < (0.9 if option["required"] else self.often):
                made[name] = self.value(option)
        return made

    def changed(self, option: dict[str, t.Any], sound: t.Any) -> t.Any:
        """Below it."""
        if option["options"] and isinstance(sound, list):
            return [self.of(option["options"], item) for item in sound]
        return self.of(option["options"], sound) if option["options"] else sound

    def value(self, option: dict[str, t.Any]) -> t.Any:
        if option["type"] == "list":
            elements = {**option, "type": option["elements"] or "str"}
            return [self.value(elements) for _ in range(self.chance.choice([0, 1, 1, 1, 2, 3, 40]))]
        if option["choices"] and self.chance.random() < 0.95:
            return self.chance.choice(option["choices"])
        if option["type"] == "dict" and option["options"]:
            return self.of(option["options"], {})
        return self.kind(option["type"])

    def kind(self, kind: str) -> t.Any:
        make: dict[str, t.Callable[[], t.Any]] = {
            "str": lambda: self.chance.choice(TEXTS + self.paths), "path": lambda: self.chance.choice(self.paths),
            "bool": lambda: self.chance.random() < 0.5, "int": lambda: self.chance.choice(WHOLE), "float": lambda: self.chance.choice(FLOATS),
            "bytes": lambda: self.chance.choice(SIZES), "raw": self.anything, "dict": lambda: self.dictionary(3),
        }
        return make[kind]()

    def anything(self, deep: int = 3) -> t.Any:
        kinds = ["str", "path", "bool", "int", "float"]
        roll = self.chance.random()
        if deep and roll < 0.2:
            return [self.anything(deep - 1) for _ in range(self.chance.randrange(4))]
        return self.dictionary(deep - 1) if deep and roll < 0.4 else None if roll < 0.5 else self.kind(self.chance.choice(kinds))

    def dictionary(self, deep: int) -> dict[str, t.Any]:
        names = [*TEXTS, "open", "holds", "why", "name", "kind", "guid", "probes", "seen", "value", "PATH", "Host", "Authorization", "bytes"]
        return {self.chance.choice(names): self.anything(deep) for _ in range(self.chance.randrange(5))}


@pytest.fixture(scope="module")
def place() -> t.Iterator[Path]:
    """A folder of nobody's, with the binaries beside it: they are to be run by nobody."""
    with tempfile.TemporaryDirectory() as name:
        top, folder = Path(name), Path(name) / "folder"
        top.chmod(0o755)
        for module in MODULES:
            asked.add(f"modules/{module.removesuffix('_info')}")
            shutil.copy2(staged() / BIN / f"{module}_{platform.machine()}", top / module)
        (folder / "sub/deep").mkdir(parents=True)
        (folder / "file").write_text("neither JSON\nnor=a list\x00of anything\n")
        (folder / "object.json").write_text('{"v": 1, "services": {"web": null}}\n')
        (folder / "haproxy.cfg").write_text("global\n  stats socket none level admin\nbackend web_blue\n"
                                            "  server a 127.0.0.1:1 check inter 1s\nbackend web_green\n")
        (folder / "empty").touch()
        (folder / "link").symlink_to("file")
        (folder / "loop").symlink_to("loop")
        os.mkfifo(folder / "pipe")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        yield folder


def seeds() -> t.Sequence[int]:
    if given := os.environ.get("REVERSIBLE_SEED"):
        return [int(given)]
    if os.environ.get("REVERSIBLE_LONG"):
        return range(first := time.time_ns(), first + 1000)
    return range(30)


def little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def answer_of(place: Path, module: str, options: dict[str, t.Any]) -> subprocess.CompletedProcess:
    ansible = {"_ansible_check_mode": True, "_ansible_diff": True, "_ansible_verbosity": 3, "_ansible_module_name": module}
    return subprocess.run([place.parent / module, "-"], input=json.dumps({**options, **ansible}).encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[], cwd=place, timeout=HANGS, check=False,
                          preexec_fn=little_memory)


@pytest.mark.parametrize("module", MODULES)
def test_whatever_the_options_are(place: Path, module: str) -> None:
    specs = json.loads(subprocess.run([place.parent / module, "--spec"], stdout=subprocess.PIPE, check=True).stdout)
    [spec] = [spec for spec in specs if spec["name"] == module]
    sound = json.loads(json.dumps(SOUND[module]).replace("FOLDER", str(place)))
    reasons = set()
    for seed in seeds():
        options = Options(f"{module} {seed}", place).of(spec["options"], sound)
        done = answer_of(place, module, options)
        about = f"REVERSIBLE_SEED={seed} {module} {json.dumps(options)}: {done}"
        assert done.returncode in (0, 1) and not done.stderr and done.stdout.count(b"\n") == 1, about
        result = json.loads(done.stdout)
        assert isinstance(result["changed"], bool), about
        if result.get("failed"):
            assert result["reason"] != "panic" and result["msg"], about
        assert "secret@" not in done.stdout.decode(), about
        reasons.add(result.get("reason", ""))
    assert reasons - {"bad_options"} or len(seeds()) == 1, "no options came past the parsers"


@pytest.mark.parametrize(("module", "options"), [
    ("haproxy_color_switch_info", {"config": "FILE"}),
    ("haproxy_color_switch", {"config": "FILE", "color": "green", "state_dir": "FOLDER/new"}),
    ("release_artifact_info", {**REGISTRY, "url": "https://127.0.0.1:1/{sha}", "sha": SHA, "dest": "FOLDER/sub", "ca_file": "FILE"}),
])
@pytest.mark.parametrize("name", ["pipe", "/dev/full"])
def test_a_file_that_has_no_end_or_lets_one_wait(place: Path, module: str, options: dict[str, t.Any], name: str) -> None:
    text = json.dumps(options).replace("FILE", str(place / name)).replace("FOLDER", str(place))
    done = answer_of(place, module, json.loads(text))
    said = done.stdout.decode()
    assert done.returncode in (0, 1) and str(place / name) in said and "it is not a regular file" in said, done
