# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""health_gate about containers of a real engine: healthy, sick, starting, ended, fallen; log lines; a whole Compose project.

test_health_gate_machines.py has the same kinds before stand-ins, with answers that a test cannot get from an engine at will.
"""
from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import typing as t

import pytest
from compose import PATIENCE, Engine, Project, an_engine, docker_as  # noqa: F401  (one is a fixture)
from gate import fails, gate, holds
from harness import wait_for

# `well` and `sick` look for a file, so that a test can change how they are; `falls` is started again when it is killed.
CLINIC = """\
services:
  well:
    image: reversible-lab/busybox:1
    init: true
    command: [sh, -c, "touch /tmp/well; exec sleep 100000"]
    healthcheck: {test: [CMD, test, -e, /tmp/well], interval: 300ms, timeout: 2s, retries: 1}
  plain:
    image: reversible-lab/busybox:1
    init: true
    command: [sh, -c, "echo plain is up; exec sleep 100000"]
  sick:
    image: reversible-lab/busybox:1
    init: true
    profiles: [bad]
    command: [sleep, "100000"]
    healthcheck: {test: [CMD-SHELL, "echo no heart; exit 1"], interval: 300ms, timeout: 2s, retries: 1}
  slow:
    image: reversible-lab/busybox:1
    init: true
    profiles: [bad]
    command: [sleep, "100000"]
    healthcheck: {test: [CMD, "false"], interval: 300ms, start_period: 1h}
  ended:
    image: reversible-lab/busybox:1
    profiles: [bad]
    command: [sh, -c, "exit 3"]
  falls:
    image: reversible-lab/busybox:1
    restart: always
    command: [sleep, "100000"]
  loops:
    image: reversible-lab/busybox:1
    profiles: [bad]
    restart: always
    command: [sh, -c, "sleep 0.3; exit 1"]
