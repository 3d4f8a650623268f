# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into the containers of the role incus_app, out of them, and what its workers are asked. Pure: no I/O, no Ansible."""
from __future__ import annotations

import re
import typing as t

from .one_run import filled
from .two_colors import PROOF, Probe, Side, color_sides

Items = list[dict[str, t.Any]]


def container_sides(components: t.Sequence[t.Mapping[str, t.Any]], layout: t.Mapping[str, str], release: str, image: str) -> Items:
    """The sides, with what each container is made of: its image, and where its release comes from."""
    found = color_sides(components, layout, release)
    for side in found:
        component = side["component"]
        source = component.get("source") or ""
        has_release = str(component.get("release", True)).lower() in ("true", "yes", "on", "1")
        side["source"] = filled([source], {"release": release})[0]
        side["from"] = "source" if source else "registry" if has_release else "nowhere"
        side["image"] = component.get("image") or image
    return found


def container_contents(made: t.Sequence[Side], units: t.Sequence[Side], scripts: t.Sequence[Side], components: t.Sequence[t.Mapping[str, t.Any]],
                       release: str) -> dict[str, Items]:
    """The `files` that are pushed into containers that are made (of the role, then of the user), and the `links` that are made: the release, and what
    makes systemd start a unit. `units` are run by systemd, `scripts` by none."""
    of_user = {component["name"]: component.get("files") or [] for component in components}
    files: Items = []
    links: Items = [{"at": at, "path": at["current"], "to": release} for at in made if at["from"] != "nowhere"]
    for at in units:
        unit = f"/etc/systemd/system/{at['unit']}.service"
        files += [{"at": at, "path": f"/etc/{at['unit']}.env", "mode": "0600", "template": "environment.j2"},
                  {"at": at, "path": unit, "mode": "0644", "template": "component.service.j2"}]
        links.append({"at": at, "path": f"/etc/systemd/system/multi-user.target.wants/{at['unit']}.service", "to": unit})
    files += [{"at": at, "path": f"{at['here']}/run", "mode": "0700", "template": "run.j2"} for at in scripts]
    # What is written to the log of a worker after its start is looked for, and nobody has written to it yet.
    files += [{"at": at, "path": at["log"], "mode": "0640", "content": ""} for at in scripts if at.get("is_worker")]
    files += [{"at": at, "path": file["path"], "mode": file.get("mode", "0644"), "content": file["content"]}
              for at in made for file in of_user[at["component"]["name"]]]
    return {"files": files, "links": links}


def container_logs(going: t.Sequence[Side], instances: t.Mapping[str, t.Any], kept_logs: str, run: str) -> Items:
    """The logs that are pulled before containers go, and the folder into which each is: all else in it goes. They are kept by the deploy that made them."""
    found = []
    for at in going:
        shelf = f"{kept_logs}/{instances[at['instance']]['deploy_id'] or run}-{at['color']}/{at['component']['name']}"
        for number, path in enumerate([at["log"], *(at["component"].get("logs") or [])], 1):
            found.append({"instance": at["instance"], "path": path, "shelf": shelf, "into": f"{shelf}.pulled-{number}"})
    return found


def instance_proofs(workers: t.Sequence[Side], instances: t.Mapping[str, t.Any], inside: t.Sequence[str], project: str,
                    often: t.Mapping[str, t.Any]) -> list[Probe]:
    """Whether the container of each worker runs, and the worker in it; and its proof: a command in the container that ends well, a file there that has changed
    since the start (the side's `stamp` has), or a line that was not there before in its log (the probe wants a baseline of that time) or in the journal of this
    start. `inside` are the words before a command in a container."""
    made: list[Probe] = []
    for side in workers:
        name, proof = side["instance"], side["component"].get("proof") or {}
        supervisor = instances.get(name, {}).get("supervisor")
        words = filled(inside, {"instance": name})
        made.append({"name": name, "kind": "incus", "instance": name, "project": project, **often})
        if supervisor == "systemd":
            made.append({"name": f"{name} unit", "kind": "command", "argv": [*words, "systemctl", "is-active", f"{side['unit']}.service"], **often})
        if supervisor == "process":
            made.append({"name": f"{name} process", "kind": "command", "argv": [*words, "start-stop-daemon", "-K", "-t", "-p", side["pidfile"]], **often})
        own = {"name": f"{name}{PROOF}", **often}
        known = {"color": side["color"], "current": side["current"]}
        if proof.get("command"):
            made.append(own | {"kind": "command", "argv": [*words, *filled(proof["command"], known)]})
        if proof.get("file"):
            [file] = filled([proof["file"]], known)
            made.append(own | {"kind": "command", "argv": [*words, "find", file, "-newer", side["stamp"]], "stdout": file})
        if proof.get("log") and supervisor == "systemd":
            # A container has a boot of its own, and its journal as well. A pattern in lower case alone would find other letters, too.
            argv = [*words, "journalctl", "--quiet", "--no-pager", "--boot", f"--unit={side['unit']}.service", "--lines=1"]
            made.append(own | {"kind": "command", "argv": [*argv, "--case-sensitive=yes", f"--grep={re.escape(proof['log'])}"]})
        elif proof.get("log"):
            made.append(own | {"kind": "logs", "instance": name, "project": project, "path": side["log"], "text": proof["log"], "min": 1})
    return made
