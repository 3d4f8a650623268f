# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks decide about a run as a whole, each case in no time; that ansible-playbook asks for it is seen in tests/integration/flows."""
from __future__ import annotations

import importlib.util
import typing as t

import pytest
from harness import ROOT

SPEC = importlib.util.spec_from_file_location("one_run", ROOT / "collection/plugins/plugin_utils/one_run.py")
assert SPEC and SPEC.loader
one_run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(one_run)
PLAIN = {"subset": None, "tags": ("all",), "skip_tags": (), "start_at_task": None, "step": False}


@pytest.mark.parametrize("given", [{}, {"skip_tags": ("molecule-notest", "notest", "molecule-idempotence-notest")}, {"tags": []}], ids=str)
def test_a_whole_run_may_begin(given: dict[str, t.Any]) -> None:
    assert not one_run.objections(PLAIN | given, {"error_on_undefined": True}) and not one_run.objections(PLAIN | given, {})


@pytest.mark.parametrize("given, words", [
    ({"subset": "app1"}, "--limit app1 would leave"),
    ({"tags": ("flip", "smoke")}, "--tags flip,smoke would leave out tasks"),
    ({"skip_tags": ("slow", "notest")}, "--skip-tags slow would"),
    ({"start_at_task": "Flip"}, "--start-at-task 'Flip' would"),
    ({"step": True}, "--step would"),
    ({"tags": ("a",), "step": True}, "--tags a and --step would"),
])
def test_a_part_is_refused(given: dict[str, t.Any], words: str) -> None:
    [sentence] = one_run.objections(PLAIN | given, {})
    assert words in sentence


def test_settings_that_hide_what_is_missing_are_refused() -> None:
    [sentence] = one_run.objections(PLAIN, {"error_on_undefined": False})
    assert "error_on_undefined_vars" in sentence
    [sentence] = one_run.objections(PLAIN, {"task_debugger": True})
    assert "enable_task_debugger" in sentence


def test_each_run_has_names_of_its_own() -> None:
    first = one_run.names("shop", "prod")
    second = one_run.names("blog", "prod", first)
    third = one_run.names("shop", "prod", second)
    told = [name for own in (first, second, third) for key, name in own.items() if key != "number"]
    assert len(set(told)) == len(told) == 18 and first["once"] == "deploy@shop-prod"
    assert one_run.pattern(first, "hosts", "data") == "reversible_hosts_1:reversible_data_1:way-back@shop-prod"
    assert one_run.pattern(first) == "way-back@shop-prod" and one_run.pattern({}, "hosts") == "all:!all"


@pytest.mark.parametrize("message, said", [
    ("{{ b[c] }}: 'c' is undefined. 'c' is undefined", "'c' is undefined"), ("'c' is undefined", "'c' is undefined"),
    ("'app_components' is undefined", ""), ("", ""),
])
def test_what_a_variable_lacks(message: str, said: str) -> None:
    assert one_run.gap(message, "app_components") == said


def test_the_command_of_a_hook() -> None:
    words = {"backend": "/opt/shop/backend/green/releases/4f2a", "release": "4f2a"}
    command = ["{backend}/bin/migrate", "--to={release}", "${HOME}", "{}", "{other}", "awk {print}"]
    assert one_run.filled(command, words) == [f"{words['backend']}/bin/migrate", "--to=4f2a", "${HOME}", "{}", "{other}", "awk {print}"]


def test_a_machine_that_has_such_a_name_is_seen() -> None:
    own = one_run.names("shop", "prod")
    assert not one_run.taken(own, {"all": ["deploy", "way-back", "app1"], "data": ["app1"]})
    assert one_run.taken(own, {"all": ["way-back@shop-prod"], "reversible_data_1": []}) == ["reversible_data_1", "way-back@shop-prod"]
