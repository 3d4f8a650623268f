# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast path where something is wrong: with the target, with the cache, with the module, with who looks on."""
from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import typing as t
from pathlib import Path

import pytest
from harness import (
    AFTERWARDS,
    BIN,
    CACHE_FOLDER,
    GOES_ON,
    HERE,
    MARK,
    SPECIMEN,
    Ansible,
    processes,
    staged,
    temporary_folder,
    wait_for,
)



# Targets and caches


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("bare_tiny", "No space left on device"),
        ("bare_readonly", "Read-only file system"),
        ("bare_noexec", "cannot be executed"),
        ("bare_groupwritable", "others can write to /home/groupwritable "),
        ("bare_homeless", "No such file or directory"),
    ],
)
def test_a_home_that_cannot_hold_the_cache(edge: Ansible, host: str, reason: str) -> None:
    with temporary_folder(edge, host):
        run = edge.one("specimen", {"text": "x"}, host, environment={"SPECIMEN_A": "a"})
        again = edge.one("specimen", {"text": "x"}, host)
    assert run.only.status == again.only.status == "ok", run.output
    assert run.only["echo"]["text"] == "x"
    assert run.only["environment"] == {"SPECIMEN_A": "a"}
    assert reason in run.reason and reason in again.reason
    if host == "bare_tiny":
        assert edge.cached(host) == []  # nothing is left of what did not fit


DAMAGES = {"longer": "printf x >>$f", "short": "printf x >$f", "empty": ": >$f", "other": "cp /bin/busybox $f",
           "same size": "printf x | dd of=$f bs=1 seek=4096 conv=notrunc 2>/dev/null"}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_copy_is_noticed_and_replaced(edge: Ansible, damage: str) -> None:
    edge.forget("bare_user")
    edge.one("specimen", {}, "bare_user")
    edge.on("bare_user", f"f=$(echo ~/{CACHE_FOLDER}/{MARK}*); {damage}")
    run = edge.one("specimen", {"text": "x"}, "bare_user")
    assert run.only["echo"]["text"] == "x"
    assert "is corrupt on the target" in run.output
    assert (run.trips, edge.one("specimen", {}, "bare_user").trips) == (3, 1)


def test_a_cache_that_others_can_write_to_is_not_used(edge: Ansible) -> None:
    edge.one("specimen", {}, "bare_user")
    folder = f"/home/user/{CACHE_FOLDER}"
    for change, back, reason in (
        (f"chmod 777 {folder}", f"chmod 700 {folder}", f"others can write to {folder} (1000:777)"),
        (f"chmod 770 {folder}/{MARK}*", f"chmod 700 {folder}/{MARK}*", "others can write to"),
        (f"chown tiny {folder}", f"chown user {folder}", f"can't cd to {folder}: Permission denied"),
        (f"chmod 755 {folder} && chown tiny {folder}", f"chmod 700 {folder} && chown user {folder}", f"{folder} belongs to another user (1001:755)"),
        (f"chown tiny {folder}/{MARK}*", f"chown user {folder}/{MARK}*", "belongs to another user"),
        ("chmod 775 /home", "chmod 755 /home", "others can write to /home (0:775)"),
        ("chown tiny /home", "chown root /home", "/home belongs to another user (1001:755)"),
    ):
        edge.on("bare_root", change)
        try:
            with temporary_folder(edge, "bare_user"):
                run = edge.one("specimen", {"text": "x"}, "bare_user")
        finally:
            edge.on("bare_root", back)
        assert run.only["echo"]["text"] == "x", run.output
        assert reason in run.reason, change
    assert edge.one("specimen", {}, "bare_user").trips == 1


