"""Speeds that were published, as `data/published.csv` has them."""

import csv
import dataclasses
import importlib.resources

DRAFTS = ("no", "unsaid", "yes")


@dataclasses.dataclass(frozen=True)
class PublishedSpeed:
    """Tokens a second that one user gets.

    Attributes:
      model: of our configurations, the one that has its sizes.
      published_model: that was measured.
      tokens_per_s: of one user.
      drafts: whether draft tokens were used: `no`, `yes`, or `unsaid`.
      held: what weights and cache are held in, a plan of `models.precision`.
      wafers: as the source says; None: it does not.
      date, kind, source: of the figure.
    """

    model: str
    published_model: str
    tokens_per_s: float
    drafts: str
    held: str
    wafers: int | None
    date: str
    kind: str
    source: str

    def __post_init__(self) -> None:
        if self.drafts not in DRAFTS:
            raise ValueError(
                f"drafts of {self.published_model} is {self.drafts!r}, must be one of "
                f"{', '.join(DRAFTS)}"
            )


def published_speeds() -> list[PublishedSpeed]:
    """All of them, in the file's order."""
    data = importlib.resources.files("experiments.decode_scaling") / "data"
    text = (data / "published.csv").read_text(encoding="utf-8")
    return [
        PublishedSpeed(
            model=row["model"],
            published_model=row["published_model"],
            tokens_per_s=float(row["tokens_per_s"]),
            drafts=row["drafts"],
            held=row["held"],
            wafers=int(row["wafers"]) if row["wafers"] else None,
            date=row["date"],
            kind=row["kind"],
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    ]


__all__ = ["DRAFTS", "PublishedSpeed", "published_speeds"]
