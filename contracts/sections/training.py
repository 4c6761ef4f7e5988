"""Pre-training, fine-tuning and the machines they run on."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from contracts.sections.base import BY_VERTICAL, Section


class OptimizerConfig(Section):
    """Optimiser of one stage."""

    name: Annotated[Literal["adamw", "adam", "sgd"], Field(description="Optimiser.")] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=10, description="Peak learning rate.")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=10, description="Weight decay.")] = 0.01
    warm_up_steps: Annotated[int, Field(ge=0, description="Steps of linear warm-up.")] = 100
    gradient_clip: Annotated[float, Field(gt=0, description="Largest gradient norm.")] = 1.0


class EncoderConfig(Section):
    """The sequence encoder of taste."""

    kind: Annotated[Literal["gpt", "bert", "transformer_xl", "hstu", "gru", "rnn", "ligr"], Field(description="Architecture.")] = "gpt"
    width: Annotated[int, Field(ge=8, le=8192, description="Width of an event's vector.")] = 64
    num_blocks: Annotated[int, Field(ge=1, le=96, description="Blocks.")] = 2
    num_heads: Annotated[int, Field(ge=1, le=128, description="Attention heads.")] = 2
    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout.")] = 0.1
    max_history: Annotated[int, Field(ge=2, le=16_384, description="Events the encoder sees at once.")] = 64
    feed_forward: Annotated[int, Field(ge=1, le=8, description="Inner width of a block's network, in widths: 4 in GPT and BERT, 1 in SASRec.")] = 4

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"encoder.width {self.width} is not a multiple of encoder.num_heads {self.num_heads}")
        return self


PretrainingLoss = Literal["sampled_softmax", "sampled_softmax_logq", "full_softmax", "gbce", "bce", "bpr"]


class PretrainingConfig(Section):
    """Self-supervised training on all events, without labels."""

    enabled: Annotated[bool, Field(description="Off: taste is the linear item-item term alone.")] = True
    encoder: EncoderConfig = EncoderConfig()
    objective: Annotated[
        Literal["next_item", "window_item", "masked_item"],
        Field(description="next_item: the next event; window_item: an item of the user's coming weeks; masked_item: hidden events, for `bert`."),
    ] = "next_item"
    loss: Annotated[
        PretrainingLoss,
        Field(
            description="sampled_softmax: against negatives drawn by popularity, which leaves taste without popularity; sampled_softmax_logq: corrected for the drawing, an estimate of full_softmax; gbce, bce, bpr: against the same negatives one by one."
        ),
    ] = "sampled_softmax"
    contrastive_weight: Annotated[
        float,
        Field(
            ge=0, le=100, description="Weight of a contrastive loss between two views of each history, items hidden at random; 0: none. Costs two more passes."
        ),
    ] = 0.0
    request_calendar: Annotated[
        bool, Field(description="The request token sees the calendar of the request's date; off: its lead and the user's silence only.")
    ] = True
    epochs: Annotated[float, Field(gt=0, le=1000, description="Events visited for each new event, old ones included.")] = 1.5
    batch_events: Annotated[int, Field(ge=64, description="Events in one packed batch.")] = 2_048
    num_negatives: Annotated[int, Field(ge=1, description="Negatives shared by a batch.")] = 1_024
    repeat_weight: Annotated[
        float, Field(ge=0, le=1, description="Weight of a target the user has had before; 0: only what is new to the user is learned.")
    ] = 0.0
    item_rate: Annotated[float, Field(gt=0, le=1, description="Learning rate of items' own rows, relative.")] = 0.1
    category_rate: Annotated[float, Field(gt=0, le=1, description="Learning rate of categories' rows, relative.")] = 0.3
    patience: Annotated[int, Field(ge=1, description="Early stopping: checks on held-out time without gain.")] = 3
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3)

    @model_validator(mode="after")
    def _objective_fits_the_encoder(self) -> Self:
        check_objective(self.encoder.kind, self.objective)
        return self


def check_objective(kind: str, objective: str) -> None:
    """Raise ValueError where an encoder cannot learn an objective."""
    if (kind == "bert") != (objective == "masked_item"):
        raise ValueError(
            f"pretraining.objective {objective} does not fit pretraining.encoder.kind {kind}: a bidirectional encoder (bert) learns masked_item, the others next_item or window_item"
        )


class LinearTerm(Section):
    """One linear item-item term of taste: log(max(linear, 0) + floor)."""

    half_life_days: Annotated[float | None, Field(gt=0, description="An item of the history is halved in weight every so many days; null: each weighs 1.")] = (
        None
    )
    ridge: Annotated[float, Field(gt=0, description="Ridge of the regression.")] = 200.0
    floor: Annotated[float, Field(gt=0, description="Floor inside the logarithm.")] = 0.02


Component = Literal["taste", "habit", "trend", "season"]
AdaptedWeights = Literal["frozen", "lora", "full"]
AdaptationLayer = Literal["none", "linear", "attention", "gated_mixture"]


class FineTuningConfig(Section):
    """Training of the taste + habit + season head on target events."""

    target_events: Annotated[tuple[str, ...], Field(min_length=1, description="Event types that count as targets.", json_schema_extra=BY_VERTICAL)] = (
        "purchase",
        "booking",
        "rating",
        "play",
    )
    leads_days: Annotated[tuple[int, ...], Field(min_length=1, description="Mixture of leads, days.")] = (0, 28)
    label_share: Annotated[
        float, Field(gt=0, le=1, description="Share of users whose targets are learned from, drawn by the seed: what a head is worth with few labels.")
    ] = 1.0
    linear: Annotated[tuple[LinearTerm, ...], Field(description="Linear item-item terms of taste.")] = (
        LinearTerm(ridge=500.0),
        LinearTerm(half_life_days=30.0, ridge=100.0),
    )
    linear_form: Annotated[Literal["exact", "low_rank"], Field(description="exact: by landmark users; low_rank: by singular vectors of `linear_rank`.")] = (
        "exact"
    )
    linear_landmarks: Annotated[int, Field(ge=8, le=32_768, description="Users an exact linear term is fitted on; more are drawn from.")] = 4_096
    linear_rank: Annotated[int, Field(ge=8, le=4096, description="Rank of a low-rank linear term.")] = 256
    use_encoder: Annotated[
        Literal["if_it_adds", "always"],
        Field(
            description="if_it_adds: at each origin only where the search of discover's weights leaves it one (see search_start); always: whatever the search finds."
        ),
    ] = "if_it_adds"
    adaptation: Annotated[
        AdaptedWeights,
        Field(
            description="frozen: the encoder stays as pre-trained; lora: a low-rank change of its matrices; full: a change of all its weights. Rows of items stay."
        ),
    ] = "frozen"
    adaptation_layer: Annotated[
        AdaptationLayer, Field(description="Layer behind the encoder's query: linear, attention over the history's items, or a gated mixture of linear layers.")
    ] = "none"
    leave_out: Annotated[
        tuple[Component, ...], Field(description="Components the head is fitted and served without, to see what each adds: taste, habit, trend, season.")
    ] = ()
    lora_rank: Annotated[int, Field(ge=1, le=1024, description="Rank of a change of a matrix (adaptation lora).")] = 8
    adaptation_rate: Annotated[float, Field(gt=0, le=10, description="Learning rate of what changes the encoder, relative to the head's.")] = 0.2
    epochs: Annotated[int, Field(ge=1, le=1000, description="Passes over the (cut-off, lead, user) samples.")] = 4
    max_steps: Annotated[int, Field(ge=1, description="Steps at most; a random part of the samples where they hold more.")] = 800
    batch_users: Annotated[int, Field(ge=1, description="Users in one step.")] = 96
    anchor: Annotated[float, Field(ge=0, description="Pull of the weights of taste and season towards their start in the list again, squared distance.")] = 0.3
    anchor_discover: Annotated[
        float, Field(ge=0, description="The same pull for the list discover, where it is trained: without search, or where the encoder is adapted too.")
    ] = 100.0
    search_start: Annotated[
        bool,
        Field(description="The few weights of discover are found by NDCG@10 of the sampled cut-offs, and stay; off: it is trained from fixed ones."),
    ] = True
    num_candidates: Annotated[
        int, Field(ge=16, description="Most popular items at each cut-off: what a step scores beside each user's own history, and what linear terms score.")
    ] = 4_096
    num_drawn: Annotated[int, Field(ge=0, description="Other items drawn at random into each step.")] = 256
    season_width: Annotated[int, Field(ge=1, description="Hidden width of the season network.")] = 32
    habit_width: Annotated[int, Field(ge=1, description="Hidden width of the habit network.")] = 32
    patience: Annotated[int, Field(ge=1, description="Early stopping: looks at held-out users of the newest cut-off (six a training) without gain.")] = 3
    num_seeds: Annotated[int | None, Field(ge=1, le=10, description="Heads that are averaged; left out: 3, or 1 where the encoder is adapted too.")] = None
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=20)

    @model_validator(mode="after")
    def _adaptation_fits(self) -> Self:
        check_adaptation(self)
        return self


def check_adaptation(section: Any) -> None:
    """Raise ValueError where heads of several seeds would each want an encoder of their own."""
    if (section.num_seeds or 1) > 1 and (section.adaptation != "frozen" or section.adaptation_layer != "none"):
        raise ValueError(
            f"fine_tuning.num_seeds {section.num_seeds} does not go with fine_tuning.adaptation {section.adaptation} and adaptation_layer {section.adaptation_layer}: "
            "averaged heads share one encoder. Set num_seeds to 1, or keep the encoder frozen without a layer."
        )


class WarmStartConfig(Section):
    """Going on from the champion instead of beginning anew: its weights, a grown catalogue, the new events and a sample of older ones."""

    enabled: Annotated[
        bool,
        Field(description="The deployment `train` too goes on from the champion, where there is one; off: it begins anew. The daily update always goes on."),
    ] = False
    epochs: Annotated[float, Field(gt=0, le=100, description="Visits of each event since the champion was measured.")] = 1.0
    replay: Annotated[float, Field(ge=0, lt=1, description="Share of all visits, and of the users the head learns from, that goes to older events.")] = 0.25
    max_steps: Annotated[int, Field(ge=1, description="Steps of the head at most.")] = 100
    rate: Annotated[float, Field(gt=0, le=1, description="Learning rates, relative to those of a training that begins anew.")] = 0.3


class ComputeConfig(Section):
    """Machines of the training process."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu"], Field(description="Device kind.")] = "auto"
    devices: Annotated[int, Field(ge=1, le=64, description="Processes on one node.")] = 1
    num_nodes: Annotated[int, Field(ge=1, le=512, description="Nodes.")] = 1
    strategy: Annotated[Literal["auto", "ddp", "fsdp2"], Field(description="How processes share the work.")] = "auto"
    precision: Annotated[Literal["auto", "32", "bf16"], Field(description="auto: bf16 where the device has it and it pays, else 32.")] = "auto"
    activation_checkpointing: Annotated[
        bool,
        Field(
            description="Keep only the inputs of the encoder's blocks and compute them once more in the backward pass: less memory, about a third more time."
        ),
    ] = False
    threads: Annotated[int, Field(ge=1, le=512, description="CPU threads of one process.")] = 2
    checkpoint_every_steps: Annotated[int, Field(ge=1, description="Steps between checkpoints.")] = 200
