"""Where events come from and how their columns are read."""

from typing import Annotated, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator

from contracts.sections.base import Section

Dataset = Literal["table", "complete_journey", "online_retail_ii", "amazon_reviews", "flickr_trips", "hotel_bookings", "synthetic"]

EventType = Literal["view", "click", "cart", "purchase", "rating", "play", "booking"]
EVENT_TYPES: Final[tuple[str, ...]] = get_args(EventType)


class ColumnMapping(Section):
    """Names of the source's columns for ours; leave out what the source does not have."""

    event_id: Annotated[str | None, Field(title="Event id", description="Natural key of an event; without it a digest of source and row is used.")] = None
    user_id: Annotated[str, Field(title="User id", description="Who acted.")] = "user_id"
    item_id: Annotated[str, Field(title="Item id", description="What was acted on.")] = "item_id"
    event_time: Annotated[str, Field(title="Event time", description="When: a timestamp, a date, an integer epoch or a text.")] = "event_time"
    event_type: Annotated[str | None, Field(title="Event type", description="View, click, purchase ...; without it `default_event_type` is used.")] = None
    quantity: Annotated[str | None, Field(description="Number of units, default 1.")] = None
    price: Annotated[str | None, Field(description="Price of one unit, in the source's currency.")] = None
    value: Annotated[str | None, Field(description="Rating, seconds watched or another value of the event.")] = None
    basket_id: Annotated[str | None, Field(description="Basket, invoice or session of the event.")] = None
    platform: Annotated[str | None, Field(description="App, web, shop ...")] = None
    region: Annotated[str | None, Field(description="Country or region of the event.")] = None


class CatalogueMapping(Section):
    """Names of the catalogue's columns for ours."""

    item_id: Annotated[str, Field(description="Item id as in the events.")] = "item_id"
    category: Annotated[tuple[str, ...], Field(description="Columns of the category path, coarse to fine.")] = ()
    title: Annotated[str | None, Field(description="Short name shown to people.")] = None
    text: Annotated[str | None, Field(description="Longer description.")] = None
    available_from: Annotated[str | None, Field(description="First moment the item can be recommended.")] = None
    available_until: Annotated[str | None, Field(description="Last moment the item can be recommended.")] = None


class SyntheticConfig(Section):
    """Size and seasons of generated behaviour (dataset `synthetic`)."""

    num_events: Annotated[int, Field(ge=100, le=1_000_000_000, description="Events to generate.")] = 100_000
    num_users: Annotated[int, Field(ge=1, description="Users.")] = 2_000
    num_items: Annotated[int, Field(ge=1, description="Items over the whole span, new and vanished ones included.")] = 1_000
    days: Annotated[int, Field(ge=14, description="Span in days.")] = 1_095
    first_day: Annotated[str, Field(description="First day, ISO date.")] = "2021-01-01"
    seed: Annotated[int, Field(ge=0, description="Same seed, same events.")] = 0


class SourceConfig(Section):
    """One log of behaviour and its catalogue."""

    dataset: Annotated[Dataset, Field(title="Data set", description="`table` reads `uri` with the mapping below; the others are ready data sets.")] = "table"
    uri: Annotated[
        str | None,
        Field(
            title="Address",
            description="File, glob or folder, local or any fsspec address (s3://, gs://, https://; a zip is opened). ${NAME} is read from the environment.",
        ),
    ] = None
    catalogue_uri: Annotated[str | None, Field(title="Catalogue address", description="As `uri`, one row per item.")] = None
    deletions_uri: Annotated[str | None, Field(title="Deletions address", description="As `uri`: user_id, requested_at; applied at ingest.")] = None
    file_format: Annotated[Literal["auto", "csv", "parquet", "ipc", "excel", "jsonl"], Field(description="`auto` goes by the ending.")] = "auto"
    columns: ColumnMapping = ColumnMapping()
    catalogue_columns: CatalogueMapping = CatalogueMapping()
    time_zone: Annotated[str, Field(description="Zone of times that carry none, IANA name.")] = "UTC"
    time_unit: Annotated[Literal["s", "ms", "us", "ns"], Field(description="Unit of integer times since 1970.")] = "s"
    time_format: Annotated[str | None, Field(description="strptime pattern of text times; without it ISO 8601 is expected.")] = None
    event_types: Annotated[
        dict[str, EventType], Field(description="The source's word -> ours; a word that is neither here nor one of ours goes to quarantine.")
    ] = {}
    default_event_type: Annotated[EventType, Field(description="Event type where the source has no such column.")] = "purchase"
    csv_separator: Annotated[str, Field(min_length=1, max_length=1, description="Separator of CSV files.")] = ","
    csv_columns: Annotated[tuple[str, ...], Field(description="Names of the columns of CSV files that have no header line; empty: they have one.")] = ()
    changed_files: Annotated[
        Literal["refuse", "add"],
        Field(
            description="A file already ingested comes back with other content and there are no natural event ids: refuse, or add all its rows. A file that only grew is always continued."
        ),
    ] = "refuse"
    has_users: Annotated[bool, Field(description="Off for demand-only data: forecasts are made, no recommender is trained.")] = True
    hash_user_ids: Annotated[bool, Field(description="Replace user ids by a keyed hash before anything is written.")] = False
    hash_key_variable: Annotated[str, Field(description="Environment variable that holds the key; the key itself is never a parameter.")] = "PERENNIAL_HASH_KEY"
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _table_needs_an_address(self) -> Self:
        if self.dataset == "table" and not self.uri:
            raise ValueError("source.uri is missing: source.dataset is `table`, which reads a file. Set source.uri, or choose a ready source.dataset.")
        return self

    @model_validator(mode="after")
    def _time_zone_is_known(self) -> Self:
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"source.time_zone {self.time_zone!r} is not a known zone. Use an IANA name such as UTC, Europe/London or America/New_York."
            ) from error
        return self
