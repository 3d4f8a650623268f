# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts that run on targets, without Ansible: that every shell takes them, and that only a real answer is one."""
from __future__ import annotations

import importlib.util
import shutil
import subprocess
import types

import pytest
from harness import ROOT, lab

NONCE = "0123456789abcdef"
SHELLS = [["/bin/sh"], ["dash"], ["bash", "--posix"], ["bash"], ["busybox", "sh"], ["ksh"], ["zsh", "--emulate", "sh"]]


@pytest.fixture(scope="module")
def cache() -> types.ModuleType:
    path = ROOT / "collection/plugins/plugin_utils/target_cache.py"
    spec = importlib.util.spec_from_file_location("target_cache", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scripts(cache: types.ModuleType) -> list[str]:
    binaries = [cache.Binary(arch, "/x", "f" * 64, f"specimen_{arch}") for arch in ("x86_64", "aarch64")]
    return [cache.run_script(NONCE, binaries), cache.store_script(NONCE, binaries[0]), cache.system_script(NONCE),
            cache.progress_script(NONCE, "0123456789abcdef")]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_every_shell_takes_them(scripts: list[str], shell: list[str]) -> None:
    program = shutil.which(shell[0]) or f"{lab('get', 'shells')}/{shell[0]}"
    for script in scripts:
        done = subprocess.run([program, *shell[1:], "-n", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        # ksh has advice about style
        said = [line for line in done.stdout.splitlines() if "warning:" not in line]
        assert (done.returncode, said) == (0, []), done.stdout


def test_they_survive_any_quoting(scripts: list[str]) -> None:
    for script in scripts:
        assert not set("'\n!\r\t") & set(script)


def test_shellcheck(scripts: list[str]) -> None:
    # Lists of names without spaces are split and counted on purpose, and not every script uses every variable of the shared parts.
    command = [lab("get", "shellcheck"), "--shell", "sh", "--exclude", "SC2086,SC2046,SC2034,SC2012,SC2045", "-"]
    for script in scripts:
        done = subprocess.run(command, input=script, stdout=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_only_a_real_answer_is_one(cache: types.ModuleType, scripts: list[str]) -> None:
    for script in scripts:
        assert cache.read_answer(NONCE, script) is None  # a command line that is echoed
        assert cache.read_answer(NONCE, script.replace("; ", ";\n")) is None
    assert cache.read_answer(NONCE, f"a reversible {NONCE} run x86_64 /x\n{{}}") is None
    assert cache.read_answer(NONCE, "reversible fedcba9876543210 run x86_64 /x\n{}") is None
    answer = cache.read_answer(NONCE, f"a banner\r\nreversible {NONCE} run x86_64 /a b\r\n{{}}\nreversible {NONCE} absent - \n")
    assert answer == ("run", "x86_64", "/a b", f"{{}}\nreversible {NONCE} absent - \n")
    assert cache.read_answer(NONCE, f"reversible {NONCE} absent x86_64 \n") == ("absent", "x86_64", "", "")
