# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""release_artifact against a registry that behaves as Forgejo's: each state, what is refused, what is kept, what is said."""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest
from forge import a_place, a_registry  # noqa: F401  (fixtures)
from harness import BIN, Ansible, staged

from registry import Registry
from releases import (
    TOKEN, Place, binary_of, folder, link, member, release, sha, targz, zstd,
)


def test_check_do_check_again_do_again(place: Place) -> None:
    archive = zstd(release(1))
    place.registry.publish(sha(1), archive)
    checked = place.run(place.options(1, "current"), check_mode=True, diff=True)
    assert checked["changed"] and not place.dest.exists() and not place.registry.log
    done = place.ok(1, "current")
    assert (done["plan"], done["plan_id"], done["after"]) == (checked["plan"], checked["plan_id"], checked["after"])
    assert done["download"]["sha256"] == hashlib.sha256(archive).hexdigest() == done["sha256"]
    assert done["path"] == str(place.path(1)) and done["download"]["checked"] == []
    assert place.is_whole(1) and place.names == [sha(1)] and place.pointer() == sha(1)
    for check in (True, False):
        again = place.run(place.options(1, "current"), check_mode=check)
        assert again["changed"] is False and again["plan"] == [], again
    assert len(place.registry.asked("GET")) == 1, "what is there is not fetched again"


def test_modes_owners_and_times(place: Place) -> None:
    members = [folder("./"), member("a", b"a", mode=0o777, uid=1000, gid=1000)]
    members += [folder("closed", mode=0o500), member("closed/b", b"b", mode=0o440)]
    place.registry.publish(sha(1), targz(*members))
    place.registry.publish(sha(2), targz(*members))
    place.ok(1)
    a, closed = place.path(1) / "a", place.path(1) / "closed"
    assert stat.S_IMODE(a.stat().st_mode) == 0o755 and a.stat().st_uid == a.stat().st_gid == 0 and a.stat().st_mtime == 1_700_000_000
    assert stat.S_IMODE(closed.stat().st_mode) == 0o500 and stat.S_IMODE((closed / "b").stat().st_mode) == 0o440
    assert stat.S_IMODE(place.path(1).stat().st_mode) == 0o755
    place.ok(2, file_owner="daemon", file_group="1234", umask="077")
    a = place.path(2) / "a"
    assert (a.stat().st_uid, a.stat().st_gid, stat.S_IMODE(a.stat().st_mode)) == (1, 1234, 0o700)
    assert (place.path(2) / "closed").stat().st_uid == 1 and place.path(2).stat().st_uid == 1
    assert place.fails(3, file_owner="nobody-of-that-name")["reason"] == "bad_options"


@pytest.mark.parametrize("form", ["zst", "zst in frames", "gz", "tar"])
def test_every_compression_whatever_the_name_says(place: Place, form: str) -> None:
    plain = release(1)
    half = len(plain) // 2
    archive = {
        "zst": lambda: zstd(plain, "-19", "--check"),
        "zst in frames": lambda: zstd(plain[:half]) + zstd(plain[half:]),
        "gz": lambda: __import__("gzip").compress(plain),
        "tar": lambda: plain,
    }[form]()
    place.registry.publish(sha(1), archive)
    place.ok(1)
    assert place.is_whole(1)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names(place: Place, form: int) -> None:
    deep = "/".join(["d" * 60] * 12) + "/" + "f" * 200
    names = [deep, "with space", "new\nline", "ünïcode", "percent%41", "-rf"]
    place.registry.publish(sha(1), targz(*(member(name, name.encode()) for name in names), link("long", deep), form=form))
    place.ok(1)
    assert all((place.path(1) / name).read_bytes() == name.encode() for name in names)
    assert (place.path(1) / "long").read_bytes() == deep.encode()
    assert place.ok(1)["changed"] is False
    assert place.info(verify=True)["releases"][0]["damage"] is None


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_stay_sparse(place: Place, tmp_path: Path, form: str) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for at in (1 << 20, 40 << 20, 90 << 20):
            file.seek(at)
            file.write(b"data at %d" % at)
        file.truncate(100 << 20)
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "--sparse", f"--format={form}", "-cf", archive, "-C", tmp_path, "sparse"], check=True)
    assert archive.stat().st_size < 1 << 20
    place.registry.publish(sha(1), archive)
    place.ok(1)
    unpacked = place.path(1) / "sparse"
    assert unpacked.stat().st_size == 100 << 20 and unpacked.stat().st_blocks * 512 < 4 << 20
    assert subprocess.run(["cmp", unpacked, tmp_path / "sparse"], check=False).returncode == 0