"""


class Clinic(Project):
    def pid(self, service: str) -> int:
        return self.engine.api.inspect(self.container(service))["State"]["Pid"]

    def container(self, service: str) -> str:
        return f"{self.name}-{service}-1"

    def probe(self, kind: str, *services: str, **more: t.Any) -> dict[str, t.Any]:
        return {"kind": kind, "containers": [self.container(service) for service in services], **more}

    def says(self, text: str) -> None:
        """As a line of the program itself."""
        self.engine.api.run(self.container("plain"), "sh", "-c", 'echo "$1" > /proc/1/fd/1', "sh", text)

    def logs(self) -> str:
        return self.engine.docker("logs", self.container("plain"))

    @contextlib.contextmanager
    def meanwhile(self, word: str, when: str, happens: t.Callable[[], None]) -> t.Iterator[dict[str, str]]:
        """The environment of a gate that has `docker <word>` only after something has happened: `before` the first is asked, or when it was `after`."""
        asked, done = self.place / f"asked-{word}", self.place / f"done-{word}"
        waits = f"case $1 in {word}) touch {asked}; until [ -e {done} ]; do sleep 0.05; done ;; esac\n"
        runs = '$docker "$@"; rc=$?\n'
        environ = docker_as(self, f"while-{word}", (waits + runs if when == "before" else runs + waits) + "exit $rc\n")

        def wait_and_do() -> None:
            try:
                wait_for(asked.exists, f"the gate's docker {word}", PATIENCE)
                happens()
            finally:
                done.touch()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            happened = pool.submit(wait_and_do)
            yield {**self.engine.environ, **environ}
            happened.result()

    def fall(self) -> None:
        """`falls` is killed, and the engine has started it again."""
        def count() -> int:
            return self.engine.api.inspect(self.container("falls"))["RestartCount"]

        before = count()
        os.kill(self.pid("falls"), signal.SIGKILL)
        wait_for(lambda: count() > before, "the engine to start it again", PATIENCE)

    def says_now(self, text: str) -> None:
        self.says(text)
        wait_for(lambda: text in self.logs(), "the line", PATIENCE)


@pytest.fixture(scope="module", name="clinic")
def a_clinic(on: Engine) -> t.Iterator[Clinic]:
    clinic = Clinic(on, CLINIC, "clinic")
    try:
        clinic.up()
        clinic.compose("--profile", "bad", "up", "-d", "--pull", "never", "sick", "slow", "ended", "loops")
        wait_for(lambda: clinic.states()["sick"] == "running unhealthy", "sick to be unhealthy", PATIENCE)
        yield clinic
    finally:
        clinic.remove()


def test_containers_that_are_well(clinic: Clinic) -> None:
    row = holds(clinic.probe("docker", "well", "plain"), environ=clinic.engine.environ)
    assert row["answer"] == "2 of 2 healthy, 1 of them running without a check" and row["value"] == 2


@pytest.mark.parametrize("service, words", [
    ("sick", "is unhealthy: no heart"), ("slow", "is starting"), ("ended", "is exited with 3, not running"),
])
def test_containers_that_are_not(clinic: Clinic, service: str, words: str) -> None:
    fails(clinic.probe("docker", "well", service), f"{clinic.container(service)} {words}", environ=clinic.engine.environ)


def test_a_container_that_ends_again_and_again(clinic: Clinic) -> None:
    row = fails(clinic.probe("docker", "loops", tries=6, delay=0.2, consecutive=6), environ=clinic.engine.environ)
    assert f"{clinic.container('loops')} is restarting" in row["why"] or "times in a row, expected 6" in row["why"], row


def test_a_container_that_is_not_there(clinic: Clinic) -> None:
    fails(clinic.probe("docker", "well", "nobody"), f"there is no container {clinic.container('nobody')}", environ=clinic.engine.environ)


def test_no_engine(clinic: Clinic) -> None:
    environ = {**clinic.engine.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    fails(clinic.probe("docker", "well"), "Cannot connect to the Docker daemon", environ=environ)


def test_a_container_that_gets_well_while_it_is_asked(clinic: Clinic) -> None:
    clinic.compose("exec", "-T", "well", "rm", "/tmp/well")
    wait_for(lambda: clinic.states()["well"] == "running unhealthy", "well to be unhealthy", PATIENCE)
    fails(clinic.probe("docker", "well"), "is unhealthy", environ=clinic.engine.environ)
    clinic.compose("exec", "-T", "well", "touch", "/tmp/well")
    row = holds(clinic.probe("docker", "well", tries=60, delay=0.1), environ=clinic.engine.environ)
    assert row["answer"] == "1 of 1 healthy"


def test_a_paused_container(clinic: Clinic) -> None:
    clinic.compose("pause", "well")
    try:
        fails(clinic.probe("docker", "well"), f"{clinic.container('well')} is paused, not running", environ=clinic.engine.environ)
    finally:
        clinic.compose("unpause", "well")
    holds(clinic.probe("docker", "well", tries=60, delay=0.1), environ=clinic.engine.environ)


def test_restarts(clinic: Clinic) -> None:
    environ = clinic.engine.environ
    probe = {"name": "it", **clinic.probe("restarts", "well", window=0)}
    before = gate(probe, require=0, environ=environ)
    holds(probe, baseline=before, environ=environ)
    # The engine restarts what falls, later each time: so it falls when the test wants it to, and once.
    with clinic.meanwhile("inspect", "after", clinic.fall) as falling:
        fails(clinic.probe("restarts", "well", "falls", window=0.1), f"restarted: {clinic.container('falls')} 1 times", environ=falling)
    # A restart by hand is none that the engine counts: the container has not failed.
    clinic.compose("restart", "well")
    holds(probe, baseline=before, environ=environ)


def test_lines_of_a_log(clinic: Clinic) -> None:
    environ = clinic.engine.environ
    probe = {"name": "it", "kind": "logs", "container": clinic.container("plain"), "regex": "ERROR|panic", "window": 0}
    clinic.says("ERROR of old")
    wait_for(lambda: "of old" in clinic.logs(), "the old line", PATIENCE)
    before = gate(probe, require=0, environ=environ)
    clinic.says("all is well")
    holds(probe, baseline=before, environ=environ)
    clinic.says("an ERROR of today")
    wait_for(lambda: "of today" in clinic.logs(), "the new line", PATIENCE)
    row = fails(probe, "an ERROR of today", baseline=before, environ=environ)
    assert row["value"] == 1, "not the line from before"
    holds({**probe, "max": 1}, baseline=before, environ=environ)
    holds({**probe, "ignore": "today"}, baseline=before, environ=environ)
    with clinic.meanwhile("logs", "before", lambda: clinic.says_now("ERROR while it watches")) as saying:
        fails({"kind": "logs", "container": clinic.container("plain"), "text": "ERROR", "window": 0.1}, "while it watches", environ=saying)
    fails({**probe, "container": "nobody"}, "nobody", environ=environ)


def test_a_compose_project(clinic: Clinic) -> None:
    environ = clinic.engine.environ
    probe = {"kind": "compose", "project": clinic.name, "services": ["well", "plain"]}
    holds(probe, environ=environ)
    fails({**probe, "services": ["well", "sick"]}, "is unhealthy", environ=environ)
    fails({**probe, "services": ["well", "nobody"]}, "the service nobody has no container", environ=environ)
    fails({"kind": "compose", "project": "nobody"}, "the project nobody has no containers", environ=environ)
    clinic.compose("up", "-d", "--pull", "never", "--no-recreate", "--scale", "plain=3", "plain")
    try:
        assert holds(probe, environ=environ)["answer"] == "4 of 4 healthy, 3 of them running without a check"
        fails({**probe, "count": 5}, "expected 5 containers, there are 4", environ=environ)
    finally:
        clinic.compose("up", "-d", "--pull", "never", "--no-recreate", "--scale", "plain=1", "plain")
