# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""release_artifact before archives that are more than they seem, and registries that never end: each comes to a bound, and nothing is kept."""
from __future__ import annotations

import subprocess
import tarfile
import tempfile
import typing as t

import pytest
from forge import a_place, a_registry  # noqa: F401  (fixtures)

from releases import Place, answer, folder, link, member, release, sha, tar, targz, zstd

MIB = 1 << 20
# Of addresses, those of the stacks of its threads and the largest window of zstd with them.
MEMORY = 400 * MIB
FAR = 1 << 40   # more than the disk of any test has


def header(kind: bytes, size: int, magic: bytes = b"ustar  \0") -> bytes:
    """That of an entry `long` in the form of GNU, whatever its size claims."""
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    block[257:265] = magic
    return summed(block)


def summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def sparse(size: int) -> bytes:
    """A file in the old form of GNU that is one hole."""
    block = bytearray(header(b"S", 0))
    for at, number in ((386, size), (398, 0), (483, size)):
        block[at:at + 12] = tarfile.itn(number, 12, tarfile.GNU_FORMAT)
    return summed(block) + bytes(1024)


def pax_sparse(size: int) -> bytes:
    """The same in the form of POSIX: what there is of it begins with its map."""
    info = tarfile.TarInfo("GNUSparseFile.0/long")
    info.size = 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "long", "GNU.sparse.realsize": str(size)}
    return info.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0") + bytes(1024)


