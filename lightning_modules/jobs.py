"""Everything one training process needs, as JSON: plain numbers, paths and the sections of the configuration.

PretrainJob    walk through time, leave an encoder snapshot at each cut-off
FineTuneJob    fit the taste + habit + season head for one or more origins and export their networks
ForecastJob    train a forecasting network along time; it forecasts every series at each cut-off (forecasting_job.py)
DistilJob      train a narrow encoder on the queries of a bundle's own one (distillation_job.py)

A job says nothing of machines: the same job on one process or on eight ends in the same model, so its digest is that of the work.
`TrainingRequest` joins it with the machines; it is what `job.json` holds.
"""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts import columns as c
from contracts.artifacts import text_digest
from contracts.sections.training import (
    AdaptationLayer,
    AdaptedWeights,
    Component,
    ComputeConfig,
    EncoderConfig,
    FineTuningConfig,
    LinearTerm,
    OptimizerConfig,
    PretrainingConfig,
    PretrainingLoss,
    check_adaptation,
    check_objective,
)
from lightning_modules.distillation_job import DistilJob
from lightning_modules.forecasting_job import ForecastJob

ListName = Literal["again", "discover"]


class Start(BaseModel):
    """Where a training begins that goes on from an earlier one (warm_start.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Annotated[str, Field(description="Weights an earlier fine-tuning left for this.")]
    items: Annotated[str, Field(description="Parquet: item_index, start_index (row of the item in the earlier tables, null where it is new).")]
    cutoff: Annotated[date, Field(description="What the earlier training had seen ends here, exclusive.")]


MOST_TYPES = 255  # codes are one byte


class Job(BaseModel):
    """Base of all jobs: frozen, unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs_digest: Annotated[str, Field(min_length=8, description="Digest of every input table: the same job on other data is another job.")]
    seed: Annotated[int, Field(ge=0, description="Seed of everything random.")] = 0
    events: Annotated[str, Field(description="`training_events` Parquet, sorted by user, time, source order.")]
    num_items: Annotated[int, Field(ge=1, description="Items of the vocabulary; item_index runs from 0 to num_items - 1.")]
    event_types: Annotated[
        tuple[str, ...], Field(min_length=1, max_length=MOST_TYPES, description="Known event types; type i gets code i + 1, code 0 is any other.")
    ]
    horizon_days: Annotated[int, Field(ge=1, description="Length of the window a list is made for, days.")] = 28
    content: Annotated[str | None, Field(description="Parquet: item_index, vector (text vector of length 1); none: items have no content.")] = None
    start: Annotated[Start | None, Field(description="Go on from these weights; none: begin anew.")] = None

    def digest(self) -> str:
        """16 hex digits over every field; paths of inputs count by content (`inputs_digest`) as well as by name."""
        return text_digest(self.model_dump_json())

    def event_type_codes(self) -> dict[str, int]:
        """Event type -> code; 0 is any other type.

        Types may carry a platform (`features.histories.kinds_of_events`); a type that only occurs with one is known without it too, as the first of these.
        """
        codes = {name: code for code, name in enumerate(self.event_types, start=1)}
        for name, code in list(codes.items()):
            codes.setdefault(name.partition(c.PLATFORM_SEPARATOR)[0], code)
        return codes


class PretrainJob(Job):
    """Pre-training of taste on all events, without labels, along time.

    The folder it leaves: `snapshots/<cutoff>.safetensors` for every cut-off, `encoder.json`, `losses.parquet`, `result.json`.
    """

    stage: Literal["pretrain"] = "pretrain"
    item_features: Annotated[str | None, Field(description="Parquet: item_index, category (path, coarse to fine, null where unknown); optional.")] = None
    cutoffs: Annotated[tuple[date, ...], Field(min_length=1, description="A snapshot is left at each; it has seen nothing at or after it.")]
    encoder: EncoderConfig = EncoderConfig()
    objective: Literal["next_item", "window_item", "masked_item"] = "window_item"
    loss: Annotated[PretrainingLoss, Field(description="Loss of an event's item against the others.")] = "sampled_softmax"
    contrastive_weight: Annotated[float, Field(ge=0, description="Weight of the contrastive loss between two views of each history.")] = 0.0
    request_calendar: Annotated[bool, Field(description="The request token sees the calendar of the request's date.")] = True
    leads_days: Annotated[tuple[int, ...], Field(min_length=1, description="Leads a request may have, days.")] = (0, 28)
    epochs: Annotated[float, Field(gt=0, description="Events visited for each new event, old ones (replay) included.")] = 3.0
    replay: Annotated[float, Field(ge=0, lt=1, description="Share of each period's visits that goes to older events, where epochs leave room.")] = 0.25
    repeat_weight: Annotated[
        float, Field(ge=0, le=1, description="Weight of a target the user has had before; 0: only what is new to the user is learned.")
    ] = 0.0
    item_rate: Annotated[float, Field(gt=0, le=1, description="Learning rate of items' own rows, relative.")] = 0.1
    category_rate: Annotated[float, Field(gt=0, le=1, description="Learning rate of categories' rows, relative.")] = 0.3
    even_share: Annotated[float, Field(ge=0, le=1, description="Share of the negatives drawn evenly over the items instead of by popularity.")] = 0.0
    batch_events: Annotated[int, Field(ge=2, description="Events in one packed batch, over all processes.")] = 2_048
    num_negatives: Annotated[int, Field(ge=1, description="Negatives shared by a batch.")] = 1_024
    held_out_days: Annotated[int, Field(ge=0, description="Days before the first cut-off kept out of its training, to stop early; 0: no early stopping.")] = 7
    checks: Annotated[int, Field(ge=1, description="Looks at the held-out days during the first period.")] = 8
    patience: Annotated[int, Field(ge=1, description="Looks without gain before the first period is ended.")] = 3
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _cutoffs_rise(self) -> Self:
        if list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ValueError(f"cutoffs must rise and be distinct, found {[str(cutoff) for cutoff in self.cutoffs]}")
        if self.start and self.cutoffs[0] < self.start.cutoff:
            raise ValueError(f"cutoffs: {self.cutoffs[0]} lies before {self.start.cutoff}, up to which the weights to start from have seen the data")
        return self

    @model_validator(mode="after")
    def _objective_fits_the_encoder(self) -> Self:
        check_objective(self.encoder.kind, self.objective)
        return self

    @classmethod
    def from_config(cls, config: PretrainingConfig, **given: object) -> Self:
        """Job of a configuration section; `given` holds what the section does not know (paths, cut-offs, sizes)."""
        section = config.model_dump(exclude={"enabled"})
        return cls.model_validate({**section, **given})


