#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a ledger of ten thousand deploys takes: to read it, to record a phase in it, to write a report, to make it shorter.

Each is the whole process of the release build, from fork to its result, without Ansible. The goal (exit status 1 where it is missed):
reading in under 50 ms. On a machine that others keep busy the processor's time is judged instead, and that is said. Beside it, in the
same run, stands what Python's json takes for the same lines.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = ROOT / "collection/plugins/plugin_utils/bin" / f"deploy_ledger_{platform.machine()}"
MOST = 0.050


def deploy(number: int) -> tuple[str, list[str]]:
    """The id and the lines of one deploy, as a blue/green deploy leaves them."""
    then = time.gmtime(1_767_225_600 + number * 600)
    name, at = time.strftime("%Y%m%dt%H%M%Sz-7f3a", then), time.strftime("%Y-%m-%dT%H:%M:%SZ", then)
    sha = f"{number:040x}"
    flip = {"milliseconds": {"flip": 12.3, "watch": 60000.0}, "budget": {"requests": 5000, "failed": 0, "share": 0.0}}
    opening = {"app": "shop", "env": "prod", "release": sha, "by": f"run {number}", "lease": 1800, "take_over": None,
               "config": {"commit": sha, "dirty": False}}
    snapshot = {"layer": "dataset", "name": f"tank/shop@pre-deploy-{name}", "host": "pve1", "guid": "1374283741928374",
                "cost": {"bytes": 734003200}, "data": {}}
    events = [{"open": opening}, {"restore_point": snapshot}, {"restore_point": {"layer": "color", "name": "blue", "cost": {}, "data": {}}}]
    events += [{"phase": {"phase": phase, "status": "done", "data": {"flip": flip} if phase == "flip" else {"schema": 41}}}
               for phase in ("restore_points", "migrations", "install", "flip")]
    events.append({"close": {"outcome": "done", "color": "green"}})
    return name, [json.dumps({"v": 1, "at": at, "deploy": name, "event": event}, separators=(",", ":")) for event in events]


def measure(binary: Path, path: Path, options: dict, times: int, fresh: bytes | None = None) -> tuple[float, float]:
    """The median seconds on the clock, and on the processor."""
    seconds, worked = [], []
    for _time in range(times):
        if fresh is not None:
            (path / "ledger.jsonl").write_bytes(fresh)
        asked = json.dumps({"_ansible_module_name": "deploy_ledger", "app": "shop", "env": "prod", "path": str(path)} | options).encode()
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([binary, "-"], input=asked, stdout=subprocess.PIPE, check=False)
        seconds.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        worked.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stdout.decode()
    return statistics.median(seconds), statistics.median(worked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=BINARY, help="the release build (default: the one that `make collection` made)")
    parser.add_argument("--deploys", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=21)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".reversible-bench-", dir=Path.home()) as home:
        path = Path(home) / "shop-prod"
        path.mkdir(mode=0o700)
        deploys = [deploy(number) for number in range(asked.deploys)]
        text = ("\n".join("\n".join(lines) for _name, lines in deploys) + "\n").encode()
        (path / "ledger.jsonl").write_bytes(text)
        start = time.perf_counter()
        assert len([json.loads(line) for line in text.splitlines()]) == 8 * asked.deploys
        python = time.perf_counter() - start
        middle, new = deploys[asked.deploys // 2][0], time.strftime("%Y%m%dt%H%M%Sz-7f3a", time.gmtime())
        report = {"state": "report", "deploy_id": middle, "report_html": str(path / "r.html"), "_ansible_check_mode": True}
        kinds = {
            "read (deploy_ledger_info)": {"_ansible_module_name": "deploy_ledger_info"},
            "read one from the middle": {"_ansible_module_name": "deploy_ledger_info", "deploy_id": middle},
            "read all of them": {"_ansible_module_name": "deploy_ledger_info", "limit": 0},
            "report of one": report,
        }
        results = {kind: measure(asked.binary, path, options, asked.times) for kind, options in kinds.items()}
        opened = {"state": "open", "deploy_id": new, "lease": 60}
        results["open (a synced line)"] = measure(asked.binary, path, opened, max(3, asked.times // 5), text)
        results["compact to 200"] = measure(asked.binary, path, {"state": "compacted", "retain": 200}, 3, text)
    busy = os.getloadavg()[0] > max(1.0, (os.cpu_count() or 1) - 1)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{asked.deploys} deploys, {8 * asked.deploys} lines, {len(text) / 1e6:.1f} MB; {load}")
    print(f"{'':28}{'clock':>10}{'processor':>12}")
    for kind, (seconds, worked) in results.items():
        print(f"{kind:28}{seconds * 1000:7.0f} ms{worked * 1000:9.0f} ms")
    print(f"{'(json.loads of every line)':28}{python * 1000:7.0f} ms")
    judged = results["read (deploy_ledger_info)"][1 if busy else 0]
    if busy:
        print("Others kept this machine busy: the processor's time is judged.")
    print(f"reading took {judged * 1000:.0f} ms of {MOST * 1000:.0f} ms: the goal is {'met' if judged < MOST else 'missed'}")
    return 0 if judged < MOST else 1


if __name__ == "__main__":
    sys.exit(main())