EVIL = {
    "absolute": ([member("/etc/evil", b"x")], "/etc/evil", "absolute"),
    "dots": ([member("a/../../evil", b"x")], "a/../../evil", ".."),
    "link out": ([link("evil", "/etc")], "evil", "leads out"),
    "link up": ([folder("a"), link("a/evil", "../../x")], "a/evil", "leads out"),
    "link through a link": ([folder("a/b/c"), link("a/b/c/up", "../.."), link("evil", "a/b/c/up/../..")], "evil", "leads out"),
    "file behind a link": ([folder("a"), link("in", "a"), member("in/evil", b"x")], "in/evil", "not a folder"),
    "folder over a link": ([folder("a"), link("in", "a"), folder("in")], "in/", "not a folder"),
    "hard link out": ([member("evil", type=tarfile.LNKTYPE, linkname="../../x")], "evil", "hard link"),
    "hard link absolute": ([member("evil", type=tarfile.LNKTYPE, linkname="/etc/passwd")], "evil", "hard link"),
    "hard link behind a link": (
        [folder("a"), member("a/f"), link("in", "a"), member("evil", type=tarfile.LNKTYPE, linkname="in/f")],
        "evil",
        "hard link",
    ),
    "hard link to a link": ([link("l", "x"), member("evil", type=tarfile.LNKTYPE, linkname="l")], "evil", "hard link"),
    "device": ([member("evil", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "evil", "device"),
    "disk": ([member("evil", type=tarfile.BLKTYPE, devmajor=8, devminor=0)], "evil", "device"),
    "pipe": ([member("evil", type=tarfile.FIFOTYPE)], "evil", "pipe"),
    "setuid": ([member("bin/evil", b"x", mode=0o4755)], "bin/evil", "setuid"),
    "setgid": ([member("bin/evil", b"x", mode=0o2755)], "bin/evil", "setgid"),
    "twice": ([member("evil", b"x"), member("evil", b"y")], "evil", "twice"),
    "file over a link": ([link("evil", "x"), member("evil", b"y")], "evil", "twice"),
    "a file that is a folder": ([member("a", b"x"), member("a/evil", b"x")], "a/evil", "not a folder"),
    "odd name": ([member("e\nv%il", type=tarfile.FIFOTYPE)], "e%0av%25il", "pipe"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_nothing_leaves_its_folder(place: Place, tmp_path: Path, kind: str) -> None:
    members, name, why = EVIL[kind]
    before = sorted(tmp_path.iterdir())
    place.registry.publish(sha(1), targz(member("first", b"x"), *members, member("last", b"x")))
    failed = place.fails(1)
    assert (failed["reason"], failed["entry"]) == ("refused_entry", name), failed
    assert why in failed["msg"]
    assert place.names == [] and sorted(tmp_path.iterdir()) == sorted([*before, place.dest])
    assert not Path("/etc/evil").exists() and not Path(tmp_path / "evil").exists()


def test_links_inside_are_fine(place: Place) -> None:
    members = [member("a/f", b"x"), link("b", "a"), link("a/self", "../b/f"), link("gone", "a/not-there")]
    members += [member("a/hard", type=tarfile.LNKTYPE, linkname="a/f"), link("ring", "ring"), folder("setgid", mode=0o2775)]
    place.registry.publish(sha(1), targz(*members))
    place.ok(1)
    assert (place.path(1) / "a/self").read_bytes() == b"x" and (place.path(1) / "a/hard").stat().st_nlink == 2
    assert stat.S_IMODE((place.path(1) / "setgid").stat().st_mode) == 0o755
    assert place.ok(1)["changed"] is False


def test_sums(place: Place) -> None:
    archive = targz(member("a", b"x"))
    right = hashlib.sha256(archive).hexdigest()
    place.registry.publish(sha(1), archive)
    sums = place.registry.origin + "/api/v1/packages/{owner}/generic/{package}/{sha}/files"
    wrong = place.fails(1, sha256="0" * 64)
    assert wrong["reason"] == "sum_mismatch" and right in wrong["msg"] and "option sha256" in wrong["msg"] and place.names == []
    place.registry.faults.digest = "wrong"
    assert "the registry itself" in place.fails(1, sha256=right)["msg"]
    place.registry.faults.digest = "right"
    done = place.ok(1, sha256=right.upper(), sums_url=sums)
    assert done["download"]["checked"] == ["sha256", "sums_url", "registry"]
    assert place.fails(1, sha256="0" * 64)["reason"] == "sum_mismatch", "also when it is there already"
    shutil.rmtree(place.dest)
    (place.registry.path("acme", "shop", sha(1)) / "SHA256SUMS").write_text(f"{'0' * 64}  other\n{right}  shop-{sha(1)}.tar.zst\n")
    listed = place.registry.origin + "/api/packages/{owner}/generic/{package}/{sha}/SHA256SUMS"
    assert place.ok(1, sums_url=listed)["download"]["checked"] == ["sums_url", "registry"]
    shutil.rmtree(place.dest)
    (place.registry.path("acme", "shop", sha(1)) / "SHA256SUMS").write_text("<html>")
    assert place.fails(1, sums_url=listed)["reason"] == "no_sum"
    assert place.fails(1, sums_url=listed + "x")["reason"] == "no_sum"


def test_what_nothing_vouches_for_is_said(place: Place) -> None:
    archive = targz(member("a", b"x"))
    right = hashlib.sha256(archive).hexdigest()
    elsewhere = place.registry.template.replace("127.0.0.1", "0.0.0.0")   # this machine too, and no address of its loopback
    unchecked, token, plain = "not compared with a sum", "anyone on the network path can read it", "anyone on the network path can send another one"
    for options, expected in (
        ({}, [unchecked]),
        ({"sha256": right}, []),
        ({"url": elsewhere}, [token, plain, unchecked]),
        ({"url": elsewhere, "sha256": right}, [token]),
    ):
        shutil.rmtree(place.dest, ignore_errors=True)
        place.registry.publish(sha(1), archive)
        told = place.ok(1, **options).get("warnings", [])
        assert len(told) == len(expected) and all(words in text for words, text in zip(expected, told)), told
        again = place.ok(1, url=None, token=None)
        assert not again["changed"] and "warnings" not in again
    place.registry.tokens.clear()
    shutil.rmtree(place.dest)
    assert "warnings" not in place.ok(1, url=elsewhere, token=None, sha256=right), "nothing that anyone could read or change"
    place.registry.faults.digest = "right"
    shutil.rmtree(place.dest)
    assert "warnings" not in place.ok(1, token=None), "the registry itself tells the sum"


def test_what_is_here_needs_no_registry(place: Place) -> None:
    place.registry.publish(sha(1), targz(member("a", b"x")))
    place.ok(1, "present")
    gone = {"url": "http://127.0.0.1:1/{sha}", "tries": 1}
    assert place.ok(1, "available", **gone)["here"] and place.ok(1, "available", dest=None)["registry"]["available"]
    assert place.ok(1, "present", **gone)["changed"] is False
    assert place.fails(2, "available", **gone)
    # What somebody has edited is not what was unpacked.
    (place.path(1) / "a").write_bytes(b"edited")
    assert place.fails(1, "available", **gone) and place.ok(1, "available")["here"] is False


def test_available(place: Place) -> None:
    place.registry.publish(sha(1), targz(member("a", b"x")))
    found = place.ok(1, "available", dest=None)
    assert found["changed"] is False and found["registry"]["available"] and found["registry"]["bytes"] > 0
    assert not place.registry.asked("GET")
    missing = place.fails(2, "available", dest=None)
    assert missing["reason"] == "not_in_registry" and sha(2) in missing["msg"] and "127.0.0.1" in missing["msg"]
    assert place.run(place.options(2, "available"), check_mode=True)["failed"], "asking changes nothing, so check mode asks"
    place.registry.faults.no_head = True
    assert place.ok(1, "available")["registry"]["available"]


def test_tokens(place: Place) -> None:
    place.registry.publish(sha(1), targz(member("a", b"x")))
    for state in ("available", "present"):
        wrong = place.run(place.options(1, state, token="s3cret-wrong"))
        assert wrong["reason"] == "token_refused" and "refuses the token" in wrong["msg"] and "s3cret" not in json.dumps(wrong)
        assert "requires a token" in place.fails(1, state, token=None)["msg"]
    assert place.fails(1, token="a\nb")["reason"] == "bad_options"
    assert place.fails(1, token_header="nonsense")["reason"] == "bad_options"
    assert place.ok(1, token_header="PRIVATE-TOKEN: {token}")["changed"]


def test_the_token_goes_to_no_other_host(place: Place) -> None:
    with Registry([]) as storage:
        storage.publish(sha(1), zstd(release(1)))
        place.registry.publish(sha(1), zstd(release(1)))
        place.registry.faults.redirect_to = storage.origin
        storage.faults.cut_after, storage.faults.cuts = 1_000_000, 1
        assert place.ok(1)["download"]["resumed"] == 1
        assert place.is_whole(1)
        assert [entry.get("Range") for entry in storage.asked("GET")] == [None, "bytes=1000000-"]
        assert all("Authorization" not in entry for entry in storage.log)
        assert all(entry["Authorization"] == f"token {TOKEN}" for entry in place.registry.log)


def test_over_tls(tmp_path: Path) -> None:
    """By an authority of one's own, by none, and loudly by any."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl on this machine to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=registry"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    with Registry([TOKEN], certificate=(certificate, key)) as registry:
        place = Place(tmp_path / "shop", registry, binary_of(staged(), BIN))
        registry.publish(sha(1), zstd(release(1)))
        unknown = place.fails(1)
        assert unknown["reason"] == "unanswered" and not registry.log, unknown
        registry.faults.cut_after, registry.faults.cuts = 1_000_000, 1
        done = place.ok(1, ca_file=str(certificate))
        assert done["download"]["resumed"] == 1 and place.is_whole(1)
        assert ["not compared with a sum" in text for text in done["warnings"]] == [True]
        assert any("insecure" in text for text in place.ok(1, "available", insecure=True)["warnings"])
        src = tmp_path / "a.tar.zst"
        src.write_bytes(zstd(release(2)))
        assert place.ok(2, "pushed", src=str(src), ca_file=str(certificate))["changed"]


def test_switching_remembers_the_way_back(place: Place) -> None:
    for number in (1, 2, 3):
        place.registry.publish(sha(number), zstd(release(number)))
        place.ok(number, "current")
    assert (place.pointer(), place.pointer("previous")) == (sha(3), sha(2))
    back = place.ok(2, "current", url=None, token=None)
    assert back["changed"] and "current again" in back["undo"] and back["previous"] == sha(3)
    assert (place.pointer(), place.pointer("previous")) == (sha(2), sha(3))
    assert place.fails(4, "current", url=None)["reason"] == "release_missing"
    for number, why in ((2, "current one"), (3, "which a rollback needs")):
        assert why in place.fails(number, "absent")["msg"] and place.path(number).exists()
    assert place.fails(1, "absent", keep=[sha(1)])["reason"] == "release_in_use"
    gone = place.ok(1, "absent")
    assert gone["removed"] == [sha(1)] and place.names == sorted([sha(2), sha(3)])
    assert place.ok(1, "absent")["changed"] is False


def test_retention_keeps_what_is_needed(place: Place) -> None:
    for number in range(1, 7):
        place.registry.publish(sha(number), targz(member("a", b"%d" % number)))
        place.ok(number, "current" if number < 3 else "present")
    foreign = place.dest / "releases" / sha(99)
    foreign.mkdir()
    for number in (3, 4, 5, 6):  # the order is that of unpacking, whatever the clock of the files says
        os.utime(place.path(number), (number, 2_000_000_000 - number))
    checked = place.run(place.options(6, "present", retain=2, keep=[sha(3)]), check_mode=True)
    done = place.ok(6, retain=2, keep=[sha(3)])
    assert done["plan"] == checked["plan"] and done["removed"] == [sha(4)]
    assert place.names == sorted([sha(1), sha(2), sha(3), sha(5), sha(6), sha(99)])
    place.registry.publish(sha(7), targz(member("a", b"7")))
    removed = place.ok(7, "current", retain=1)["removed"]
    assert set(removed) == {sha(3), sha(5), sha(6)}, "the new one counts; previous and its successor stay"
    assert place.names == sorted([sha(1), sha(2), sha(7), sha(99)])
    assert place.fails(7, retain=0)["reason"] == "bad_options"


def test_nothing_made_by_hand_is_overwritten(place: Place) -> None:
    place.registry.publish(sha(1), targz(member("a", b"x")))
    place.dest.mkdir()
    (place.dest / "current").symlink_to("/somewhere/else")
    assert place.fails(1, "current")["reason"] == "current_foreign"
    assert os.readlink(place.dest / "current") == "/somewhere/else" and place.names == []
    done = place.ok(1, retain=1)
    assert any("somewhere" in text for text in done["warnings"])
    (place.dest / "current").unlink()
    (place.dest / "current").mkdir()
    assert place.fails(1, "current")["reason"] == "current_foreign"
    (place.dest / "current").rmdir()
    place.path(2).mkdir()
    assert place.fails(2)["reason"] == place.fails(2, "absent")["reason"] == "not_ours"


@pytest.mark.parametrize("damage", ["missing", "cut", "edited", "mode", "link", "listing"])
def test_a_release_that_was_changed_is_not_used(place: Place, damage: str) -> None:
    place.registry.publish(sha(1), zstd(release(1)))
    place.ok(1)
    (place.path(1) / "cache-of-the-app").write_text("x")
    assert place.ok(1)["changed"] is False
    app, latest = place.path(1) / "bin/app", place.path(1) / "bin/latest"
    if damage == "missing":
        app.unlink()
    elif damage == "cut":
        os.truncate(app, 5)
    elif damage == "edited":
        app.write_bytes(b"X" * app.stat().st_size)
    elif damage == "mode":
        app.chmod(0o644)
    elif damage == "link":
        latest.unlink()
        latest.symlink_to("../RELEASE")
    else:
        (place.dest / ".reversible" / f"{sha(1)}.files").write_text("nonsense\n")
    for state in ("present", "current"):
        failed = place.fails(1, state)
        assert failed["reason"] == "release_damaged" and "nothing was changed" in failed["msg"]
    assert place.pointer() is None
    assert place.info(verify=True)["releases"][0]["damage"]


def test_pushed(place: Place, tmp_path: Path) -> None:
    src = tmp_path / "rebuilt.tar.zst"
    src.write_bytes(zstd(release(1)))
    checked = place.run(place.options(1, "pushed", src=str(src)), check_mode=True)
    assert checked["changed"] and not place.registry.asked("PUT")
    done = place.ok(1, "pushed", src=str(src), dest=None)
    assert done["changed"] and done["plan"] == checked["plan"]
    assert place.registry.path("acme", "shop", sha(1), f"shop-{sha(1)}.tar.zst").read_bytes() == src.read_bytes()
    assert place.registry.asked("PUT")[0]["Expect"] == "100-continue"
    assert place.ok(1, "pushed", src=str(src))["changed"] is False and len(place.registry.asked("PUT")) == 1
    src.write_bytes(zstd(release(2)))
    assert place.fails(1, "pushed", src=str(src))["reason"] == "exists_other"
    assert place.fails(3, "pushed", src=str(src), sha256="0" * 64)["reason"] == "sum_mismatch"
    wrong = place.run(place.options(3, "pushed", src=str(src), token="s3cret-wrong"))
    assert wrong["reason"] == "token_refused" and "s3cret" not in json.dumps(wrong)
    src.write_text("<html>")
    assert place.fails(3, "pushed", src=str(src))["reason"] == "bad_archive"
    # Nobody writes into it.
    os.mkfifo(tmp_path / "pipe")
    assert place.fails(3, "pushed", src=str(tmp_path / "pipe"))["reason"] == "bad_archive"
    assert place.fails(3, "pushed")["reason"] == "bad_options"


def test_info(place: Place) -> None:
    assert place.info()["releases"] == []
    for number in (1, 2):
        place.registry.publish(sha(number), targz(member("a", b"%d" % number)))
        place.ok(number, "current")
    shutil.rmtree(place.registry.path("acme", "shop", sha(1)))
    url = {"url": place.registry.template, "owner": "acme", "package": "shop", "token": TOKEN, "timeout": 60, "tries": 1}
    info = place.info(**url, sha=sha(3), verify=True)
    assert (info["current"], info["previous"]) == (sha(2), sha(1))
    assert [(one["sha"], one["in_registry"], one["damage"]) for one in info["releases"]] == [(sha(2), True, None), (sha(1), False, None)]
    assert info["registry"][sha(3)]["available"] is False
    place.registry.faults.status, place.registry.faults.statuses = 503, 99
    asked = place.info(**url)
    assert asked["releases"][0]["in_registry"] is None and "503" in asked["registry"][sha(2)]["why"]


@pytest.mark.parametrize(("options", "word"), [
    ({"sha": "main"}, "40 hex digits"),
    ({"url": "https://forge.example/{nonsense}/{sha}"}, "none of"),
    ({"url": "https://forge.example/{component}/{sha}"}, "the option component is missing"),
    ({"url": "https://me:s3cret@forge.example/{sha}"}, "header"),
    ({"owner": "../.."}, "letters"),
    ({"dest": "relative"}, "absolute"),
    ({"sha256": "abc"}, "64 hex digits"),
    ({"umask": "999"}, "octal"),
    ({"tries": 0}, "expected 1 or more"),
    ({"keep": ["latest"]}, "40 hex digits"),
    ({"deploy_id": "yesterday"}, "deploy id"),
])
def test_bad_options(place: Place, options: dict[str, t.Any], word: str) -> None:
    failed = place.fails(1, **options)
    assert failed["reason"] == "bad_options" and word in failed["msg"] and "s3cret" not in failed["msg"], failed
    assert not place.dest.exists()


def test_an_older_run_is_refused(place: Place, tmp_path: Path) -> None:
    place.registry.publish(sha(1), targz(member("a", b"x")))
    old, new = "20261121t084500z-7f3a", "20261121t090000z-0001"
    place.ok(1, deploy_id=new, state_dir=str(tmp_path / "state"))
    assert place.info()["releases"][0]["deploy_id"] == new
    assert place.fails(1, "current", deploy_id=old, state_dir=str(tmp_path / "state"))["reason"] == "superseded"


def test_by_ansible_on_a_target_without_python(registry: Registry, edge: Ansible) -> None:
    """Check mode with a diff, the real run, the real run again, a wrong token; at -vvv, and the token is in no output."""
    registry.publish(sha(1), targz(member("a", b"x")))
    dest, module = "/root/release-artifact", "reversible.deploy.release_artifact"
    edge.on("bare_root", f"rm -rf {dest}; if command -v python3; then exit 1; fi")
    options = {"url": registry.template, "owner": "acme", "package": "shop", "sha": sha(1), "token": TOKEN}
    options |= {"dest": dest, "state": "current"}
    checked = edge.one("release_artifact", options, "bare_root", "--check", "--diff")
    assert checked.code == 0 and checked.only["changed"] and not registry.log, checked.output
    assert re.search(rf"(?m)^\+.*current.*{sha(1)}", checked.output), checked.output
    edge.on("bare_root", f"test ! -e {dest}")
    steps = [
        {"name": "present", module: options},
        {"name": "again", module: options},
        {"name": "info", "reversible.deploy.release_artifact_info": {"dest": dest}},
        {"name": "wrong", module: options | {"token": "s3cret-wrong", "sha": sha(2)}},
    ]
    run = edge.play(steps, "bare_root", "-vvv", "--diff")
    seen = {name: (run.named(name).status, run.named(name)["changed"]) for name in ("present", "again", "info", "wrong")}
    assert seen == {"present": ("ok", True), "again": ("ok", False), "info": ("ok", False), "wrong": ("failed", False)}, run.output
    assert run.named("present")["plan"] == checked.only["plan"] and run.named("present")["after"] == checked.only["after"]
    assert run.named("info")["current"] == sha(1) and run.named("wrong")["reason"] == "token_refused"
    assert edge.on("bare_root", f"cat {dest}/current/a; rm -rf {dest}") == "x"
    assert not any(word in output for word in (TOKEN, "s3cret") for output in (checked.output, run.output))
