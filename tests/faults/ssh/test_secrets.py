# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task holds is shown nowhere: not in what is printed at -vvvv, not in the process list."""
from __future__ import annotations

import contextlib
import os
import signal
import typing as t
from pathlib import Path

import pytest
from harness import GOES_ON, SPECIMEN, Ansible, Run, processes, temporary_folder

SECRETS = {
    "option": "s3cret-of-an-option",
    "suboption": "s3cret-of-a-suboption",
    "environment": "s3cret-of-the-environment",
    "plain": "not-even-a-plain-option",
}


class Watch:
    """Reads the command line and the starting environment of everything that runs on this machine, again and again."""

    def __init__(self, secrets: t.Iterable[str], but: int) -> None:
        self.secrets, self.but, self.looks = [secret.encode() for secret in secrets], but, 0
        self.seen: set[str] = set()

    def look(self) -> None:
        self.looks += 1
        for folder in Path("/proc").glob("[0-9]*"):
            if int(folder.name) in (os.getpid(), self.but):
                continue
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    text = (folder / name).read_bytes()
                    self.seen |= {f"{secret.decode()} in {folder.name}/{name}: {text!r}" for secret in self.secrets if secret in text}


@contextlib.contextmanager
def stopped(pid: int) -> t.Iterator[None]:
    """It goes on afterwards; while it is looked at it stays as it is."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("way", ["first use", "warm", "ordinary", "async", "become", "failing", "panicking", "killed"])
def test_secrets_are_neither_printed_nor_in_the_process_list(edge: Ansible, way: str) -> None:
    edge.in_new_processes = True   # the command line of a fork would be its server's
    host = "bare_groupwritable" if way == "ordinary" else "ssh_alice"
    if way == "first use":
        edge.forget(host)
    behave = {"failing": "child_fails", "panicking": "panic", "killed": "stuck"}.get(way, "sleep")
    options = {"behave": behave, "seconds": 3, "secret": SECRETS["option"], "login": {"user": "u", "password": SECRETS["suboption"]}}
    options |= {"map": {"x": SECRETS["plain"]}}
    task = {SPECIMEN: options, "environment": {"SPECIMEN_TOKEN": SECRETS["environment"]}, **GOES_ON}
    task |= {"async": {"async": 30, "poll": 1}, "become": {"become": True, "become_user": "rd-bob"}}.get(way, {})
    with temporary_folder(edge, host) if way == "ordinary" else contextlib.nullcontext():
        running = edge.start([task], host, "-vvvv")
        watch, met = Watch(SECRETS.values(), but=running.process.pid), set()
        while running.process.poll() is None:
            watch.look()
            for pid in set(processes("specimen")) - met:
                met.add(pid)
                with contextlib.suppress(ProcessLookupError), stopped(pid):
                    watch.look()
                    if way == "killed":
                        os.kill(pid, signal.SIGKILL)
        run = running.wait()
    assert not watch.seen and watch.looks > 0
    assert met or way in ("failing", "panicking"), "it was not looked at while the module ran"
    assert run.only.status == ("failed" if way in ("failing", "panicking", "killed") else "ok"), run.output
    assert bool(run.reason) == (way in ("ordinary", "async"))
    # What a module gives back is its own affair: the plain option and the environment come back in this one's result.
    _assert_hidden(run, [SECRETS["option"], SECRETS["suboption"]])
    commands = "\n".join(line for line in run.output.splitlines() if "EXEC" in line or "PUT" in line)
    assert commands
    assert not [secret for secret in SECRETS.values() if secret in commands]


def _assert_hidden(run: Run, secrets: list[str]) -> None:
    for secret in secrets:
        lines = [line for line in run.output.splitlines() if secret in line]
        assert not lines, lines[0][:2000]


def test_secrets_are_not_in_a_complaint(edge: Ansible) -> None:
    options = {"login": {"user": "u", "password": SECRETS["suboption"]}, "secret": SECRETS["option"], "number": SECRETS["option"]}
    run = edge.one("specimen", options, "ssh_alice")
    assert run.only.status == "failed"
    _assert_hidden(run, [SECRETS["option"], SECRETS["suboption"]])


def test_no_log_hides_everything(edge: Ansible) -> None:
    options = {"map": {"x": SECRETS["plain"]}}
    task = {SPECIMEN: options, "environment": {"SPECIMEN_TOKEN": SECRETS["environment"]}, "no_log": True}
    for host in ("ssh_alice", "bare_groupwritable"):
        with temporary_folder(edge, host):
            run = edge.play([task], host, "-vvvv")
        assert run.only.status == "ok"
        _assert_hidden(run, list(SECRETS.values()))
