# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role notify against real HTTP servers: what is sent, that nothing fails, and that no secret gets out."""
from __future__ import annotations

import json
import socket
import typing as t
from pathlib import Path

import pytest
import yaml
from harness import EDGES, LOCAL, ROOT, Ansible, Run
from webhook import SECRET_PATH, Hook

TOKEN = "t0ken-that-nobody-reads"


@pytest.fixture
def hook() -> t.Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture(params=EDGES)
def ansible(request: pytest.FixtureRequest, tmp_path: Path) -> Ansible:
    return Ansible(request.param, tmp_path, dict(LOCAL))


def notify(ansible: Ansible, *options: str, **inputs: t.Any) -> Run:
    given = {"event": "start", "app": "shop", "env": "prod", "tries": 1, "timeout": 60} | inputs
    inputs = {f"notify_{key}": value for key, value in given.items()}
    role = {"ansible.builtin.include_role": {"name": "reversible.deploy.notify"}, "vars": inputs}
    after = {"name": "afterwards", "ansible.builtin.debug": {"var": "notify_failure"}}
    run = ansible.play([role, after], "local", *options)
    assert run.code == 0, f"a notification has failed the play:\n{run.output}"
    assert SECRET_PATH not in run.output and TOKEN not in run.output, run.output
    assert not [task for task in run.tasks if SECRET_PATH in str(task.result) or TOKEN in str(task.result)]
    return run


def failure(run: Run) -> str:
    return run.named("afterwards")["notify_failure"]


