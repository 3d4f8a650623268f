# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks a task's options on the controller, against the spec in the module's own documentation file.

It only judges: what is sent stays as the task has it, and the binary coerces it again. As there, all that is wrong is said at once,
and an option given as null counts as not given.
"""
from __future__ import annotations

import difflib
import importlib
import json
import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError

from ansible_collections.reversible.deploy.plugins.plugin_utils.censor import Secrets

SPEC_RULES = ("mutually_exclusive", "required_together", "required_one_of", "required_if", "required_by")


# A hundred years: beyond it, points in time cannot be counted.
LONGEST = 100 * 365 * 86_400

# What a value must be beyond its type. The home folder and the variables that a path may begin with are the target's.
FORMS: dict[str, tuple[str, t.Callable[[t.Any], bool]]] = {
    "seconds": ("seconds, 0 or more", lambda value: isinstance(value, (int, float)) and 0 <= value <= LONGEST),
    "count": ("0 or more", lambda value: isinstance(value, int) and value >= 0),
    "positive": ("1 or more", lambda value: isinstance(value, int) and value >= 1),
    "absolute_path": ("an absolute path", lambda value: isinstance(value, str) and value.startswith(("/", "~", "$"))),
}


class Verdict(t.NamedTuple):
    """complaint: a sentence, or None. secrets: what the options hold that is to be kept out of every message."""

    complaint: str | None
    secrets: Secrets


def check(module: str, args: dict[str, t.Any], own_text: t.Callable[[], bytes]) -> Verdict:
    """Judge the options of a module that is given by its full name, such as reversible.deploy.pct_snapshot. own_text: see Secrets."""
    collection, _dot, name = module.rpartition(".")
    documented = importlib.import_module(f"ansible_collections.{collection}.plugins.modules.{name}")
    spec = documented.MODULE_SPEC
    options = spec["argument_spec"]
    given = {name: value for name, value in args.items() if value is not None}
    found = ArgumentSpecValidator(_without_no_log(options), **{rule: spec.get(rule) for rule in SPEC_RULES}).validate(given)
    secrets = Secrets(options, given, own_text)
    complaints = list(_misfits(documented.FORMS, found.validated_parameters, secrets))
    # A misspelt option comes first: it is the likely cause of "missing required arguments".
    for error in sorted(found.errors.errors, key=lambda error: not isinstance(error, UnsupportedError)):
        complaint = secrets.hide(str(error.msg))
        if isinstance(error, UnsupportedError):
            complaint = f"Unsupported parameters for ({module}) module: {complaint}" + _did_you_mean(options, found.unsupported_parameters)
        complaints.append(complaint)
    return Verdict("; ".join(complaints) or None, secrets)


def _misfits(forms: dict[str, str], values: dict[str, t.Any], secrets: Secrets) -> t.Iterator[str]:
    """A sentence for each value that has its type and not its form. forms: as in the spec, a sub-option as "list.option"."""
    for path, form in forms.items():
        expected, fits = FORMS[form]
        levels: list[t.Any] = [values]
        *above, name = path.split(".")
        for parent in above:
            below = [level.get(parent) for level in levels if isinstance(level, dict)]
            levels = [item for value in below for item in (value if isinstance(value, list) else [value])]
        found = [level.get(name) for level in levels if isinstance(level, dict)]
        for value in (item for value in found for item in (value if isinstance(value, list) else [value])):
            if value is not None and not fits(value):
                where = f" found in {' -> '.join(above)}" if above else ""
                yield secrets.hide(f"argument '{name}': expected {expected}, got {json.dumps(value)}") + where


def _without_no_log(options: dict[str, t.Any]) -> dict[str, t.Any]:
    """From 2.22 on core masks each value of a no_log option, however short, in all that it prints: "environment: {COLOR: a}" would leave no "a"
    of anything. What is secret is hidden by Secrets instead."""
    kept = {name: {key: value for key, value in spec.items() if key != "no_log"} for name, spec in options.items()}
    return {name: spec | {"options": _without_no_log(spec["options"])} if spec.get("options") else spec for name, spec in kept.items()}


def _did_you_mean(options: dict[str, t.Any], unsupported: t.Iterable[str | tuple[str, ...]]) -> str:
    guesses = []
    for path in sorted((item,) if isinstance(item, str) else item for item in unsupported):
        level = options
        for parent in path[:-1]:
            level = level.get(parent, {}).get("options") or {}
        known = [name for option, spec in level.items() for name in (option, *spec.get("aliases", ()))]
        guesses += difflib.get_close_matches(path[-1], known, n=1)
    return f" Did you mean {', '.join(guesses)}?" if guesses else ""
