"""Chat templates: Jinja programs that come with a model, run in a sandbox as transformers does.

`transformers/utils/chat_template_utils.py` sets the environment that templates are written for:
blocks leave no white space behind, loops may be broken off, and a template can raise an error, ask
for the date, and mark what the assistant says with `{% generation %}`.
"""

import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from models.errors import ModelError

THINKING_SWITCH = "enable_thinking"  # as Qwen3's templates name it


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}` marks text for training; it renders as its body."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The statements between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def raise_exception(message: str) -> None:
    """How a template refuses messages that it has no form for."""
    raise jinja2.TemplateError(message)


def strftime_now(date_format: str) -> str:
    """Today's date or time in a template's own format."""
    return datetime.datetime.now().strftime(date_format)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter would escape it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@functools.lru_cache(maxsize=8)
def compiled(template: str) -> jinja2.Template:
    """A template's program; raises jinja2.TemplateError where it is none."""
    # A template comes with the weights, from anywhere: through an attribute of a Python object it
    # could reach whatever this process can.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment.from_string(template)


def render(
    template: str,
    prompt: str,
    special_tokens: Mapping[str, str],
    thinking: bool | None = None,
) -> str:
    """The text that a model continues to answer one user message.

    `"{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"` gives
    `<s><user>Hello` for the message `Hello`.

    Args:
        template: The model's Jinja template.
        prompt: What the user says.
        special_tokens: Texts that templates know by name: `bos_token`, `eos_token`, ….
        thinking: Switches Qwen3's thinking on or off; None leaves it to the template.

    Raises:
        ModelError: The template is none, refuses the message, or does what the sandbox forbids; or
            it has no switch for thinking.
    """
    if thinking is not None and THINKING_SWITCH not in template:
        raise ModelError(
            f"chat template: has no {THINKING_SWITCH}, so thinking cannot be switched; "
            "leave the switch out"
        )
    # Left out, not None: templates ask whether the switch is defined.
    switch = {} if thinking is None else {THINKING_SWITCH: thinking}
    try:
        return compiled(template).render(
            messages=[{"role": "user", "content": prompt}],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **special_tokens,
            **switch,
        )
    except Exception as error:  # a template is a program: it can fail in any way
        line = getattr(error, "lineno", None)
        place = "" if line is None else f" line {line}"
        raise ModelError(
            f"chat template{place}: cannot be rendered ({type(error).__name__}: {error}); "
            "correct the template, or encode the prompt without it"
        ) from None
