# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our coercion against AnsibleModule's own, value by value: the same result, or both refuse."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.release import __version__ as ansible_version

VERSION = tuple(int(part) for part in ansible_version.split(".")[:2])
# The words of the type table are those of 2.19 and later; before, "1.0" is no whole number and null is "None".
pytestmark = pytest.mark.skipif(VERSION < (2, 19), reason="compared with the coercion of ansible-core 2.19 and later")

SCALARS = [
    "", " ", "x", "a,b", "a, b", "yes", "No", " on ", "OFF", "y", "T", "true", "False", "maybe", "0", "1", "2", "-7", " 42 ", "1.0", "1.5",
    "1e3", "1_000", "1__0", "_1", "+5", "0x10", "010", ".5", "5.", "10G", "10 GB", "10gb", "10Gb", "1.5K", "1b", "1B", "1bits", "2 megabyte", "-1K",
    "{}", "{'a': 1}", '{"a": [1, null]}', "{'a': None, 'b': (1, 2.5, True)}", "{broken", "a=1", "a=1 b=2", "a='x y', b=\"z\"", "a=1, b",
    "a=b=c", r"a=x\ y", "[1]", "~", "~/x", "~root/y", "$HOME/z", "${HOME}", "$NOT_SET_AT_ALL", "é", "\n", "it's", "quo\"te",
    True, False, 0, 1, 2, -7, 420, 1.0, 1.5, 0.0, 1e16, 1e-5, 123456789012,
    [], ["a"], ["a", 1, None], [["x"]], {}, {"a": 1}, {"a": {"b": "it's"}},
]
TYPES = {"text": "str", "flag": "bool", "number": "int", "fraction": "float", "where": "path", "size": "bytes", "map": "dict", "items": "list"}


def specimen(binary, options):
    """The echoed options, or None when they were refused."""
    arguments = dict(options, _ansible_module_name="reversible.deploy.specimen")
    done = subprocess.run([str(binary), "-"], input=json.dumps(arguments), capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    if result.get("failed"):
        assert result["reason"] == "bad_options", result
        return None
    return result["echo"]


def ansible(kind, value):
    spec = {"option": {"type": kind}}
    if kind == "list":
        spec["option"]["elements"] = "str"
    validated = ArgumentSpecValidator(spec).validate({"option": value})
    # as JSON, since that is what a module gets and gives: a tuple becomes a list
    return None if validated.error_messages else json.loads(json.dumps(validated.validated_parameters["option"]))


def same(ours, theirs):
    if isinstance(theirs, float) and isinstance(ours, (int, float)):
        return math.isclose(ours, theirs)
    return ours == theirs


@pytest.mark.parametrize("option", TYPES)
def test_every_value_as_every_type(specimen_binary, option):
    for value in SCALARS:
        extra = {"flag": True} if option == "fraction" else {}
        ours = specimen(specimen_binary, {option: value, **extra})
        theirs = ansible(TYPES[option], value)
        if theirs is None:
            assert ours is None, (option, value, ours)
        else:
            assert ours is not None and same(ours[option], theirs), (option, value, ours and ours[option], theirs)


def test_random_strings(specimen_binary):
    """A short fixed run; the seed is printed so that a longer one can be repeated."""
    seed = int(os.environ.get("REVERSIBLE_SEED", "20261121"))
    rounds = int(os.environ.get("REVERSIBLE_FUZZ_ROUNDS", "150"))
    print("seed", seed)
    rng = random.Random(seed)
    alphabet = "ab1 0.,=\\'\"{}[]:~$/eE+-_GKnNtTrRuUeEéß\t"
    for _unused in range(rounds):
        value = "".join(rng.choice(alphabet) for _i in range(rng.randrange(0, 14)))
        for option in ("flag", "number", "size", "items", "text"):
            ours = specimen(specimen_binary, {option: value})
            theirs = ansible(TYPES[option], value)
            if theirs is None:
                assert ours is None, (seed, option, value, ours)
            else:
                assert ours is not None and same(ours[option], theirs), (seed, option, value, ours and ours[option], theirs)
