# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""deploy_ledger when things go wrong: killed at every call that changes a file and run again, a full disk, two at once, a clock that
went back.

The built binary is asked directly, without Ansible around it: a kill must hit it, and not the controller.
"""
from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest
from harness import BIN, staged
from strace import moments, was_killed

FIRST, SECOND = "20261121t084500z-7f3a", "20261121t091500z-01bc"
# What a run does to files, and its answer. A file that `openat` has just made is met by the `write` after it.
CHANGES = ("mkdirat", "write", "ftruncate", "fchmod", "rename", "renameat", "unlink", "fsync")


class Ledger:
    def __init__(self, home: Path) -> None:
        self.home, self.path = home, home / "shop-prod"
        self.file, self.outcome, self.metrics = (home / name for name in ("shop-prod/ledger.jsonl", "outcome", "shop.prom"))
        self.binary = staged() / BIN / f"deploy_ledger_{platform.machine()}"

    def start(self, options: dict[str, t.Any], below: t.Sequence[str] = ()) -> subprocess.Popen:
        """`below` is a program, with its arguments, that is to run it."""
        process = subprocess.Popen([*below, self.binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        asked = {"_ansible_module_name": "deploy_ledger", "app": "shop", "env": "prod", "path": str(self.path)} | options
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
        return process

    def ask(self, **options: t.Any) -> dict[str, t.Any]:
        with self.start(options) as process:
            return json.loads(process.stdout.read())

    def good(self, **options: t.Any) -> dict[str, t.Any]:
        answer = self.ask(**options)
        assert "failed" not in answer, answer
        return answer

    def info(self) -> dict[str, t.Any]:
        return self.good(_ansible_module_name="deploy_ledger_info")

    def lines(self) -> list[dict[str, t.Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def is_killed(self, below: t.Sequence[str], **options: t.Any) -> bool:
        """Whether the kill came, and not its end."""
        with self.start(options, below) as process:
            said = process.stdout.read()
        killed = was_killed(process.returncode)
        assert killed != bool(said), "it has answered and was killed, or neither"
        return killed

    @property
    def files(self) -> dict[str, str]:
        return {"outcome_file": str(self.outcome), "metrics_file": str(self.metrics)}


@pytest.fixture
def ledger() -> t.Iterator[Ledger]:
    # Kept in no folder that others may write to, as /tmp is.
    with tempfile.TemporaryDirectory(prefix=".reversible-test-", dir=Path.home()) as home:
        yield Ledger(Path(home))


def test_killed_anywhere_and_run_again(ledger: Ledger) -> None:
    began = {"state": "open", "deploy_id": FIRST}
    ended = {"state": "closed", "deploy_id": FIRST, "outcome": "failed_reverted"}

    def killed(below: list[str], options: dict[str, t.Any]) -> bool:
        for path in (ledger.path, ledger.metrics):
            subprocess.run(["rm", "-rf", path], check=True)
        ledger.outcome.write_text("done\n")
        if options is ended:
            ledger.good(**began, **ledger.files)
        return ledger.is_killed(below, **options, **ledger.files)

    for options in (began, ended):
        seen = 0
        for moment in moments(CHANGES, lambda below, options=options: killed(below, options)):
            seen += 1
            if options is began:
                ledger.good(**began, **ledger.files)
                assert not ledger.outcome.exists(), "a stale outcome can be read"
                assert 'reversible_deploy_open{app="shop",env="prod"} 1' in ledger.metrics.read_text()
            ledger.good(**ended, **ledger.files)
            assert ledger.outcome.read_text() == "failed_reverted\n"
            assert 'reversible_deploy_open{app="shop",env="prod"} 0' in ledger.metrics.read_text()
            assert [next(iter(line["event"])) for line in ledger.lines()] == ["open", "close"], moment
            info = ledger.info()
            assert info["holder"] is None and info["damaged"] == [] and "warnings" not in info
            assert not ledger.good(**ended, **ledger.files)["changed"]
        assert seen > 10, f"{seen} moments: the test looks for the wrong calls"


def test_killed_while_it_is_made_shorter(ledger: Ledger) -> None:
    ids = [f"20261121t08{number // 60:02}{number % 60:02}z-0000" for number in range(30)]
    ledger.good(state="open", deploy_id=ids[0])
    first = ledger.file.read_text()
    ledger.good(state="closed", deploy_id=ids[0], outcome="done")
    one = ledger.file.read_text()
    full = "".join(one.replace(ids[0], name) for name in ids[:-1]) + first.replace(ids[0], ids[-1])
    ledger.file.write_text(full)
    shorter = {"state": "compacted", "retain": 3}
    ledger.good(**shorter)
    left = ledger.file.read_text()
    assert left != full and left.count("\n") == 5 and full.endswith(left)

    def killed(below: list[str]) -> bool:
        ledger.file.write_text(full)
        return ledger.is_killed(below, **shorter)

    found = set()
    for moment in moments(CHANGES, killed):
        now = ledger.file.read_text()
        assert now in (full, left), f"{moment}: neither the old nor the new"
        found.add(now == left)
        assert ledger.info()["holder"]["deploy_id"] == ids[-1], f"{moment}: the lease was lost"
        ledger.good(**shorter)
        assert ledger.file.read_text() == left
        ledger.good(state="heartbeat", deploy_id=ids[-1])
        ledger.file.write_text(full)
        ledger.good(**shorter)
        assert [path.name for path in ledger.path.glob(".ledger*")] == [], f"{moment}: leftovers of the killed one"
    assert found == {False, True}, "killed on one side of the change only"


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> t.Iterator[None]:
    path.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@contextlib.contextmanager
def ext4_disk(path: Path) -> t.Iterator[None]:
    """A disk of blocks, with a journal: what is freed there is free only once that is on the disk."""
    path.mkdir(mode=0o700)
    image = path.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    try:
        path.chmod(0o700)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_full_disk_where_the_files_go(ledger: Ledger) -> None:
    ledger.good(state="open", deploy_id=FIRST)
    disk = ledger.home / "disk"
    with small_disk(disk, "16k"):
        (disk / "shop.prom").write_text("# as it was\n")
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as filler:
            filler.write(b"x" * 65536)
            filler.flush()
        failed = ledger.ask(state="closed", deploy_id=FIRST, outcome="done", metrics_file=str(disk / "shop.prom"))
        assert failed["reason"] == "no_space" and str(disk) in failed["msg"], failed
        assert [step["step"] for step in failed["steps"]] == [f"close deploy {FIRST} as done"], "what was done is said"
        assert (disk / "shop.prom").read_text() == "# as it was\n"
        (disk / "filler").unlink()
        again = ledger.good(state="closed", deploy_id=FIRST, outcome="done", metrics_file=str(disk / "shop.prom"))
        assert again["plan"] == [f"write the metrics to {disk}/shop.prom"]


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_deploy_is_closed_on_a_full_disk(ledger: Ledger, kind: str) -> None:
    """And the record of the rollback, which is opened there, too."""
    disk = ledger.home / "disk"
    with small_disk(disk, "4m") if kind == "tmpfs" else ext4_disk(disk):
        ledger.path = disk / "shop-prod"
        ledger.file = ledger.path / "ledger.jsonl"
        ledger.good(state="open", deploy_id=FIRST)
        reserve, whole = ledger.path / ".reserve", 512
        assert reserve.stat().st_blocks >= whole

        def fill() -> None:
            # The end of the ledger's own last block would take more lines.
            ledger.file.write_text(ledger.file.read_text().replace("\n", " " * (-len(ledger.file.read_bytes()) % 4096) + "\n", 1))
            with open(disk / "filler", "ab", buffering=0) as filler:
                for size in (1 << 16, 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        while filler.write(b"x" * size):
                            os.fsync(filler.fileno())

        fill()
        ledger.good(state="closed", deploy_id=FIRST, outcome="failed_reverted")
        assert ledger.info()["deploys"][0]["outcome"] == "failed_reverted" and reserve.stat().st_blocks < whole
        fill()
        ledger.good(state="open", deploy_id=SECOND, back_to=FIRST)
        ledger.good(state="closed", deploy_id=SECOND, outcome="done")
        assert [deploy["outcome"] for deploy in ledger.info()["deploys"]] == ["done", "failed_reverted"]
        (disk / "filler").unlink()
        ledger.good(state="open", deploy_id="20261121t094500z-0000")
        assert reserve.stat().st_blocks >= whole, "made whole by the next run that finds room"


def test_a_full_disk_while_it_is_made_shorter(ledger: Ledger) -> None:
    with small_disk(ledger.path, "64k"):
        for number in range(2):
            name = f"20261121t08450{number}z-0000"
            ledger.good(state="open", deploy_id=name, reason="x" * 12_000)
            ledger.good(state="closed", deploy_id=name, outcome="done")
        before = ledger.file.read_bytes()
        with contextlib.suppress(OSError), open(ledger.path / "filler", "wb") as filler:
            filler.write(b"x" * 65536)
            filler.flush()
        failed = ledger.ask(state="compacted", retain=1)
        assert failed["reason"] == "no_space", failed
        assert ledger.file.read_bytes() == before
        assert not list(ledger.path.glob(".ledger*"))


def test_two_at_once_lose_nothing(ledger: Ledger) -> None:
    ledger.good(state="open", deploy_id=FIRST)
    phases = [{"state": "phase", "deploy_id": FIRST, "phase": f"p{number}"} for number in range(12)]
    running = [ledger.start(phase) for phase in phases] + [ledger.start({"state": "compacted", "retain": 1}) for _number in range(4)]
    for process in running:
        with process:
            answer = json.loads(process.stdout.read())
            assert "failed" not in answer, answer
    recorded = {line["event"]["phase"]["phase"] for line in ledger.lines() if "phase" in line["event"]}
    assert recorded == {f"p{number}" for number in range(12)}


def test_a_clock_that_went_back(ledger: Ledger) -> None:
    ledger.good(state="open", deploy_id=FIRST, lease=1)
    ledger.file.write_text(ledger.file.read_text().replace('"at":"20', '"at":"21', 1))
    info = ledger.info()
    assert "in the future of this machine's clock" in info["warnings"][0]
    assert info["holder"]["silent_for"] == 0 and not info["holder"]["abandoned"]
    ledger.good(state="closed", deploy_id=FIRST, outcome="done")
    assert ledger.info()["deploys"][0]["seconds"] == 0, "no deploy ends before it began"


@pytest.mark.parametrize("edit, reason", [
    (lambda text: text.replace('"v":1', '"v":2', 1), "newer_version"),
    (lambda text: text.replace('"lease":', '"leese":', 1), "ledger_damaged"),
    (lambda text: text.replace('"open":', '"opened":', 1), "ledger_damaged"),
    (lambda text: text + text, "ledger_damaged"),
    (lambda text: text.replace(FIRST, SECOND, 1), "ledger_damaged"),
    (lambda text: "\x00" * 100 + "\n" + text, "ledger_damaged"),
    (lambda text: text.replace('"prod"', '"staging"', 1), "other_ledger"),
])
def test_lines_that_were_changed_by_hand(ledger: Ledger, edit: t.Callable[[str], str], reason: str) -> None:
    ledger.good(state="open", deploy_id=FIRST)
    ledger.good(state="phase", deploy_id=FIRST, phase="x")
    ledger.file.write_text(edit(ledger.file.read_text()))
    edited = ledger.file.read_bytes()
    for options in ({"state": "phase", "deploy_id": FIRST, "phase": "y"}, {"state": "compacted", "retain": 1}):
        answer = ledger.ask(**options)
        assert answer["reason"] == reason and str(ledger.path) in answer["msg"], answer
    assert ledger.file.read_bytes() == edited
    if reason == "ledger_damaged":
        info = ledger.info()
        assert info["prune"] is False and info["keep"] is None and info["damaged"]
    else:
        assert ledger.ask(_ansible_module_name="deploy_ledger_info")["reason"] == reason
