# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers, which have no port and run in one colour alone: they are switched with the flip, forth and back, and whatever fails or is killed, those of the
colour that serves run at the end, and never those of both."""
from __future__ import annotations

import contextlib
import os
import typing as t
from pathlib import Path

import pytest
from flows import Shop
from harness import wait_for
from releases import sha

# Takes from a queue, as long as nobody else does; the release 3 does nothing, and says nothing but that it waits.
WORKER = """exec 9> queue.lock
flock -n 9 || echo "$1 beside another one" >> clash
test "$2" = {broken} && echo "$2 waits" || echo "$2 is ready"
while :; do
  test "$2" = {broken} || : > done-$1
  sleep 0.1 9>&-
done
"""


class WithWorker(Shop):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.root.mkdir(parents=True)
        self.script = self.root / "worker.sh"
        self.script.write_text(f"cd {self.folder}\n" + WORKER.format(broken=sha(3)))
        self.vars["app_components"].append({
            "name": "mail", "kind": "worker", "package": "shop-web", "command": ["/bin/sh", str(self.script), "{color}", "{release}"]})
        self.prove()

    def prove(self, **proof: t.Any) -> None:
        self.vars["app_components"][-1]["proof"] = proof or {"file": f"{self.folder}/done-{{color}}"}

    def working(self) -> list[str]:
        """The colour of each worker that runs. What it starts has its command line as well, for a moment."""
        colors, parents = {}, {}
        for pid in self.app_pids():
            with contextlib.suppress(OSError):   # it has ended since
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if os.fsencode(self.script) in words:
                    colors[pid] = words[2].decode()
        assert not (self.folder / "clash").exists(), (self.folder / "clash").read_text()
        return [color for pid, color in colors.items() if parents[pid] not in colors]


@pytest.fixture(name="the_shop", scope="module")
def a_shop(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[WithWorker]:
    """With release 1 in green, its worker, and more releases available."""
    with WithWorker(tmp_path_factory.mktemp("shop")) as shop:
        for number in (1, 2, 3):
            shop.publish(number)
        first = shop.deploy(1)
        assert first.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], first.output
        yield shop


@pytest.fixture(name="shop")
def with_green(the_shop: WithWorker) -> WithWorker:
    assert the_shop.working() == [the_shop.live()]
    if the_shop.live() != "green":
        back = the_shop.run("rollback", mode="fast", target_color="green")
        assert back.code == 0 and the_shop.working() == ["green"], back.output
    return the_shop


def test_forth_and_back(shop: WithWorker) -> None:
    order = ["End the processes of the workers", "Flip this load balancer", "Start the processes of the workers", "Check that the workers work"]
    said = "Workers (mail): those of {} end; flip; those of {} start; their proof."
    forth = shop.deploy(2)
    assert forth.code == 0 and shop.serves() == ("blue", sha(2)) and shop.working() == ["blue"], forth.output
    assert f"To go back to green ({sha(1)[:12]}): ansible-playbook reversible.deploy.rollback" in forth.output, forth.output
    back = shop.run("rollback", mode="fast")
    assert back.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], back.output
    for run, colors in ((forth, ("green", "blue")), (back, ("blue", "green"))):
        done = [task.task for task in run.tasks if task.task in order and task.status != "skipped"]
        assert list(dict.fromkeys(done)) == order and said.format(*colors) in " ".join(run.output.split()), run.output


def test_a_worker_that_does_nothing_leads_back(shop: WithWorker) -> None:
    """Its proof is a line of its log, and what an earlier start has written to the same log is none."""
    outcome = shop.folder / "outcome"
    with (Path(shop.vars["host_app_logs"]) / "mail-blue.log").open("a") as log:
        log.write(f"{sha(2)} is ready\n")
    shop.prove(log="is ready")
    run = shop.deploy(3, outcome_file=str(outcome), host_app_probe_tries=4)
    said = " ".join(run.output.split())
    assert run.code == 2 and outcome.read_text() == "failed_reverted\n" and f"{sha(3)} waits" in said, run.output
    assert "shop-staging-mail-blue proof: expected 1 new lines that match, got 0 of 1 new lines" in said, run.output
    # Going back it was a new line as well.
    assert shop.serves() == ("green", sha(1)) and shop.working() == ["green"]
    shop.prove()


def test_killed_before_the_flip_and_then_failing(shop: WithWorker) -> None:
    """The next run touches no worker itself, and has them back all the same."""
    killed = shop.killed("End the processes of the workers", release_sha=sha(2))
    assert shop.live() == "green" and shop.working() == []
    run = shop.deploy(2, take_over=killed, app_hooks={"before": [["/bin/false"]]})
    assert run.code == 2 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], run.output


def test_killed_after_the_flip(shop: WithWorker) -> None:
    killed = shop.killed("Flip this load balancer", release_sha=sha(2))
    assert shop.live() == "blue" and shop.working() == []
    run = shop.deploy(2, take_over=killed)
    assert run.code == 0 and "is active already" in run.output and "To go back to" not in run.output, run.output
    assert shop.serves() == ("blue", sha(2)) and shop.working() == ["blue"], run.output


def test_killed_on_the_way_back(shop: WithWorker) -> None:
    """After its flip: what serves is what somebody wanted, and its workers are missing."""
    assert shop.deploy(2).code == 0
    killed = shop.killed("Flip this load balancer", "rollback", mode="fast")
    assert shop.live() == "green" and shop.working() == []
    run = shop.run("rollback", mode="fast", target_color="green", take_over=killed)
    assert run.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], run.output


def test_killed_when_the_workers_have_started(shop: WithWorker) -> None:
    killed = shop.killed("Start the processes of the workers", release_sha=sha(2))
    wait_for(lambda: shop.working() == ["blue"], "they run")
    run = shop.run("rollback", mode="fast", take_over=killed)
    assert run.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], run.output


def test_going_back_without_a_machine_of_the_app(shop: WithWorker) -> None:
    """Its worker may still take from the queue, so none is started beside it; but nobody is kept on the release that is bad."""
    assert shop.deploy(2).code == 0
    lost = shop.lost("app1")
    lost.touch()
    back = shop.run("rollback", mode="fast")
    lost.unlink()
    assert back.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["blue"], back.output
    assert "green SERVES, AND ITS WORKERS (mail) DO NOT ALL RUN: app1: it does not answer" in " ".join(back.output.split()), back.output
    status = shop.run("status")
    assert status.code == 0 and "app1: worker mail runs in blue" in status.output, status.output
    ended = shop.run("rollback", mode="fast", target_color="green")
    assert ended.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == ["green"], ended.output
    assert "app1: worker mail runs in green" in shop.run("status").output


def test_a_worker_that_does_not_start_keeps_nobody_on_a_bad_release(shop: WithWorker) -> None:
    assert shop.deploy(2).code == 0
    script = shop.script.read_text()
    shop.script.write_text("exit 1\n")
    back = shop.run("rollback", mode="fast", host_app_probe_tries=3)
    assert back.code == 0 and shop.serves() == ("green", sha(1)) and shop.working() == [], back.output
    assert "DO NOT ALL RUN" in back.output and "app1: worker mail DOES NOT RUN" in shop.run("status").output, back.output
    shop.script.write_text(script)
    ended = shop.run("rollback", mode="fast", target_color="green")
    assert ended.code == 0 and shop.working() == ["green"], ended.output
