# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on an app in two Compose projects of a real engine, with HAProxy before them: the documentation's example as one story
under load, to a restore point and back, and what the role's doors refuse."""
from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

from colors_shop import COMPOSE, NEWER, NEWEST, OLDER, SECRET, ColorsShop, a_shop, an_engine  # noqa: F401
from harness import listed, wait_for
from releases import sha

def test_the_example_deployed_and_taken_back(shop: ColorsShop) -> None:
    for number, bad in ((1, ""), (2, ""), (3, "cannot open the database")):
        shop.publish(number, bad)
    checked = shop.deploy(1, "--check")
    assert checked.code == 0 and not shop.running() and not shop.root.exists(), checked.output
    assert f"{shop.name}-green would be made with {sha(1)}" in checked.output
    first = shop.deploy(1)
    assert first.code == 0 and shop.serves() == ("green", sha(1)), first.output
    assert f"DATABASE_URL={SECRET}" in shop.container("green")["Config"]["Env"]
    files = {str(path.relative_to(shop.root)): stat.S_IMODE(path.stat().st_mode) for path in shop.root.rglob("*") if path.is_file()}
    own = {"green/.env": 0o600, "green/compose.reversible.yaml": 0o644}
    assert files == own | {f"green/{name}": 0o644 for name in ("compose.yaml", "conf/start", "etc/shop/motd")}

    with shop.load(connections=4, pause=50, seconds=3600) as load:
        bad = shop.deploy(3, compose_colors_app_probe_tries=8)
        assert bad.code == 2 and (shop.outcome, shop.serves()) == ("failed_reverted", ("green", sha(1))), bad.output
        assert f"{shop.name}-blue-web-1 is unhealthy" in bad.output and "green serves" in bad.output, bad.output
        status = shop.run("status")
        assert status.code == 0 and f"shop1: green holds {sha(1)[:12]}, healthy" in status.output, status.output
        assert f"shop1: blue holds {sha(3)[:12]}, NOT healthy" in status.output, status.output
        logs = shop.run("logs", color="blue", lines=20)
        assert logs.code == 0 and f"== {shop.name}-blue-web-1" in logs.output and "cannot open the database" in logs.output, logs.output
        assert "CANNOT BE READ" not in logs.output and SECRET not in logs.output and "-green-" not in logs.output, logs.output
        looked = shop.run("check", release_sha=sha(2))
        assert looked.code == 0 and "shop1: Docker " in looked.output and "a deploy goes into blue" in looked.output, looked.output
        with listed("${of}", every=0.1) as shown:
            second = shop.deploy(2, core=NEWEST)
        assert not shown
        assert second.code == 0 and shop.serves() == ("blue", sha(2)), second.output
        to_a_restore_point_and_back(shop)
        back = shop.run("rollback", mode="fast")
        assert back.code == 0 and shop.serves() == ("green", sha(1)), back.output
        before = shop.running()
        what_is_refused(shop)
        assert shop.running() == before
        cleaned = shop.run("cleanup_failed", core=NEWEST, color="blue", confirm=True)
        assert cleaned.code == 0 and shop.running() == before | {"blue": (*before["blue"][:2], "exited")}, cleaned.output
        whose = shop.root / "blue/compose.reversible.yaml"
        whose.write_text(whose.read_text().replace(shop.container("blue")["Config"]["Labels"]["reversible.deploy_id"], NEWER))
        [said] = shop.doors(("revert", {}))
        assert said.startswith("Nothing was changed. blue on shop1 was stopped by a deploy that did not finish"), said
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report
    logs = sorted((shop.folder / "kept").rglob("*.log"))
    texts = [path.read_text() for path in logs]
    assert len(texts) == 2 and "cannot open the database" in texts[0] and f"this is blue {sha(2)}" in texts[1], logs
    assert {(stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) for path in logs} == {(0o600, 0o700)}
    assert shop.on.volume(f"{shop.name}-shared").joinpath("seen").read_text().splitlines() == [
        f"green {sha(1)}", f"blue {sha(3)}", f"blue {sha(2)}", f"green {sha(1)}"]
    assert len(shop.on.volume(f"{shop.name}-blue_own").joinpath("seen").read_text().splitlines()) == 2


