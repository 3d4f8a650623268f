# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fork of a server that has ansible-core loaded is as good as a new process: the same plays in both ways, and the same comes of them."""
from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_forks import ForkedProcess
from harness import HERE, LOCAL, Ansible, Run, Running, venv, wait_for, within

pytestmark = pytest.mark.every_version
# What the kernel knows of the worker that looks this up, and of its parent, the run. While a worker starts a command it holds signals back.
STATE = """
    env | sort; cd /proc/$PPID; readlink cwd exe ns/*; readlink fd/0 fd/1 fd/2; readlink fd/* | sort; awk '{print $5 == $1, $6 == $1}' stat
    cd /proc/$(awk '{print $4}' stat); grep -E '^(Umask|Sig...|NoNewPrivs|Seccomp):' status; cat comm limits cgroup oom_score_adj
    awk '{print $5, $6, $19}' stat
"""


class BothWays:
    """The same run in a new process and in a fork, in one folder."""

    def __init__(self, core: str, folder: Path) -> None:
        hosts = LOCAL | {"lost": {"ansible_connection": "lost", "lost_file": str(folder)}}
        environ = {"ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"), "ANSIBLE_DIFF_CONTEXT": "1"}
        self.ways = [Ansible(core, folder, hosts, environ, in_new_processes=new) for new in (True, False)]

    def play(self, tasks: list[dict[str, t.Any]], *options: str, host: str = "local", **play: t.Any) -> tuple[Run, Run]:
        return self.run(lambda ansible: ansible.start(tasks, host, *options, **play))

    def run(self, start: t.Callable[[Ansible], Running], meanwhile: t.Callable[[Running], None] = lambda running: None) -> tuple[Run, Run]:
        runs, files = [], [self.temporary_files()]
        for ansible in self.ways:
            running = start(ansible)
            assert isinstance(running.process, ForkedProcess) != ansible.in_new_processes
            meanwhile(running)
            runs.append(running.wait())
            files.append(self.temporary_files())
        new, forked = runs
        assert files[1] - files[0] == files[2] - files[1]  # a run that is killed leaves its own
        assert new.code == forked.code, forked.output
        assert lasting(new.output) == lasting(forked.output)
        assert [(task.status, task.host, task.task) for task in new.tasks] == [(task.status, task.host, task.task) for task in forked.tasks]
        return new, forked

    def temporary_files(self) -> int:
        place = self.ways[0].folder / "local-temp"
        return len(list(place.iterdir())) if place.exists() else 0


def lasting(output: str) -> list[str]:
    """What a second run in the same way writes again: without times and numbers of processes, and names that have them."""
    output = re.sub(r"(record|play|inventory)-\d+", r"\1", output)
    output = re.sub(r"ansible-(tmp|local)-[\w.-]+", r"ansible-\1", output)
    output = re.sub(r"/tmp\w{8}\b", "/tmp", output)
    output = re.sub(r"#\d+ \(deleted\)", "#(deleted)", output)
    output = re.sub(r"(pipe|socket):\[\d+\]", r"\1", output)
    output = re.sub(r"(?m)\"(start|end|delta|atime|mtime|ctime)\": .*$", r"\1", output)
    return output.splitlines()


@pytest.fixture
def both(edge_core: str, tmp_path: Path) -> BothWays:
    return BothWays(edge_core, tmp_path)


@contextlib.contextmanager
def another_network() -> t.Iterator[int]:
    """The number of a process in it."""
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL) as process:
        try:
            ours = os.readlink("/proc/self/ns/net")
            wait_for(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != ours, "a network")
            yield process.pid
        finally:
            process.kill()


def test_the_process_is_as_a_new_one(both: BothWays) -> None:
    look = {"name": "look", "ansible.builtin.debug": {"msg": "{{ lookup('ansible.builtin.pipe', state).splitlines() }}"}}
    draw = {"name": "draw", "ansible.builtin.debug": {"msg": "{{ 1000000000000000 | random }}"}}
    with another_network() as pid, within(pid, {"SOMETHING": "of the network's"}):
        new, forked = both.play([look], vars={"state": STATE})
        again = both.ways[-1].play([look], "local", vars={"state": STATE})
    assert "SOMETHING=of the network's" in new.only["msg"]
    states = [lasting(str(run.only["msg"]).replace("', '", "\n")) for run in (new, forked, again)]
    assert states[0] == states[1] and states[1] == states[2]
    # Nothing that is drawn by lot is drawn before the fork.
    assert len({both.ways[-1].play([draw], "local").only.msg for _ in range(2)}) == 2


