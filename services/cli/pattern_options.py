"""The options that describe a pattern, the same for a look at it and for a campaign of it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from domainflow.campaign.v1 import campaign_pb2

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class PatternType(StrEnum):
    PREFIX = "PREFIX"
    SUFFIX = "SUFFIX"
    BOTH = "BOTH"


PrefixLengthOption = Annotated[
    int, typer.Option(min=0, max=63, help="Variable characters before the constant.")
]
SuffixLengthOption = Annotated[
    int, typer.Option(min=0, max=63, help="Variable characters after the constant.")
]
CharsOption = Annotated[
    str, typer.Option(help="Characters to vary over, in this order: a-z, 0-9 and the hyphen.")
]
ConstantOption = Annotated[str, typer.Option(help="Fixed part of the label.")]
TldOption = Annotated[
    list[str] | None, typer.Option(help="TLD or parent domain such as .com; repeat for more.")
]
FirstOffsetOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of the first name. Default: after all names that campaigns of this pattern"
        " have taken.",
    ),
]
CountOption = Annotated[
    int, typer.Option(min=0, help="How many names to make; 0 for all from the first on.")
]
OverlapOption = Annotated[
    bool,
    typer.Option(
        "--allow-overlap", help="Take names even if another campaign has them; then from 0 on."
    ),
]


def source(
    pattern: PatternType,
    *,
    prefix_length: int,
    suffix_length: int,
    chars: str,
    constant: str,
    tlds: Sequence[str] | None,
    first_offset: int | None,
    count: int,
    allow_overlap: bool,
) -> campaign_pb2.PatternSource:
    """The message that the options describe. Raises typer.BadParameter without any TLD."""
    if not tlds:
        raise typer.BadParameter("a pattern needs at least one --tld")
    return campaign_pb2.PatternSource(
        type=campaign_pb2.PatternType.Value(f"PATTERN_TYPE_{pattern}"),
        prefix_length=prefix_length,
        suffix_length=suffix_length,
        character_set=chars,
        constant=constant,
        tlds=tlds,
        first_offset=first_offset,
        name_count=count,
        overlap_allowed=allow_overlap,
    )
