# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of haproxy_color_switch share: a flip, what it is refused for, and what an edge holds afterwards."""
from __future__ import annotations

import re
import typing as t

import pytest
from edge import RELEASES, Edge, call
from harness import HAPROXYS as VERSIONS

MODULE, INFO = "haproxy_color_switch", "haproxy_color_switch_info"
BLUE = {"color": "blue", "release": RELEASES["blue"]}
GREEN = {"color": "green", "release": RELEASES["green"]}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
ID, LATER = "20261121t084500z-7f3a", "20261121t084501z-7f3a"

all_versions = pytest.mark.parametrize("version", VERSIONS)
layouts = pytest.mark.parametrize("layout", ["two-backends", "one-backend"])


def flip(edge: Edge, color: str, **more: t.Any) -> dict[str, t.Any]:
    """Make a colour active, with the release that its web apps say they are; it must work."""
    release = {} if color == "previous" else {"release": RELEASES[color]}
    result = call(MODULE, {**edge.options, "color": color, **release, **more})
    assert not result.get("failed"), f"{result['reason']}: {result['msg']} {result.get('because')}"
    return result


def refused(edge: Edge, reason: str, *words: str, nothing_changed: bool = True, **options: t.Any) -> dict[str, t.Any]:
    """The task fails for this reason, says these words in one line, and (unless told otherwise) has changed nothing."""
    before = everything(edge)
    result = call(MODULE, {**edge.options, **options})
    assert result.get("failed") and result["reason"] == reason, result
    assert all(word in result["msg"] for word in words) and "\n" not in result["msg"], result["msg"]
    if nothing_changed:
        assert everything(edge) == before
        assert not result.get("changed"), result
    return result


def prove(edge: Edge, **more: t.Any) -> dict[str, t.Any]:
    return {"url": f"{edge.url}api/v1/health", "release_field": "build.sha", "tries": 2, "delay": 0.05, "timeout": 1, **more}


def filed(edge: Edge, key: str = "") -> str | None:
    """What the map file says for the key, as HAProxy would read it."""
    lines = [line.split() for line in edge.map.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    found = [words[1] for words in lines if len(words) == 2 and words[0] == (key or edge.map_key)]
    assert len(found) < 2
    return found[0] if found else None


def recorded(edge: Edge) -> str | None:
    path = edge.state_dir / "active-color"
    return path.read_text(encoding="utf-8") if path.exists() else None


def history(edge: Edge) -> list[tuple[str, ...]]:
    """Colour, release and verdict of each line, the newest first; each line must have the documented form."""
    path = edge.state_dir / "active-color.history"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    assert re.fullmatch(rf"({TIME} (blue|green) \S+ \S+ (good|void)\n)*", text), text
    return [(words[1], words[2], words[4]) for words in map(str.split, text.splitlines())]


def agree(edge: Edge, color: str, record: bool = True) -> None:
    """The live HAProxies, the file, the record and whoever answers are of one mind."""
    value = edge.shape.value(color)
    if edge.shape.method == "map":
        assert [edge.live(process) for process in range(len(edge.all_stats))] == [value] * len(edge.all_stats)
        assert filed(edge) == value
    else:
        assert edge.config.read_text(encoding="utf-8") == edge.render(color)
    for component in edge.shape.components:
        assert edge.answer(component).startswith(f"{color} "), component
    if record:
        assert recorded(edge) == f"{color}\n"
    assert not list(edge.state_dir.glob("intent*"))


def everything(edge: Edge) -> dict[str, t.Any]:
    """Each file of the edge that a module may touch, with its content and time, and what lives in the process."""
    files = [edge.map, edge.config, *sorted(edge.state_dir.rglob("*"))]
    seen: dict[str, t.Any] = {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in files if path.is_file()}
    seen["folder"] = sorted(path.name for path in edge.folder.iterdir() if path.suffix not in (".json", ".log", ".bak"))
    for process, socket in enumerate(edge.all_stats):
        if edge.worker_pid(process):
            live = edge.ask(f"show map {edge.map}", process) if edge.shape.method == "map" else ""
            seen[socket] = (edge.worker_pid(process), [line.split(" ", 1)[1] for line in live.splitlines() if " " in line])
    return seen


def taken_back(edge: Edge, result: dict[str, t.Any], reason: str, *words: str, release: str = RELEASES["green"]) -> None:
    """The task has failed, blue is active again everywhere, and the history calls what green holds void."""
    assert result.get("failed") and result["reason"] == reason and result["flip"]["reverted"], result
    assert all(word in result["msg"] for word in (*words, "blue is active again after")), result["msg"]
    assert result["flip"]["milliseconds"]["back"] > 0 and "record" not in result["flip"]["milliseconds"]
    agree(edge, "blue")
    assert [line[0::2] for line in history(edge)][:2] == [("blue", "good"), ("green", "void")]
    assert history(edge)[1][1] == release
    assert not call(INFO, edge.place)["previous"]["open"]
