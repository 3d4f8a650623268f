# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_color_switch where systemd runs Debian's own haproxy.service: `systemctl reload` is what loads a new configuration."""
from __future__ import annotations

import urllib.request
from pathlib import Path

from harness import Ansible, system

MODULE = "reversible.deploy.haproxy_color_switch"
HOST = "systemd_root"


def test_systemd_reloads_it(edge_core: str, tmp_path: Path) -> None:
    ansible = Ansible(edge_core, tmp_path, system("systemd"))
    edge = ansible.hosts[HOST]["edge"]
    asks_the_map = "use_backend shop-web-%[str(shop-staging),map(/etc/haproxy/active.map,missing)]"

    def content(color: str) -> str:
        assert asks_the_map in edge["configs"][color]
        return edge["configs"][color].replace(asks_the_map, f"default_backend shop-web-{color}") + "\n"

    def flip(color: str, **options: object) -> dict[str, object]:
        args = {"method": "reload", "color": color, "state_dir": "/var/lib/reversible/by-systemd", "drift": "settle", "map_key": "shop-staging"}
        prove = {"url": edge["url"], "text": color, "tries": 3}
        return {"name": str(options.pop("name", color)), MODULE: {**args, "prove": prove, **options}}

    def answer() -> str:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(edge["url"], timeout=60) as got:
            return got.read().decode().split()[0]

    pid = ansible.on(HOST, "systemctl show --property=MainPID --value haproxy.service")
    try:
        run = ansible.play([flip("green", content=content("green")), flip("blue", content=content("blue")), flip("green", name="kept")], HOST)
        assert run.code == 0, run.output
        assert all("by systemd's haproxy.service" in task["plan"][0] for task in run.tasks), run.output
        assert answer() == "green"
        # One that HAProxy refuses: nothing is reloaded, and the unit stays as it is.
        bad = ansible.play([flip("blue", content=content("blue") + "nonsense\n")], HOST)
        assert bad.only["reason"] == "invalid_config", bad.output
        # One that does not prove itself: systemd reloads the old one again.
        back = ansible.play([flip("blue", content=content("blue"), prove={"url": edge["url"], "text": "neither", "tries": 1})], HOST)
        assert back.only["reason"] == "not_proven" and back.only["flip"]["reverted"] is True, back.output
        assert answer() == "green"
        assert ansible.on(HOST, "systemctl is-active haproxy.service").strip() == "active"
        assert ansible.on(HOST, "systemctl show --property=MainPID --value haproxy.service") == pid
    finally:
        ansible.on(HOST, f"""
            rm -rf /var/lib/reversible
            echo 'shop-staging blue' > /etc/haproxy/active.map
            cat > /etc/haproxy/haproxy.cfg <<'END'\n{edge["configs"]["blue"]}\nEND
            systemctl reload haproxy && sleep 1""")