def test_start_and_end_are_told(ansible: Ansible, hook: Hook) -> None:
    common = {"url": hook.url, "deploy_id": "20261121t084500z-7f3a", "kind": "rollback", "by": "run 7"}
    assert failure(notify(ansible, "-vvv", reason="p99 < 2 s & <!channel>", expected="5 minutes", token=TOKEN, **common)) == ""
    assert failure(notify(ansible, event="end", outcome="failed_not_reverted", link="https://forge.example/r.html", **common)) == ""
    start, end = (body["text"] for body in hook.bodies)
    assert start == ("Rollback of shop in prod begins. Reason: p99 &lt; 2 s &amp; &lt;!channel&gt;. Expected time: 5 minutes. By run 7. "
                     "Deploy id 20261121t084500z-7f3a")
    assert end.startswith("Rollback of shop in prod ended: failed not reverted. ") and end.endswith("https://forge.example/r.html")
    path, headers, _body = hook.got[0]
    assert path.endswith(SECRET_PATH) and headers["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in hook.got[1][1]


def test_text_of_others_is_data(ansible: Ansible, hook: Hook) -> None:
    reason = 'say "yes"\n{"x": 1} \\ {% raw %}{{ 7 * 7 }}{% endraw %} \u2603'
    notify(ansible, url=hook.url, reason=reason)
    assert 'Reason: say "yes"\n{"x": 1} \\ {{ 7 * 7 }} \u2603' in hook.bodies[0]["text"]


def readme_examples() -> dict[str, dict[str, t.Any]]:
    """The bodies of the README, by their service."""
    text = (ROOT / "roles/notify/README.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    found = [yaml.safe_load(block) for block in blocks]
    examples = {example["notify_url"].split("/")[2]: example for example in found if isinstance(example, dict)}
    assert sorted(examples) == ["events.pagerduty.com", "ntfy.example"]
    return examples


@pytest.mark.parametrize("service, outcome, want", [
    ("ntfy.example", "failed_reverted", {"topic": "deploys", "priority": 5, "tags": ["rotating_light"]}),
    ("ntfy.example", "done", {"topic": "deploys", "priority": 3, "tags": ["package"]}),
    ("events.pagerduty.com", "failed_reverted", {"event_action": "trigger", "routing_key": TOKEN, "dedup_key": "shop-prod"}),
    ("events.pagerduty.com", "done", {"event_action": "resolve", "routing_key": TOKEN, "dedup_key": "shop-prod"}),
])
def test_the_templates_of_the_readme(ansible: Ansible, hook: Hook, service: str, outcome: str, want: dict[str, t.Any]) -> None:
    example = readme_examples()[service] | {"notify_url": hook.url}
    inputs = {key.removeprefix("notify_"): value for key, value in example.items()}
    vault = json.dumps({"vault_ntfy_token": TOKEN, "vault_pagerduty_key": TOKEN})
    run = notify(ansible, "-e", vault, event="end", outcome=outcome, **inputs)
    assert failure(run) == ""
    [body] = hook.bodies
    assert {key: body[key] for key in want} == want
    assert "shop in prod ended" in str(body)


def test_each_shape_says_each_event(ansible: Ansible, hook: Hook) -> None:
    reason = 'say "yes" & \u2603'
    for shape in ("slack", "pagerduty", "json"):
        for event, outcome in (("start", ""), ("rollback", ""), ("end", "done"), ("closed", "")):
            run = notify(ansible, url=hook.url, shape=shape, event=event, outcome=outcome, reason=reason, routing_key=TOKEN)
            assert failure(run) == "", run.output
    slack, pagerduty, plain = hook.bodies[:4], hook.bodies[4:-4], hook.bodies[-4:]
    titles = ["begins", "failed, and its rollback begins", "ended: done", ": a fast rollback is no longer possible"]
    assert all(title in body["text"] and list(body) == ["text"] for title, body in zip(titles, slack)), slack
    assert [(body["event_action"], body["dedup_key"], body["payload"]["severity"]) for body in pagerduty] == [
        ("trigger", "shop-prod", "error"), ("resolve", "shop-prod", "error")], pagerduty
    assert pagerduty[0]["routing_key"] == TOKEN and reason in pagerduty[0]["payload"]["summary"], pagerduty
    assert [(body["event"], body["failed"], body["reason"]) for body in plain] == [
        ("start", False, reason), ("rollback", True, reason), ("end", False, reason), ("closed", False, reason)], plain


def test_a_server_that_does_not_want_it(ansible: Ansible, hook: Hook) -> None:
    for status in (500, 403, 302):
        hook.answers = [status]
        run = notify(ansible, "-vvv", url=hook.url, token=TOKEN)
        assert str(status) in failure(run), run.output
        assert "This message was not sent: Deploy of shop in prod begins" in run.named("Warn that the message was not sent").msg
    assert len(hook.got) == 3, "a redirect is not followed: the token would go elsewhere"


def test_it_tries_again(ansible: Ansible, hook: Hook) -> None:
    hook.answers = [503]
    assert failure(notify(ansible, url=hook.url, tries=2)) == ""
    assert len(hook.got) == 2
    hook.answers = [503, 503]
    assert "503" in failure(notify(ansible, "-vvv", url=hook.url, token=TOKEN, tries=2))
    assert len(hook.got) == 4


def test_nobody_there_or_nobody_answers(ansible: Ansible) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET_PATH}"
        assert "refused" in failure(notify(ansible, "-vvv", url=closed, token=TOKEN))
        listener.listen()  # and never accepts
        assert "timed out" in failure(notify(ansible, "-vvv", url=closed, token=TOKEN, timeout=2))
    assert failure(notify(ansible, "-vvv", url=f"http://name.invalid/{SECRET_PATH}", token=TOKEN))
    assert failure(notify(ansible, "-vvv", url=f"no address {SECRET_PATH}", token=TOKEN))


def test_a_template_that_cannot_be_filled_in_is_a_wrong_input(ansible: Ansible, hook: Hook) -> None:
    tasks = [{"ansible.builtin.include_role": {"name": "reversible.deploy.notify"},
              "vars": {"notify_event": "start", "notify_app": "shop", "notify_env": "prod", "notify_url": hook.url, "notify_token": TOKEN,
                       "notify_body": {"text": "{{ nobody_knows_this }}"}}}]
    run = ansible.play(tasks, "local", "-vvv")
    assert run.code == 2 and "nobody_knows_this" in run.output and hook.got == []
    assert SECRET_PATH not in run.output and TOKEN not in run.output, run.output


def test_nothing_is_sent_in_check_mode_or_to_nowhere(ansible: Ansible, hook: Hook) -> None:
    notify(ansible, "--check", url=hook.url)
    run = notify(ansible)
    assert "notify_url is empty" in run.named("Warn that the message was not sent").msg
    assert hook.got == []


def test_a_mistyped_event_is_refused(ansible: Ansible, hook: Hook) -> None:
    tasks = [{"ansible.builtin.include_role": {"name": "reversible.deploy.notify"},
              "vars": {"notify_event": "begin", "notify_app": "shop", "notify_env": "prod", "notify_url": hook.url, "notify_token": TOKEN}}]
    run = ansible.play(tasks, "local", "-vvv")
    assert run.code == 2 and "start, rollback, end, closed" in run.output
    assert SECRET_PATH not in run.output and TOKEN not in run.output, run.output