class Sample(BaseModel):
    """One (cut-off, lead) the head may learn from; the window is `[cutoff + lead, cutoff + lead + horizon)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoff: date
    lead_days: Annotated[int, Field(ge=0)]
    season: Annotated[str, Field(description="Parquet: item_id, then the season inputs at the request date; one row per item known at the cut-off.")]
    habits: Annotated[
        str,
        Field(description="Parquet: user_id, item_id, then the habit inputs at the request date; one row per (user, item) with a past, of users with targets."),
    ]
    targets: Annotated[str, Field(description="Parquet: user_id, item_id, is_new; one row per distinct (user, item) of the window.")]


HEADS = 3


class FineTuneJob(Job):
    """Training of the head for one or more origins, on samples whose window ends at or before the origin.

    The folder it leaves: `<origin>/networks/` (docs/architecture.md) for every origin, `result.json`.
    """

    stage: Literal["fine_tune"] = "fine_tune"
    origins: Annotated[tuple[date, ...], Field(min_length=1, description="A head is fitted and exported for each, with what was known before it.")]
    samples: Annotated[tuple[Sample, ...], Field(min_length=1, description="What may be learned from.")]
    pretraining: Annotated[
        str | None, Field(description="Folder of a pre-training job with a snapshot at each origin and each sampled cut-off; none: no encoder.")
    ] = None
    vocabulary: Annotated[str, Field(description="Parquet: item_id, item_index.")]
    season_inputs: Annotated[tuple[str, ...], Field(min_length=1, description="Columns of a season row, in order.")]
    habit_inputs: Annotated[tuple[str, ...], Field(min_length=1, description="Columns of a habit row, in order.")]
    season_prior: Annotated[
        dict[str, tuple[float, float]], Field(description="Starting weight of season inputs in again and discover; the others start at 0.")
    ] = {
        "trend_lift_4w": (1.0, 1.0),
        "season_index": (0.4, 0.4),
        "trend_log_new_buyers_4w": (0.0, 0.1),
        "trend_lift_1w": (0.0, 0.2),
        "season_parent_category_last_year_lift": (0.0, 0.2),
        "trend_log_level_13w": (0.0, 0.0),  # these two only where the search finds them
        "trend_category_lift_4w": (0.0, 0.0),
    }
    season_slopes: Annotated[
        dict[str, tuple[float, float]],
        Field(description="What is added to weights of season inputs in again and discover at a lead of 84 days; less before it."),
    ] = {
        "trend_lift_4w": (0.0, -0.3),
        "season_index": (0.0, 0.3),
        "trend_lift_1w": (0.0, -0.2),
        "season_parent_category_last_year_lift": (0.0, 0.2),
    }
    habit_prior: Annotated[dict[str, float], Field(description="Starting weight of habit inputs; the others start at 0; season inputs may be named too.")] = {
        "habit_log_decayed_90d": 1.0,
        "trend_lift_4w": -0.5,
    }
    habit_bias: Annotated[float, Field(description="Starting value of habit for an item of the history.")] = 4.0
    lists: Annotated[tuple[ListName, ...], Field(min_length=1, description="Lists the head answers.")] = ("again", "discover")
    linear: Annotated[tuple[LinearTerm, ...], Field(description="Linear item-item terms of taste.")] = (
        LinearTerm(ridge=500.0),
        LinearTerm(half_life_days=30.0, ridge=100.0),
    )
    linear_form: Annotated[Literal["exact", "low_rank"], Field(description="exact: by landmark users; low_rank: by singular vectors of `linear_rank`.")] = (
        "exact"
    )
    linear_landmarks: Annotated[int, Field(ge=1, description="Users an exact linear term is fitted on; more are drawn from.")] = 4_096
    linear_rank: Annotated[int, Field(ge=1, description="Rank of a low-rank linear term.")] = 256
    use_encoder: Annotated[Literal["if_it_adds", "always"], Field(description="if_it_adds: only where the search of discover's weights leaves it one.")] = (
        "if_it_adds"
    )
    adaptation: Annotated[AdaptedWeights, Field(description="What may change of the encoder.")] = "frozen"
    adaptation_layer: Annotated[AdaptationLayer, Field(description="Layer behind the encoder's query.")] = "none"
    leave_out: Annotated[tuple[Component, ...], Field(description="Components the head is fitted and served without.")] = ()
    lora_rank: Annotated[int, Field(ge=1, description="Rank of a change of a matrix.")] = 8
    adaptation_rate: Annotated[float, Field(gt=0, description="Learning rate of changes and of the layer, relative to the head's.")] = 0.2
    epochs: Annotated[int, Field(ge=1, description="Passes over the (cut-off, lead, user) samples.")] = 4
    max_steps: Annotated[int, Field(ge=1, description="Steps at most; a random part of the samples where they hold more.")] = 800
    batch_users: Annotated[int, Field(ge=1, description="Users in one step, over all processes.")] = 96
    anchor: Annotated[float, Field(ge=0, description="Pull of the weights of taste and season towards their start in the list again, squared distance.")] = 0.3
    anchor_discover: Annotated[
        float, Field(ge=0, description="The same pull for the list discover, where it is trained: without search, or where the encoder is adapted too.")
    ] = 100.0
    search_start: Annotated[
        bool,
        Field(description="The few weights of discover are found by NDCG@10 of the sampled cut-offs, and stay; off: it is trained from fixed ones."),
    ] = True
    label_share: Annotated[float, Field(gt=0, le=1, description="Share of the log's users whose targets are learned from, the same ones in every sample.")] = (
        1.0
    )
    max_users: Annotated[int, Field(ge=1, description="Users with targets drawn from each sample; more are left out at random.")] = 20_000
    num_candidates: Annotated[
        int, Field(ge=16, description="Most popular items at each cut-off: what a step scores beside each user's own history, and what linear terms score.")
    ] = 4_096
    num_drawn: Annotated[int, Field(ge=0, description="Other items drawn at random into each step.")] = 256
    neighbours: Annotated[int, Field(ge=1, description="Items of the pool, nearest by content, whose linear taste an item without history has.")] = 10
    neighbour_weight: Annotated[float, Field(ge=0, description="Weight of that linear taste; 1: the mean of the neighbours.")] = 1.0
    least_cosine: Annotated[float, Field(ge=-1, le=1, description="Items less alike than this are no neighbours.")] = 0.4
    max_new_items: Annotated[int, Field(ge=0, description="Items without history that get a linear taste at most.")] = 4_096
    season_width: Annotated[int, Field(ge=1, description="Hidden width of the season network.")] = 32
    habit_width: Annotated[int, Field(ge=1, description="Hidden width of the habit network.")] = 32
    patience: Annotated[int, Field(ge=1, description="Early stopping: looks without gain at the newest sampled cut-off.")] = 3
    num_seeds: Annotated[int | None, Field(ge=1, description="Heads that are averaged; left out: 3, or 1 where the encoder is adapted too.")] = None
    replay: Annotated[float, Field(ge=0, lt=1, description="Share of the users who train whose window the weights to start from have seen.")] = 0.25
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=20)

    @model_validator(mode="after")
    def _adaptation_fits(self) -> Self:
        check_adaptation(self)
        return self

    @property
    def adapts(self) -> bool:
        """Whether anything but the head is learned."""
        return self.adaptation != "frozen" or self.adaptation_layer != "none"

    @property
    def trained_lists(self) -> tuple[ListName, ...]:
        """Lists whose loss is learned: discover stays at the weights its search finds, but where an encoder is adapted too, which only a loss can teach."""
        stays = self.search_start and not self.adapts
        return tuple(name for name in self.lists if name == "again" or not stays)

    @property
    def num_heads(self) -> int:
        """Heads that a training from the beginning fits at each origin and averages; several cannot share an encoder that each of them changes."""
        return self.num_seeds or (1 if self.adapts else HEADS)

    @classmethod
    def from_config(cls, config: FineTuningConfig, **given: object) -> Self:
        """Job of a configuration section; `given` holds what the section does not know (paths, samples, input names)."""
        section = config.model_dump(exclude={"target_events", "leads_days"})
        return cls.model_validate({**section, **given})


AnyJob = Annotated[PretrainJob | FineTuneJob | ForecastJob | DistilJob, Field(discriminator="stage")]


class TrainingRequest(BaseModel):
    """Contents of `job.json`: a job and the machines it runs on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: AnyJob
    compute: ComputeConfig = ComputeConfig()
