# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of haproxy_color_switch share: a flip, what it is refused for, what an edge holds afterwards, and holding a run at a moment."""
from __future__ import annotations

import contextlib
import re
import socket
import threading
import typing as t

import pytest
from edge import RELEASES, Call, Edge, call, wait_for
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
    return {"url": f"{edge.url}api/v1/health", "release_field": "build.sha", "tries": 2, "delay": 0.05, "timeout": 60, **more}


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
    for process, address in enumerate(edge.all_stats):
        if edge.worker_pid(process):
            live = edge.ask(f"show map {edge.map}", process) if edge.shape.method == "map" else ""
            seen[address] = (edge.worker_pid(process), [line.split(" ", 1)[1] for line in live.splitlines() if " " in line])
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


# Runs that are held at a moment, so that a test can do what it needs to there, however long that takes


@contextlib.contextmanager
def flipped_and_held(edge: Edge, before: t.Callable[[], t.Any] | None = None, **options: t.Any) -> t.Iterator[Call]:
    """A run to green that has flipped and waits for the answer to its proof, which it gets at the end of the body. `before` is called while it
    still looks at green, before the flip: it waits for the answer to its probe until then."""
    with socket.create_server(("127.0.0.1", 0)) as asked:
        asked.settimeout(60)
        port = asked.getsockname()[1]
        proof = {"url": f"http://127.0.0.1:{port}/", "tries": 1, "timeout": 600}
        probe = {"probe": {"port": port, "tries": 1, "timeout": 600}} if before else {}
        running = Call(MODULE, {**edge.options, **GREEN, "prove": proof, **probe, **options})
        with ended(running):
            if before:
                with answered(asked):
                    before()
            with answered(asked):
                yield running
            running.process.wait(120)


@contextlib.contextmanager
def answered(asked: socket.socket) -> t.Iterator[None]:
    """Whoever asks there gets an answer at the end of the body."""
    with asked.accept()[0] as line:
        line.recv(65536)
        yield
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextlib.contextmanager
def watching(edge: Edge, color: str = "green", *, below: t.Sequence[str] = (), **options: t.Any) -> t.Iterator[Call]:
    """A run that has flipped and watches, for longer than any test lasts. `options`: an error_budget among them adds to that."""
    budget = {"watch": 600, **options.pop("error_budget", {})}
    running = Call(MODULE, {**edge.options, "color": color, "release": RELEASES[color], "error_budget": budget, **options}, below=below)
    with ended(running):
        wait_for(lambda: running.process.poll() is not None or (edge.live() == color and recorded(edge) == f"{color}\n"), "the flip")
        assert running.process.poll() is None, running.wait()
        yield running


@contextlib.contextmanager
def ended(running: Call) -> t.Iterator[Call]:
    """It ends with the body at the latest."""
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


@contextlib.contextmanager
def looks(edge: Edge) -> t.Iterator[t.Callable[[int], None]]:
    """The module asks HAProxy through us. What is yielded waits until it has looked at the servers so many times more, and drawn its conclusions."""
    path, asked = str(edge.folder / "looks"), [0]

    def answer(line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):  # who asks may be gone
            command = b"".join(iter(lambda: line.recv(4096), b""))
            asked[0] += command.startswith(b"show stat")
            line.sendall(wait_for(lambda: raw_answer(edge.stats, command), "an answer of HAProxy"))

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    def wait(many: int = 1) -> None:
        # One question may be on its way by now; and who asks once more has heard the last answer.
        goal = asked[0] + many + 1
        wait_for(lambda: asked[0] >= goal, "more looks")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        direct, edge.options = edge.options, edge.options | {"stats_socket": [path]}
        try:
            yield wait
        finally:
            edge.options = direct
            listener.shutdown(socket.SHUT_RDWR)


def raw_answer(path: str, command: bytes) -> bytes:
    """Empty when nobody answers, as in the middle of a reload."""
    with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(OSError):
        line.connect(path)
        line.sendall(command)
        line.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: line.recv(65536), b""))
    return b""


def count(edge: Edge, color: str) -> tuple[int, int]:
    """The requests that HAProxy counts for a colour since its counters began, and those of them that failed."""
    [row] = [row for row in edge.rows() if row["svname"] == f"web-{color}"]
    kinds = {kind: int(row[f"hrsp_{kind}"]) for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other")}
    return sum(kinds.values()), kinds["5xx"]


def ask(edge: Edge, color: str, many: int) -> int:
    """So many requests, all of which that colour must get; how many failed. Back when HAProxy has counted them."""
    before = count(edge, color)[0]
    with edge.load(4, requests=many) as load:
        report = load.wait()
    wait_for(lambda: count(edge, color)[0] == before + many, f"{many} requests to {color}")
    return report["failed"]
