"""Which cut-offs are evaluated at which leads: those whose whole window lies in the data."""

import datetime as dt

from contracts.errors import NotEnoughHistoryError
from contracts.sections.evaluation import EvaluationConfig

Origins = dict[dt.date, tuple[int, ...]]

TUNING_ORIGINS_PER_LEAD = 3


def evaluation_origins(first_day: dt.date, last_day: dt.date, config: EvaluationConfig) -> Origins:
    """Give the leads of each origin whose window ends with or before the last day of the data.

    Configured origins are taken as they are; without any, the latest `num_origins`, one horizon apart, that hold every lead.

    Raises NotEnoughHistoryError where no window fits.
    """
    longest = max(config.leads_days)
    latest = last_day + dt.timedelta(days=1 - config.horizon_days - longest)
    spaced = [latest - dt.timedelta(days=config.horizon_days * back) for back in reversed(range(config.num_origins))]
    asked = list(config.origins) or [origin for origin in spaced if origin > first_day]
    fitting = {origin: leads for origin in sorted(asked) if origin > first_day and (leads := leads_that_fit(origin, last_day, config))}
    if not fitting:
        raise NotEnoughHistoryError(
            f"evaluation: the data run from {first_day} to {last_day}, and no origin ({_listed(config)}) leaves a window of {config.horizon_days} days"
            f" at leads {list(config.leads_days)}. Shorten evaluation.horizon_days or evaluation.leads_days, or move evaluation.origins.",
            step="evaluate",
        )
    return fitting


def leads_that_fit(origin: dt.date, last_day: dt.date, config: EvaluationConfig) -> tuple[int, ...]:
    """Leads whose whole window `[origin + lead, origin + lead + horizon)` lies in data that end with `last_day`."""
    return tuple(lead for lead in sorted(config.leads_days) if window_end(origin, lead, config.horizon_days) <= last_day + dt.timedelta(days=1))


def tuning_origins(first_day: dt.date, config: EvaluationConfig) -> Origins:
    """Origins one horizon apart whose windows end by `tune_until`; empty where `tune_until` is not set or leaves no room.

    Used for the choice of the best baseline and for early stopping, never reported.
    """
    if config.tune_until is None:
        return {}
    count = TUNING_ORIGINS_PER_LEAD + (max(config.leads_days) - min(config.leads_days)) // config.horizon_days
    latest = config.tune_until - dt.timedelta(days=config.horizon_days + min(config.leads_days))
    spaced = [latest - dt.timedelta(days=config.horizon_days * back) for back in reversed(range(count))]
    return {origin: leads for origin in spaced if origin > first_day and (leads := leads_that_fit(origin, config.tune_until - dt.timedelta(days=1), config))}


def is_tuning_window(origin: dt.date, lead_days: int, config: EvaluationConfig) -> bool:
    """The window ends by `tune_until`."""
    return config.tune_until is not None and window_end(origin, lead_days, config.horizon_days) <= config.tune_until


def window_end(origin: dt.date, lead_days: int, horizon_days: int) -> dt.date:
    """First day after the window."""
    return origin + dt.timedelta(days=lead_days + horizon_days)


def _listed(config: EvaluationConfig) -> str:
    return ", ".join(map(str, config.origins)) or f"the latest {config.num_origins}"
