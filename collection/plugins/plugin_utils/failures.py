# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reason of a failure in one line, for the end of a run, its notification and its report. Pure: no I/O, no Ansible."""
from __future__ import annotations

import re
import typing as t

LONGEST = 300   # characters of a program's last line


def failure_reason(result: t.Any) -> str:
    """The reason of a failed task, from `ansible_failed_result`. Of a loop the messages of its items, each once: the loop itself only says that some failed."""
    result = result if isinstance(result, t.Mapping) else {}
    failed = [one for one in result.get("results") or [] if isinstance(one, t.Mapping) and (one.get("failed") or one.get("unreachable"))]
    said = [text if isinstance(text := one.get("msg"), str) else " ".join(map(str, text)) for one in failed or [result] if one.get("msg")]
    return "; ".join(dict.fromkeys(text.strip() for text in said if text.strip())) or "it failed"


def hook_failure(result: t.Mapping[str, t.Any], hook: str, program: str) -> str:
    """Of a hook: which program, how it ended, and the last line that it printed. Its other arguments may be secrets."""
    said = str(result.get("msg") or "").strip()
    if result.get("rc") is None or result.get("reason", "command_failed") != "command_failed":   # it was not there, or was ended
        return f"the hook {hook}: {program} did not end: {said or 'no message'}"
    last = _last_line(result.get("stderr")) or _last_line(result.get("stdout"))
    return f"the hook {hook}: {program} ended with {result['rc']}{': ' + last if last else ', and printed nothing'}"


def _last_line(text: t.Any) -> str:
    lines = [re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", line).strip() for line in str(text or "").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return last if len(last) <= LONGEST else "..." + last[-LONGEST:]