def test_what_stays_compiled_is_computed_each_time(both: BothWays, tmp_path: Path) -> None:
    """Jinja computes a test of a constant while it compiles."""
    file, fork = tmp_path / "there", both.ways[-1]
    look = {"ansible.builtin.debug": {"msg": f"{{{{ word | default('none') }}}}: {{{{ '{file}' is exists }}}}, {{{{ word is defined }}}}"}}
    said = [fork.play([look], "local", *given).only.msg for given in ((), ("-e", "word=one"))]
    file.touch()
    said += [fork.play([look], "local", *given).only.msg for given in (("-e", "word=two"), ())]
    assert said == ["none: False, False", "one: False, True", "two: True, True", "none: True, False"]


def test_values_are_those_of_a_new_process(both: BothWays) -> None:
    """Of what was printed and parsed before, each task gets a value of its own, and what is no value stays text."""
    texts = ["[1, 'two', {'three': None}]", '{"json": [true, false, null], "n": 1.5}', "{broken", "[unknown]", "{'a': f(2)}", "True"]
    steps: list[dict[str, t.Any]] = [
        {"name": "text", "ansible.builtin.set_fact": {"value": "{{ item }}"}, "loop": texts},
        {"name": "kinds", "ansible.builtin.debug": {"msg": "{{ item | type_debug }}: {{ item }}"}, "loop": [*texts, *texts]},
        {"name": "printed", "ansible.builtin.command": {"argv": ["printf", "%s", "{{ item }}"]}, "loop": [*texts, *texts], "changed_when": False},
        {"name": "one", "ansible.builtin.set_fact": {"one": "{{ start + [1] }}"}, "vars": {"start": "{{ [{'a': [1]}] }}"}},
        {"name": "two", "ansible.builtin.set_fact": {"two": "{{ start | combine({'a': [2]}) }}"}, "vars": {"start": "{{ one[0] }}"}},
        {"name": "filters", "ansible.builtin.debug": {"msg": "{{ ['{a}', '{b}'] | reversible.deploy.filled(item) }}"}, "loop": [{"a": "1"}, {"b": "2"}]},
        # There is no such filter. What is said of it must be the same, and so must what comes after it.
        {"name": "no filter", "ansible.builtin.debug": {"msg": "{{ 'x' | reversible.deploy.nothing }}"}, "ignore_errors": True},
        {"name": "both", "ansible.builtin.debug": {"msg": "{{ one }} {{ two }} {{ hostvars[inventory_hostname].one }}"}},
    ]
    new, forked = both.play(steps, "-vv")
    assert [task.task for task in new.tasks if task.status == "failed"] == ["no filter"]
    assert [task.result for task in new.tasks if task.task == "both"] == [task.result for task in forked.tasks if task.task == "both"]


def test_good_and_bad_ends(both: BothWays) -> None:
    file = {"name": "file", "ansible.builtin.copy": {"dest": "{{ lookup('env', 'REVERSIBLE_RECORD') }}.file", "content": "{{ asked }}\n"}}
    told = {"name": "told", "ansible.builtin.command": "printenv WORD", "environment": {"WORD": "in the task"}}
    # That a failure is ignored must look the same in both ways.
    bad = {"name": "bad", "ansible.builtin.assert": {"that": "asked == 'other'"}, "ignore_errors": True}
    worse = {"name": "worse", "ansible.builtin.fail": {"msg": "as it is meant"}}
    asks = {"vars_prompt": [{"name": "asked", "private": False, "default": "the default"}]}
    new, _forked = both.play([file, told, bad], "--check", "--diff", "-vvv", "--forks", "1", host="all", **asks)
    assert new.code == 4 and {task.status for task in new.tasks if task.host == "lost"} == {"unreachable"} and "+the default" in new.output
    new, _forked = both.play([file, told, bad, worse], "--diff", "-e", "asked=word")
    assert new.code == 2 and new.named("told")["stdout"] == "in the task" and new.named("file")["changed"]