def test_a_cache_that_is_a_link_to_another_users_folder_is_not_used(edge: Ansible) -> None:
    edge.forget("bare_user")
    edge.on("bare_root", f"mkdir -p /tmp/trap && chown tiny /tmp/trap && ln -s /tmp/trap /home/user/{CACHE_FOLDER}")
    try:
        with temporary_folder(edge, "bare_user"):
            run = edge.one("specimen", {"text": "x"}, "bare_user")
        assert edge.on("bare_root", "ls /tmp/trap") == ""
    finally:
        edge.on("bare_root", f"rm -rf /home/user/{CACHE_FOLDER} /tmp/trap")
    assert run.only["echo"]["text"] == "x"
    assert "/tmp/trap belongs to another user (1001:755)" in run.reason


def test_a_home_behind_a_link_is_used_by_its_physical_path(edge: Ansible) -> None:
    edge.on("bare_root", "mv /home/user /home/.user && ln -s .user /home/user")
    try:
        run = edge.one("specimen", {"text": "x"}, "bare_user")
    finally:
        edge.on("bare_root", "rm /home/user && mv /home/.user /home/user")
    assert not run.reason
    assert f"ran /home/.user/{CACHE_FOLDER}/" in run.output


def test_a_home_in_a_sticky_folder_is_used(edge: Ansible) -> None:
    edge.on("bare_root", "cp -a /home/user /tmp/user && mv /home/user /home/.user && ln -s /tmp/user /home/user")
    try:
        run = edge.one("specimen", {"text": "x"}, "bare_user")
    finally:
        edge.on("bare_root", "rm -r /home/user /tmp/user && mv /home/.user /home/user")
    assert not run.reason
    assert f"ran /tmp/user/{CACHE_FOLDER}/" in run.output


@pytest.mark.parametrize("home", [None, "/nonexistent", "/tmp"])
def test_the_home_is_the_password_databases(edge: Ansible, home: str | None) -> None:
    """HOME may be missing or another user's (sudo without -H): root must never run what lies there."""
    drop = "exec env -u HOME" if home is None else f"exec env HOME={home}"
    edge.hosts["local"] = edge.hosts["local"] | {"ansible_shell_executable": str(_shell(edge, drop))}
    run = edge.one("specimen", {"text": "x"}, "local")
    assert not run.reason
    assert f"ran {os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir)}/{CACHE_FOLDER}/" in run.output


