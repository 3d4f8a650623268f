# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks and roles decide by what was seen. Each filter is a function of that name in plugin_utils, and is documented beside this file.

One file for all, and each function read when it is first used: to find a filter, Ansible loads every file of this folder, each time that it meets a new
name, and somebody may be waiting for a rollback, which needs few of them.
"""
from __future__ import annotations

import importlib
import typing as t

HERE = "ansible_collections.reversible.deploy.plugins.plugin_utils"
DECISIONS = {
    "app_check": ("app_check",),
    "app_status": ("app_status",),
    "color_flips": ("changed_load_balancers", "flip_results"),
    "configuration": ("configuration_commands",),
    "databases": ("captured_hosts", "database_costs", "database_hosts", "databases_captured", "databases_here", "databases_reverted",
                  "databases_seen", "drill_results", "no_database_swapped", "retained_ids", "unusable_points"),
    "deploy_records": ("joint_plan", "layers_here", "plan_refusal", "possible_rollbacks", "restore_point", "restore_target", "services_refusal",
                       "unfinished_run"),
    "engines": ("compose_clashes", "compose_containers", "incus_datasets", "incus_instances", "last_lines", "pct_datasets", "running_users",
                "worker_faults"),
    "failures": ("failure_reason", "hook_failure"),
    "incus_app": ("container_contents", "container_logs", "container_sides", "instance_proofs"),
    "inputs": ("wrong_env", "wrong_inputs"),
    "kube_app": ("revision_named", "workloads_captured", "workloads_seen"),
    "load_balancers": ("load_balancers",),
    "newest_logs": ("newest_logs",),
    "observed_layers": ("needed_color", "observed_layers"),
    "rehearsal": ("clones_compared", "databases_cloned", "no_room_to_rehearse", "rehearsal_env", "rehearsal_plan", "rehearsal_verdict"),
    "run_goal": ("came_back", "deploy_goal", "fast_goal", "fast_opened", "run_summary"),
    "run_progress": ("hosts_lacking", "hosts_reached", "notes_of"),
    "two_colors": ("color_sides", "compose_colors", "compose_probes", "compose_sides", "container_proofs", "host_colors", "incus_colors", "side_probes",
                   "side_processes", "static_links", "static_probes", "worker_probes", "worker_services"),
}


def decision(module: str, name: str) -> t.Callable[..., t.Any]:
    def decide(*seen: t.Any) -> t.Any:
        return getattr(importlib.import_module(f"{HERE}.{module}"), name)(*seen)
    return decide


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {name: decision(module, name) for module, names in DECISIONS.items() for name in names}