def test_what_only_computes_needs_no_process_of_its_own(both: BothWays) -> None:
    """... and nothing of what it changes on its way stays: each task has its own copy of all."""
    steps: list[dict[str, t.Any]] = [
        {"name": "set", "ansible.builtin.set_fact": {"numbers": "{{ [1, 2] + [item] }}", "word": "{{ 'a' ~ item }}"}, "loop": [3, 4], "when": "item != 3"},
        {"name": "mixed", "ansible.builtin.command": "true", "loop": [1, 2, 3], "when": "item in numbers", "changed_when": False},
        {"name": "elsewhere", "ansible.builtin.set_fact": {"word": "{{ inventory_hostname }}"}, "delegate_to": "lost", "delegate_facts": True},
        {"name": "once", "ansible.builtin.debug": {"var": "hostvars['lost'].word"}, "run_once": True, "register": "said"},
        {"name": "undefined", "ansible.builtin.debug": {"msg": "{{ nothing.at_all }}"}, "ignore_errors": True},
        {"name": "looked up", "ansible.builtin.set_fact": {"number": "{{ lookup('ansible.builtin.pipe', 'echo 12') }}"}},
        {"name": "again", "ansible.builtin.assert": {"that": "number | length > 1"}, "until": "true", "retries": 2, "delay": 0},
        {"name": "hidden", "ansible.builtin.fail": {"msg": "a secret"}, "no_log": True, "ignore_errors": True},
        {"name": "all", "ansible.builtin.assert": {"that": ["word == 'a4'", "numbers == [1, 2, 4]", "said.changed == false"], "quiet": True}},
        {"name": "ends", "ansible.builtin.fail": {"msg": "{{ said }} {{ numbers }}"}, "when": ["word is defined", "numbers | length == 3"]},
    ]
    new, _forked = both.play(steps, "-vv")
    assert new.code == 2 and [task.task for task in new.tasks if task.status == "failed"] == ["undefined", "hidden", "ends"]


def test_who_computes(both: BothWays) -> None:
    """A filter sees which process it is in: the run's own, but a lookup and an action that acts have one of theirs."""
    who = {"name": "who", "ansible.builtin.debug": {"msg": "{{ '/proc/self' is link }} {{ '/proc/self' | realpath }}"}}
    also = {"name": "also", "ansible.builtin.debug": {"msg": "{{ '/proc/self' | realpath }} {{ lookup('ansible.builtin.pipe', 'true') }}"}}
    forked = both.ways[-1].play([who, also], "local")
    new = both.ways[0].play([who, also], "local")
    assert len({task.msg.split()[-1] for task in forked.tasks}) == 2 and len({task.msg.split()[-1] for task in new.tasks}) == 2
    run = both.ways[-1].start([who, also, who | {"name": "third"}], "local")
    seen = run.wait()
    assert seen.named("who").msg.split()[-1] == seen.named("third").msg.split()[-1] == f"/proc/{run.process.pid}"
    assert seen.named("also").msg.split()[0] != f"/proc/{run.process.pid}"


def test_what_is_no_play(both: BothWays) -> None:
    new, _forked = both.play([{"no.such.module": {}}])
    assert new.code == 4
    new, _forked = both.run(lambda ansible: ansible._start(["ansible", "local", "-m", "ansible.builtin.debug", "-a", "msg=word"]))
    assert new.code == 0 and "word" in new.output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_run_that_is_killed_while_another_goes_on(both: BothWays, tmp_path: Path, how: signal.Signals) -> None:
    begun, goes_on = tmp_path / "begun", tmp_path / "goes-on"
    wait = {"name": "wait", "ansible.builtin.command": {"argv": ["sh", "-c", f"touch {begun}; while [ -e {goes_on} ]; do sleep 0.05; done"]}}

    def kill(running: Running) -> None:
        wait_for(begun.exists, "the task has begun")
        begun.unlink()
        running.process.send_signal(how)

    goes_on.touch()
    other = both.ways[-1].start([wait], "local")
    wait_for(begun.exists, "the task of the other run has begun")
    begun.unlink()
    new, _forked = both.run(lambda ansible: ansible.start([wait], "local"), kill)
    assert new.code == -how or how == signal.SIGTERM and new.code > 0
    assert other.process.poll() is None
    goes_on.unlink()
    assert other.wait().code == 0


def test_what_no_server_can_load_is_a_new_process(edge_core: str, tmp_path: Path) -> None:
    running = Ansible(edge_core, tmp_path, LOCAL, {"LC_ALL": "no_SUCH.language"}).start([], "local")
    run = running.wait()
    assert isinstance(running.process, subprocess.Popen) and run.code == 1 and "locale" in run.output


def test_a_server_ends_with_its_tests(edge_core: str, tmp_path: Path) -> None:
    """However they end: here by SIGKILL."""
    program = f"""if True:
        import sys, time
        sys.path.insert(0, {str(HERE)!r})
        import ansible_forks, pathlib
        server = ansible_forks.Server(pathlib.Path({str(venv(edge_core) / "bin/ansible-playbook")!r}), dict({dict(os.environ)!r}))
        print(server.is_usable(), server.pid, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout
        usable, pid = tests.stdout.readline().split()
        assert usable == "True" and Path(f"/proc/{pid}").exists()
        tests.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the server has ended")
