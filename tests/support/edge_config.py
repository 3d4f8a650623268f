# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configurations of the test edge, as text: every way in which HAProxy can be told which colour is active.

  method  layout        where the colour is
  map     two-backends  the map's value is part of the backend's name
  map     one-backend   the map's value chooses a server by use-server
  reload  two-backends  default_backend and use_backend name the colour's backend
  reload  one-backend   the other colour's servers are `backup` (or `disabled`: `idle`)
"""
from __future__ import annotations

import dataclasses
from pathlib import Path

from harness import ROOT

COLOURS = ("blue", "green")
APP = "shop"
SCRIPT = ROOT / "roles/haproxy/templates/reversible-hold.lua.j2"
A_BACKEND_HOLDS = 1000  # dummy servers


@dataclasses.dataclass
class Shape:
    """All that a configuration depends on. The first component gets what no other one claims; the others a path, /<component>/."""

    method: str
    layout: str
    components: tuple[str, ...]
    map: Path
    map_key: str
    map_value: str  # with {color}
    stats: list[str]  # the addresses of `stats socket` lines
    url_port: int
    servers: dict[tuple[str, str], list[int]]  # (colour, component): ports
    tls_port: int = 0
    certificate: Path | None = None
    dummies: int = 0
    inter: int = 100
    hard_stop: str = ""
    idle_close: bool = True
    idle: str = "backup"
    more: str = ""  # lines for `defaults`
    hold: bool = False  # requests can be held: those of the first component by map_key, of another by <component>-staging
    hold_seconds: int = 60
    hold_requests: int = 500
    needs_bool_conversion: bool = False  # HAProxy 3.1 and newer want it said before a script is loaded

    def __post_init__(self) -> None:
        assert self.method in ("map", "reload") and self.layout in ("two-backends", "one-backend"), (self.method, self.layout)
        several = max(len(ports) for ports in self.servers.values()) > 1
        assert not (several and self.method == "map" and self.layout == "one-backend"), "use-server can name one server only"

    def value(self, colour: str) -> str:
        return self.map_value.replace("{color}", colour)

    @property
    def hold_map(self) -> Path:
        return self.map.with_name("holds.map")

    @property
    def hold_script(self) -> Path:
        return self.map.with_name("reversible-hold.lua")

    def hold_key(self, component: str) -> str:
        return self.map_key if component == self.components[0] else f"{component}-staging"

    def script(self) -> str:
        """What the role makes of its template."""
        text = SCRIPT.read_text(encoding="utf-8")
        for name, value in {"map": self.hold_map, "seconds | int": self.hold_seconds, "requests | int": self.hold_requests}.items():
            text = text.replace(f"{{{{ haproxy_hold_{name} }}}}", str(value))
        assert "{{" not in text
        return text

    def render(self, colour: str) -> str:
        """The whole file. For the method map the colour does not matter: the map's file says it."""
        parts = [self._global(), self._frontend(colour)]
        for component in self.components:
            parts += self._two_backends(component) if self.layout == "two-backends" else [self._one_backend(component, colour)]
        return "\n".join(parts + self._dummies())

    def _global(self) -> str:
        stats = "\n".join(f"    stats socket {address}" for address in self.stats)
        hard_stop = f"    hard-stop-after {self.hard_stop}\n" if self.hard_stop else ""
        idle_close = "    option idle-close-on-response\n" if self.idle_close else ""
        if self.hold:
            conversion = "    tune.lua.bool-sample-conversion normal\n" if self.needs_bool_conversion else ""
            hard_stop += f"    nbthread 2\n{conversion}    lua-load {self.hold_script}\n"
        return f"""\
global
{stats}
    maxconn 4000
{hard_stop}
defaults
    mode http
{idle_close}    timeout connect 1s
    timeout check 20s
    timeout client 30s
    timeout server 10s
    timeout tunnel 1h
{self.more}"""

    def _frontend(self, colour: str) -> str:
        lines = [f"frontend {APP}", f"    bind 127.0.0.1:{self.url_port}"]
        if self.tls_port:
            lines.append(f"    bind 127.0.0.1:{self.tls_port} ssl crt {self.certificate}")
        for component in self.components if self.hold else ():
            others = " ".join(f"/{other}/" for other in self.components[1:])
            where = f"{{ path_beg /{component}/ }}" if component != self.components[0] else f"!{{ path_beg {others} }}" if others else ""
            key = self.hold_key(component)
            lines.append(f"    http-request lua.reversible-hold {key} if {{ str({key}),map({self.hold_map}) -m found }} {where}")
        for component in reversed(self.components):
            first = component == self.components[0]
            condition = "" if first else f" if {{ path_beg /{component}/ }}"
            if self.layout == "one-backend":
                lines.append(f"    {'default_backend' if first else 'use_backend'} {APP}-{component}{condition}")
            elif self.method == "map":
                # A key that is missing names a backend that does not exist: 503, never a colour.
                lines.append(f"    use_backend {APP}-{component}-%[{self._asked('missing')}]{condition}")
            else:
                lines.append(f"    {'default_backend' if first else 'use_backend'} {APP}-{component}-{self.value(colour)}{condition}")
        return "\n".join(lines) + "\n"

    def _two_backends(self, component: str) -> list[str]:
        return [
            "\n".join([f"backend {APP}-{component}-{self.value(colour)}", *self._check(),
                       *self._servers(colour, component, "")]) + "\n"
            for colour in COLOURS
        ]

    def _one_backend(self, component: str, active: str) -> str:
        lines = [f"backend {APP}-{component}", *self._check()]
        if self.method == "map":
            lines.append(f"    http-request deny deny_status 503 unless {{ {self._asked()} -m found }}")
            lines += [f"    use-server {component}-{colour} if {{ {self._asked()} -m str {self.value(colour)} }}" for colour in COLOURS]
        for colour in COLOURS:
            lines += self._servers(colour, component, "" if colour == active or self.method == "map" else f" {self.idle}")
        return "\n".join(lines) + "\n"

    def _asked(self, default: str = "") -> str:
        return f"str({self.map_key}),map({self.map}{',' if default else ''}{default})"

    @staticmethod
    def _check() -> list[str]:
        return ["    option httpchk GET /health", "    http-check expect status 200"]

    def _servers(self, colour: str, component: str, more: str) -> list[str]:
        ports = self.servers[colour, component]
        names = [f"{component}-{colour}{at + 1 if len(ports) > 1 else ''}" for at in range(len(ports))]
        return [f"    server {name} 127.0.0.1:{port} check inter {self.inter} fall 2 rise 1{more}" for name, port in zip(names, ports)]

    def _dummies(self) -> list[str]:
        """Servers that nobody asks and nobody checks, so that what is read from HAProxy is long."""
        return [
            f"backend dummies-{start}\n" + "".join(
                f"    server d{at} 127.0.0.1:9\n" for at in range(start, min(start + A_BACKEND_HOLDS, self.dummies)))
            for start in range(0, self.dummies, A_BACKEND_HOLDS)
        ]
