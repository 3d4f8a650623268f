# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has ansible-core loaded and forks for each run: loading takes most of the time of a short run. A program, which ansible_forks.py starts by the
Python of one ansible-core: `ansible_server.py CONTROL PROGRAMS KEPT`, the number of a socket, the folder of ansible-playbook, and a folder for
what was compiled.

Invariant: a run finds what a new process finds. Its environment is that of the server but for PER_RUN; files, folder, network, arguments,
handling of SIGINT, temporary folder and random numbers are its own; and what runs is the very script that a shell would have started.
"""
from __future__ import annotations

import atexit
import copy
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import secrets
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import typing as t

import ansible_inline
import ansible_compiled

# Where runs of one server may differ: variables by how they begin. Of these only ANSIBLE_LOCAL_TEMP is read when ansible-core is loaded; see
# `Request.become`. DEPLOY_ are the inputs of the workflows.
PER_RUN = ("ANSIBLE_LOCAL_TEMP", "DEPLOY_", "PYTEST_CURRENT_TEST", "REVERSIBLE_RECORD", "REVERSIBLE_STRIKE")
READY = b"ready"
FILES = 4   # that come with a request
CLONE_NEWNET = 0x40000000
# Of what most runs import: modules with all that they import, and packages of plugins, of which ansible-core imports files one by one.
MODULES = ("ansible.cli.playbook", "ansible.cli.adhoc", "ansible.executor.task_executor", "ansible.executor.module_common",
           "ansible.playbook.handler_task_include", "ansible.plugins.cache.memory")
PLUGINS = ("action", "become", "callback", "connection", "doc_fragments", "filter", "inventory", "lookup", "shell", "strategy", "test", "vars")


def load(programs: str) -> None:
    """Import ansible-core as one of these programs would; nothing of it is run, so that all its state is still that of the beginning."""
    sys.path[0] = programs
    os.environ["ANSIBLE_LOCAL_TEMP"] = tempfile.gettempdir()
    for name in MODULES:
        importlib.import_module(name)
    for kind in PLUGINS:
        package = importlib.import_module(f"ansible.plugins.{kind}")
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    from ansible import constants
    from ansible.config import manager
    from ansible.plugins.loader import become_loader, connection_loader, filter_loader, shell_loader, test_loader

    read_routing()
    for loader in (filter_loader, test_loader, become_loader, connection_loader, shell_loader):
        import_plugins(loader)
    atexit.unregister(manager.cleanup_tmp_file)   # each run makes its own
    shutil.rmtree(constants.DEFAULT_LOCAL_TMP)
    gc.collect()
    gc.freeze()   # else the first collection in each run would write to, and so copy, all memory


def import_plugins(loader: t.Any) -> None:
    """Of filters and tests ansible-core imports all, under names of its own, as soon as one is asked for; of those for connections, each task reads
    the options. Which there are, each run finds itself."""
    before = {name: copy.copy(value) for name, value in vars(loader).items()}
    list(loader.all(class_only=True))
    vars(loader).update(before)


def read_routing() -> None:
    """Of ansible-core's own plugins: two thousand lines of YAML. The first who asks for these very bytes gets what was made of them."""
    from ansible.utils.collection_loader import _collection_finder as finder

    read, what = finder._meta_yml_to_dict, ("ansible.builtin", "runtime.yml")
    with open(f"{os.path.dirname(finder.import_module('ansible').__file__)}/config/ansible_builtin_runtime.yml", "rb") as file:
        known = {(text := file.read(), what): read(text, what)}
    finder._meta_yml_to_dict = lambda text, about: known.pop((text, about), None) or read(text, about)


