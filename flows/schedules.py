"""When the training before a season is due, as a recurrence rule."""

from collections.abc import Iterable
from datetime import date, timedelta

from contracts.config import PipelineConfig
from features.calendar import is_southern, season_of

DAYS_BEFORE = 14
_A_YEAR = 2023  # any year without 29 February


def season_starts(config: PipelineConfig) -> tuple[int, ...]:
    """First days of year (1 to 365) of the seasons, of every hemisphere the pipeline's regions lie in; sorted."""
    countries = {config.features.country, *(config.features.region_countries.values() if config.features.use_regions else ())}
    names = config.features.season_names
    return tuple(sorted({day for southern in {is_southern(country) for country in countries} for day in _starts(names, southern=southern)}))


def _starts(names: dict[str, tuple[int, int]], *, southern: bool) -> Iterable[int]:
    for day in range(1, 366):
        before = 365 if day == 1 else day - 1
        today = season_of(day, names, southern=southern)
        if today is not None and today != season_of(before, names, southern=southern):
            yield day


def season_rrule(config: PipelineConfig, *, days_before: int = DAYS_BEFORE, hour: int = 3) -> str:
    """Rule of iCalendar that fires `days_before` days before each season of the pipeline's calendar, at a full hour.

    Days of the year are counted from its start, as `features.season_names` counts them. Raises ValueError where no season is named.

    Examples
    --------
    >>> season_rrule(PipelineConfig(name="mine", source={"dataset": "synthetic"}))
    'FREQ=YEARLY;BYYEARDAY=46,138,230,321;BYHOUR=3;BYMINUTE=0;BYSECOND=0'
    """
    starts = season_starts(config)
    if not starts:
        raise ValueError("features.season_names is empty: there is no season to train before. Name at least two parts of the year.")
    first = date(_A_YEAR, 1, 1)
    days = sorted({(first + timedelta(days=day - 1 - days_before)).timetuple().tm_yday for day in starts})
    return f"FREQ=YEARLY;BYYEARDAY={','.join(map(str, days))};BYHOUR={hour};BYMINUTE=0;BYSECOND=0"