def _shell(ansible: Ansible, prefix: str) -> Path:
    """A shell with some words in front of it."""
    path = ansible.folder / "shell"
    path.write_text(f'#!/bin/sh\n{prefix} /bin/sh "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("system", ["Linux riscv64", "Darwin arm64", "FreeBSD amd64", ""])
def test_a_target_of_another_kind(edge: Ansible, system: str) -> None:
    _fake_program(edge, "uname", f"echo {system}")
    run = edge.one("specimen", {}, "local")
    assert run.only.status == "failed"
    built = " and ".join(f"Linux {arch}" for arch in ("x86_64", "aarch64") if (staged() / BIN / f"specimen_{arch}").exists())
    said = system or "unknown (uname says nothing)"
    assert run.only.msg == f"{SPECIMEN}: the target is {said}, and there are binaries for {built} only"
    # the ordinary way says the same
    run = edge.one("specimen", {}, "local", **{"async": 10, "poll": 1})
    assert f"the target is {said}, and" in run.only.msg


def test_a_windows_target(edge: Ansible) -> None:
    edge.hosts["local"] = edge.hosts["local"] | {"ansible_shell_type": "powershell"}
    run = edge.one("specimen", {}, "local")
    assert "the target is Windows, and there are binaries for Linux" in run.only.msg
    assert run.trips == 0


def _fake_program(ansible: Ansible, name: str, script: str) -> None:
    """A program of that name stands first on the PATH of this machine's targets."""
    folder = ansible.folder / "programs"
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    ansible.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("missing", ["sha256sum", "stat", "getent"])
def test_a_target_without_a_program(edge: Ansible, missing: str) -> None:
    folder = edge.folder / "programs"
    folder.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name != missing:
            (folder / program.name).symlink_to(program)
    edge.environ["PATH"] = str(folder)
    run = edge.one("specimen", {"text": "x"}, "local")
    assert run.only["echo"]["text"] == "x", run.output
    assert run.reason == ("" if missing == "getent" else f"the target has no {missing}")


def test_a_broken_hash_program(edge: Ansible) -> None:
    edge.one("specimen", {}, "local")
    _fake_program(edge, "sha256sum", "exit 1")
    run = edge.one("specimen", {"text": "x"}, "local")
    assert run.only["echo"]["text"] == "x" and not run.reason, "what was checked since the boot is not hashed again"
    # As after the next boot.
    edge.on("local", f"sed -i 's/^[^ ]*/00000000-0000-4000-8000-000000000000/' ~/{CACHE_FOLDER}/.checked-{MARK}*")
    run = edge.one("specimen", {"text": "x"}, "local")
    assert run.only["echo"]["text"] == "x"
    assert "sha256sum does not work" in run.reason


@pytest.mark.parametrize("host", ["bare_user", "ssh_alice"])
def test_two_controllers_at_once_with_an_empty_cache(edge: Ansible, host: str) -> None:
    edge.forget(host)
    running = []
    for number in range(3):
        # Controllers share no ssh connection (and dropbear loses sessions that begin at the same time on one).
        own = re.sub(r"ControlPath=\S+", f"ControlPath={edge.folder}/{number}", edge.hosts[host]["ansible_ssh_common_args"])
        edge.hosts[host] = edge.hosts[host] | {"ansible_ssh_common_args": own}
        running.append(edge.start([{SPECIMEN: {"number": number}}], host, "-vvv"))
    runs = [one.wait() for one in running]
    assert [run.only["echo"]["number"] for run in runs] == [0, 1, 2]
    assert [run.reason for run in runs] == ["", "", ""]
    assert len(edge.cached(host)) == 1  # nothing unfinished either


def test_old_versions_are_pruned_and_recent_ones_kept(edge: Ansible) -> None:
    edge.forget("ssh_alice")
    old = [f"specimen_x86_64-{number:064x}" for number in range(6)]
    used_today = "specimen_x86_64-" + "a" * 64
    others = ["pct_snapshot_x86_64-" + "b" * 64, "specimen_aarch64-" + "c" * 64]
    touch = "; ".join(f"touch -d '{10 - number} days ago' {name}" for number, name in enumerate(old))
    edge.on(
        "ssh_alice",
        f"mkdir -m 700 ~/{CACHE_FOLDER} && cd ~/{CACHE_FOLDER} && {touch}; touch -d '30 days ago' .new-left {' '.join(others)}; "
        f"touch -m -d '30 days ago' {used_today}",
    )
    edge.one("specimen", {}, "ssh_alice")
    kept = edge.cached("ssh_alice")
    edge.forget("ssh_alice")
    current = [name for name in kept if name not in [*old, used_today, *others]]
    assert len(current) == 1 and ".new-left" not in kept
    assert sorted(kept) == sorted([*current, used_today, old[-1], *others])


def test_versions_in_use_are_never_pruned(edge: Ansible) -> None:
    edge.forget("ssh_alice")
    recent = [f"specimen_x86_64-{number:064x}" for number in range(6)]
    edge.on("ssh_alice", f"mkdir -m 700 ~/{CACHE_FOLDER} && cd ~/{CACHE_FOLDER} && touch {' '.join(recent)}")
    edge.one("specimen", {}, "ssh_alice")
    kept = edge.cached("ssh_alice")
    edge.forget("ssh_alice")
    assert set(recent) < set(kept)


def test_much_data_for_a_target_that_does_not_take_it(edge: Ansible) -> None:
    """A script that ends without having read its stdin must not look like a lost connection."""
    text = "x" * 5_000_000
    edge.forget("ssh_alice")
    run = edge.play([{SPECIMEN: {"text": text, "behave": "replace"}, **GOES_ON}, {SPECIMEN: {"items": [text]}}], "ssh_alice")
    assert run.tasks[1].status == "ok"
    with temporary_folder(edge, "bare_groupwritable"):
        run = edge.play([{SPECIMEN: {"items": [text]}}], "bare_groupwritable", "-vv")
    assert run.only.status == "ok" and run.reason


# Becoming another user


@contextlib.contextmanager
def sudo_rule(rule: str) -> t.Iterator[None]:
    path = Path("/etc/sudoers.d/reversible-lab-test")  # read after the lab's own
    path.write_text(rule + "\n")
    path.chmod(0o440)
    try:
        yield
    finally:
        path.unlink()


def test_sudo_that_wants_a_terminal(edge: Ansible) -> None:
    with sudo_rule("Defaults:rd-alice requiretty"):
        run = edge.one("specimen", {"text": "x"}, "ssh_alice", become=True)
    assert run.only["echo"]["text"] == "x", run.output
    assert run.only["uid"] == 0
    assert "tty" in run.reason


@pytest.mark.parametrize("host", ["ssh_bob", "local"])
def test_sudo_with_a_password(edge: Ansible, host: str) -> None:
    subprocess.run(["chpasswd"], input="rd-bob:open sesame\n", text=True, check=True)
    variables = {"ansible_become_password": "open sesame"}
    try:
        with sudo_rule("rd-bob ALL=(ALL) PASSWD: ALL"):
            run = edge.one("specimen", {"text": "x"}, host, become=True, become_user="rd-alice", vars=variables)
            wrong = edge.one("specimen", {}, "ssh_bob", become=True, vars={"ansible_become_password": "wrong"})
    finally:
        subprocess.run(["usermod", "--password", "*", "rd-bob"], check=True)
    assert run.only["echo"]["text"] == "x", run.output
    assert run.only["uid"] == pwd.getpwnam("rd-alice").pw_uid
    assert bool(run.reason) == (host == "local")
    assert wrong.only.status in ("failed", "unreachable")
    assert "open sesame" not in run.output


def test_su_goes_the_ordinary_way(ansible: Ansible) -> None:
    run = ansible.one("specimen", {"text": "x"}, "ssh_root", become=True, become_method="ansible.builtin.su", become_user="rd-bob")
    assert run.only["echo"]["text"] == "x", run.output
    assert run.only["uid"] == pwd.getpwnam("rd-bob").pw_uid
    assert "cannot send data" in run.reason


def test_a_connection_without_stdin_goes_the_ordinary_way(edge: Ansible) -> None:
    edge.environ["ANSIBLE_CONNECTION_PLUGINS"] = str(HERE / "connection_plugins")
    edge.hosts["local"] = edge.hosts["local"] | {"ansible_connection": "no_stdin"}
    run = edge.one("specimen", {"text": "x"}, "local")
    assert run.only["echo"]["text"] == "x", run.output
    assert run.reason == "connection no_stdin cannot send data to a command"


def test_a_shell_that_cannot_run_the_script(edge: Ansible) -> None:
    """The status of a program that could not be started: nothing was, so the ordinary way is safe."""
    shell = _shell(edge, 'case $2 in *nonce=*) echo "shell: what is this" >&2; exit 127;; esac; exec')
    edge.hosts["local"] = edge.hosts["local"] | {"ansible_shell_executable": str(shell)}
    run = edge.one("specimen", {"text": "x"}, "local")
    assert "the shell of the target ended with 127 and no answer: shell: what is this" in run.reason
    assert "does not say what it is" in run.only.msg


@pytest.mark.parametrize("status", [0, 1, 3])
def test_an_answer_that_is_lost_starts_nothing_twice(edge: Ansible, status: int) -> None:
    edge.one("specimen", {"text": "x"}, "local")   # it is in the cache: what is lost is the answer of the run itself
    edge.environ["ANSIBLE_CONNECTION_PLUGINS"] = str(HERE / "connection_plugins")
    edge.hosts["local"] = edge.hosts["local"] | {"ansible_connection": "loses_output", "loses_with": status}
    run = edge.one("specimen", {"text": "x"}, "local")
    assert run.trips == 1, f"only one command can have started it:\n{run.output}"
    assert run.only.status == "failed" and run.only["reason"] == "no_answer" and not run.reason, run.output
    assert f"the target's shell ended with status {status} and its answer is lost" in run.only.msg


# Modules that do not report


@pytest.mark.parametrize(
    ("behave", "complaint"),
    [
        ("garbage", "ended with status 0, and what it reported is not one JSON object (see module_stdout)"),
        ("partial", "ended with status 0, and what it reported is not one JSON object (see module_stdout)"),
        ("silent", "ended with status 0 before it reported"),
        ("exit", "ended with status 7 before it reported"),
    ],
)
@pytest.mark.parametrize("host", ["ssh_root", "bare_root", "local"])
def test_a_module_that_does_not_report(edge: Ansible, host: str, behave: str, complaint: str) -> None:
    run = edge.play([{SPECIMEN: {"behave": behave}, **GOES_ON}, AFTERWARDS], host)
    assert run.tasks[0].msg == f"{SPECIMEN} {complaint}; run the same task again: it finishes or restores what was begun"
    assert run.tasks[0]["module_stdout"] == {"partial": '{"changed": fal'}.get(behave, run.tasks[0]["module_stdout"])
    assert run.named("afterwards").status == "ok"


@pytest.mark.parametrize("host", ["ssh_root", "bare_user", "local"])
@pytest.mark.parametrize(
    ("behave", "number", "complaint"),
    [
        ("stuck", signal.SIGKILL, "was killed by signal 9 before it reported"),
        ("stuck", signal.SIGABRT, "was killed by signal 6 before it reported"),
        ("sleep", signal.SIGTERM, "SIGTERM"),
    ],
)
def test_a_module_that_is_killed(edge: Ansible, host: str, behave: str, number: signal.Signals, complaint: str) -> None:
    tasks = [{SPECIMEN: {"behave": behave, "seconds": 60}, **GOES_ON}, AFTERWARDS]
    running = edge.start(tasks, host, "-vvv")
    wait_for(processes, "a running module")
    for pid in processes():
        os.kill(pid, number)
    run = running.wait(60)
    killed = run.tasks[0]
    assert killed.status == "failed", run.output
    assert complaint in killed.msg
    assert run.named("afterwards").status == "ok", run.output
    assert not run.reason  # above all: it was not started a second time


def test_a_sigterm_to_the_whole_group_leaves_the_host_reachable(edge: Ansible) -> None:
    running = edge.start([{SPECIMEN: {"behave": "sleep", "seconds": 60}, **GOES_ON}, AFTERWARDS], "ssh_root")
    (pid,) = wait_for(processes, "a running module")
    os.killpg(os.getpgid(pid), signal.SIGTERM)
    run = running.wait(60)
    assert run.tasks[0].status == "failed"
    assert run.named("afterwards").status == "ok", run.output


def test_a_task_that_times_out(edge: Ansible) -> None:
    run = edge.play([{SPECIMEN: {"behave": "sleep", "seconds": 30}, "timeout": 2, **GOES_ON}, AFTERWARDS], "ssh_alice")
    assert run.tasks[0].status == "failed" and "2" in run.tasks[0].msg
    assert run.named("afterwards").status == "ok", run.output
    for pid in processes():  # core leaves it running on the target
        os.kill(pid, signal.SIGKILL)


def test_nothing_is_left_of_the_fast_path_but_the_cache(edge: Ansible) -> None:
    home = pwd.getpwnam("rd-alice").pw_dir
    if os.path.exists(f"{home}/.ansible"):  # from another test
        shutil.rmtree(f"{home}/.ansible")
    edge.one("specimen", {}, "ssh_alice")
    assert not os.path.exists(f"{home}/.ansible")
