# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast path where all is well: every way in which a task can be written, on every ansible-core."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import typing as t

import pytest
from harness import BIN, CACHE_FOLDER, GOES_ON, SPECIMEN, Ansible, staged, venv

CENSORED = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
NOWHERE = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "nobody"}


@contextlib.contextmanager
def ordinary_way(ansible: Ansible, host: str) -> t.Iterator[None]:
    """Let core run the modules: that is what the wish to keep the remote files leads to."""
    place = ansible.on(host, "mktemp -d").strip()
    ansible.hosts[host] = ansible.hosts[host] | {"ansible_remote_tmp": place}
    ansible.environ["ANSIBLE_KEEP_REMOTE_FILES"] = "1"
    try:
        yield
    finally:
        ansible.on(host, f"rm -rf {place}")


@pytest.mark.every_version
@pytest.mark.parametrize("host", ["ssh_root", "ssh_alice", "bare_root", "bare_user"])
def test_three_round_trips_at_first_then_one(ansible: Ansible, host: str) -> None:
    ansible.forget(host)
    first = ansible.one("specimen", {"text": "x"}, host)
    again = ansible.one("specimen", {"text": "x"}, host)
    assert (first.code, again.code) == (0, 0), first.output + again.output
    assert (first.trips, again.trips) == (3, 1), first.output
    assert first.only["echo"]["text"] == again.only["echo"]["text"] == "x"
    assert "sending" in first.output and "sending" not in again.output
    assert "ran /" in again.output


@pytest.mark.parametrize("pipelining", ["0", "1"])
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_neither_pipelining_nor_the_shell_make_a_difference(edge: Ansible, pipelining: str, shell: str) -> None:
    edge.environ["ANSIBLE_PIPELINING"] = pipelining
    edge.hosts["ssh_root"] = edge.hosts["ssh_root"] | {"ansible_shell_executable": shell}
    edge.one("specimen", {}, "ssh_root")
    assert edge.one("specimen", {}, "ssh_root").trips == 1


def test_two_modules_of_one_binary_share_its_copy(ansible: Ansible) -> None:
    ansible.forget("bare_user")
    assert ansible.one("specimen", {}, "bare_user").trips == 3
    run = ansible.one("specimen_info", {}, "bare_user")
    assert run.only["uid"] == 1000
    assert run.trips == 1
    assert len(ansible.cached("bare_user")) == 1


def test_the_copy_is_the_users_own_and_whole(ansible: Ansible) -> None:
    ansible.forget("ssh_alice")
    ansible.one("specimen", {}, "ssh_alice")
    (name,) = ansible.cached("ssh_alice")
    owner, mode, sha256 = ansible.on(
        "ssh_alice", f"cd ~/{CACHE_FOLDER} && stat -c '%U %a' . && sha256sum {name}"
    ).split()[:3]
    assert (owner, mode) == ("rd-alice", "700")
    assert name == f"specimen_x86_64-{sha256}"
    assert sha256 == hashlib.sha256((staged() / BIN / "specimen_x86_64").read_bytes()).hexdigest()


@pytest.mark.parametrize("text", ["\u2028", "\u0085", "\x0b\x1c", "\u200b", "\U0001f600", "{", "}", '{"changed": 1}\n{}'])
def test_any_character_comes_back(edge: Ansible, text: str) -> None:
    assert edge.one("specimen", {"text": f"a{text}b"}, "ssh_root").only["echo"]["text"] == f"a{text}b"


OPTIONS = {
    "text": "tick ' quote \" dollar $HOME `id` back\\slash new\nline % é 日本",
    "flag": "yes",
    "fraction": 1.5,
    "where": "~/x",
    "anything": {"deep": [1, None, {"x": "{{ 1 + 1 }}"}]},
    "items": ["a", "b c"],
    "map": {"when": "{{ day }}", "vaulted": "{{ vaulted }}"},
    "servers": [{"name": "a", "port": "81"}],
}


@pytest.mark.every_version
def test_options_arrive_as_in_the_ordinary_way(ansible: Ansible) -> None:
    password = ansible.folder / "password"
    password.write_text("open sesame")
    command = [venv(ansible.version) / "bin/ansible-vault", "encrypt_string", "--vault-password-file", password, "hidden"]
    vaulted = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    variables = ansible.folder / "variables.yml"
    variables.write_text(f"day: 2024-05-06\nvaulted: {vaulted}")
    words = ["-e", f"@{variables}", "--vault-password-file", str(password)]

    fast = ansible.one("specimen", OPTIONS, "ssh_alice", *words)
    with ordinary_way(ansible, "ssh_alice"):
        ordinary = ansible.one("specimen", OPTIONS, "ssh_alice", *words)
    assert not fast.reason
    assert "ANSIBLE_KEEP_REMOTE_FILES" in ordinary.reason
    assert fast.only["echo"] == ordinary.only["echo"]
    assert fast.only["cwd"] == ordinary.only["cwd"]
    echo = fast.only["echo"]
    assert echo["text"] == OPTIONS["text"]
    assert echo["flag"] is True
    assert echo["where"] == os.path.expanduser("~rd-alice/x")
    assert echo["servers"] == [{"name": "a", "port": 81}]
    # From 2.22 on core masks what comes out of a vault wherever it meets it in a result.
    assert "2024-05-06" in str(echo["map"]) and {"hidden", "$REDACTED$"} & set(echo["map"].values())


