"""What a forecasting process needs, as JSON. Free of torch, so that tasks can build one."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.artifacts import text_digest
from contracts.sections.training import OptimizerConfig

NetworkName = Literal["rnn", "gru", "nhits"]


class ForecastJob(BaseModel):
    """Train one global network along time and let it forecast every series at each cut-off from what was known then.

    The folder it leaves: `forecasts.parquet` (contract `FORECASTS`; mean and quantiles of every cut-off), `losses.parquet`, `result.json`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["forecast"] = "forecast"
    inputs_digest: Annotated[str, Field(min_length=8, description="Digest of the input tables: the same job on other data is another job.")]
    seed: Annotated[int, Field(ge=0, description="Seed of everything random.")] = 0
    series: Annotated[
        str, Field(description="Parquet: level, id, region, first (number of the first period), values (list of units, no gaps); all end together.")
    ]
    periods: Annotated[
        str, Field(description="Parquet: region, date, then known inputs (Float64) of every period of the history and of the horizon behind it, in order.")
    ]
    planned: Annotated[
        str | None, Field(description="Parquet: level, id, region, then for each planned input (promotion, price) a list over history and horizon.")
    ] = None
    known: Annotated[tuple[int, ...], Field(min_length=1, description="Number of known periods at each cut-off, rising; nothing later reaches its forecast.")]
    network: NetworkName = "nhits"
    horizon: Annotated[int, Field(ge=1, description="Periods ahead.")]
    seasons: Annotated[tuple[int, ...], Field(description="Lengths of the seasons, periods.")] = ()
    past: Annotated[int, Field(ge=2, description="Periods of the past the network sees at once.")] = 32
    width: Annotated[int, Field(ge=4, description="Width of hidden layers.")] = 64
    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout.")] = 0.1
    loss: Annotated[Literal["quantile", "mse"], Field(description="quantile: pinball of the stored quantiles, the mean is the median; mse: squared error.")] = (
        "quantile"
    )
    first_steps: Annotated[int, Field(ge=1, description="Steps before the first cut-off.")] = 600
    later_steps: Annotated[int, Field(ge=0, description="Steps for each later cut-off.")] = 60
    max_epochs: Annotated[float, Field(gt=0, description="Fewer steps where a window would be seen more often: few series are soon learned by heart.")] = 30.0
    num_members: Annotated[int, Field(ge=1, description="Networks that start differently and are averaged.")] = 3
    batch_windows: Annotated[int, Field(ge=1, description="Windows in one step, over all processes.")] = 256
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, weight_decay=1e-3, warm_up_steps=20)

    @model_validator(mode="after")
    def _cutoffs_rise(self) -> Self:
        if list(self.known) != sorted(set(self.known)):
            raise ValueError(f"known must rise and be distinct, found {list(self.known)}")
        return self

    def digest(self) -> str:
        """16 hex digits over every field; paths of inputs count by content (`inputs_digest`) as well as by name."""
        return text_digest(self.model_dump_json())
