# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By what a deploy would be refused, from what the playbook `check` has seen. The playbook itself runs in test_flows.py."""
from __future__ import annotations

import sys
import typing as t

from harness import ROOT

sys.path.insert(0, str(ROOT / "collection/plugins"))
from plugin_utils.app_check import app_check, app_ports, listeners  # noqa: E402  (the path comes first)

RUN = "20261121t084500z-7f3a"
# iproute2 6.1, as root and as another user
SS = """\
LISTEN 0      4096       127.0.0.1:8081       0.0.0.0:*    users:(("shop",pid=812,fd=3),("shop",pid=811,fd=3))
LISTEN 0      128             [::]:22            [::]:*    users:(("sshd",pid=640,fd=4))
LISTEN 0      511                *:8083             *:*
"""
READY = {"check_in": RUN, "check_user": "root\n", "check_apart": 0, "flow": {"run": RUN, "can_be_deployed_to": True}}
LOOKED = {"results": [{"color_switch_host": "lb1", "active": "blue", "drift": []}]}
ONCE = {"check_ledger": {"deploys": [], "holder": None, "locked": None}, "color_switch_looked": LOOKED, "flow": {"color": "green", "before": "blue"},
        "check_haproxy": {"results": [{"check_host": "lb1", "stdout": "HAProxy version 2.6.12-1 2023/12/16 - https://haproxy.org/\n"}]}}


def app(**more: t.Any) -> dict[str, t.Any]:
    return {"name": "shop", "env": "staging", "strategy": "host", "ansible": "2.16.3", "has_colors": True, "hosts": ["app1"], "app_hosts": ["app1"],
            "ledger_host": "lb1", "components": [{"name": "web", "port": {"blue": 8081, "green": 8082}}], "unlock": "", "view": {}, **more}


def refusals(once: dict[str, t.Any] | None = None, host: dict[str, t.Any] | None = None, **more: t.Any) -> list[str]:
    return app_check(app(**more), RUN, {**ONCE, **(once or {})}, {"app1": {**READY, **(host or {})}})["refusals"]


def test_who_listens() -> None:
    assert listeners(SS) == {8081: "shop (pid 812)", 22: "sshd (pid 640)", 8083: "a program that ss does not name"}
    assert app_ports([{"name": "web", "port": {"blue": 1, "green": "2"}}, {"name": "job"}, {"name": "db", "port": 5432}]) == {
        1: "web blue", 2: "web green", 5432: "db"}


def test_an_app_that_can_be_deployed() -> None:
    seen = READY | {"check_listens": True, "check_listening": SS, "check_apart": 9}
    told = app_check(app(), RUN, ONCE, {"app1": seen})
    assert told["refusals"] == [] and told["lines"][-1] == "Nothing that was looked at would refuse a deploy."
    for line in ("lb1: HAProxy 2.6.12-1: blue is active", "active: blue, release not known; a deploy goes into green", "app1: answers, as root",
                 "app1: port 8081 (web blue): held by shop (pid 812)", "app1: port 8082 (web green): free", "app1: CLOCK: 9 s ahead of this machine's"):
        assert line in told["lines"], told["lines"]


def test_each_refusal_says_by_what() -> None:
    assert not refusals()
    lost = app_check(app(), RUN, ONCE, {"app1": {**READY, "check_in": "20261120t084500z-7f3a"}})
    assert lost["refusals"] == ["app1: it does not answer"], "what an earlier run has seen does not count"
    assert refusals(host={"check_in": "", "check_failed_in": RUN, "check_failure": "sudo: a password is required"}) == ["app1: sudo: a password is required"]
    assert refusals(host={"flow": {"run": RUN, "failure": "the disk is full"}}) == ["app1: the disk is full"]
    assert refusals(host={"flow": {"run": "of an earlier run", "can_be_deployed_to": True}}) == ["app1: its look did not come to its end"]
    assert "a day ahead" in refusals(host={"check_apart": -90000})[0] and not refusals(host={"check_apart": 90000})
    assert refusals({"flow": {"active_failure": "The load balancers do not serve the same colour."}}) == [
        "what is active: The load balancers do not serve the same colour."]
    assert refusals({"check_ledger": {"msg": "no such host"}}) == ["the ledger on lb1: no such host"]
    assert "take_over=x" in refusals({"check_ledger": {"deploys": [], "holder": {"deploy_id": "x", "by": "y"}}})[0]
    locked = {"check_ledger": {"deploys": [], "locked": {"deploy_id": "x", "why": "a holiday"}}}
    assert "unlock=x" in refusals(locked)[0] and not refusals(locked, unlock="x")


def test_nothing_was_deployed_yet() -> None:
    told = app_check(app(), RUN, ONCE, {"app1": {**READY, "flow": {}, "check_left_out": "nothing was deployed yet"}})
    assert "app1: NOT LOOKED AT: nothing was deployed yet" in told["lines"] and told["refusals"] == []


def test_what_cannot_be_looked_at_is_said() -> None:
    assert "app1: ports: NOT LOOKED AT: ss cannot be run there" in app_check(app(), RUN, ONCE, {"app1": READY})["lines"]
