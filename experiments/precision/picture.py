"""Errors of plans of precision, and their times by the length of the prompt, drawn."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from experiments.precision.times import Time  # noqa: E402
from experiments.precision.values import Errors  # noqa: E402


def draw(
    errors: Sequence[Errors], times: Sequence[Time], title: str, path: pathlib.Path
) -> None:
    """Writes a bar for each error, and for each plan and length the time a token, as a PNG."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.2), constrained_layout=True
    )
    for place, each in enumerate(errors):
        left.barh(place, 100 * each.rms, color="steelblue")
    left.set_yticks(
        range(len(errors)), [f"{each.plan}\n{each.source}" for each in errors]
    )
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    left.set_xlabel("logits' difference from float32, root mean square, %")
    plans = list(dict.fromkeys(each.plan for each in times))
    lengths = list(dict.fromkeys(each.tokens for each in times))
    width = 0.8 / max(1, len(plans))
    for number, plan in enumerate(plans):
        own = [each for each in times if each.plan == plan]
        places = [lengths.index(each.tokens) + number * width for each in own]
        nominal = [each.seconds["nominal"] / each.tokens * 1e6 for each in own]
        low = [each.seconds["low"] / each.tokens * 1e6 for each in own]
        high = [each.seconds["high"] / each.tokens * 1e6 for each in own]
        below = [a - b for a, b in zip(nominal, low, strict=True)]
        above = [a - b for a, b in zip(high, nominal, strict=True)]
        right.bar(
            places,
            nominal,
            width,
            label=plan,
            yerr=[below, above],
            capsize=3,
            ecolor="gray",
        )
    middle = 0.4 - width / 2
    right.set_xticks(
        [place + middle for place in range(len(lengths))], [f"{n:,}" for n in lengths]
    )
    right.set_xlabel("tokens of the prompt")
    right.set_ylabel("microseconds a token, with their band")
    right.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


__all__ = ["draw"]
