# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's systems are real ones: HAProxy flips by its map, Docker runs a database and serves its digests, Incus has containers with names
and addresses; all are gone afterwards. What is in the cache is used while it is whole, and made again when it is not.
"""
from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from compose import engine, shop
from edge import daemon
from harness import ROOT, lab
from incus import incus, offered

sys.path.insert(0, str(ROOT / "tests"))
from jobs import progress  # noqa: E402  (the path comes first)


def said(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def tell(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(f"{command}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode()


@pytest.mark.parametrize("version", ["2.6", "3.0", "3.2"])
def test_haproxy_flips_and_ends(version: str) -> None:
    offer = json.loads(lab("up", "haproxy", version))
    try:
        assert said(offer["url"]).startswith("blue ")
        tell(offer["stats_socket"], f"set map {offer['map']} {offer['map_key']} green")
        assert said(offer["url"]).startswith("green ")
    finally:
        lab("down", "haproxy")
    with pytest.raises(urllib.error.URLError):
        said(offer["url"])
    if not offer["version"].startswith(version):
        pytest.skip(f"this distribution has HAProxy {offer['version']} in place of {version}; that one works")


@pytest.mark.parametrize("version", ["20.10", "26.1", "28", "28-containerd"] if os.environ.get("REVERSIBLE_LONG") else ["20.10"])
def test_docker_runs_a_project_and_ends(version: str) -> None:
    """Others are begun by test_compose_backup.py."""
    engine.cache_clear()
    docker = engine(version)
    try:
        project = shop(docker)
        assert project.states() == {"db": "running healthy", "web": "running healthy", "cache": "running"}
        assert project.sql("SELECT count(*) FROM orders") == "2000" and project.page() == "release 1"
        [image] = json.loads(docker.docker("image", "inspect", "127.0.0.1:5000/lab/cache:1"))
        assert any(digest.startswith("127.0.0.1:5000/lab/cache@sha256:") for digest in image["RepoDigests"])
        pulled = docker.docker("pull", image["RepoDigests"][0])
        assert "Image is up to date" in pulled, pulled
        project.remove()
    finally:
        lab("down", "docker")
        engine.cache_clear()
    assert not Path(docker.offer["data_root"]).exists() and docker.offer["data_root"] not in Path("/proc/self/mounts").read_text()
    assert not [path for path in Path("/proc").glob("[0-9]*/cgroup") if Path(docker.offer["data_root"]).parent.name in readable(path)]


def test_incus_runs_containers_and_ends() -> None:
    offered.cache_clear()
    try:
        with incus() as machine:
            for name in ("lab-one", "lab-two"):
                machine.create(name)
            asks = "until wget -q -O - http://lab-two.incus/ 2>&1 | grep refused; do sleep 0.2; done"
            machine.inside("lab-one", "sh", "-c", asks)
            first = machine.offer["first"]
            groups = {line for line in readable(Path(f"/proc/{first}/cgroup")).splitlines() if "reversible-lab-incus" in line}
            assert machine.status()["lab-two"] == "Running" and groups
    finally:
        lab("down", "incus")
        offered.cache_clear()
    assert not daemon.start_time(first)
    assert not [path for path in Path("/proc").glob("[0-9]*/cgroup") if groups & set(readable(path).splitlines())]
    assert "reversible-lab-incus" not in Path("/proc/self/mounts").read_text()


def readable(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:   # it has just ended
        return ""


LAB = ROOT / "tests/lab/lab"


class Cache:
    """A cache of its own. `ansible-test-pip` is a small thing that wants no network."""

    THING, ENTRY = "ansible-test-pip", "ansible-test-home"

    def __init__(self, folder: Path):
        self.folder, self.entry, self.lock = folder, folder / self.ENTRY, folder / f"{self.ENTRY}.lock"
        self.file = self.entry / ".ansible/test/cache/get_pip_25_2.py"
        self.environment = {**os.environ, "REVERSIBLE_CACHE": str(folder)}

    def get(self, *before: str) -> str:
        """What it says meanwhile; a lock that it must not wait for would keep it until the guard."""
        done = subprocess.run([*before, LAB, "get", self.THING], env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(self.entry)
        return done.stderr


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    assert "making" in cache.get()
    return cache


def test_what_is_whole_in_the_cache_needs_no_lock_and_nothing_written(cache: Cache) -> None:
    with open(cache.lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cache.get() == ""
        read_only = ("unshare", "--mount", "sh", "-c", f'mount --bind -o ro "{cache.folder}" "{cache.folder}" && exec "$@"', "sh")
        assert cache.get(*read_only) == ""
        (cache.folder / f"{cache.ENTRY}.times").unlink()
        assert cache.get(*read_only) == ""   # its content says that it is whole


@pytest.mark.parametrize("damage", ["cut short", "changed", "deleted", "a link that leads nowhere"])
def test_what_is_damaged_in_the_cache_is_made_again(cache: Cache, damage: str) -> None:
    before = cache.file.read_text()
    if damage == "cut short":
        cache.file.write_text(before[:-1])
    elif damage == "changed":
        cache.file.write_text(before.replace("a", "b"))
    else:
        cache.file.unlink()
        if damage != "deleted":
            cache.file.symlink_to("nowhere")
    assert "damaged" in cache.get()
    assert cache.file.read_text() == before
    assert cache.get() == ""


def test_another_time_of_a_file_alone_makes_nothing_again(cache: Cache) -> None:
    """As when the cache was copied; it is looked at in full once."""
    os.utime(cache.file, (1, 1))
    assert cache.get() == ""
    assert cache.file.stat().st_mtime == 1
    with open(cache.lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cache.get() == ""


def test_who_waits_for_the_cache_says_for_whom(cache: Cache) -> None:
    cache.file.unlink()
    with open(cache.lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen([LAB, "get", cache.THING], env=cache.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = waiting.stderr.readline()
        assert f"waiting for process {os.getpid()} (" in said and said.endswith(f"which works on {cache.ENTRY}\n"), said
        assert not cache.file.exists()
    printed, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 0 and printed.strip() == str(cache.entry) and cache.file.exists()


def test_all_is_prepared_that_can_be_had_and_the_rest_is_named(cache: Cache, tmp_path: Path) -> None:
    """A machine whose apt has no lists: what needs none is made all the same."""
    broken = tmp_path / "bin/apt-get"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no mirror answers >&2\nexit 100\n")
    broken.chmod(0o755)
    cache.file.unlink()
    environment = cache.environment | {"PATH": f"{broken.parent}:{os.environ['PATH']}"}

    def prepare(*names: str) -> subprocess.CompletedProcess:
        return subprocess.run([LAB, "prepare", *names], env=environment, capture_output=True, text=True, timeout=120)

    done = prepare("shells", cache.THING, "busybox")
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert done.returncode == 0 and lines[cache.THING] == str(cache.entry) and cache.file.exists(), done
    assert lines["shells"].startswith("SKIPPED: ") and lines["busybox"].startswith("SKIPPED: ") and len(lines) == 3, done.stdout
    assert [line.split(": ")[1] for line in done.stderr.splitlines() if " of 3: " in line] == ["1 of 3", "2 of 3", "3 of 3"], done.stderr
    assert progress("prepare", 3.2, 14.0, done.stderr).startswith("prepare 3 s of some 14 (3 of 3: ")
    assert prepare("shells").returncode == 77
    refused = prepare(cache.THING, "nosuch")
    assert refused.returncode == 1 and "neither a system nor a thing: nosuch" in refused.stderr


def test_what_a_task_brings_in_a_zip_is_compiled_once_and_is_what_runs(tmp_path: Path) -> None:
    """In a Python with the lab's sitecustomize.py: a source that is another, of the same length, is compiled as well."""
    kept, brought = tmp_path / "kept", tmp_path / "brought.zip"
    text = (ROOT / "tests/lab/inside/keep_compiled.py").read_text(encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(text.replace("/run/compiled-by-python", str(kept)), encoding="utf-8")

    def run(word: str) -> str:
        with zipfile.ZipFile(brought, "w") as file:
            file.writestr("library.py", f"def said():\n    return {word!r}\n")
        argv = ["/usr/bin/python3", "-c", f"import sys; sys.path.insert(0, {str(brought)!r}); import library; print(library.said())"]
        return subprocess.run(argv, env={"PYTHONPATH": str(tmp_path)}, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    assert [(run(word), len(list(kept.iterdir()))) for word in ("one", "two", "one", "two")] == [("one", 1), ("two", 2), ("one", 2), ("two", 2)]
    # What lies there is used: a library is not compiled each time.
    first, second = sorted(kept.iterdir())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert (run("one"), run("two")) == ("two", "one")
