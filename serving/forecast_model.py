"""The registered forecaster: an MLflow model from code over the stored forecasts. It answers level, id and dates with mean and quantiles."""

from datetime import date

import polars as pl
import pydantic
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from contracts import columns as c
from contracts.tables import FORECASTS


class ForecastRequest(pydantic.BaseModel):
    """One series and the days asked for; without days the whole horizon."""

    level: str = c.CATEGORY
    id: str
    region: str = c.ALL_REGIONS
    first_day: date | None = None
    last_day: date | None = None


class ForecastModel(PythonModel):
    """Forecasts of the newest cut-off, read from the Parquet artifact `forecasts`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the table once."""
        table = pl.read_parquet(context.artifacts["forecasts"])
        self.forecasts = table.filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max())

    def predict(self, model_input: list[ForecastRequest], params: dict[str, str] | None = None) -> list[list[dict[str, str | float]]]:
        """One list of rows (date, mean, quantiles) per request; empty for a series that is not forecast."""
        return [self._rows(request) for request in model_input]

    def _rows(self, request: ForecastRequest) -> list[dict[str, str | float]]:
        wanted = (pl.col(c.LEVEL) == request.level) & (pl.col(c.ID) == request.id) & (pl.col(c.REGION) == request.region)
        if request.first_day:
            wanted &= pl.col(c.DATE) >= request.first_day
        if request.last_day:
            wanted &= pl.col(c.DATE) <= request.last_day
        columns = [name for name in FORECASTS.schema if name not in (c.CUTOFF, c.LEVEL, c.ID, c.REGION)]
        return self.forecasts.filter(wanted).sort(c.DATE).select(pl.col(c.DATE).cast(pl.String), *columns[1:]).to_dicts()


set_model(ForecastModel())
