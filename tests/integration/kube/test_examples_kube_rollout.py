# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of kube_rollout and kube_rollout_info, on a real API server."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from examples import Scene, modules_of, run_examples
from kube import namespace


@pytest.mark.parametrize("module", modules_of("kube"))
def test_the_examples_run(one_core: str, tmp_path: Path, module: str) -> None:
    with namespace() as place:
        place.create(place.workload())
        place.settled("deployments", "shop:1")
        here = {"context": '"context": "prod"', "namespace": '"namespace": "shop"'}
        options = {**place.options, "kubectl": place.program}
        edits = {here["context"]: json.dumps({key: options[key] for key in ("context", "kubeconfig", "kubectl")})[1:-1],
                 here["namespace"]: f'"namespace": "{place.name}"', '"delegate_to": "localhost"': '"run_once": false'}
        run_examples(module, Scene(host="local", system="", edits=edits), one_core, tmp_path)