class Request:
    """A run that is asked for: what it is to be, and where its number and its end are reported."""

    def __init__(self, files: list[int]) -> None:
        said, self.output, self.network, report = files
        with open(said, encoding="utf-8") as file:
            self.is_to_be: dict[str, t.Any] = json.load(file)
        self.report = socket.socket(fileno=report)

    def tell(self, number: int) -> None:
        try:
            self.report.send(str(number).encode())
        except BrokenPipeError:   # nobody asks any more; the run goes on, as a child does
            pass

    def close(self) -> None:
        os.close(self.output)
        os.close(self.network)

    def become(self) -> list[str]:
        """Called in a child: from now on this process is that run. The command that it is."""
        for stream in (1, 2):
            os.dup2(self.output, stream)
        enter_network(self.network)
        self.close()
        os.chdir(self.is_to_be["folder"])
        os.environ.clear()
        os.environ.update(self.is_to_be["environ"])
        from ansible import constants
        from ansible.utils import vars as unique

        with open("/proc/self/comm", "w", encoding="utf-8") as name:
            name.write(os.path.basename(self.is_to_be["argv"][0]))
        constants.DEFAULT_LOCAL_TMP = constants.config.get_config_value("DEFAULT_LOCAL_TMP")
        ansible_compiled.take_archives(sys.argv[3], constants.DEFAULT_LOCAL_TMP)
        unique.random_int = f"{secrets.randbelow(2**32):08x}"   # part of every id that ansible-core makes
        return self.is_to_be["argv"]


def enter_network(wanted: int) -> None:
    if os.fstat(wanted).st_ino != os.stat("/proc/self/ns/net").st_ino:
        if ctypes.CDLL(None, use_errno=True).setns(wanted, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the network of the test")


class Server:
    """Ends when the other end of `control` is closed, as it is when the process of the tests ends in whatever way, and its runs have ended."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.runs: dict[int, tuple[int, Request]] = {}   # by the handle of the process
        self.ready = selectors.DefaultSelector()
        self.ready.register(control, selectors.EVENT_READ)

    def serve(self) -> Request:
        """Returns in children only, with what the child is to be."""
        while self.ready.get_map():
            for key, _events in self.ready.select():
                if key.fileobj is self.control:
                    request = self.fork()
                    if request:
                        return request
                elif key.fd in self.runs:
                    self.has_ended(key.fd)
                else:
                    self.ready.unregister(key.fileobj)
                    key.fileobj.close()
                    os.waitpid(key.data, 0)
        sys.exit(0)

    def fork(self) -> Request | None:
        _word, files, _flags, _address = socket.recv_fds(self.control, 16, FILES)
        if not files:
            self.ready.unregister(self.control)
            return None
        request = Request(files)
        pid = os.fork()
        if pid == 0:
            self.forget()
            request.report.close()
            return request
        request.close()
        handle = os.pidfd_open(pid)
        self.runs[handle] = pid, request
        self.ready.register(handle, selectors.EVENT_READ)
        request.tell(pid)
        return None

    def has_ended(self, handle: int) -> None:
        """As of any child, its number stays taken until its parent has asked how it ended: then `report` is closed."""
        pid, request = self.runs.pop(handle)
        self.ready.unregister(handle)
        os.close(handle)
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        request.tell(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
        self.ready.register(request.report, selectors.EVENT_READ, pid)

    def forget(self) -> None:
        """Close in a child what is the server's."""
        for key in list(self.ready.get_map().values()):
            if key.fileobj is not self.control and key.fd not in self.runs:
                key.fileobj.close()
        for handle, (_pid, request) in self.runs.items():
            os.close(handle)
            request.report.close()
        self.ready.close()
        self.control.close()


def leave(code: object, kept: str) -> None:
    """End as Python does, but leave the memory to the kernel: taking apart what the server has loaded would first copy it."""
    from ansible import constants

    if not isinstance(code, int | None):
        raise SystemExit(code)
    ansible_compiled.keep_archives(kept, constants.DEFAULT_LOCAL_TMP)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)


def main() -> None:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C is meant for the tests and for the runs
    control = socket.socket(fileno=int(sys.argv[1]))
    load(sys.argv[2])
    ansible_compiled.keep(sys.argv[3])
    ansible_inline.install()
    control.send(READY)
    request = Server(control).serve()
    signal.signal(signal.SIGINT, handler)
    kept, sys.argv = sys.argv[3], request.become()
    del control, request
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        leave(end.code, kept)


if __name__ == "__main__":
    main()
