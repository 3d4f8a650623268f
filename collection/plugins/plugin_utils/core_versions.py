# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that differs between ansible-core 2.16 and 2.22, so that nothing else has to know a version."""
from __future__ import annotations

import inspect
import json
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.unsafe_proxy import wrap_var

try:
    from ansible.vars.clean import remove_internal_keys
except ImportError:  # 2.21: a result is an object, and does that itself
    remove_internal_keys = None

# From 2.19 on core tags its data, and has a JSON profile for what goes to modules and comes from them.
TAGS_DATA = "profile" in inspect.signature(ActionBase._parse_returned_data).parameters

if TAGS_DATA:
    from ansible.module_utils.common.json import Direction, get_module_encoder

    _ENCODING: dict[str, t.Any] = {"cls": get_module_encoder("legacy", Direction.CONTROLLER_TO_MODULE)}
else:
    from ansible.parsing.ajson import AnsibleJSONEncoder

    # Plain json.dumps knows neither dates nor vaulted values.
    _ENCODING = {"cls": AnsibleJSONEncoder, "vault_to_text": True}


def encode(args: dict[str, t.Any]) -> bytes:
    """The arguments of a module as the JSON that core would send."""
    return json.dumps(args, **_ENCODING).encode()


def plain(args: dict[str, t.Any]) -> dict[str, t.Any]:
    """The arguments as the module will see them: JSON types only, vaulted values in clear, nothing tagged or marked unsafe."""
    return json.loads(encode(args))


def result_of(action: ActionBase, res: dict[str, t.Any]) -> dict[str, t.Any]:
    """Turn what a module printed into a task result, as the end of ActionBase._execute_module does."""
    if not TAGS_DATA:
        return wrap_var(_without_internals(action._parse_returned_data(res)))
    data = action._parse_returned_data(res, "legacy")
    if remove_internal_keys:
        return _without_internals(data)
    data.remove_internal_keys()
    return data.as_result_dict(for_round_trip=True)


def _without_internals(data: dict[str, t.Any]) -> dict[str, t.Any]:
    remove_internal_keys(data)
    if "results" in data and not isinstance(data["results"], list):  # that key belongs to loops
        data["ansible_module_results"] = data.pop("results")
    for stream in ("stdout", "stderr"):
        if stream in data:
            data.setdefault(f"{stream}_lines", (data[stream] or "").splitlines())
    return data


def becomes_with_stdin(become: t.Any) -> bool:
    """Whether a command under this become method can be given data on stdin (2.19 and later know it)."""
    return getattr(become, "pipelining", become.name.rsplit(".", 1)[-1] != "su" and not become.require_tty)
