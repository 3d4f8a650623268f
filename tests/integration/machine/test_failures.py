# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The headline of a failure, each case in no time; that the playbooks show it is seen in tests/faults/flows."""
from __future__ import annotations

import importlib.util
import typing as t

import pytest
from harness import ROOT

SPEC = importlib.util.spec_from_file_location("failures", ROOT / "collection/plugins/plugin_utils/failures.py")
assert SPEC and SPEC.loader
failures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(failures)
FAILED = {"rc": 3, "msg": "check ended with 3: something", "reason": "command_failed"}


@pytest.mark.parametrize("result, ended", [
    (FAILED | {"stdout": "beginning\n", "stderr": "warning\ncolumn exists\n\n"}, "ended with 3: column exists"),
    (FAILED | {"stdout": "no such table", "stderr": "  \n"}, "ended with 3: no such table"),
    (FAILED, "ended with 3, and printed nothing"),
    (FAILED | {"stderr": "a\x1b[31mred"}, "ended with 3: a [31mred"),
    (FAILED | {"stderr": "x" * 1000}, "ended with 3: ..." + "x" * 300),
    ({"rc": 127, "reason": "program_missing", "msg": "check was not run: /bin/check is not there"},
     "did not end: check was not run: /bin/check is not there"),
    ({"msg": "Timed out after 5 second(s)."}, "did not end: Timed out after 5 second(s)."),
    ({}, "did not end: no message"),
], ids=str)
def test_the_headline_of_a_hook(result: dict[str, t.Any], ended: str) -> None:
    assert failures.hook_failure(result, "smoke", "/bin/check") == f"the hook smoke: /bin/check {ended}"


@pytest.mark.parametrize("result, reason", [
    ({"msg": "no such release"}, "no such release"),
    ({"msg": ["Nothing was changed.", "env is missing"]}, "Nothing was changed. env is missing"),
    ({"msg": "One or more items failed", "results": [{"msg": "ok"}, {"failed": True, "msg": "401: the token is wrong "}, {"failed": True, "msg": "401: the token is wrong"},
                                                      {"unreachable": True, "msg": "no route"}]}, "401: the token is wrong; no route"),
    ({"msg": "One or more items failed", "results": [{"failed": True}]}, "it failed"),
    ({}, "it failed"), (None, "it failed"),
], ids=str)
def test_why_a_task_has_failed(result: t.Any, reason: str) -> None:
    assert failures.failure_reason(result) == reason
