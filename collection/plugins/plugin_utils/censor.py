# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task's options hold that must not be shown, and how it is hidden in what is said of the task on the controller.

The binary hides the same in its result (host::secret, ansible_module::censor): a value that is a secret is hidden whole; inside of a text
only what is long enough is replaced, and never a part of our own words, since that would destroy them and tell what was replaced.
In a dictionary (environment, headers) a value is a secret when its name says so. Passwords in URLs are always hidden.
"""
from __future__ import annotations

import contextlib
import json
import re
import typing as t

from ansible.module_utils.common.validation import check_type_dict

WHOLE = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
PART = "********"
SHORTEST_INSIDE = 6   # characters
LINE = 8              # a line of a secret of several lines (a private key) is a secret of its own from this length

_PARTS = re.compile("password|passwd|passphrase|token|secret|authorization|cookie|credential|apikey|_pwd|_auth")
_WORDS = {"key", "pass", "auth"}
_BETWEEN_WORDS = re.compile("[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")
_WHOLE_URL = re.compile(r"\s*[A-Za-z0-9+.-]+://[^/?#:]*:([^/?#]+)@[^/?#]*(?:[/?#].*)?", re.DOTALL)
_URL_INSIDE = re.compile(r"(://[^\s/?#\"'`<>:]*:)[^\s/?#\"'`<>]+(?=@)")


class Secrets:
    """The secrets of one task.

    own_text gives the program that the task runs: what stands in there is a word of ours.
    """

    def __init__(self, options: dict[str, t.Any], args: dict[str, t.Any], own_text: t.Callable[[], bytes]) -> None:
        found = {form for value in _values(options, args) for form in _forms(value)}
        found |= {form for value in _url_passwords(args) if len(value) >= SHORTEST_INSIDE for form in _forms(value)}
        self._found = sorted(found, key=len, reverse=True)   # a secret may be a part of another one
        self._own_text = own_text

    def hide(self, text: str) -> str:
        if text in self._found:
            return WHOLE
        text = _URL_INSIDE.sub(r"\1" + PART, text)
        for secret in self._found:
            if secret in text and len(secret) >= SHORTEST_INSIDE and secret.encode(errors="replace") not in self._own_text():
                text = text.replace(secret, PART)
        return text


def _values(options: dict[str, t.Any], args: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """The values of no_log options, each looked at as what it will be, also where it is given as text."""
    for option, spec in options.items():
        for value in (args[name] for name in (option, *spec.get("aliases", ())) if args.get(name) is not None):
            if spec.get("no_log"):
                named = _dictionary(value) if spec.get("type") == "dict" else None
                yield from _all(value) if named is None else _named(named)
            elif spec.get("options"):
                given = value.split(",") if isinstance(value, str) and spec.get("type") == "list" else value
                for item in map(_dictionary, _flat(given)):
                    yield from _values(spec["options"], item or {})


def _named(values: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    for name, value in values.items():
        if _PARTS.search(str(name).lower()) or any(word.lower() in _WORDS for word in _BETWEEN_WORDS.split(str(name))):
            yield from _all(value)
            # A server that repeats what it got may leave out that it is a Bearer's.
            credentials = value.partition(" ")[2].strip() if isinstance(value, str) else ""
            if len(credentials) >= SHORTEST_INSIDE:
                yield credentials
        elif isinstance(value, dict):
            yield from _named(value)


def _all(value: t.Any) -> t.Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _all(item)


def _url_passwords(value: t.Any) -> t.Iterator[str]:
    return (match[1] for text in _all(value) if (match := _WHOLE_URL.fullmatch(text)))


def _forms(text: str) -> t.Iterator[str]:
    """As it is, without what stands around it, line by line, and as JSON has it."""
    lines = [line.strip() for line in text.splitlines()] if "\n" in text else []
    for form in (text, text.strip(), *(line for line in lines if len(line) >= LINE)):
        if form:
            yield from (form, json.dumps(form, ensure_ascii=False)[1:-1])


def _dictionary(value: t.Any) -> dict[str, t.Any] | None:
    with contextlib.suppress(TypeError):
        return check_type_dict(value)
    return None


def _flat(value: t.Any) -> t.Iterator[t.Any]:
    """Also lists in lists: that they are wrong must not show what they hold."""
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value
