"""Chat templates: rendered as Jinja renders them, in a sandbox, and refused in one line."""

import pytest

from models.errors import ModelError
from models.loading.chat_template import render

TURNS = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '</>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
QWEN3 = TURNS + (
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think></think>' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (TURNS, "<user>Hi</><assistant>"),
        ("{{ bos_token }}" + TURNS, "<s><user>Hi</><assistant>"),
        # A system message in a variable, with an apostrophe: no pattern finds it.
        (
            "{% set s = \"Don't guess.\" %}{{ '<system>' + s }}" + TURNS,
            "<system>Don't guess.<user>Hi</><assistant>",
        ),
        # A block's own line leaves nothing behind.
        ("a\n    {% if true %}\nb\n    {% endif %}\nc", "a\nb\nc"),
        (
            "{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}",
            "1",
        ),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hi!"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "Hi"}]'),
        ("{{ '<é>' | tojson }}", '"<é>"'),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ tools is none and documents is none }}", "True"),
        ("{{ pad_token }}|", "|"),  # a token that the model has not
    ],
)
def test_templates_are_run(template: str, text: str) -> None:
    assert render(template, "Hi", {"bos_token": "<s>"}) == text


def test_thinking_is_switched_where_the_template_has_a_switch() -> None:
    assert render(QWEN3, "Hi", {}) == "<user>Hi</><assistant>"
    assert render(QWEN3, "Hi", {}, thinking=True) == "<user>Hi</><assistant>"
    silent = "<user>Hi</><assistant><think></think>"
    assert render(QWEN3, "Hi", {}, thinking=False) == silent
    with pytest.raises(ModelError, match="has no enable_thinking"):
        render(TURNS, "Hi", {}, thinking=False)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "line 1: cannot be rendered .TemplateSyntaxError"),
        ("{{ raise_exception('no\nsystem') }}", "TemplateError: no system"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nobody.name }}", "UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% include 'other' %}", "cannot be rendered"),
    ],
)
def test_templates_that_fail_are_refused(template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        render(template, "Hi", {})
    assert str(raised.value).isprintable()
