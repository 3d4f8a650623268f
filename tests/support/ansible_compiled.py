# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps what ansible-core compiles, for the runs of a server (ansible_server.py): templates, plugins of collections, and the archives of its own
modules. Each task is a process of its own that compiles its templates, those of all variables that they need, and the plugins, and forgets them.
That is more than half of what a task takes of the processor on the controller.

Invariant: what is kept is what would be compiled. It depends on the text and on the settings of Jinja, which are in the name of its file, and on
the plugins and the configuration, for which the server has a folder of its own. What a filter or a test has computed while a template was
compiled, as of a constant, is no code, and may be another the next time: such a template is not kept.
"""
from __future__ import annotations

import ast
import copy
import glob
import hashlib
import marshal
import os
import pickle
import sys
import types
import typing as t
from pathlib import Path

# Of an environment, what its compiler looks at; the rest is one for all of a class.
SETTINGS = ("block_start_string", "block_end_string", "variable_start_string", "variable_end_string", "comment_start_string", "comment_end_string",
            "line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline",
            "autoescape", "optimized", "sandboxed", "is_async")
ARCHIVES = "archives"       # in the folder of the server
CACHE = "ansiballz_cache"   # in the temporary folder of a run


def keep(folder: str) -> None:
    """From now on, in this process and its children."""
    store = Store(folder)
    keep_templates(store)
    keep_plugins(store)
    keep_found_plugins()
    try:
        from ansible.template.native_helpers import Json2Python
    except ImportError:   # since 2.19 neither is done
        return
    keep_values(Json2Python)
    keep_documents(store)


class Store:
    """Compiled code, and what was parsed, by its key, in files and in memory."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._loaded: dict[str, t.Any] = {}
        with os.scandir(folder) as entries:
            for name in [entry.name for entry in entries if len(entry.name) == KEY]:
                self.get(name)

    def get(self, key: str) -> t.Any:
        if key not in self._loaded:
            try:
                with open(os.path.join(self._folder, key), "rb") as file:
                    self._loaded[key] = marshal.load(file)
            except FileNotFoundError:
                return None
        return self._loaded[key]

    def put(self, key: str, value: t.Any) -> None:
        self._loaded[key] = value
        write(os.path.join(self._folder, key), lambda file: marshal.dump(value, file))


def key_of(*parts: t.Any) -> str:
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()


KEY = len(key_of())


def keep_templates(store: Store) -> None:
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
        key = key_of(*parts)
        code = store.get(key)
        if code is None:
            before, computed = computed, False
            code = compile_template(self, source, name, filename)
            if not computed:
                store.put(key, code)
            computed = computed or before
        return code

    nodes._FilterTestCommon.as_const = says_so
    environment.Environment.compile = kept


def keep_plugins(store: Store) -> None:
    """Python keeps no bytecode of what ansible-core imports of collections."""
    from ansible.utils.collection_loader import _collection_finder as finder

    def kept(source: str | bytes, filename: str, **how: t.Any) -> types.CodeType:
        key = key_of(sys.version, source, filename, sorted(how.items()))
        code = store.get(key)
        if code is None:
            code = compile(source, filename, **how)
            store.put(key, code)
        return code

    finder.compile = kept   # which it finds before the builtin one


def keep_found_plugins() -> None:
    """To find a filter or a test of a collection, ansible-core looks through all its files, for each template again. What the process of a run has
    found, those of its tasks need not look for."""
    from ansible.plugins import loader
    from ansible.utils.collection_loader import _collection_finder as finder

    listed = finder._iter_modules_impl
    lists: dict[tuple, list] = {}
    globs: dict[str, list[str]] = {}

    def list_once(paths: t.Iterable[str], prefix: str = "") -> t.Iterator:
        key = *paths, prefix
        if key not in lists:
            lists[key] = list(listed(paths, prefix))
        return iter(lists[key])

    class Globber:
        glob = glob.glob

        @staticmethod
        def iglob(pattern: str) -> t.Iterator[str]:
            if "/ansible_collections/" not in pattern:
                return glob.iglob(pattern)
            if pattern not in globs:
                globs[pattern] = glob.glob(pattern)
            return iter(globs[pattern])

    finder._iter_modules_impl, loader.glob = list_once, Globber
    load_file = loader.PluginLoader.get_with_context
    files: dict[tuple, t.Any] = {}

    def load_once(self: t.Any, name: str, *args: t.Any, **named: t.Any) -> t.Any:
        """Files of filters and of tests: only their own loaders ask for them."""
        if args or named or not isinstance(self, loader.Jinja2Loader):
            return load_file(self, name, *args, **named)
        key = self.type, name
        if key not in files:
            found = load_file(self, name)
            if not found.object:
                return found
            files[key] = found
        return files[key]

    loader.PluginLoader.get_with_context = load_once
    for one in (loader.filter_loader, loader.test_loader):
        one.get = Found(one.get)


