# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Components of files, which some web server reads by a link: it is changed with the flip, forth and back, and whatever fails or is killed, the files of the
colour that serves are read at the end. On the oldest ansible-core; each playbook meets the newest one as well."""
from __future__ import annotations

import contextlib
import threading
import typing as t
from pathlib import Path

import pytest
from flows import Shop, kill_when
from harness import OLDEST, Run
from versions import NEWEST

from releases import folder, member, sha, tar, zstd

FLIP = "Flip this load balancer"


class WithSite(Shop):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.vars["app_components"].append({"name": "site", "kind": "static", "static_files": ["index.html", "assets/shop.js"]})
        self.link = self.root / "site/active"

    def publish_site(self, number: int, lacks: str = "") -> None:
        files = [member(f"./{name}", f"{name} {sha(number)}".encode()) for name in ("index.html", "assets/shop.js") if name != lacks]
        archive = zstd(tar(folder("./"), folder("./assets"), *files), "-1")
        self.registry.publish(sha(number), archive, package="shop-site")

    def site(self) -> str:
        """The release that a web server reads."""
        name, release = (self.link / "index.html").read_text().split()
        assert name == "index.html" and (self.link / "assets/shop.js").read_text() == f"assets/shop.js {release}"
        return release

    def both(self) -> tuple[str, str, str]:
        """The colour and the release that answer through HAProxy, and the release of the files."""
        return (*self.serves(), self.site())

    @contextlib.contextmanager
    def read(self) -> t.Iterator[list[str]]:
        """What a web server meets that reads all the time."""
        seen: list[str] = []
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.0005):
                try:
                    said = (self.link / "index.html").read_text()
                except OSError as why:
                    said = str(why)
                if seen[-1:] != [said]:
                    seen.append(said)

        reader = threading.Thread(target=look)
        reader.start()
        try:
            yield seen
        finally:
            ended.set()
            reader.join()


@pytest.fixture(name="the_shop", scope="module")
def a_shop(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[WithSite]:
    """With release 1 in green, its files, and more releases available."""
    with WithSite(tmp_path_factory.mktemp("shop")) as shop:
        for number in (1, 2, 3, 4):
            shop.publish(number)
            shop.publish_site(number, "assets/shop.js" if number == 3 else "")
        assert not shop.link.is_symlink()
        first = shop.deploy(1, core=NEWEST)
        assert first.code == 0 and shop.both() == ("green", sha(1), sha(1)), first.output
        yield shop


@pytest.fixture(name="shop")
def with_green(the_shop: WithSite) -> WithSite:
    """Whatever the test before has left in blue."""
    assert the_shop.serves()[1] == the_shop.site()
    if the_shop.live() != "green":
        done(the_shop.run("rollback", mode="fast", target_color="green"))
    assert the_shop.both() == ("green", sha(1), sha(1))
    return the_shop


def done(run: Run) -> Run:
    assert run.code == 0, run.output
    return run


def said(run: Run, words: str) -> bool:
    return words in " ".join(run.output.split())


def test_forth_and_back(shop: WithSite) -> None:
    for core in (OLDEST, NEWEST):
        with shop.read() as seen:
            forth = done(shop.deploy(2, core=core))
            assert shop.both() == ("blue", sha(2), sha(2)) and said(forth, "Static files (site): right after the flip their links lead to blue"), forth.output
            status = done(shop.run("status", core=core))
            assert said(status, f"app1: static site is served from blue, release {sha(2)[:12]}") and " WHILE " not in status.output, status.output
            done(shop.run("rollback", core=core, mode="fast"))
        assert shop.both() == ("green", sha(1), sha(1))
        assert seen == [f"index.html {sha(number)}" for number in (1, 2, 1)]
    # Relative, so that it leads there also where a container has the folder.
    assert shop.link.readlink() == Path("green/current")


def test_back_to_an_older_release_and_to_what_was_before_a_deploy(shop: WithSite) -> None:
    done(shop.deploy(2))
    done(shop.run("rollback", mode="full", release_sha=sha(1)))
    assert shop.both() == ("green", sha(1), sha(1))
    done(shop.deploy(2))
    plan = shop.run("rollback", to=shop.last_deploy())
    assert said(plan, "Static files (site): right after the flip their links lead to green"), plan.output
    done(shop.run("rollback", to=shop.last_deploy(), confirm="true"))
    assert shop.both() == ("green", sha(1), sha(1))


def test_a_file_that_a_release_lacks(shop: WithSite) -> None:
    """Seen before anybody is served."""
    with shop.read() as seen:
        run = shop.deploy(3, host_app_probe_tries=3)
    assert run.code == 2 and said(run, "assets/shop.js") and said(run, "No such file"), run.output
    assert shop.both() == ("green", sha(1), sha(1)) and seen == [f"index.html {sha(1)}"]


def test_what_fails_after_the_flip_leads_back(shop: WithSite) -> None:
    outcome = shop.folder / "outcome"
    with shop.read() as seen:
        run = shop.deploy(2, outcome_file=str(outcome), app_hooks={"verify": [["/bin/false"]]})
    assert run.code == 2 and outcome.read_text() == "failed_reverted\n", run.output
    assert shop.both() == ("green", sha(1), sha(1)) and seen == [f"index.html {sha(number)}" for number in (1, 2, 1)]


def test_a_link_that_leads_to_another_release_is_no_success(shop: WithSite) -> None:
    """Somebody else has changed what the colour holds, between the installation and the flip."""
    other = "ln -sfn releases/{0} {1}/site/blue/current".format(sha(4), shop.root)
    (shop.root / f"site/blue/releases/{sha(4)}").mkdir(parents=True, exist_ok=True)
    run = shop.deploy(2, app_hooks={"before_flip": [["/bin/sh", "-c", other]]})
    assert run.code == 2 and said(run, "the links of static files (site): app1:") and said(run, "shop-staging-site-blue link"), run.output
    assert shop.both() == ("green", sha(1), sha(1))


def test_killed_between_flip_and_link(shop: WithSite) -> None:
    killed = shop.killed(FLIP, release_sha=sha(2))
    assert shop.both() == ("blue", sha(2), sha(1))
    status = done(shop.run("status"))
    assert said(status, f"app1: static site is served from green, release {sha(1)[:12]} WHILE blue IS ACTIVE"), status.output
    run = done(shop.deploy(2, take_over=killed))
    assert "is active already" in run.output and shop.both() == ("blue", sha(2), sha(2)), run.output


def test_killed_between_flip_and_link_and_then_back(shop: WithSite) -> None:
    killed = shop.killed(FLIP, release_sha=sha(2))
    assert shop.both() == ("blue", sha(2), sha(1))
    done(shop.run("rollback", mode="fast", take_over=killed))
    assert shop.both() == ("green", sha(1), sha(1))


def test_killed_on_the_way_back_and_then_a_deploy_that_fails(shop: WithSite) -> None:
    done(shop.deploy(2))
    killed = shop.killed(FLIP, "rollback", mode="fast")
    assert shop.both() == ("green", sha(1), sha(2))
    run = shop.deploy(2, take_over=killed, app_hooks={"before": [["/bin/false"]]})
    assert run.code == 2 and shop.both() == ("green", sha(1), sha(1)), run.output


def test_killed_when_the_links_are_changed(shop: WithSite) -> None:
    running = shop.start_book("deploy_app", release_sha=sha(2))
    kill_when(running, lambda: shop.link.readlink() == Path("blue/current"), "the link leads to blue")
    assert shop.both() == ("blue", sha(2), sha(2))
    done(shop.run("rollback", mode="fast", take_over=shop.last_deploy()))
    assert shop.both() == ("green", sha(1), sha(1))


def test_going_back_without_a_machine_of_the_app(shop: WithSite) -> None:
    """Nobody is kept on the release that is bad by a link. What is still read by it is not changed by what comes next: it is led back first."""
    done(shop.deploy(2))
    lost = shop.lost("app1")
    lost.touch()
    back = done(shop.run("rollback", mode="fast"))
    lost.unlink()
    assert shop.both() == ("green", sha(1), sha(2)) and said(back, "NOT ALL STATIC FILES (site) ARE SERVED FROM IT: app1: it does not answer"), back.output
    with shop.read() as seen:
        failed = shop.deploy(4, app_hooks={"before_flip": [["/bin/false"]]})
    assert failed.code == 2 and shop.both() == ("green", sha(1), sha(1)) and seen == [f"index.html {sha(number)}" for number in (2, 1)], failed.output


def test_the_same_rollback_leads_what_was_left_behind(shop: WithSite) -> None:
    done(shop.deploy(2))
    lost = shop.lost("app1")
    lost.touch()
    done(shop.run("rollback", mode="fast"))
    lost.unlink()
    done(shop.run("rollback", mode="fast", target_color="green"))
    assert shop.both() == ("green", sha(1), sha(1))


def test_cleaning_up_leads_away_from_what_failed(shop: WithSite) -> None:
    run = shop.deploy(2, app_hooks={"verify": [["/bin/false"]]})
    assert run.code == 2 and shop.site() == sha(1), run.output
    shop.link.unlink()
    shop.link.symlink_to("blue/current")
    done(shop.run("cleanup_failed", color="blue", confirm=True))
    assert shop.both() == ("green", sha(1), sha(1)) and [shop.serves()] == [("green", sha(1))]


def test_in_check_mode_the_link_stays(shop: WithSite) -> None:
    done(shop.deploy(2, "--check"))
    assert shop.both() == ("green", sha(1), sha(1))


def test_a_site_that_is_new_and_fails_has_no_link_again(tmp_path: Path) -> None:
    """The colour that serves has no files of it."""
    with WithSite(tmp_path) as shop:
        for number in (1, 2):
            shop.publish(number)
        shop.publish_site(2)
        site = shop.vars["app_components"].pop()
        done(shop.deploy(1))
        shop.vars["app_components"].append(site)
        run = shop.deploy(2, app_hooks={"verify": [["/bin/false"]]})
        assert run.code == 2 and shop.serves() == ("green", sha(1)) and not shop.link.is_symlink(), run.output
        done(shop.deploy(2))
        assert shop.both() == ("blue", sha(2), sha(2))