@pytest.mark.every_version
def test_the_result_is_as_in_the_ordinary_way(ansible: Ansible) -> None:
    tasks = [{SPECIMEN: {"changed": True, "warning": "look out", "behave": behave}, **GOES_ON} for behave in ("echo", "fail")]
    fast = ansible.play(tasks, "ssh_alice")
    with ordinary_way(ansible, "ssh_alice"):
        ordinary = ansible.play(tasks, "ssh_alice")
    for one, other in zip(fast.tasks, ordinary.tasks, strict=True):
        assert one.status == other.status
        assert one.result == other.result
    assert "look out" in fast.output
    assert [task.status for task in fast.tasks] == ["ok", "failed"]


def test_check_mode_diff_and_verbosity(ansible: Ansible) -> None:
    checked = ansible.one("specimen", {}, "ssh_root", "--check", "--diff").only
    assert (checked["check_mode"], checked["diff_mode"], checked["verbosity"]) == (True, True, 3)
    plain = ansible.play([{SPECIMEN: {}}], "ssh_root").only
    assert (plain["check_mode"], plain["diff_mode"], plain["verbosity"]) == (False, False, 0)
    target = ansible.on("ssh_root", "mktemp -d").strip()
    replace = {"behave": "replace", "file": f"{target}/file", "content": "new\n", "state_dir": f"{target}/state", "changed": True}
    shown = ansible.play([{SPECIMEN: replace, "check_mode": True, "diff": True}], "ssh_root")
    ansible.on("ssh_root", f"rm -rf {target}")
    assert shown.only["changed"] is True and shown.only["diff"], shown.output
    assert f"+++ after: {target}/file" in shown.output


def test_environment(ansible: Ansible) -> None:
    environment = {"SPECIMEN_A": "tick ' \" $HOME\nline", "SPECIMEN_N": 5, "SPECIMEN_B": "inner"}
    task = {SPECIMEN: {}, "environment": environment}
    run = ansible.play([task], "ssh_alice", environment={"SPECIMEN_B": "outer", "SPECIMEN_C": "{{ inventory_hostname }}"})
    expected = {"SPECIMEN_A": environment["SPECIMEN_A"], "SPECIMEN_N": "5", "SPECIMEN_B": "inner", "SPECIMEN_C": "ssh_alice"}
    assert run.only["environment"] == expected


@pytest.mark.parametrize(
    ("host", "user"),
    [("ssh_root", "rd-bob"), ("ssh_alice", "rd-bob"), ("ssh_alice", "root"), ("local", "rd-bob")],
    ids=["root to user", "user to user, without acl", "user to root", "here"],
)
def test_become(ansible: Ansible, host: str, user: str) -> None:
    become = {"become": True, "become_user": user}
    uid = int(subprocess.check_output(["id", "-u", user]))
    first = ansible.one("specimen", {}, host, **become)
    again = ansible.one("specimen", {}, host, **become)
    assert first.only["uid"] == again.only["uid"] == uid
    assert not first.reason + again.reason
    assert again.trips == 1
    # Nothing of the one user's is executed by the other: each has a cache in the home that the password database names.
    home = os.path.expanduser(f"~{user}")
    assert f"ran {os.path.realpath(home)}/{CACHE_FOLDER}/" in again.output


def test_delegate_to(ansible: Ansible) -> None:
    task = {SPECIMEN: {"text": "{{ inventory_hostname }}"}, "delegate_to": "ssh_alice"}
    run = ansible.play([task], "bare_root", "-vvv")
    assert run.only["echo"]["text"] == "bare_root"
    assert run.only["uid"] == int(subprocess.check_output(["id", "-u", "rd-alice"]))
    assert "<ssh_alice> reversible.deploy.specimen: ran " in run.output


def test_async_is_left_to_core(ansible: Ansible) -> None:
    tasks = [
        {SPECIMEN: {"text": "waited"}, "async": 30, "poll": 1, "environment": {"SPECIMEN_A": "a"}, "name": "waited for"},
        {SPECIMEN: {"text": "later"}, "async": 30, "poll": 0, "register": "job", "name": "begun"},
        {
            "name": "joined",
            "ansible.builtin.async_status": {"jid": "{{ job.ansible_job_id }}"},
            "register": "done",
            "until": "done is finished",
            "retries": 50,
            "delay": 0.2,
        },
    ]
    run = ansible.play(tasks, "ssh_alice", "-vv")
    assert run.code == 0, run.output
    assert run.named("waited for")["echo"]["text"] == "waited"
    assert run.named("waited for")["environment"] == {"SPECIMEN_A": "a"}
    assert run.named("joined")["echo"]["text"] == "later"
    assert "async" in run.reason


