# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one action plugin behind every module of this collection: it runs the module's binary in one round trip.

1. The options are checked here, before anything is sent.
2. One command asks the target to run the binary out of its cache, with the arguments on stdin.
3. Where the cache has no such binary, it is sent (second round trip) and run (third).
4. Where the cache cannot be used, Ansible's ordinary way of running a module is taken, and -vv says why.

What a long task is at is shown while it runs (watch.py); a short one costs nothing more.

Invariant: a module is started at most once. The target says that it is about to start the binary before it does; from then on,
whatever happens is the result. Only before that may step 4 follow; and where nothing at all is heard of the script that starts it, nothing may.

Nothing that a task holds (arguments, environment) is ever part of a command line, since those are shown at -vvv and by "ps".
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.reversible.deploy.plugins.plugin_utils import core_versions, option_check
from ansible_collections.reversible.deploy.plugins.plugin_utils.censor import Secrets
from ansible_collections.reversible.deploy.plugins.plugin_utils.target_cache import (
    Answer,
    Binary,
    read_answer,
    run_script,
    store_script,
    system_script,
)
from ansible_collections.reversible.deploy.plugins.plugin_utils.watch import watched

display = Display()

ARCHES = ("x86_64", "aarch64")
# Not below plugins/modules, where ansible-test takes every file for a Python module.
BIN_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin")
_SUDO_WANTS_A_TERMINAL = "you must have a tty to run sudo"
TAIL = 4000  # characters of unreadable output that a result shows
START_FAILED = (126, 127)  # exit statuses of a shell that could not start a program; our binaries never end with them

Result = dict[str, t.Any]


class CacheUnusable(Exception):
    """The module cannot be run from the cache, and has not been started."""

    def __init__(self, why: str, arch: str = "-") -> None:
        super().__init__(why)
        self.arch = arch


class NoBinary(Exception):
    """There is nothing that could run on this target."""


class NoAnswer(Exception):
    """The script that runs the module has ended and its answer is lost: nobody knows whether the module was started."""

    def __init__(self, res: dict[str, t.Any]) -> None:
        super().__init__("no answer")
        self.res = res