def inflated(head: bytes, filling: bytes, size: int) -> bytes:
    """`head` and so many bytes of the filling, compressed to next to nothing, and never held."""
    with tempfile.TemporaryFile() as out:
        program = subprocess.Popen(["zstd", "-q", "-c"], stdin=subprocess.PIPE, stdout=out)
        with program.stdin as into:
            into.write(head)
            for _ in range(size // MIB):
                into.write(filling * MIB)
        assert program.wait() == 0 and out.tell() < MIB
        out.seek(0)
        return out.read()


def refused(place: Place, archive: bytes, **options: t.Any) -> dict[str, t.Any]:
    """The answer to an archive that is not taken, in little memory; nothing of it is kept, and the next release is welcome."""
    place.registry.publish(sha(1), archive)
    process = place.start(place.options(1, **options), below=["prlimit", f"--as={MEMORY}"])
    failed = answer(process)
    assert failed.get("failed") and place.names == [], failed
    assert list((place.dest / ".reversible").iterdir()) == []
    return failed


@pytest.mark.parametrize("kind", ["L", "K", "x", "x of old", "g"])
def test_what_stands_before_an_entry_is_not_all_held(place: Place, kind: str) -> None:
    size = 512 * MIB
    head = header(kind[0].encode(), size, bytes(8) if kind == "x of old" else b"ustar  \0")
    archive = inflated(head, b"a", size)
    assert len(archive) < 110_000
    failed = refused(place, archive)
    # What holds for all that follows is read over, and then the end of the archive is missing.
    reason, words = {
        "x of old": ("refused_entry", "of an unsupported type"),
        "g": ("bad_archive", "its end is missing"),
    }.get(kind, ("too_large", "2.0 MiB of names and attributes"))
    assert failed["reason"] == reason and words in failed["msg"], failed


@pytest.mark.parametrize("kind", ["hole", "hole of POSIX", "zeros", "zeros after the end", "global", "together"])
def test_what_it_is_unpacked_has_a_bound(place: Place, kind: str) -> None:
    archive = {
        "hole": lambda: sparse(FAR),
        "hole of POSIX": lambda: pax_sparse(FAR),
        "zeros": lambda: inflated(header(b"0", 64 * MIB), b"\0", 64 * MIB),
        "zeros after the end": lambda: inflated(tar(member("a", b"x")), b"\0", 64 * MIB),
        "global": lambda: inflated(header(b"g", 64 * MIB), b"\0", 64 * MIB),
        "together": lambda: sparse(6 * MIB)[:512] + tar(member("more", bytes(5 * MIB))),
    }[kind]()
    failed = refused(place, archive, max_unpacked="10M")
    assert failed["reason"] == "too_large" and "10.0 MiB" in failed["msg"] and "max_unpacked" in failed["msg"], failed


@pytest.mark.parametrize("kind", ["hole", "hole of POSIX"])
def test_a_hole_without_end_meets_the_default(place: Place, kind: str) -> None:
    failed = refused(place, sparse(1 << 62) if kind == "hole" else pax_sparse(1 << 62))
    assert failed["reason"] == "too_large" and "10.0 GiB" in failed["msg"], failed


@pytest.mark.parametrize("chunked", [False, True])
def test_an_archive_that_is_too_long_is_not_fetched(place: Place, chunked: bool) -> None:
    place.registry.faults.chunked = chunked
    archive = release(1, 3_000_000)
    assert refused(place, archive, max_unpacked=2_000_000)["reason"] == "too_large"
    assert place.ok(1, max_unpacked=len(archive))["changed"] and place.is_whole(1), "just as long as it may be"


@pytest.mark.parametrize("kind", ["files", "folders", "the same folder", "folders on the way"])
def test_the_number_of_entries_has_a_bound(place: Place, kind: str) -> None:
    members = {
        "files": lambda: [member(f"f{at}") for at in range(11)],
        "folders": lambda: [folder(f"f{at}") for at in range(11)],
        "the same folder": lambda: [folder("f") for _ in range(11)],
        "folders on the way": lambda: [member("1/2/3/4/5/6/7/8/9/10/file")],
    }[kind]()
    failed = refused(place, targz(*members), max_files=10)
    assert failed["reason"] == "too_large" and "more than 10 files" in failed["msg"] and "max_files" in failed["msg"], failed
    assert place.ok(1, max_files=11)["changed"], "as many as there may be"


def test_names_have_bounds(place: Place) -> None:
    long = "/".join(["n" * 254] * 15)   # 3824 bytes, and none of its folders is made twice
    assert "in too many folders" in refused(place, targz(member("d/" * 200 + "f")))["msg"]
    for entry in (member("n/" * 2100 + "f"), link("f", "n/" * 2100 + "f"), member("f", type=tarfile.LNKTYPE, linkname="n/" * 2100)):
        failed = refused(place, targz(entry))
        assert failed["reason"] == "refused_entry" and "too long for any file" in failed["msg"], failed
    together = refused(place, targz(*(member(f"{long}/{at}") for at in range(400))), max_files=1000)
    assert together["reason"] == "too_large" and "names of more than 1.2 MiB together" in together["msg"], together
    assert place.ok(1, max_files=3000)["changed"]


def test_a_registry_that_drips_comes_to_the_deadline(place: Place) -> None:
    faults = place.registry.faults
    faults.pause, faults.piece = 0.2, 1
    failed = refused(place, zstd(release(1)), deadline=2, tries=1000)
    assert failed["reason"] == "timed_out" and "within 2 s" in failed["msg"] and "raise deadline" in failed["msg"], failed
    assert len(place.registry.asked("GET")) == 1


def test_a_registry_that_is_always_in_trouble_comes_to_the_deadline(place: Place) -> None:
    place.registry.faults.status, place.registry.faults.statuses = 503, 1000
    for state in ("present", "available"):
        failed = place.fails(1, state, deadline=2, tries=1000)
        assert failed["reason"] == "timed_out" and "503" in failed["msg"] and "within 2 s: raise deadline" in failed["msg"], failed


def test_what_is_refused_is_not_waited_for(place: Place) -> None:
    """Its first piece is enough to refuse it, and the rest, which would come for days, is left."""
    archive = tar(link("evil", "/etc"), member("more", bytes(600_000)))
    place.registry.faults.pause, place.registry.faults.drip_after = 0.1, 300_000
    assert refused(place, archive)["reason"] == "refused_entry"
