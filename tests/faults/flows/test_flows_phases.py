# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What collection/docs/when-it-fails.md says of each phase of a deploy, under load: its table is read, and what each cell is about is done."""
from __future__ import annotations

import contextlib
import dataclasses
import re
import typing as t

import pytest
from flows import Shop, kill_when
from harness import ROOT
from releases import sha
from versions import EDGES

PAGE = ROOT / "collection/docs/when-it-fails.md"
SERVES = {"old": ("green", sha(1)), "new": ("blue", sha(2))}
# The task that each phase of the table begins with, the host that it is done on, and the task after which a controller is killed.
PHASES = {
    "open": ("Open the deploy", "lb1", "Open the deploy"),
    "check": ("Check that the registry has the release", "app1", "Check that there is enough space"),
    "unpack": ("Fetch the release of each component", "app1", "Fetch the release of each component"),
    "prepare": ("Record the phase", "lb1", "Record the restore point"),
    "migrate": ("Run the command of the hook migrate", "app1", ""),
    "install": ("Start the components with the release", "app1", "Start the components with the release"),
    "flip": ("Flip this load balancer", "lb1", "Flip this load balancer"),
    "verify": ("Run the command of the hook smoke", "app1", "Run the command of the hook smoke"),
    "close": ("Close the deploy", "lb1", "Close the deploy"),
}
HOOKS = {"app_hooks": {"migrate": [["/bin/true"]], "smoke": [["/bin/true"]]}}


@dataclasses.dataclass(frozen=True)
class Promise:
    """A cell of the table."""

    serves: tuple[str, str]
    outcome: str
    lease_is_held: bool

    @classmethod
    def read(cls, cell: str) -> "Promise":
        found = re.fullmatch("(old|new)(, not started)?(, `([a-z_]+)`)?(, lease held)?", cell)
        assert found and found[0] != found[1], f"{PAGE}: {cell!r}"
        return cls(SERVES[found[1]], found[4] or "", bool(found[5]))


def table() -> dict[str, list[Promise]]:
    """A phase, and what happens when a task fails, when the host is lost, and when the controller is killed."""
    rows = [line.strip("|\n").split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    phases = {cells[0].strip(): [Promise.read(cell.strip()) for cell in cells[2:]] for cells in rows[1:]}
    assert list(phases) == list(PHASES)
    return phases


TABLE = table()


class Struck(Shop):
    """A shop with hosts on which the next command fails, once a file is there."""

    def host(self, name: str, **more: t.Any) -> dict[str, t.Any]:
        return super().host(name, fails_file=str(self.folder / f"fails-{name}"), **more)

    def holder(self) -> str:
        return (self.ledger()["holder"] or {"deploy_id": ""})["deploy_id"]


@pytest.fixture(name="the_shop", scope="module", params=EDGES)
def a_shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Struck]:
    """With release 1 in green, and release 2 available."""
    with Struck(tmp_path_factory.mktemp("shop")) as shop:
        shop.core = request.param
        shop.publish(1)
        shop.publish(2)
        first = shop.deploy(1)
        assert first.code == 0 and shop.serves() == SERVES["old"], first.output
        yield shop


@pytest.fixture(name="shop")
def with_the_old_release(the_shop: Struck) -> Struck:
    """Green serves. What another test has left is put right by hand."""
    if the_shop.serves() != SERVES["old"]:
        the_shop.flip("green", 1)
    return the_shop


@contextlib.contextmanager
def nobody_notices(shop: Shop) -> t.Iterator[None]:
    with shop.load(connections=4, pause=20, seconds=3600) as load:
        yield
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report


@pytest.mark.parametrize("phase", TABLE)
@pytest.mark.parametrize("fault", ["fails", "lost"])
def test_the_table_is_true(shop: Struck, phase: str, fault: str) -> None:
    promise = TABLE[phase][["fails", "lost"].index(fault)]
    begins, host, _ = PHASES[phase]
    strike, outcome = shop.folder / f"{fault}-{host}", shop.folder / "outcome"
    environ = {"REVERSIBLE_STRIKE": begins, "REVERSIBLE_STRIKE_FILE": str(strike)}
    try:
        with nobody_notices(shop):
            run = shop.start_book("deploy_app", environ=environ, release_sha=sha(2), outcome_file=str(outcome), take_over=shop.holder(), **HOOKS).wait()
        assert strike.exists() == (fault == "lost"), f"nothing was struck\n{run.output}"
    finally:
        strike.unlink(missing_ok=True)
    assert run.code != 0
    seen = Promise(shop.serves(), outcome.read_text(encoding="utf-8").strip() if outcome.exists() else "", bool(shop.holder()))
    assert seen == promise, run.output
    if promise.outcome == "failed_reverted":
        assert f"green serves {sha(1)}, as before" in run.output, run.output
    elif promise.outcome:
        assert "lb1" in run.output and ("NOT ROLLED BACK" in run.output or "does not say what it serves" in run.output), run.output


def test_the_controller_is_killed_in_each_phase(shop: Struck) -> None:
    """The same command takes over, and its controller dies in the next phase; the last one comes to its end, leads back as any
    other, and nobody has noticed."""
    killed = [shop.holder()]
    with nobody_notices(shop):
        for phase, (_, _, reached) in PHASES.items():
            promise = TABLE[phase][2]
            if phase == "close":
                break
            if shop.serves() != SERVES["old"]:
                shop.flip("green", 1)  # else the next run finds its release active, and ends
            if reached:
                killed.append(shop.killed(reached, release_sha=sha(2), take_over=killed[-1], **HOOKS))
            else:
                killed.append(killed_while_it_migrates(shop, killed[-1]))
            assert (shop.serves(), "", shop.holder() == killed[-1]) == dataclasses.astuple(promise), phase
        last = shop.deploy(2, take_over=killed[-1])
        assert last.code == 0 and shop.serves() == SERVES["new"], last.output
        deploys = shop.ledger()["deploys"]
        back = shop.run("rollback", mode="fast")
        assert back.code == 0 and shop.serves() == SERVES["old"] and not shop.holder(), back.output
    begun = killed[1:]
    newest, *before = deploys[:len(begun) + 1]
    assert newest["outcome"] == "done"
    assert [(one["deploy_id"], one["outcome"], one["superseded_by"]) for one in reversed(before)] == [
        (one, None, after) for one, after in zip(begun, [*begun[1:], newest["deploy_id"]])], deploys


def test_killed_after_it_was_closed(shop: Struck) -> None:
    """What its controller had still to say is lost, and nothing else."""
    promise = TABLE["close"][2]
    shop.killed("Close the deploy", release_sha=sha(2), take_over=shop.holder(), **HOOKS)
    assert Promise(shop.serves(), shop.ledger()["deploys"][0]["outcome"], bool(shop.holder())) == promise


def killed_while_it_migrates(shop: Struck, holder: str) -> str:
    """In the middle of that task. Whoever does not say that he takes over is refused then."""
    begun, goes_on = shop.folder / "migrating", shop.folder / "goes-on"
    migration = f"touch {begun}; until [ -e {goes_on} ]; do sleep 0.1; done"
    hooks = {"app_hooks": {"migrate": [["/bin/sh", "-c", migration]]}}
    running = shop.start_book("deploy_app", release_sha=sha(2), take_over=holder, **hooks)
    kill_when(running, begun.exists, "the migration has begun")
    goes_on.touch()
    refused = shop.deploy(2)
    assert refused.code != 0 and "take_over" in refused.output and shop.serves() == SERVES["old"], refused.output
    return shop.holder()
