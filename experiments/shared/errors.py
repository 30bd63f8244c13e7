"""How an experiment ends early: on bad input, or on Ctrl-C."""


class UsageError(Exception):
    """Bad input: what arrived, what is allowed, and the remedy, in one line."""


class Interrupted(Exception):
    """Ctrl-C, with what was done so far."""
