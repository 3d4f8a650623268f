#!/usr/bin/env python3
"""Files of a crate that need each other in a circle: none may, so that each can be read after those that it uses.

Looked at is what a file names by `crate::`, `super::` or `self::`, without its tests. `tests/circles.py` prints each circle, one a line."""
from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MODULES = Path(__file__).resolve().parent.parent / "modules"
ROOTS = ("lib", "main")   # they name all parts, and a part may name what they hold


def circles() -> list[str]:
    return [f"{crate.name}: {' -> '.join(circle)}" for crate in sorted(MODULES.iterdir()) if (crate / "src").is_dir() for circle in _of(crate / "src")]


def _of(source: Path) -> list[list[str]]:
    files = {_name(path.relative_to(source)): path for path in source.rglob("*.rs")}
    uses = {name: set(_used(name, path.read_text(), files)) for name, path in files.items() if name.split("::")[-1] not in (*ROOTS, "tests")}
    while leaves := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in leaves:
            del uses[name]
    found = []
    while uses:   # each that is left uses another that is left
        path = [next(iter(uses))]
        while path[-1] not in path[:-1]:
            path.append(min(uses[path[-1]] & uses.keys()))
        circle = path[path.index(path[-1]):]
        found.append(circle)
        del uses[circle[0]]
        while leaves := [name for name, used in uses.items() if not used & uses.keys()]:
            for name in leaves:
                del uses[name]
    return found


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return "::".join(parts[:-1] if parts[-1] == "mod" else parts)


def _used(name: str, text: str, files: dict[str, Path]) -> Iterator[str]:
    code = re.sub(r"//[^\n]*", "", re.split(r"#\[cfg\(test\)\]\s*mod ", text)[0])
    above = name.split("::")[:-1]
    for found in re.finditer(r"\b(crate|super|self)::((?:\w+::)*)(\{[^;]*\}|\w+)", code):
        base = {"crate": [], "super": above, "self": name.split("::")}[found[1]] + [part for part in found[2].split("::") if part]
        for word in re.findall(r"[\w:]+", found[3]):
            parts = base + word.split("::")
            known = ("::".join(parts[:length]) for length in range(len(parts), 0, -1))
            used = next((path for path in known if path in files), None)
            if used and used != name:
                yield used


if __name__ == "__main__":
    sys.exit("\n".join(circles()) or 0)
