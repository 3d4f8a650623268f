# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the collection share: real ansible-core of each version, real targets of the lab, and results as data.

Settings, all optional, as environment variables:
  REVERSIBLE_CORES=2.16,2.21    the ansible-core versions to use instead of all
  REVERSIBLE_HAPROXYS=2.6,3.2   the versions of HAProxy to use instead of all
  REVERSIBLE_STAGED=DIR         a collection staged with its test modules (cargo xtask stage DIR --with-tests)
  REVERSIBLE_LONG=1             every version also where the oldest and the newest would do
"""
from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest
import versions
from versions import CORES, EDGES, HAPROXYS, OLDEST  # noqa: F401  (tests take them from here)

import ansible_forks
from ansible_runs import Run, Running, Task  # noqa: F401  tests take them from here

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# What the tests drive themselves: the lab, and the fake registry.
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("lab", "fakes/registry")]
CLONE_NEWNET = 0x40000000
CACHE_FOLDER = ".reversible-deploy"  # in the home of the user who executes
SKIP = 77  # the lab's exit status for "cannot be had on this machine"

SPECIMEN = "reversible.deploy.specimen"
AFTERWARDS = {"name": "afterwards", SPECIMEN: {"text": "still reachable"}}
# The task is meant to fail; what is looked at is that the play goes on to the next one on the same host.
GOES_ON = {"ignore_errors": True}
MARK = "specimen_x86_64-"  # how a running copy is told from everything else on this machine


asked: set[str] = set()  # of the lab, and binaries that are run directly: see tests/uses.py


def lab(*words: str) -> str:
    """Ask the lab for something; what it prints. Skips the test where this machine cannot have it."""
    asked.add(f"lab {' '.join(words[:2])}")
    # By this very Python: what `env` finds may be a script that first looks for one.
    done = subprocess.run([sys.executable, ROOT / "tests/lab/lab", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == SKIP:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, f"lab {' '.join(words)}: {done.stderr[-2000:]}"
    return done.stdout.strip()


@functools.cache
def venv(version: str) -> Path:
    return Path(lab("get", f"ansible-{version}"))


@functools.cache
def system(name: str) -> dict[str, dict[str, t.Any]]:
    """Bring a system of the lab up; its hosts, with their variables."""
    import yaml  # comes with ansible-core, and only tests of targets need it

    hosts: dict[str, dict[str, t.Any]] = {}
    for group in yaml.safe_load(lab("up", name)).values():
        hosts |= group["hosts"]
    return hosts


COLLECTION = Path("ansible_collections/reversible/deploy")
BIN = COLLECTION / "plugins/plugin_utils/bin"


@functools.cache
def staged() -> Path:
    """A physical collection with the test modules in it."""
    given = os.environ.get("REVERSIBLE_STAGED")
    if given:
        return Path(given)
    folder = ROOT / "target/staged-for-tests"
    subprocess.run(["cargo", "xtask", "stage", folder, "--with-tests"], cwd=ROOT, check=True)
    return folder


@dataclasses.dataclass
class Ansible:
    """One version of ansible-core with an inventory, in a folder of its own."""

    version: str
    folder: Path
    hosts: dict[str, dict[str, t.Any]]
    environ: dict[str, str] = dataclasses.field(default_factory=dict)
    collections: Path = dataclasses.field(default_factory=staged)
    in_new_processes: bool = False  # instead of forks of a server, in which tests find the same in less time

    def play(self, tasks: list[dict[str, t.Any]], host: str, *options: str, **play: t.Any) -> Run:
        """Run tasks (as they stand in a playbook; unnamed ones are called after their module) on one host."""
        return self.start(tasks, host, *options, **play).wait()

    def start(self, tasks: list[dict[str, t.Any]], host: str, *options: str, **play: t.Any) -> "Running":
        book = self._file("play", json.dumps([{"hosts": host, "gather_facts": False, "tasks": tasks, **play}]))
        return self._start(["ansible-playbook", *options, book])

    def one(self, module: str, args: dict[str, t.Any], host: str, *options: str, **keywords: t.Any) -> Run:
        """Run one task of a module that is given by its short name, at -vvv."""
        return self.play([{f"reversible.deploy.{module}": args, **keywords}], host, "-vvv", *options)

    def adhoc(self, module: str, args: str, host: str, *options: str) -> Run:
        return self._start(["ansible", host, "-m", f"reversible.deploy.{module}", "-a", args, *options]).wait()

    def on(self, host: str, command: str) -> str:
        """Let the host's own user do something, as a person would; what it prints."""
        known = self.hosts[host]
        if known.get("ansible_connection") == "local":
            argv = ["sh", "-c", command]
        else:
            argv = ["ssh", *shlex.split(known["ansible_ssh_common_args"]), "-o", "ControlPath=none", "-i", known["ansible_ssh_private_key_file"]]
            argv += ["-p", str(known["ansible_port"]), f"{known['ansible_user']}@{known['ansible_host']}", command]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def forget(self, host: str) -> None:
        """Empty the cache of the host's own user; of this machine's root, of the specimen only: other tests run as root meanwhile."""
        self.on(host, f"rm -rf ~/{CACHE_FOLDER}{f'/{MARK}*' if host == 'ssh_root' else ''}")

    def cached(self, host: str) -> list[str]:
        """The programs in the cache of the host's own user, and what was left there; not which of them were checked since the boot."""
        names = self.on(host, f"if [ -d ~/{CACHE_FOLDER} ]; then ls -A ~/{CACHE_FOLDER}; fi").split()
        return [name for name in names if not name.startswith(".checked-")]

    def _file(self, name: str, text: str) -> str:
        path = self.folder / f"{name}-{time.monotonic_ns()}.json"
        path.write_text(text)
        return str(path)

    def _start(self, argv: list[str]) -> "Running":
        inventory = self._file("inventory", json.dumps({"all": {"hosts": self.hosts}}))
        record = self.folder / f"record-{time.monotonic_ns()}"
        # Benches measure what users have: new processes, and none of our settings.
        in_a_test = "PYTEST_CURRENT_TEST" in os.environ
        config = HERE / "ansible.cfg" if in_a_test else self.folder / "ansible.cfg"
        if not in_a_test:
            config.touch()
        environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_CONFIG": str(config),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "local-temp"),
            "REVERSIBLE_RECORD": str(record),
            **self.environ,
        }
        argv = [str(venv(self.version) / "bin" / argv[0]), "-i", inventory, *argv[1:]]
        output = open(record.with_suffix(".out"), "w+", encoding="utf-8", errors="replace")
        start = ansible_forks.start if in_a_test and not self.in_new_processes else ansible_forks.start_new
        return Running(start(argv, environ, self.folder, output), output, record)


