"""The registered forecaster: an MLflow model from code over the stored forecasts. It answers level, id and dates with mean and quantiles."""

from datetime import date

import polars as pl
import pydantic
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from contracts import columns as c
from contracts.tables import QUANTILES, quantile_column


class ForecastRequest(pydantic.BaseModel):
    """One series and the days asked for (ISO, both included); without days the whole horizon."""

    level: str = c.CATEGORY
    id: str
    region: str = c.ALL_REGIONS
    first_day: str | None = None
    last_day: str | None = None


class ForecastPeriod(pydantic.BaseModel):
    """One period of a series: its first day, the model that was chosen, mean and quantiles (`q100` is the 10 % quantile), in units."""

    date: str
    model: str
    mean: float
    quantiles: dict[str, float]


class Forecast(pydantic.BaseModel):
    """The answer to a request; no periods for a series that is not forecast."""

    level: str
    id: str
    periods: list[ForecastPeriod]


class ForecastModel(PythonModel):
    """Forecasts of the newest cut-off, read from the Parquet artifact `forecasts`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the table once."""
        table = pl.read_parquet(context.artifacts["forecasts"])
        self.forecasts = table.filter(pl.col(c.CUTOFF) == pl.col(c.CUTOFF).max())

    def predict(self, model_input: list[ForecastRequest]) -> list[Forecast]:  # type: ignore[override]  # MLflow reads the schema off this signature
        """One forecast per request, in order; periods oldest first."""
        return [Forecast(level=request.level, id=request.id, periods=self._periods(request)) for request in model_input]

    def _periods(self, request: ForecastRequest) -> list[ForecastPeriod]:
        wanted = (pl.col(c.LEVEL) == request.level) & (pl.col(c.ID) == request.id) & (pl.col(c.REGION) == request.region)
        if request.first_day:
            wanted &= pl.col(c.DATE) >= date.fromisoformat(request.first_day)
        if request.last_day:
            wanted &= pl.col(c.DATE) <= date.fromisoformat(request.last_day)
        names = [name for name in map(quantile_column, QUANTILES) if name in self.forecasts.columns]
        return [
            ForecastPeriod(
                date=row[c.DATE].isoformat(),
                model=row[c.MODEL],
                mean=row[c.MEAN],
                quantiles={name: row[name] for name in names if row[name] is not None},
            )
            for row in self.forecasts.filter(wanted).sort(c.DATE, c.MODEL).iter_rows(named=True)
        ]


set_model(ForecastModel())
