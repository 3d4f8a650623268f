#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command on a machine that is made slow: `tests/stress.py COMMAND...`

Busy processes take the processor, and each fsync takes a tenth of a second. No test may fail by that: what does has waited by luck, and real
faults have been found so. `make test-long` does it for an hour; tests/support/zfs.py lets the clock of its machine step meanwhile.
"""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LAB = Path(__file__).resolve().parent / "lab/lab"
BUSY = 8
SLOW_DISK = ["-f", "-qq", "-o", os.devnull, "--seccomp-bpf", "-e", "trace=fsync,fdatasync",
             "-e", "inject=fsync,fdatasync:delay_exit=100000"]   # microseconds


def main() -> int:
    command = sys.argv[1:]
    if not command:
        sys.exit("usage: tests/stress.py COMMAND...")
    strace = subprocess.run([LAB, "get", "strace"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        return subprocess.run([strace, *SLOW_DISK, *command], check=False).returncode
    finally:
        for process in busy:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
