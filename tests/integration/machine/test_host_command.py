# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_command on this machine: what it runs, what it returns of it, and how it says that it failed. On a target without Python the roles run it."""
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from edge import Call, call

MODULE = "host_command"
SECRET = "hunter2-is-secret"


def run(*argv: str, **more: t.Any) -> dict[str, t.Any]:
    return call(MODULE, {"argv": list(argv), **more})


def test_what_it_returns(tmp_path: Path) -> None:
    done = run("sh", "-c", 'printf "a $1\\n\\nb\\n\\n"; echo c >&2; pwd; tr a-z A-Z', "x", "$HOME *", chdir=str(tmp_path), stdin="in\n")
    assert done["changed"] and (done["rc"], done["msg"]) == (0, "") and done["cmd"][:2] == ["sh", "-c"], done
    assert done["stdout_lines"] == ["a $HOME *", "", "b", "", str(tmp_path), "IN"] and done["stderr"] == "c" == done["stderr_lines"][0]
    assert done["stdout"] == "\n".join(done["stdout_lines"]), done


def test_its_environment(tmp_path: Path) -> None:
    """That of the task, but for folders in which another user could put a program for root."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    said = Call(MODULE, {"argv": ["env"]}, LC_ALL="C", MINE="x y", PATH=f"{theirs}:/usr/bin:/bin").wait()["stdout_lines"]
    assert {"LC_ALL=C", "MINE=x y"} <= set(said) and not [line for line in said if str(theirs) in line], said


@pytest.mark.parametrize("check", [False, True])
def test_what_is_not_run(tmp_path: Path, check: bool) -> None:
    made = tmp_path / "made"
    there = {"argv": ["touch", str(made)], "removes": str(tmp_path)}
    skipped = call(MODULE, {**there, "removes": str(tmp_path / "none")}, check=check)
    assert skipped["skipped"] and not skipped["changed"] and not made.exists(), skipped
    if check:
        foreseen = call(MODULE, there, check=True)
        assert foreseen["skipped"] and not foreseen["changed"] and (foreseen["rc"], foreseen["stdout"]) == (0, "") and not made.exists(), foreseen
    else:
        assert call(MODULE, there)["changed"] and made.exists()


@pytest.mark.parametrize(("argv", "more", "reason", "rc", "words"), [
    (["sh", "-c", f"echo {SECRET}; echo last >&2; exit 3"], {}, "command_failed", 3, "sh ended with 3: last"),
    (["sh", "-c", "kill -9 $$"], {}, "command_failed", -9, "sh was ended by signal 9, and printed nothing"),
    (["sleep", "60"], {"deadline": 0.05}, "timed_out", -15, "sleep was ended: it was not done after"),
    (["no-such-program", SECRET], {}, "program_missing", 127, "no-such-program was not run: cannot run no-such-program: not found in"),
    (["/no/such/program", SECRET], {}, "program_missing", 127, "program was not run: /no/such/program is not there"),
    (["id"], {"chdir": "/no/such"}, "program_missing", 127, "id was not run: /no/such is not there"),
    (["bin/id"], {}, "bad_options", None, "bin/id is a relative path"),
    ([], {}, "bad_options", None, "it names no program"),
])
def test_how_it_fails(argv: list[str], more: dict[str, t.Any], reason: str, rc: int | None, words: str) -> None:
    said = run(*argv, **more)
    assert said["failed"] and (said["reason"], said.get("rc")) == (reason, rc) and words in said["msg"] and SECRET not in said["msg"], said


def test_what_it_reads_is_not_shown() -> None:
    said = run("sh", "-c", "cat; exit 1", stdin=SECRET)
    assert said["failed"] and SECRET not in str(said), said
