"""The one exception that the model layer raises on purpose."""


class ModelError(ValueError):
    """A model, a weight file or a tokenizer is not what was expected.

    The message is one line: what was expected, what arrived, and what to do about it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
