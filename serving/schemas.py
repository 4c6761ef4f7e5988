"""Bodies of the HTTP service; their descriptions and examples are its OpenAPI page."""

from datetime import UTC, datetime
from datetime import date as calendar_date
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_K = 100
MAX_EVENTS = 200
MAX_EXCLUDED = 1_000
MAX_BATCH = 5_000

Text = Annotated[str, Field(min_length=1, max_length=256)]


def _plausible(time: datetime) -> datetime:
    """Time as UTC, refused outside 1970 to 2100."""
    if not 1970 < time.year < 2100:
        raise ValueError(f"expected a time between 1971 and 2099, found {time.isoformat()}")
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_plausible)]
ListName = Literal["again", "discover"]


class Body(BaseModel):
    """Base: frozen, unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SessionEvent(Body):
    """Something the user did."""

    item_id: Annotated[Text, Field(description="Item as in the catalogue; unknown ones are ignored and counted.")]
    event_time: Annotated[Moment | None, Field(description="When; now if left out. Without a zone it is UTC.")] = None
    event_type: Annotated[Text | None, Field(description="view, click, cart, purchase ...")] = None
    platform: Annotated[Text | None, Field(description="app, web, shop ..., as the log the model learned from says it.")] = None


class RecommendRequest(Body):
    """A list for a user, a running session, or both."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user_id": "1234", "date": "2017-11-23", "k": 5},
                {"events": [{"item_id": "1029743", "event_type": "purchase"}], "list": "discover", "explain": True},
            ]
        },
    )

    user_id: Annotated[Text | None, Field(description="Known users are answered from their history; unknown ones by the season.")] = None
    events: Annotated[tuple[SessionEvent, ...], Field(max_length=MAX_EVENTS, description="Events of the running session, on top of what is known.")] = ()
    date: Annotated[calendar_date | None, Field(description="First day of the time the list is for; today if left out.")] = None
    k: Annotated[int, Field(ge=1, le=MAX_K, description="Items wanted.")] = 10
    list: Annotated[ListName, Field(description="again: anything; discover: only what is new to the user.")] = "again"
    region: Annotated[Text, Field(description="Region whose season counts.")] = "all"
    exclude: Annotated[tuple[Text, ...], Field(max_length=MAX_EXCLUDED, description="Items not to show.")] = ()
    category: Annotated[Text | None, Field(description="Only items at or below this category path.")] = None
    explain: Annotated[bool, Field(description="Add reasons in words, and the history items that mattered.")] = False
    model: Annotated[Literal["champion", "challenger"], Field(description="Which model answers.")] = "champion"


class BatchRequest(Body):
    """One list for each of many users."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"user_ids": ["1", "2"], "date": "2017-11-23", "k": 5}]})

    user_ids: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_BATCH, description="Users; each once.")]
    date: Annotated[calendar_date | None, Field(description="First day of the time the lists are for; today if left out.")] = None
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    list: ListName = "again"
    region: Text = "all"


class HistoryReason(Body):
    """A history item and how much the taste for the recommended one falls without it."""

    item_id: str
    title: str
    drop: float


class Item(Body):
    """One place of a list; taste + habit + season = score."""

    rank: int
    item_id: str
    title: str
    category: str | None
    score: float
    taste: float
    habit: float
    season: float
    reasons: tuple[str, ...] = ()
    because: tuple[HistoryReason, ...] = ()


class Counterfactual(Body):
    """Without your purchase of `without` you would see `instead` in place of `gone`."""

    without: str
    without_title: str
    gone: tuple[str, ...]
    instead: tuple[str, ...]


class RecommendResponse(Body):
    """A list."""

    request_id: str
    user_id: str | None
    date: calendar_date
    list: str
    model_version: str
    policy: str
    unknown_items: Annotated[int, Field(description="Items of events and exclusions that the model does not know.")]
    items: tuple[Item, ...]
    counterfactual: Counterfactual | None = None


class BatchItem(Body):
    """One place of one user's list."""

    item_id: str
    score: float
    taste: float
    habit: float
    season: float


class BatchResponse(Body):
    """Lists in the order of the users asked for."""

    date: calendar_date
    list: str
    model_version: str
    lists: dict[str, tuple[BatchItem, ...]]


class EventsRequest(Body):
    """New events of a user."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [{"user_id": "1234", "events": [{"item_id": "1029743", "event_type": "view"}]}]}
    )

    user_id: Text
    events: Annotated[tuple[SessionEvent, ...], Field(min_length=1, max_length=MAX_EVENTS)]


class EventsResponse(Body):
    """What became of the events."""

    accepted: int
    unknown_items: int


class Reward(Body):
    """What came of one shown item."""

    item_id: Text
    reward: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class FeedbackRequest(Body):
    """Rewards of a list that was shown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"request_id": "5f0c1e0e-6f6b-4d0c-9f3e-3a5f0c1e0e6f", "rewards": [{"item_id": "1029743", "reward": 1.0}]}]},
    )

    request_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="As given with the list.")]
    rewards: Annotated[tuple[Reward, ...], Field(min_length=1, max_length=MAX_K)]


class FeedbackResponse(Body):
    """How many rewards were noted."""

    accepted: int


class SeasonPoint(Body):
    """One date of an item's year. `again` and `discover` are the season part, centred over the candidates."""

    date: calendar_date
    again: float
    discover: float


class DemandPoint(Body):
    """Buyers of one past week."""

    date: calendar_date
    buyers: float


class ForecastPoint(Body):
    """Forecast of one period."""

    date: calendar_date
    mean: float
    low: float | None
    high: float | None


class ItemSeason(Body):
    """An item's year as numbers."""

    item_id: str
    title: str
    category: str | None
    season: tuple[SeasonPoint, ...]
    past: tuple[DemandPoint, ...]
    forecast: tuple[ForecastPoint, ...]
    forecast_of: Annotated[str | None, Field(description="Whose forecast it is: the item's or its category's.")]


class CatalogueItem(Body):
    """An item of the catalogue."""

    item_id: str
    title: str
    category: str | None


class ModelInfo(Body):
    """What serves."""

    name: str
    version: str
    challenger: str | None
    cutoff: calendar_date
    horizon_days: int
    first_date: calendar_date
    last_date: calendar_date
    lists: tuple[str, ...]
    num_items: int
    num_users: int
    can_browse_users: bool
    year_ready: bool


class Problem(BaseModel):
    """An error in words."""

    detail: str
