# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""release_artifact where things go wrong: the network, the archive, the disk, the process itself, and two at once."""
from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from forge import a_place, a_registry  # noqa: F401  (fixtures)
from harness import wait_for
from strace import moments, was_killed

from releases import (
    Place, answer, member, release, sha, tar, targz, zstd,
)

MIB = 1 << 20
# What a run does to its folder, once or a few times, and what it does for each file of a release.
STEPS = ("mkdir", "mkdirat", "symlink", "symlinkat", "rename", "unlink", "fsync", "syncfs", "ftruncate")
FILES = ("write", "utimensat", "unlinkat")


@pytest.mark.parametrize("ranges", ["ranges", "no ranges", "chunked"])
def test_a_cut_connection_is_gone_on_with(place: Place, ranges: str) -> None:
    archive = zstd(release(1))
    place.registry.publish(sha(1), archive)
    faults = place.registry.faults
    faults.cut_after, faults.cuts = 700_001, 2
    faults.no_ranges, faults.chunked = ranges == "no ranges", ranges == "chunked"
    if ranges == "no ranges":
        faults.cuts = 1  # Each try begins at the first byte and is cut at the same place.
    done = place.ok(1)
    assert done["download"]["resumed"] == (1 if ranges == "no ranges" else 2)
    assert done["sha256"] == hashlib.sha256(archive).hexdigest() and place.is_whole(1)
    asked = [entry.get("Range") for entry in place.registry.asked("GET")]
    assert asked == [None, "bytes=700001-", "bytes=1400002-"][: len(asked)]


def test_a_connection_that_is_always_cut_ends(place: Place) -> None:
    place.registry.publish(sha(1), zstd(release(1)))
    place.registry.faults.cut_after, place.registry.faults.cuts = 10, 99
    failed = place.fails(1)
    assert failed["reason"] == "unanswered" and "tried 3 times" in failed["msg"]
    assert len(place.registry.asked("GET")) == 3 and place.names == []


def test_a_server_that_stops_sending_is_left(place: Place) -> None:
    place.registry.publish(sha(1), zstd(release(1)))
    place.registry.faults.stall_after = 1000
    failed = place.fails(1, timeout=3, tries=2)
    assert failed["reason"] == "timed_out" and place.names == [], failed
    [first, second] = (entry["at"] for entry in place.registry.asked("GET"))
    assert second - first > 3


def test_slow_is_no_failure(place: Place) -> None:
    place.registry.publish(sha(1), zstd(release(1, 200_000)))
    place.registry.faults.pause, place.registry.faults.piece = 0.1, 2_000
    assert place.ok(1, timeout=8, tries=1)["download"]["seconds"] > 8, "in all it took longer than anything may take"


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_registry_in_trouble_is_asked_again(place: Place, status: int) -> None:
    place.registry.publish(sha(1), targz(member("a", b"x")))
    place.registry.faults.status, place.registry.faults.statuses = status, 2
    assert place.ok(1)["changed"]
    times = [entry["at"] for entry in place.registry.asked("GET")]
    assert times[1] - times[0] > 0.5 and times[2] - times[1] > 1, "the pauses grow"
    place.registry.faults.statuses = 99
    assert str(status) in place.fails(2)["msg"]


def test_nobody_there(place: Place) -> None:
    failed = place.fails(1, url="http://127.0.0.1:1/{sha}/x.tar.gz")
    assert failed["reason"] == "unanswered" and "refused" in failed["msg"] and "tried 3 times" in failed["msg"]


def test_a_flipped_bit(place: Place) -> None:
    archive = zstd(release(1), "--no-check")
    right = hashlib.sha256(archive).hexdigest()
    for at in random.Random(7).sample(range(len(archive)), 12):
        place.registry.publish(sha(1), archive)
        place.registry.faults.flip_at = at
        failed = place.fails(1, sha256=right)
        assert failed["reason"] == "sum_mismatch" and right in failed["msg"], (at, failed)
        assert place.names == [] and place.info()["leftovers"] == []
    place.registry.publish(sha(2), zstd(release(1)))
    failed = place.fails(2)
    assert failed["reason"] == "bad_archive" and "no sum that says" in failed["msg"], failed