def to_a_restore_point_and_back(shop: ColorsShop) -> None:
    """Blue serves; green is stopped, and what its tag names is another image by now."""
    before, deployed = shop.running(), shop.last_deploy()
    shop.tag(1, "reversible-lab/postgres:15")
    shop.on.docker("stop", before["green"][0])
    wait_for(lambda: [row for row in shop.rows() if (row["svname"], row["status"]) == ("web-green", "DOWN")], "HAProxy has seen it")
    closed = shop.run("rollback", mode="fast")
    said = " ".join(closed.output.split())
    assert closed.code == 2 and f"to={deployed} (green with {sha(1)} is started again)" in said, closed.output
    shown = shop.run("rollback", to=deployed)
    assert shown.code == 2 and shop.outcome == "" and shop.running()["green"][2] == "exited", shown.output
    assert f"flip from blue ({sha(2)}) to green ({sha(1)})" in shown.output and "The plan above has to be agreed to" in shown.output
    assert "LOST" not in shown.output
    plan = shown.output.split("The plan: ")[1][:17]
    back = shop.run("rollback", to=deployed, confirm=plan)
    assert back.code == 0 and shop.serves() == ("green", sha(1)) and shop.running() == before, back.output
    undone = shop.run("rollback", core=NEWEST, to=shop.last_deploy(), confirm=True)
    assert undone.code == 0 and shop.serves() == ("blue", sha(2)) and shop.running() == before, undone.output
    shop.tag(1, "reversible-lab/busybox:1")


def what_is_refused(shop: ColorsShop) -> None:
    """Both colours run, and green serves."""
    fixed, torn = shop.releases / "fixed", shop.releases / "torn"
    text = (shop.releases / sha(2) / "compose.yaml").read_text()
    for folder, changed in (
        (fixed, text.replace("${WEB_PORT}", "8080").replace("stop_signal:", "container_name: shop\n    stop_signal:")),
        (torn, text.replace("services:", "servces:")),
    ):
        folder.mkdir()
        (folder / "compose.yaml").write_text(changed)
    source, only = "compose_colors_app_source", {"compose_colors_app_source_files": ["compose.yaml"]}
    nothing = "Nothing was changed. "
    clash = "Both colours would have the container name shop and the port 8080 of 127.0.0.1."
    made = shop.container("blue")["Config"]["Labels"]["reversible.deploy_id"]
    calls: list[tuple[str, dict[str, t.Any], str]] = [
        ("preflight", {source: str(fixed), **only}, nothing + clash),
        ("preflight", {source: str(torn), **only}, f"{nothing}Compose cannot read the release in {torn}: "),
        ("preflight", {source: "/nowhere", **only}, f"{nothing}/nowhere on shop1 lacks compose.yaml"),
        ("preflight", {"compose_colors_app_source_files": ["compose.yaml", "../.env"]}, f"{nothing}compose_colors_app_project is"),
        ("preflight", {"compose_colors_app_free": 0.99999}, "room for images and containers"),
        *[(door, {"app_active": "blue"}, f"{nothing}blue of shop staging on shop1 is active") for door in ("install", "retire")],
        ("install", {"deploy_id": OLDER}, f"which is newer than {OLDER}"),
        ("retire", {"app_name": "other"}, f"{nothing}{shop.name}-blue-web-1 on shop1 was not made for other-staging"),
        ("revert", {"app_release_sha": sha(1)}, f"{nothing}blue on shop1 holds {sha(2)}, not {sha(1)}"),
        ("install", {"deploy_id": made}, ""),   # the same deploy again finds it done
    ]
    said = shop.doors(*[(door, more) for door, more, _words in calls])
    wrong = [(words, text) for (_door, _more, words), text in zip(calls, said, strict=True)
             if words not in text or "\n" in text or bool(words) != bool(text)]
    assert not wrong and not list(Path("/run").glob(f"reversible-{shop.name}-*")), wrong


def test_nobody_leads_root_elsewhere(shop: ColorsShop) -> None:
    """What a container has put into a folder that it mounts, and whose the folder of kept logs is: refused, before anything is changed."""
    shop.publish(2)
    outside, theirs, conf = shop.folder / "outside", shop.folder / "theirs", shop.root / "blue/conf"
    outside.write_text("root's own\n")
    for folder in (theirs, conf):
        folder.mkdir(parents=True)
        os.chown(folder, 4301, 4301)
    (conf / "start").symlink_to(outside)
    os.lchown(conf / "start", 4301, 4301)
    kept, made = shop.doors(("preflight", {"compose_colors_app_kept_logs": str(theirs / "kept")}), ("install", {}))
    assert kept.startswith(f"keeping logs in {theirs}/kept: ") and "4301" in kept, kept
    assert f"{conf}/start is a symbolic link that others could have made" in made, made
    assert outside.read_text() == "root's own\n" and not shop.running()