def wait_for(look: t.Callable[[], t.Any], what: str, seconds: float = 60) -> t.Any:
    """Look again and again until there is something; that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@contextlib.contextmanager
def alone() -> t.Iterator[None]:
    """The hosts of the lab are one set: whoever else uses them on this machine, in another run of these tests, goes first."""
    with open(f"{os.environ.get('REVERSIBLE_LAB') or '/run/reversible-lab'}.tests.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def temporary_folder(ansible: Ansible, host: str) -> t.Iterator[str]:
    """A place for core's own files that works, on a target whose home does not."""
    place = ansible.on(host, "mktemp -d").strip()
    ansible.hosts[host] = ansible.hosts[host] | {"ansible_remote_tmp": place}
    try:
        yield place
    finally:
        ansible.on(host, f"rm -rf {place}")


def processes(mark: str = MARK) -> list[int]:
    """The copies of the specimen that run now, as the first word of their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0")[0]:
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def listed(mark: str, every: float = 0.01) -> t.Iterator[set[str]]:
    """The commands with these words that the process list had meanwhile; it is looked at `every` so many seconds."""
    found: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(every):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    words = path.read_bytes().decode(errors="replace").replace("\0", " ")
                    found.update({words} if mark in words else ())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def within(pid: int, environ: t.Mapping[str, str]) -> t.Iterator[None]:
    """Until the end this process and all that it starts are in the network of another one, with more in their environment."""
    assert threading.current_thread() is threading.main_thread(), "a network is a thread's own"
    before, was = os.open("/proc/self/ns/net", os.O_RDONLY), dict(os.environ)
    _enter(f"/proc/{pid}/ns/net")
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(was)
        _enter(f"/proc/self/fd/{before}")
        os.close(before)


def _enter(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")
    finally:
        os.close(handle)


# Fixtures; the conftest.py of each folder takes them from here.


@pytest.fixture(scope="session", autouse=True)
def the_lab_to_ourselves() -> t.Iterator[None]:
    with alone():
        yield


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> str:
    """A version of ansible-core, where the version may matter."""
    return request.param


@pytest.fixture(params=EDGES)
def edge_core(request: pytest.FixtureRequest) -> str:
    """The oldest or the newest, for what lies on the target and so hardly depends on the version."""
    return request.param


@pytest.fixture(params=EDGES if os.environ.get("REVERSIBLE_LONG") else [OLDEST])
def one_core(request: pytest.FixtureRequest) -> str:
    """The same, for what is long: the oldest alone, unless there is time."""
    return request.param


def pytest_configure(config: pytest.Config) -> None:
    # As Ctrl-C does: what the tests have started ends with them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "every_version: on each version of ansible-core or of HAProxy, also with little time")
    config.addinivalue_line("markers", "long: only when there is time")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    versions.leave_out(config, items)


# As most people have it set: what a role does by builtin modules takes half the time.
PIPELINING = {"ANSIBLE_PIPELINING": "1"}
LOCAL = {"local": {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}}


def ansible_for(version: str, folder: Path) -> Ansible:
    return Ansible(version, folder, LOCAL | system("ssh") | system("bare"))


@pytest.fixture(scope="session")
def specimen_binary() -> Path:
    """The test module for this machine."""
    return staged() / BIN / f"specimen_{platform.machine()}"


@pytest.fixture
def ansible(core: str, tmp_path: Path) -> Ansible:
    return ansible_for(core, tmp_path)


@pytest.fixture
def edge(edge_core: str, tmp_path: Path) -> Ansible:
    return ansible_for(edge_core, tmp_path)