class Found:
    """Finds plugins by their names, each once. Those that ansible-core has itself it finds at once."""

    def __init__(self, find: t.Callable[..., t.Any]) -> None:
        self._find = find
        self._found: dict[str, t.Any] = {}

    def __call__(self, name: str, *args: t.Any, **named: t.Any) -> t.Any:
        if args or named or name.count(".") < 2:
            return self._find(name, *args, **named)
        if name not in self._found:
            plugin = self._find(name)
            if not plugin:
                return plugin
            self._found[name] = plugin
        return self._found[name]


def keep_values(to_python: type[ast.NodeTransformer]) -> None:
    """Before 2.19 each value that is no text is printed and parsed again, at each use."""
    from ansible.template import native_helpers

    values: dict[str, bytes] = {}

    class Text(ast.AST):
        """Stands for the tree of a text."""

    def parse(text: str, mode: str) -> Text:
        tree = Text()
        tree.text = text
        return tree

    def literal_eval(tree: Text) -> t.Any:
        if tree.text not in values:
            parsed = ast.parse(tree.text, mode="eval")
            is_json = any(word in tree.text for word in ("true", "false", "null"))
            values[tree.text] = pickle.dumps(ast.literal_eval(to_python().visit(parsed) if is_json else parsed))
        return pickle.loads(values[tree.text])

    native_helpers.ast = types.SimpleNamespace(**{**vars(ast), "parse": parse, "literal_eval": literal_eval})


def keep_documents(store: Store) -> None:
    """What the YAML of collections holds, and of all files the copies that each reader gets."""
    from ansible.parsing import dataloader

    load = dataloader.DataLoader.load

    def load_once(self: t.Any, data: str, file_name: str = "<string>", *args: t.Any, **named: t.Any) -> t.Any:
        if "/ansible_collections/" not in file_name or "!vault" in data or "!unsafe" in data or data.startswith("$ANSIBLE_VAULT"):
            return load(self, data, file_name, *args, **named)
        key = key_of(sys.version, str(data), str(file_name), args, sorted(named.items()))
        pickled = store.get(key)
        if pickled is None:
            pickled = pickle.dumps(load(self, data, file_name, *args, **named))
            store.put(key, pickled)
        return pickle.loads(pickled)

    class Copier:
        @staticmethod
        def deepcopy(value: t.Any) -> t.Any:
            try:
                return pickle.loads(pickle.dumps(value))
            except Exception:
                return copy.deepcopy(value)

    dataloader.DataLoader.load, dataloader.copy = load_once, Copier


def take_archives(folder: str, local: str) -> None:
    """Give a run the archives of modules that earlier ones have made."""
    cache = Path(local, CACHE)
    cache.mkdir(exist_ok=True)
    for archive in Path(folder, ARCHIVES).glob("*"):
        (cache / archive.name).symlink_to(archive)


def keep_archives(folder: str, local: str) -> None:
    """Those of ansible-core's own modules: others may have the same name and be another."""
    kept = Path(folder, ARCHIVES)
    for made in Path(local, CACHE).glob("ansible.modules.*"):
        if not made.name.endswith((".lock", "-part")) and not (kept / made.name).exists():
            try:
                kept.mkdir(exist_ok=True)
            except OSError:
                return
            content = made.read_bytes()
            write(str(kept / made.name), lambda file, content=content: file.write(content))


def write(path: str, into: t.Callable[[t.IO[bytes]], t.Any]) -> None:
    """Whole or not at all: others read meanwhile. A run as another user can keep nothing here."""
    partial = f"{path}.{os.getpid()}"
    try:
        with open(partial, "xb") as file:
            into(file)
        os.replace(partial, path)
    except OSError:
        pass