class ActionModule(ActionBase):
    """Run the binary of the task's module."""

    TRANSFERS_FILES = False  # no temporary folder on the target beforehand
    _supports_check_mode = True
    _supports_diff = True
    _supports_async = True

    _module = ""  # such as reversible.deploy.pct_snapshot
    _vars: dict[str, t.Any] = {}
    _secrets: Secrets  # of the task's options
    _environments: list[t.Any] = []  # the task's "environment:" and those around it

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> Result:
        result = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        self._module = self._task.resolved_action or self._task.action
        args = core_versions.plain(self._task.args)
        verdict = option_check.check(self._module, args, functools.partial(_program_of, self._module))
        self._secrets = verdict.secrets
        if verdict.complaint:
            result.update(_failed(verdict.complaint, reason="bad_options"))
            return result
        args.update(self._take_environment())
        try:
            result.update(self._run_module(args))
        except NoBinary as why:
            result.update(_failed(f"{self._module}: {why}"))
        return result

    def _run_module(self, args: dict[str, t.Any]) -> Result:
        binaries = _binaries_of(self._module)
        if getattr(self._connection._shell, "_IS_WINDOWS", False):
            raise NoBinary(_none_for("Windows", binaries))
        try:
            self._require_stdin()
            return self._run_from_cache(args, binaries)
        except NoAnswer as lost:
            return self._nobody_knows(lost.res)
        except CacheUnusable as why:
            self._tell(display.vv, f"taking the ordinary way: {why}")
            return self._run_ordinarily(args, binaries.get(why.arch) or self._binary_for_target(binaries))

    # The fast way

    def _require_stdin(self) -> None:
        """Refuse where core cannot hand data to a command's stdin, and where the user asks for something else."""
        become = self._connection.become
        transport = self._connection.transport
        if self._task.async_val:
            raise CacheUnusable("the task is async, and core's wrapper for that takes a file (and needs Python on the target)")
        if C.DEFAULT_KEEP_REMOTE_FILES:
            raise CacheUnusable("the remote files are to be kept (ANSIBLE_KEEP_REMOTE_FILES)")
        if not self._connection.has_pipelining:
            raise CacheUnusable(f"connection {transport} cannot send data to a command")
        if become and not core_versions.becomes_with_stdin(become):
            raise CacheUnusable(f"become method {become.name} cannot send data to a command")
        if become and self.get_become_option("become_pass") and transport != "ssh":
            # While they wait for the prompt, others (local, docker) may drop stdin, or take the target's answer for a part of
            # sudo's dialogue: then a module that runs would look like one that was never started.
            raise CacheUnusable(f"connection {transport} may lose data while it waits for the prompt of a become password")

    def _run_from_cache(self, args: dict[str, t.Any], binaries: dict[str, Binary]) -> Result:
        args = dict(args)
        self._update_module_args(self._module, args, self._vars)
        with watched(self, args, f"{self._module.rpartition('.')[2]} on {self._host()}", self._secrets) as args:
            payload = core_versions.encode(args)
            answer, res = self._ask(run_script, binaries.values(), payload)
            if answer.word in ("absent", "corrupt"):
                self._send(binaries[answer.arch], answer.word)
                answer, res = self._ask(run_script, binaries.values(), payload)

        if answer.word == "system":
            raise NoBinary(_none_for(answer.text, binaries))
        if answer.word != "run":
            raise CacheUnusable(answer.text or f"the binary is {answer.word} right after it was sent", answer.arch)
        if res["rc"] in START_FAILED and not answer.output.strip():
            raise CacheUnusable(f"{answer.text} cannot be executed: {_last_words(res)}", answer.arch)
        self._tell(display.vvv, f"ran {answer.text} on the target")
        return self._result_of(answer.output, res)

    def _send(self, binary: Binary, state: str) -> None:
        with open(binary.path, "rb") as file:
            content = file.read()
        self._tell(display.vvv, f"{binary.cached_name} is {state} on the target, sending {len(content)} bytes")
        answer, _res = self._ask(store_script, binary, content)
        if answer.word != "stored":
            raise CacheUnusable(answer.text, binary.arch)

    def _ask(self, script: t.Callable[[str, t.Any], str], about: t.Any, stdin: bytes) -> tuple[Answer, dict[str, t.Any]]:
        nonce = secrets.token_hex(8)
        res = self._low_level_execute_command(script(nonce, about), in_data=stdin)
        answer = read_answer(nonce, res["stdout"])
        if answer is None:
            if script is run_script and not _never_began(res):
                raise NoAnswer(res)
            raise CacheUnusable(f"the shell of the target ended with {res['rc']} and no answer: {_last_words(res)}")
        return answer, res

    def _nobody_knows(self, res: dict[str, t.Any]) -> Result:
        """Connections exist that lose what a command printed, with status 0. Another way would start the module a second time."""
        return _failed(
            f"{self._module}: the target's shell ended with status {res['rc']} and its answer is lost, so it is not known whether the module was "
            "started; see that the connection works, then run the same task again: it finishes or restores what was begun",
            reason="no_answer",
            **self._evidence(res["stdout"], res),
        )

    def _evidence(self, output: str, res: dict[str, t.Any]) -> Result:
        return {
            "rc": res["rc"],
            "module_stdout": _tail(self._secrets.hide(output)),   # in this order: half a secret is not found
            "module_stderr": _tail(self._secrets.hide(res["stderr"])),
        }

    def _result_of(self, output: str, res: dict[str, t.Any]) -> Result:
        report = _json_object(output)
        if report is not None:
            # As core reads it, but escaped: a U+2028 in a string is the end of a line to core, and so of the result.
            return core_versions.result_of(self, {**res, "stdout": json.dumps(report)})
        signal = -res["rc"] if res["rc"] < 0 else res["rc"] - 128
        if signal > 0:
            what = f"was killed by signal {signal} before it reported"
        elif output.strip():
            what = f"ended with status {res['rc']}, and what it reported is not one JSON object (see module_stdout)"
        else:
            what = f"ended with status {res['rc']} before it reported"
        return _failed(
            f"{self._module} {what}; run the same task again: it finishes or restores what was begun",
            **self._evidence(output, res),
        )

    # The ordinary way

    def _run_ordinarily(self, args: dict[str, t.Any], binary: Binary) -> Result:
        # Core finds a module's file by its name alone, in the folders that it was told of.
        self._shared_loader_obj.module_loader.add_directory(BIN_FOLDER)
        return self._execute_module(
            module_name=f"ansible.legacy.{os.path.basename(binary.path)}",
            module_args=dict(args),
            task_vars=self._vars,
            wrap_async=bool(self._task.async_val),
        )

    def _binary_for_target(self, binaries: dict[str, Binary]) -> Binary:
        nonce = secrets.token_hex(8)
        res = self._low_level_execute_command(system_script(nonce), sudoable=False)
        answer = read_answer(nonce, res["stdout"])
        if answer is None:
            raise NoBinary(f"the target does not say what it is (uname -sm): {_last_words(res)}")
        for binary in binaries.values():
            if answer.text == f"Linux {binary.arch}":
                return binary
        raise NoBinary(_none_for(answer.text, binaries))

    # Both

    def _take_environment(self) -> dict[str, dict[str, str]]:
        """The task's environment as an argument. It is taken from the task, since core would put it on command lines: in the
        ordinary way, and again whenever it polls an async task."""
        self._environments = self._task.environment or self._environments  # "until" comes by more than once
        self._task.environment = self._environments
        raw: dict[str, t.Any] = {}
        self._compute_environment_string(raw)
        self._task.environment = []
        return {"_ansible_reversible_environment": {str(name): str(value) for name, value in raw.items()}} if raw else {}

    def _tell(self, tell: t.Callable[..., None], what: str) -> None:
        tell(f"{self._module}: {what}", host=self._host())

    def _host(self) -> t.Any:
        return self._task.delegate_to or self._vars.get("inventory_hostname")


