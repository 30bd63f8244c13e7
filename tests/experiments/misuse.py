"""A wrong command line of an experiment, which is to be refused in one line."""

from collections.abc import Callable

import pytest


def refused(
    call: Callable[..., None],
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The experiment's `call` ends with status 2 and one line that begins with `message`."""
    with pytest.raises(SystemExit) as ended:
        call(*args)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}") and told.count("\n") == 1
