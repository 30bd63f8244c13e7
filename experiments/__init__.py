"""Experiments: one question and one table each."""

import sys

# `python -m experiments.NAME` imports this package while it looks for its module, and then much
# that takes seconds: a signal must be heeded, and a wrong package known, before that.
if sys.argv[:1] == ["-m"]:
    from experiments.shared import interruption, shadowing

    interruption.begin()
    shadowing.check()
