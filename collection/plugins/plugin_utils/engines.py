# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parses the output of Incus, Proxmox, Docker and Compose for the roles. Pure: no I/O, no Ansible."""
from __future__ import annotations

import json
import re
import typing as t

Results = t.Sequence[t.Mapping[str, t.Any]]


def incus_instances(said: str, names: t.Sequence[str]) -> dict[str, t.Any]:
    """Those of these names, of `incus query /1.0/instances?recursion=2`: how they are, and what the role has marked them with."""
    found = {}
    for one in json.loads(said):
        if one["name"] in names:
            if not one["config"]:
                raise ValueError(f"Incus does not say what {one['name']} is (its status is {one['status']}): see the log of its daemon, and try again")
            marks = {key.removeprefix("user.reversible."): text for key, text in one["config"].items() if key.startswith("user.reversible.")}
            cards = ((one.get("state") or {}).get("network") or {}).items()
            global_ones = [at for card, said_of in cards if card != "lo" for at in said_of.get("addresses") or [] if at["scope"] == "global"]
            addresses = [at["address"] for at in global_ones if at["family"] == "inet"] + [f"[{at['address']}]" for at in global_ones if at["family"] != "inet"]
            found[one["name"]] = {
                "status": one["status"], "address": addresses[0] if addresses else "",
                **{key: marks.get(key, "") for key in ("app", "release", "deploy_id", "supervisor")},
                "is_whole": "deploy_id" in marks and marks.get("installed", "") == marks["deploy_id"]}
    return found


def compose_containers(said: str, sides: t.Mapping[str, t.Any]) -> dict[str, list[dict[str, t.Any]]]:
    """The containers of each colour's project, of `docker container inspect`."""
    found: dict[str, list[dict[str, t.Any]]] = {color: [] for color in sides}
    for one in json.loads(said):
        labels = one["Config"]["Labels"]
        for color, side in sides.items():
            if side["project"] == labels.get("com.docker.compose.project"):
                found[color].append({"id": one["Id"], "name": one["Name"].removeprefix("/"), "running": one["State"]["Running"], "color": color,
                                     "service": labels.get("com.docker.compose.service", ""),
                                     **{key: labels.get(f"reversible.{key}", "") for key in ("app", "release", "deploy_id")}})
    return found


def compose_clashes(said: t.Sequence[str]) -> list[str]:
    """What all of these projects would have, and only one can, in words: of `docker compose config --format json`."""
    taken = []
    for one in said:
        mine = set()
        for service in json.loads(one)["services"].values():
            if service.get("container_name"):
                mine.add(f"the container name {service['container_name']}")
            for port in service.get("ports") or []:
                if port.get("published"):
                    where = f" of {port['host_ip']}" if port.get("host_ip") else ""
                    mine.add(f"the port {port['published']}{where}{' (udp)' if port.get('protocol') == 'udp' else ''}")
        taken.append(mine)
    return sorted(set.intersection(*taken))


def worker_faults(said: str, workers: t.Sequence[str]) -> list[str]:
    """Why these services of a project cannot run in the active colour alone, in words: of `docker compose config --format json`."""
    services, found = json.loads(said)["services"], []
    for name in workers:
        if name not in services:
            found.append(f"the compose file has no service {name}")
            continue
        restart = services[name].get("restart") or "no"
        if restart not in ("no", "unless-stopped"):
            found.append(f"{name} has restart: {restart}, so that the engine would start it beside that of the other colour when it starts itself: take "
                         "unless-stopped")
        found += [f"{other} depends on {name}, and would start it before the flip: leave that out"
                  for other, service in services.items() if other not in workers and name in (service.get("depends_on") or {})]
    return found


def last_lines(results: Results) -> list[str]:
    """The last line of output of each command that failed."""
    return [((one.get("stderr") or "").strip() or one.get("msg", "it failed")).splitlines()[-1] for one in results if one.get("rc", 1) != 0]


def incus_datasets(instance: str, pools: t.Mapping[str, str], project: str) -> list[str]:
    """The datasets of an instance's disks: of `incus query` for the instance and for each pool, all on ZFS.
    <pool>/containers/[<project>_]<name>, <pool>/virtual-machines/...(.block), <pool>/custom/<project>_<volume>."""
    one, found = json.loads(instance), []
    own = ("" if project == "default" else f"{project}_") + one["name"]
    for disk in one["expanded_devices"].values():
        if disk["type"] != "disk" or "pool" not in disk:
            continue
        config = json.loads(pools[disk["pool"]])["config"]
        root = config.get("zfs.pool_name") or config["source"]
        if disk.get("path") != "/":
            found.append(f"{root}/custom/{project}_{disk['source']}")
        elif one["type"] == "virtual-machine":
            found += [f"{root}/virtual-machines/{own}", f"{root}/virtual-machines/{own}.block"]
        else:
            found.append(f"{root}/containers/{own}")
    return found


def pct_volumes(config: str) -> list[str]:
    """The volumes of `pct config`, each <storage>:<volume>. A bind mount begins with a slash: it is none."""
    return re.findall(r"^(?:rootfs|mp[0-9]+): ([^/,:\s]+:[^,\s]+)", config, re.MULTILINE)


def pct_datasets(config: str, storages: t.Mapping[str, str]) -> list[str]:
    """The datasets of a container's volumes: of `pct config`, and of `pvesh get /storage/...` for each storage, all on ZFS. A linked clone is named after
    its base: base-100-disk-0/subvol-101-disk-0."""
    named = [volume.split(":") for volume in pct_volumes(config)]
    return [f"{json.loads(storages[parts[0]])['pool']}/{parts[-1].split('/')[-1]}" for parts in named]


def running_users(asked: Results, user: str) -> list[t.Any]:
    """Of those that were asked whether they run, as commands of a loop whose items are called `user`, who said so."""
    return [one[user] for one in asked if one["rc"] == 0 and (not one[user]["says"] or re.search(one[user]["says"], one["stdout"], re.MULTILINE))]