def _binaries_of(module: str) -> dict[str, Binary]:
    name = module.rpartition(".")[2]
    found = {}
    for arch in ARCHES:
        path = os.path.join(BIN_FOLDER, f"{name}_{arch}")
        if os.path.exists(path):
            real = os.path.realpath(path)  # each module's name is a link to the program of all modules: one copy on the target serves them
            found[arch] = Binary(arch, path, _sha256_of(real), stem=os.path.basename(real))
    if not found:
        raise NoBinary("not built: run make collection")
    return found


def _program_of(module: str) -> bytes:
    """The binary itself, of any architecture; nothing where none is built."""
    with contextlib.suppress(NoBinary):
        with open(next(iter(_binaries_of(module).values())).path, "rb") as file:
            return file.read()
    return b""


def _sha256_of(path: str) -> str:
    state = os.stat(path)
    return _sha256(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.cache
def _sha256(path: str, *_state: int) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _hash_all() -> None:
    """Ansible loads this file once, then forks a worker for every task: what is hashed now is hashed for all of them."""
    with contextlib.suppress(OSError):  # a task that needs a binary says what is wrong with it
        for name in os.listdir(BIN_FOLDER):
            _sha256_of(os.path.realpath(os.path.join(BIN_FOLDER, name)))


def _none_for(system: str, binaries: dict[str, Binary]) -> str:
    there_are = " and ".join(f"Linux {arch}" for arch in binaries)
    return f"the target is {system or 'unknown (uname says nothing)'}, and there are binaries for {there_are} only"


def _never_began(res: dict[str, t.Any]) -> bool:
    """The script has surely not run: no shell was there to run it, or sudo refused before it (our modules write nothing to stderr)."""
    return res["rc"] in START_FAILED or _SUDO_WANTS_A_TERMINAL in res["stderr"]


def _json_object(text: str) -> dict[str, t.Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _last_words(res: dict[str, t.Any]) -> str:
    """The last line that the target said; at -vvv some of ssh's own debugging is in between."""
    lines = [line for stream in ("stdout", "stderr") for line in res[stream].splitlines() if line.strip() and not line.startswith("debug")]
    return lines[-1].strip() if lines else ""


def _tail(text: str) -> str:
    return text.strip()[-TAIL:]


def _failed(msg: str, **more: t.Any) -> Result:
    return {"failed": True, "msg": msg, **more}


_hash_all()