def test_an_archive_that_was_cut_before_it_was_published(place: Place) -> None:
    plain, compressed = release(1, 300_000), zstd(release(1, 300_000))
    cuts = [(compressed, at) for at in (0, 1, 3, 10, 1000, len(compressed) - 1)]
    cuts += [(plain, at) for at in (100, 512, 1024, 1536, 100_000, len(plain) // 512 * 512 // 2, len(plain.rstrip(b"\0")))]
    for data, at in cuts:
        place.registry.publish(sha(1), data[:at])
        failed = place.fails(1, sha256=hashlib.sha256(data[:at]).hexdigest())
        assert failed["reason"] == "bad_archive" and "published so" in failed["msg"], (at, failed)
        assert place.names == []


def test_not_an_archive_at_all(place: Place) -> None:
    place.registry.publish(sha(1), targz(member("a", b"x")))
    place.registry.faults.page = True
    failed = place.fails(1)
    assert failed["reason"] == "bad_archive" and "neither zstd" in failed["msg"] and "Sign in" not in failed["msg"]
    place.registry.faults.page = False
    place.registry.publish(sha(2), targz())
    assert "it is empty" in place.fails(2)["msg"]


def test_another_archive_in_the_middle(place: Place) -> None:
    file = place.registry.publish(sha(1), zstd(release(1)))
    file.with_suffix(".other").write_bytes(zstd(release(2, 2_000_000)))
    faults = place.registry.faults
    faults.cut_after, faults.cuts, faults.change_after = 700_000, 1, 1
    assert place.fails(1)["reason"] == "changed_meanwhile" and place.names == []


def test_a_full_disk(place: Place, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0755", "none", disk], check=True)
    try:
        place.dest = disk / "shop"
        place.registry.publish(sha(1), zstd(release(1)))
        place.ok(1, "current")
        place.registry.publish(sha(2), zstd(tar(member("zeros", bytes(20 * MIB)))))
        failed = place.fails(2, "current")
        assert failed["reason"] == "no_space" and "zeros" in failed["msg"], failed
        place.registry.publish(sha(3), zstd(release(3, 9_000_000)))
        failed = place.fails(3, "current")
        assert failed["reason"] == "no_space" and "free on" in failed["msg"], "said before anything is unpacked"
        assert place.names == [sha(1)] and place.pointer() == sha(1) and place.is_whole(1)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert place.fails(4, "current")["reason"] == "read_only"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_killed_at_every_step(place: Place) -> None:
    """Killed at each call that changes something (of those for each file, at some); each next run finds order, and makes it."""
    for number in (1, 2, 3):
        place.registry.publish(sha(number), zstd(release(number)))
    place.ok(1, "current")
    place.ok(2, "current")
    seen, number = set(), 2

    def killed(below: list[str]) -> bool:
        nonlocal number
        number = 5 - number
        place.ok(1, "current")
        if place.pointer("previous") != sha(number):
            place.ok(number, "absent")
        process = place.start(place.options(number, "current", retain=2), below=below)
        process.communicate()
        return was_killed(process.returncode)

    some = 1 if os.environ.get("REVERSIBLE_LONG") else 25
    for moment in itertools.chain(moments(STEPS, killed), moments(FILES, killed, every=some)):
        info = place.info(verify=True)
        assert info["current"] in (sha(1), sha(number)), (moment, info)
        assert all(one["ours"] and one["damage"] is None for one in info["releases"]), (moment, info)
        assert place.is_whole(1)
        seen.add((info["current"] == sha(number), place.path(number).exists(), bool(info["leftovers"])))
        place.ok(number, "current", retain=2)
        assert place.pointer() == sha(number) and place.is_whole(number) and place.pointer("previous") == sha(1), moment
        assert place.info()["leftovers"] == [] and set(place.names) <= {sha(1), sha(2), sha(3)}, moment
        assert place.ok(number, "current", retain=2)["changed"] is False, moment
    assert {(False, False, True), (True, True, False)} <= seen, f"killed at few points: {seen}"


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(place: Place, sign: signal.Signals) -> None:
    place.registry.publish(sha(1), zstd(release(1)))
    place.registry.faults.stall_after = 900_000
    process = place.start(place.options(1, "current", timeout=60))
    wait_for(lambda: list(place.dest.glob("releases/*.partial/bin/app")), "the first files")
    process.send_signal(sign)
    failed = answer(process)
    assert failed["reason"] == "interrupted" and place.names == [], failed


def test_two_at_once(place: Place) -> None:
    place.registry.publish(sha(1), zstd(release(1)))
    place.registry.faults.pause, place.registry.faults.piece = 0.05, 200_000
    both = [place.start(place.options(1, "current")) for _ in range(2)]
    results = [answer(process) for process in both]
    assert sorted(result["changed"] for result in results) == [False, True], results
    assert len(place.registry.asked("GET")) == 1 and place.is_whole(1)
    place.registry.faults.stall_after = 100
    place.registry.publish(sha(3), zstd(release(3)))
    holder = place.start(place.options(3, "present", timeout=60))
    wait_for(lambda: list(place.dest.glob("releases/*.partial")), "the one that works")
    held = place.fails(1, "current", lock_timeout=0.3)
    assert held["reason"] == "lock_held" and str(holder.pid) in held["msg"]
    holder.kill()
    holder.communicate()


def test_a_push_whose_answer_is_lost(place: Place, tmp_path: Path) -> None:
    src = tmp_path / "a.tar.zst"
    src.write_bytes(zstd(release(1)))
    place.registry.faults.lose_answers = 1
    assert place.ok(1, "pushed", src=str(src))["changed"]
    assert len(place.registry.asked("PUT")) == 1, "it had come through"
    faults = place.registry.faults
    faults.cut_after, faults.cuts = 500_000, 1
    assert place.ok(2, "pushed", src=str(src))["changed"]
    assert len(place.registry.asked("PUT")) == 3
    assert place.registry.path("acme", "shop", sha(2), f"shop-{sha(2)}.tar.zst").read_bytes() == src.read_bytes()


def test_two_push_at_once(place: Place, tmp_path: Path) -> None:
    sources = []
    for number in (1, 2):
        sources.append(tmp_path / f"{number}.tar.zst")
        sources[-1].write_bytes(zstd(release(number)))
    for other, expected in ((0, [True, True]), (1, [False, True])):
        both = [place.start(place.options(7 + other, "pushed", src=str(sources[at]))) for at in (0, other)]
        results = [answer(process) for process in both]
        assert sorted(not result.get("failed", False) for result in results) == expected, results


def test_memory_stays_small(place: Place) -> None:
    """An archive of some hundred MiB; what is held does not grow with it."""
    size = 500 * MIB if os.environ.get("REVERSIBLE_LONG") else 200 * MIB
    noise = random.Random(1).randbytes(MIB)
    place.registry.publish(sha(1), zstd(tar(member("big", noise * (size // MIB))), "-19", "--long=23"))
    process = place.start(place.options(1))
    most = 0
    watching = threading.Event()

    def watch() -> None:
        nonlocal most
        while not watching.wait(0.005):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            except OSError:
                return
            most = max([most, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))])

    thread = threading.Thread(target=watch)
    thread.start()
    result = answer(process)
    watching.set()
    thread.join()
    assert result["changed"] and (place.path(1) / "big").stat().st_size == size, result
    assert 0 < most < 50_000_000, most


def test_the_token_is_nowhere(place: Place) -> None:
    secret = "s3cret-of-the-forge"
    place.registry.tokens.add(secret)
    place.registry.publish(sha(1), zstd(release(1)))
    place.registry.faults.pause, place.registry.faults.piece = 0.02, 100_000
    process = place.start(place.options(1, "current", token=secret), verbosity=4, diff=True)
    seen, looks = set(), 0
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    if int(folder.name) != os.getpid() and secret.encode() in (folder / name).read_bytes():
                        seen.add(f"{folder.name}/{name}")
                except OSError:
                    pass  # It has ended meanwhile.
        looks += 1
    result = answer(process)
    assert result["changed"] and secret not in json.dumps(result) and not seen and looks > 0
    found = subprocess.run(["grep", "-rl", secret, place.dest], stdout=subprocess.PIPE, check=False).stdout
    assert found == b""
