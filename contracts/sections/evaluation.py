"""How models are measured and what a challenger must reach."""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from contracts.sections.base import BY_VERTICAL, Section

ListName = Literal["again", "discover"]


class EvaluationConfig(Section):
    """Origins, leads, lists; PROTOCOL: docs/protocol.md."""

    origins: Annotated[tuple[date, ...], Field(description="Cut-offs of the evaluation; empty: the latest whose windows lie in the data.")] = ()
    num_origins: Annotated[int, Field(ge=1, le=100, description="How many origins are taken where `origins` is empty.")] = 3
    tune_until: Annotated[date | None, Field(description="Windows that end by this day choose the best baseline; none: it is chosen with hindsight only.")] = (
        None
    )
    leads_days: Annotated[tuple[int, ...], Field(min_length=1, description="Leads, days.")] = (0, 28)
    horizon_days: Annotated[int, Field(ge=1, le=366, description="Length of the window, days.", json_schema_extra=BY_VERTICAL)] = 28
    lists: Annotated[
        tuple[ListName, ...], Field(min_length=1, description="again: anything; discover: only what is new to the user.", json_schema_extra=BY_VERTICAL)
    ] = ("again", "discover")
    baselines: Annotated[
        tuple[str, ...],
        Field(description="Baselines shown beside the recommender."),
    ] = (
        "popular_all",
        "popular_28d",
        "popular_7d",
        "last_year_weeks",
        "habit_90d",
        "habit_365d",
        "item_knn",
        "item_knn*trend",
        "item_knn*season",
        "ease",
        "ease*trend",
        "ease*season",
    )
    num_resamples: Annotated[int, Field(ge=100, le=100_000, description="Bootstrap resamples.")] = 2_000
    season_lift: Annotated[bool, Field(description="Report what knowing the date is worth: figures with look-ups by date half a year off.")] = True
    slices: Annotated[bool, Field(description="Report slices by season, users' activity and items' age.")] = True


class GateConfig(Section):
    """Conditions of promotion."""

    min_relative_gain: Annotated[float, Field(ge=-1, le=1, description="Lower end of the paired interval against the champion, per list.")] = -0.01
    min_slice_gain: Annotated[float, Field(ge=-1, le=1, description="No season slice may lose more than this.")] = -0.03
    min_coverage: Annotated[float, Field(ge=0, le=1, description="Share of the candidates that is recommended to anyone.")] = 0.01
    max_latency_ms: Annotated[float, Field(gt=0, description="p95 of one request, milliseconds.")] = 250.0
    max_size_mb: Annotated[float, Field(gt=0, description="Size of the stored model, megabytes.")] = 2_000.0
    max_form_loss: Annotated[
        float | None, Field(ge=0, le=1, description="The smallest form of the model that loses at most this share of NDCG@10 is taken; none: full precision.")
    ] = 0.01
    distil: Annotated[
        bool, Field(description="Where taste has an encoder, also try a narrow one trained on its queries as a smaller form; costs a training for each origin.")
    ] = True


class RegistryConfig(Section):
    """Where models and figures go, and who decides."""

    tracking_uri: Annotated[str | None, Field(description="MLflow address; without it a SQLite store below the storage root.")] = None
    experiment: Annotated[str, Field(min_length=1, description="MLflow experiment.")] = "perennial"
    model_name: Annotated[str, Field(min_length=1, description="Registered model.")] = "perennial-recommender"
    auto_promote: Annotated[bool, Field(description="Promote a challenger that passed its gates without a person's review.")] = False
    second_person: Annotated[bool, Field(description="Who approves a version must give a name, and not that of the person whose run made it.")] = False
    gates: GateConfig = GateConfig()


class PublishConfig(Section):
    """The table of rankings for the coming dates."""

    enabled: Annotated[bool, Field(description="Write rankings for all users.")] = True
    days_ahead: Annotated[tuple[int, ...], Field(min_length=1, description="Request dates, days after the end of the data.")] = (0, 28)
    k: Annotated[int, Field(ge=1, le=1000, description="Items per user and date.")] = 10
