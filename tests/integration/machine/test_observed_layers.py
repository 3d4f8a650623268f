# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told to the ledger's judge of what was seen, each case in no time; that the judge is asked is seen in tests/integration/flows."""
from __future__ import annotations

import sys
import typing as t

import pytest
from harness import ROOT
from releases import sha

sys.path.insert(0, str(ROOT / "collection/plugins"))
from plugin_utils import observed_layers  # noqa: E402  (the path comes first)

OPEN = {"disagree": "", "previous": {"color": "green", "release": sha(1), "open": True, "why": None}}


def app(release: str | None) -> dict[str, t.Any]:
    return {"app1": {"colors": {"green": {"release": release, "well": True}}}}


def test_the_colour_that_is_left() -> None:
    for hosts in (app(sha(1)), app(None), {"app1": None}, {"app1": {"failure": "no python"}}):
        assert observed_layers.layers(OPEN, "", hosts, {}) == {"color": {"open": True, "why": "", "holds": [{"name": "green", "digest": sha(1)}]}}


@pytest.mark.parametrize("reading, hosts, why", [
    (OPEN, app(sha(4)), f"app1 holds {sha(4)} there"),
    (OPEN | {"disagree": "Not every load balancer answers. lb2: gone"}, app(sha(1)), "Not every load balancer answers. lb2: gone"),
    (OPEN | {"previous": {"color": "green", "release": sha(1), "open": False, "why": "green holds a release which is void"}}, app(sha(1)),
     "green holds a release which is void"),
    ({"disagree": "", "previous": {}}, {}, "no earlier colour is known"),
], ids=["another release", "silent", "void", "first"])
def test_a_colour_that_is_no_way_back(reading: dict[str, t.Any], hosts: dict[str, t.Any], why: str) -> None:
    found = observed_layers.layers(reading, "", hosts, {})["color"]
    assert (found["open"], found["why"]) == (False, why)


def test_the_colour_that_is_needed() -> None:
    """By what was seen, and by what the ledger makes of it; a host that is silent closes nothing."""
    recorded = [{"deploy_id": "b", "restore_points": {"color": [{"name": "green", "digest": sha(1), "open": True}]}}]
    other = [{"deploy_id": "b", "restore_points": {"color": [{"name": "green", "digest": sha(1), "open": False}]}}]
    for hosts in (app(sha(1)), {"app1": None}, {"app1": {"failure": "no python"}}):
        found = observed_layers.layers(OPEN, "", hosts, {})
        assert observed_layers.needed_color(found, "green", recorded).startswith(
            f"green holds {sha(1)} and is healthy: it is the last restore point, for the state before b.")
        assert observed_layers.needed_color(found, "green", []).startswith(f"green holds {sha(1)} and is healthy: it is the last restore point.")
        assert not observed_layers.needed_color(found, "blue", recorded)
    assert not observed_layers.needed_color(observed_layers.layers(OPEN, "", app(sha(4)), {}), "green", other)
    closed = OPEN | {"previous": OPEN["previous"] | {"open": False, "why": "it is void"}}
    assert not observed_layers.needed_color(observed_layers.layers(closed, "", app(sha(1)), {}), "green", other)


def test_what_each_host_holds() -> None:
    seen = {"pve1": {"rollbacks": {"snapshot": {"open": ["pre-deploy-a"]}, "parked": ["failed-b"]}}, "pve2": None, "pve3": {"failure": "no quorum"}}
    data = {"nas": {"rollbacks": {"swap": {"open": ["20261121t084500z-7f3a"]}}}}
    found = observed_layers.layers({}, "container", seen, data)
    assert found["container"] == {
        "open": True, "silent": {"pve2": "it does not answer", "pve3": "no quorum"},
        "holds": [{"host": "pve1", "word": "pre-deploy-a"}, {"host": "pve1", "word": "failed-b"}]}
    assert found["dataset"] == {"open": True, "silent": {}, "holds": [{"host": "nas", "word": "20261121t084500z-7f3a"}]}


def test_only_what_was_seen_in_this_run_counts() -> None:
    facts = {"pve1": {"app_observed": {"run": "b", "rollbacks": {"snapshot": {"open": ["pre-deploy-a"]}}}}, "pve2": {"app_observed": {"run": "a"}}}
    found = observed_layers.observed_layers({}, "pct", facts, ["pve1", "pve2"], [], "b")
    assert found == {"container": {"open": True, "silent": {"pve2": "it does not answer"}, "holds": [{"host": "pve1", "word": "pre-deploy-a"}]}}
    seen = {"rollbacks": {"swap": {"open": ["shop__before_a"]}, "parked": ["shop__failed_b"]}}
    found = observed_layers.observed_layers({}, "host", {"db1": {"flow": {"run": "b", "databases": seen}}, "app1": {}}, ["app1"], [], "b", ["db1"])
    assert found["database"]["holds"] == [{"host": "db1", "word": "shop__before_a"}, {"host": "db1", "word": "shop__failed_b"}]
    assert list(observed_layers.observed_layers(OPEN, "host", {"app1": {}}, ["app1"], ["app1"], "b")) == ["color", "dataset"]
