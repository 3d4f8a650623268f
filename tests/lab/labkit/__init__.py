# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every part of the lab shares: its folders, its two ways to stop, and running a program."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# State of what runs now; gone after a reboot. Each system has its own root-only folder in it.
STATE = Path(os.environ.get("REVERSIBLE_LAB") or "/run/reversible-lab").absolute()

# Downloads and builds; may be deleted at any time, everything in it is made again when asked for.
CACHE = Path(os.environ.get("REVERSIBLE_CACHE")
             or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reversible-lab").absolute()

HERE = Path(__file__).resolve().parent.parent

# Descriptors of locks that are held. Programs that the lab waits for inherit them: if the lab is killed in the middle of a
# build, the lock stays until pip or apt has ended too, and the next build does not meet it in the same folder.
LOCKS: set[int] = set()


class Fail(Exception):
    """Something that should work did not (exit 1)."""


class Skip(Exception):
    """This machine cannot have that part; the message says why."""

    EXIT = 77


def say(text: str) -> None:
    """Progress goes to stderr: stdout carries only what was asked for."""
    sys.stderr.write(f"lab: {text}\n")   # in one go: two threads say something
    sys.stderr.flush()


def run(argv: list, *, ok: tuple = (0,), timeout: float = 3600, **kwargs) -> subprocess.CompletedProcess:
    """Run a program without a shell and keep its output; any other exit than `ok` is a Fail with its last words."""
    argv = [str(word) for word in argv]
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                              timeout=timeout, pass_fds=LOCKS, **kwargs)
    except FileNotFoundError as error:
        raise Fail(f"{argv[0]}: not found ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise Fail(f"{' '.join(argv)}: no answer within {timeout:g} s") from error
    if done.returncode not in ok:
        words = (done.stderr.strip() or done.stdout.strip())[-1500:]
        raise Fail(f"{' '.join(argv)}: exit {done.returncode}\n{words}")
    return done


def must_be_root(why: str) -> None:
    if os.geteuid() != 0:
        raise Fail(f"must be root to {why}")