def test_async_on_this_machine(edge: Ansible) -> None:
    run = edge.play([{SPECIMEN: {"text": "x"}, "async": 30, "poll": 1}], "local")
    assert run.only["echo"]["text"] == "x"


def test_defaults_of_the_group_and_of_the_module(ansible: Ansible) -> None:
    defaults = {"group/reversible.deploy.deploy": {"text": "of the group"}, SPECIMEN: {"answer": "later"}}
    run = ansible.play([{SPECIMEN: {"flag": True}}], "ssh_root", module_defaults=defaults)
    echo = run.only["echo"]
    assert (echo["text"], echo["answer"], echo["flag"]) == ("of the group", "later", True)


def test_loop_register_until_and_no_log(ansible: Ansible) -> None:
    tasks = [
        {"name": "loop", SPECIMEN: {"number": "{{ item }}"}, "loop": [1, 2, 3], "register": "all"},
        {"name": "registered", "ansible.builtin.debug": {"msg": "{{ all.results | map(attribute='echo.number') | list }}"}},
        {
            "name": "until",
            SPECIMEN: {"text": "again"},
            "register": "again",
            "until": "again.attempts | default(1) > 2 or false",
            "retries": 2,
            "delay": 0,
            **GOES_ON,
        },
        {"name": "hidden", SPECIMEN: {"text": "not to be seen"}, "no_log": True},
    ]
    run = ansible.play(tasks, "ssh_root", "-vvvv")
    assert run.named("registered")["msg"] == [1, 2, 3]
    assert run.named("until")["attempts"] > 1
    assert "not to be seen" not in run.output
    assert "censored" in run.named("hidden").result


def test_every_way_to_name_the_module(ansible: Ansible) -> None:
    tasks = [
        {"name": "short", "specimen": {"text": "x"}},
        {"name": "action", "action": {"module": SPECIMEN, "text": "x"}},
        {"name": "words", "action": f"{SPECIMEN} text=x"},
        {"name": "from here", "local_action": {"module": SPECIMEN, "text": "x"}},
        {"name": "args", SPECIMEN: {}, "args": {"text": "x"}},
    ]
    run = ansible.play(tasks, "ssh_alice", "-vvv", collections=["reversible.deploy"])
    assert [task["echo"]["text"] for task in run.tasks] == ["x"] * 5, run.output
    assert run.output.count(f"{SPECIMEN}: ran ") == 5


@pytest.mark.every_version
def test_adhoc(ansible: Ansible) -> None:
    run = ansible.adhoc("specimen", "text='a b' number=3", "ssh_root")
    assert "parameters are mutually exclusive: text|number" in run.output and run.code == 2
    run = ansible.adhoc("specimen", "text='a b' items=x,y", "ssh_root", "--check")
    assert run.code == 0 and '"check_mode": true' in run.output and '"a b"' in run.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"txt": "x", "secret": "hunter2"}, rf"Unsupported parameters for ({SPECIMEN}) module: txt. Supported parameters include: "),
        ({"txt": "x"}, "Did you mean text?"),
        ({"strng": "x"}, "Did you mean string?"),
        ({"behave": "replace"}, "behave is replace but all of the following are missing: file, content"),
        ({"servers": [{"port": 1}]}, "missing required arguments: name found in servers"),
        ({"servers": [{"name": "x", "prt": 1}]}, "Did you mean port?"),
        ({"behave": "ecko"}, "value of behave must be one of: echo, "),
        ({"number": "many"}, "argument 'number' is of type"),
        ({"seconds": -1}, "argument 'seconds': expected seconds, 0 or more, got -1"),
        ({"login": {"password": "hunter2", "usr": "x"}}, "Did you mean user?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_told_without_the_target(edge: Ansible, options: dict, complaint: str) -> None:
    edge.hosts["nowhere"] = NOWHERE
    run = edge.one("specimen", options, "nowhere")
    assert run.only.status == "failed", run.output
    assert complaint in run.only.msg
    assert run.trips == 0
    assert "hunter2" not in run.only.msg


def test_missing_options_are_named_as_ansible_does(ansible: Ansible) -> None:
    ansible.hosts["nowhere"] = NOWHERE
    run = ansible.one("deploy_ledger_info", {}, "nowhere")
    assert run.only.msg.startswith("missing required arguments: ")
    assert run.trips == 0


def test_a_binary_that_is_not_built(edge: Ansible) -> None:
    edge.collections = edge.folder / "unbuilt"
    shutil.copytree(staged(), edge.collections, ignore=shutil.ignore_patterns("bin"))
    edge.hosts["nowhere"] = NOWHERE
    run = edge.one("specimen", {}, "nowhere")
    assert run.only.msg == f"{SPECIMEN}: not built: run make collection"
    assert run.trips == 0


def test_the_documentation_file_says_so_too_when_it_is_run(edge: Ansible) -> None:
    command = [venv(edge.version) / "bin/python", "-m", "ansible_collections.reversible.deploy.plugins.modules.specimen"]
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {}})
    done = subprocess.run(command, cwd=staged(), input=arguments, stdout=subprocess.PIPE, text=True, check=False)
    assert "not built: run make collection" in done.stdout
