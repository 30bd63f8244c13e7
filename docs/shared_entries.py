"""Lets parameters that go together share an entry of a docstring, `split, join: which ...`."""

import re
from typing import Any

import griffe

SHARED = re.compile(r"^( +)((?:\w+, )+)(\w+): ", re.MULTILINE)


class SharedEntries(griffe.Extension):
    """Gives each of the names an entry: all but the last refer to the last, which has the words."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = SHARED.sub(_apart, obj.docstring.value)


def _apart(entry: re.Match[str]) -> str:
    indent, others, last = entry.groups()
    names = others.removesuffix(", ").split(", ")
    referring = [f"{indent}{name}: see `{last}`." for name in names]
    return "\n".join([*referring, f"{indent}{last}: "])
