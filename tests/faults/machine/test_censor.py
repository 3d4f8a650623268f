# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is hidden in a result: all secrets, in whichever form they are given, and nothing else; on the controller just as by the binary."""
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from edge import call
from gate import ONCE, gate
from harness import GOES_ON, LOCAL, Ansible

WHOLE = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
MODULE = "reversible.deploy.health_gate"
TOKEN = "hunter2-of-a-header"
HEADERS: dict[str, t.Any] = {
    "dictionary": {"Authorization": f"Bearer {TOKEN}", "Host": "shop.example"},
    "JSON": f'{{"Authorization": "Bearer {TOKEN}", "Host": "shop.example"}}',
    "Python": f"{{'Authorization': 'Bearer {TOKEN}', 'Host': 'shop.example'}}",
    "words": f'Authorization="Bearer {TOKEN}" Host=shop.example',
}
# What is replaced wherever it stands; and what is not: by its name, since it is short, or since it is a word of ours.
SECRET = {
    "PGPASSWORD": "longer-1", "X-Api-Key": "longer-2", "accessToken": "longer-3", "Set-Cookie": "longer-4 and more", "apikey": "longer-5",
    "REDISCLI_AUTH": "longer-6", "MYSQL_PWD": "longer-7", "CLIENT_SECRET": 'quo"ted-8', "Proxy-Authorization": "Basic longer-9",
    "DATABASE_URL": "postgres://app:longer-10@db/app", "PASSPHRASE": "line one of it\nline two of it",
}
PLAIN = {
    "COLOR": "a", "PGUSER": "application", "KEYBOARD": "de-latin1", "MONKEY": "banana-split", "PWD": "/srv/application", "AUTHOR": "Nobody Else",
    "SHORT_TOKEN": "five5", "TOKEN_TYPE_OF": "parameters", "SHOP_URL": "http://host:8080/me@there",
}


@pytest.fixture
def local(core: str, tmp_path: Path) -> Ansible:
    return Ansible(core, tmp_path, dict(LOCAL))


@pytest.mark.every_version
def test_a_token_is_printed_in_no_form(local: Ansible) -> None:
    probe = {"name": "it", "kind": "http", "url": "http://127.0.0.1:1/", **ONCE}
    tasks = [{"name": form, MODULE: {"probes": [{**probe, "headers": headers}]}, **GOES_ON} for form, headers in HEADERS.items()]
    address = "http://me:hunter2-of-a-url@127.0.0.1:1/"
    tasks += [{"name": "url", MODULE: {"probes": [{**probe, "url": address}]}, **GOES_ON}]
    tasks += [{"name": "argv", MODULE: {"probes": [{"name": "it", "kind": "command", "argv": ["echo", address], **ONCE}]}}]
    run = local.play(tasks, "local", "-vvv")
    assert "hunter2" not in run.output, [line for line in run.output.splitlines() if "hunter2" in line]
    shown = {task.task: task.result["invocation"]["module_args"]["probes"][0] for task in run.tasks if task.task not in ("url", "argv")}
    assert list(shown) == list(HEADERS) and {form: one["headers"] for form, one in shown.items()} == dict.fromkeys(HEADERS, WHOLE)
    echoed = run.named("argv").result
    assert echoed["invocation"]["module_args"]["probes"][0]["argv"] == ["echo", "http://me:********@127.0.0.1:1/"]
    assert echoed["probes"][0]["answer"] == "rc 0: http://me:********@127.0.0.1:1/"


@pytest.mark.every_version
def test_the_controller_hides_what_the_binary_hides(local: Ansible) -> None:
    """Both complain of the same option, and quote it; its value holds all the others."""
    given = {**SECRET, **PLAIN}
    quoted = " | ".join(f"{name}={value}" for name, value in given.items())
    options = {"probes": [{"name": "it", "kind": quoted, "environment": given}]}
    complaints = [call("health_gate", options)["msg"], local.play([{MODULE: options, **GOES_ON}], "local").only.msg]
    seen = [complaint[complaint.index("got: ") + 5:].partition(" found in ")[0] for complaint in complaints]
    assert seen[0] == seen[1]
    expected = {name: "********" for name in SECRET} | PLAIN
    expected |= {"DATABASE_URL": "postgres://app:********@db/app"}
    assert seen[0] == " | ".join(f"{name}={value}" for name, value in expected.items())


@pytest.mark.every_version
def test_our_own_words_are_left_alone(local: Ansible) -> None:
    """Replacing them would destroy the sentence, and tell that they are the secret."""
    wrong = {"name": "it", "kind": "command", "argv": ["true"], "tires": 3}
    words = {"COLOR": "a", "PGUSER": "e", "DB_PASSWORD": "parameters", "API_TOKEN": "health_gate", "API_KEY": "o", "CLIENT_SECRET": "probes"}
    for ask in (lambda options: call("health_gate", options), lambda options: local.play([{MODULE: options, **GOES_ON}], "local").only.result):
        plain, with_secrets = (ask({"probes": [{**wrong, **more}]})["msg"] for more in ({}, {"environment": words}))
        assert plain == with_secrets and "nsupported parameters for (" in plain and "Did you mean tries?" in plain


def test_plain_variables_destroy_no_result() -> None:
    probe = {"name": "app", "kind": "command", "argv": ["echo", "app and a blue whale"]}
    plain = gate(probe)
    with_variables = gate({**probe, "environment": {"PGUSER": "app", "COLOR": "a", "DB_PASSWORD": "ea", "TIER": "command"}})
    for result in (plain, with_variables):
        del result["probes"][0]["milliseconds"]
    assert with_variables == plain


def test_a_short_secret_is_hidden_where_it_is_all_there_is() -> None:
    [row] = gate({"name": "it", "kind": "command", "argv": ["sh", "-c", "echo $PIN_TOKEN"], "environment": {"PIN_TOKEN": "it"}})["probes"]
    assert row["name"] == WHOLE and row["answer"] == "rc 0: ********", row


def test_no_part_of_a_secret_is_left_where_text_is_cut() -> None:
    """The reason a probe gives ends after so many characters; this secret is cut there."""
    words = {"DB_PASSWORD": "hunter2-" + "x" * 40, "DB_URL": "http://me:" + "hunter3-" + "y" * 40 + "@host"}
    for script in ('printf "%0100d %s\\n" 1 "$DB_PASSWORD"', 'printf "%095d %s\\n" 1 "$DB_URL"'):
        for end in ("", " >&2; exit 1"):
            result = gate({"name": "it", "kind": "command", "argv": ["sh", "-c", script + end], "environment": words})
            assert "hunter" not in str(result) and "****" in str(result), result
