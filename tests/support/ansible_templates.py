# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps templates compiled, for the runs of a server (ansible_server.py): each task is a process of its own that compiles its templates, and
those of all variables that they need, and forgets them. That is half of what a task takes of the processor on the controller.

Invariant: what is kept is what would be compiled. It depends on the text and on the settings of Jinja, which are in the name of its file, and on
the plugins and the configuration, for which the server has a folder of its own. What a filter or a test has computed while a template was
compiled, as of a constant, is no code, and may be another the next time: such a template is not kept.
"""
from __future__ import annotations

import hashlib
import marshal
import os
import sys
import types
import typing as t

# Of an environment, what its compiler looks at; the rest is one for all of a class.
SETTINGS = ("block_start_string", "block_end_string", "variable_start_string", "variable_end_string", "comment_start_string", "comment_end_string",
            "line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline",
            "autoescape", "optimized", "sandboxed", "is_async")


def keep(folder: str) -> None:
    """From now on, in this process and its children."""
    from jinja2 import environment, nodes

    compile_template, as_const = environment.Environment.compile, nodes._FilterTestCommon.as_const
    computed = False

    def says_so(self: nodes._FilterTestCommon, eval_ctx: t.Any = None) -> t.Any:
        nonlocal computed
        value = as_const(self, eval_ctx)
        computed = True
        return value

    def kept(self: environment.Environment, source: t.Any, name: t.Any = None, filename: t.Any = None, *more: t.Any, **others: t.Any) -> t.Any:
        nonlocal computed
        settings = [getattr(self, setting) for setting in SETTINGS]
        plain = (str, int, bool, type(None))
        # Newer versions of ansible-core double backslashes while they compile, and only where they were asked to.
        if more or others or not isinstance(source, str) or "\\" in source or not all(isinstance(value, plain) for value in settings):
            return compile_template(self, source, name, filename, *more, **others)
        kind, finalize = type(self), getattr(self.finalize, "__qualname__", repr(self.finalize))
        parts = [sys.version, kind.__module__, kind.__qualname__, finalize, sorted(self.extensions), settings, name, filename, str(source)]
        path = os.path.join(folder, hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest())
        code = read(path)
        if code is None:
            before, computed = computed, False
            code = compile_template(self, source, name, filename)
            if not computed:
                write(path, code)
            computed = computed or before
        return code

    nodes._FilterTestCommon.as_const = says_so
    environment.Environment.compile = kept


def read(path: str) -> types.CodeType | None:
    try:
        with open(path, "rb") as file:
            return marshal.load(file)
    except FileNotFoundError:
        return None


def write(path: str, code: types.CodeType) -> None:
    """Whole or not at all: others read meanwhile. A run as another user can keep nothing here."""
    partial = f"{path}.{os.getpid()}"
    try:
        with open(partial, "xb") as file:
            marshal.dump(code, file)
        os.replace(partial, path)
    except OSError:
        pass
