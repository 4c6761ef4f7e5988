"""Suites of the interactions: rows one by one, the table as a whole, its days, its catalogue, its categories."""

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from contracts import columns as c
from contracts.sections.validation import ValidationConfig
from expectations.engine import load_great_expectations
from expectations.suites.rules import rule

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

INTERACTIONS_VIEW: Final = "interactions"
SUMMARY_VIEW: Final = "interactions_summary"
DAYS_VIEW: Final = "interactions_by_day"
COVERAGE_VIEW: Final = "catalogue_coverage"
CATEGORIES_VIEW: Final = "category_shares"

# Rules whose failure means "too few data", not "wrong data".
HISTORY_RULES: Final = frozenset({"too_few_users", "too_few_items", "history_shorter_than_horizon"})


def interactions_suite(config: ValidationConfig, *, now: datetime, has_users: bool = True) -> "ExpectationSuite":
    """Rules on single events; a row that breaks one is set aside.

    Checked against the view of `row_views.create_rows_view`: event_time is UTC without a zone, numbers are null where not finite,
    `is_finite` and `is_repeated` are added. `now` carries a time zone or is taken as UTC. Without users (demand only) a missing user is no fault.
    """
    gx = load_great_expectations()
    gxe = gx.expectations
    latest = _utc(now) + timedelta(hours=config.future_tolerance_hours)
    largest = sys.float_info.max

    def warn(name: str, description: str, advice: str):
        return rule(name, description, advice=advice, severity="warning")

    ids = {c.EVENT_ID: "an event id", c.USER_ID: "a user", c.ITEM_ID: "an item"}
    if not has_users:
        del ids[c.USER_ID]
    expectations = [
        *(
            expectation
            for column, who in ids.items()
            for expectation in (
                gxe.ExpectColumnValuesToNotBeNull(column=column, **warn(f"{column}_missing", f"Every event has {who}.", f"Check source.columns.{column}.")),
                gxe.ExpectColumnValuesToNotBeInSet(
                    column=column, value_set=[""], **warn(f"{column}_empty", f"No event has an empty text for {who}.", f"Check source.columns.{column}.")
                ),
            )
        ),
        gxe.ExpectColumnValuesToNotBeNull(
            column=c.EVENT_TIME, **warn("event_time_missing", "Every event has a time.", "Check source.columns.event_time and source.time_format.")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column=c.EVENT_TIME,
            min_value=datetime.fromisoformat(config.earliest),
            **warn(
                "event_time_too_early",
                f"No event is before {config.earliest}.",
                "Check source.time_unit (seconds read as milliseconds give 1970), or lower validation.earliest.",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column=c.EVENT_TIME,
            max_value=latest,
            **warn(
                "event_time_in_future",
                f"No event is after {latest:%Y-%m-%d %H:%M} UTC ({config.future_tolerance_hours:g} hours from now).",
                "Check source.time_unit, source.time_zone and the clock of the machine that wrote the events.",
            ),
        ),
        gxe.ExpectColumnValuesToNotBeNull(
            column=c.EVENT_TYPE, **warn("event_type_missing", "Every event has a type.", "Check source.columns.event_type, or set source.default_event_type.")
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column=c.EVENT_TYPE,
            value_set=list(config.event_types),
            **warn(
                "event_type_unknown",
                f"The type of an event is one of: {', '.join(config.event_types)}.",
                "Add the type to validation.event_types, or map it with source.event_types.",
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="is_finite",
            value_set=[True],
            **warn(
                "number_not_finite", "Quantity, price and value are finite numbers or missing.", "Write missing numbers as nothing, not as NaN or infinity."
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column=c.QUANTITY,
            min_value=0,
            max_value=largest,
            strict_min=True,
            **warn("quantity_not_positive", "The quantity is above zero.", "Returns and cancellations are no demand: leave them out of the export."),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column=c.PRICE,
            min_value=0,
            max_value=largest,
            **warn("price_negative", "The price of a unit is zero or more.", "Corrections are no sales: leave them out of the export."),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column=c.PRICE,
            max_value=config.max_price,
            **warn(
                "price_too_high",
                f"The price of a unit is at most {config.max_price:,.0f}.",
                "Check source.columns.price (unit price, not a total), or raise validation.max_price.",
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="is_repeated",
            value_set=[False],
            **warn(
                "event_id_repeated",
                "An event id occurs once; the first event is kept.",
                "Check that source.columns.event_id is a key of the events, or leave it out.",
            ),
        ),
    ]
    return gx.ExpectationSuite(name=INTERACTIONS_VIEW, expectations=expectations)


def summary_suite(config: ValidationConfig, *, horizon_days: int, has_users: bool = True) -> "ExpectationSuite":
    """Rules on the accepted events as a whole, against the one row of `interaction_views.summary`."""
    gx = load_great_expectations()
    gxe = gx.expectations
    return gx.ExpectationSuite(
        name=SUMMARY_VIEW,
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(
                column="quarantined_share",
                max_value=config.max_quarantined_share,
                **rule(
                    "too_many_rows_quarantined",
                    f"At most {config.max_quarantined_share:.1%} of the rows are set aside (validation.max_quarantined_share).",
                    advice="Look at the rules and rows in quarantine; mend the source, or raise validation.max_quarantined_share.",
                ),
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="num_users",
                min_value=config.min_users if has_users else 0,
                **rule(
                    "too_few_users",
                    f"There are at least {config.min_users} users (validation.min_users).",
                    advice="Check source.columns.user_id, or bring more events.",
                ),
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="num_items",
                min_value=config.min_items,
                **rule(
                    "too_few_items",
                    f"There are at least {config.min_items} items (validation.min_items).",
                    advice="Check source.columns.item_id, or bring more events.",
                ),
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="span_days",
                min_value=horizon_days,
                strict_min=True,
                **rule(
                    "history_shorter_than_horizon",
                    f"The events span more than the {horizon_days} days to recommend for (evaluation.horizon_days).",
                    advice="Bring a longer history, or shorten evaluation.horizon_days.",
                ),
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="repeated_share",
                max_value=config.max_repeated_share,
                **rule(
                    "rows_repeated",
                    f"At most {config.max_repeated_share:.1%} of the events say the same as another under another id (validation.max_repeated_share).",
                    advice="If the file was exported twice, set source.columns.event_id so that copies can be told from repeats.",
                    severity="warning",
                ),
            ),
        ],
    )


def days_suite(config: ValidationConfig) -> "ExpectationSuite":
    """Events of each day against the median of the same weekday in the four weeks before."""
    gx = load_great_expectations()
    factor = config.volume_tolerance
    return gx.ExpectationSuite(
        name=DAYS_VIEW,
        expectations=[
            gx.expectations.ExpectColumnValuesToBeBetween(
                column="ratio",
                min_value=1 / factor,
                max_value=factor,
                **rule(
                    "volume_unusual",
                    f"A day has between 1/{factor:g} and {factor:g} times the events of the same weekday in the four weeks before.",
                    advice="Look for a missing or doubled load, a closing day or an outage.",
                    severity="warning",
                ),
            )
        ],
    )


def coverage_suite(config: ValidationConfig) -> "ExpectationSuite":
    """Items of the events that the catalogue knows."""
    gx = load_great_expectations()
    return gx.ExpectationSuite(
        name=COVERAGE_VIEW,
        expectations=[
            gx.expectations.ExpectColumnValuesToBeInSet(
                column="has_entry",
                value_set=[True],
                mostly=1 - config.max_share_without_catalogue,
                **rule(
                    "item_not_in_catalogue",
                    f"At most {config.max_share_without_catalogue:.1%} of the items have no catalogue entry (validation.max_share_without_catalogue).",
                    advice="Export the catalogue with withdrawn items too, and check that both files write item ids alike.",
                    severity="warning",
                ),
            )
        ],
    )


def categories_suite(config: ValidationConfig) -> "ExpectationSuite":
    """Share of each category in the newest weeks against the same weeks of the year before."""
    gx = load_great_expectations()
    tolerance = config.category_share_tolerance
    return gx.ExpectationSuite(
        name=CATEGORIES_VIEW,
        expectations=[
            gx.expectations.ExpectColumnValuesToBeBetween(
                column="change",
                min_value=-tolerance,
                max_value=tolerance,
                **rule(
                    "category_share_unusual",
                    f"The share of a category is within {tolerance:.0%} points of its share in the same weeks of the year before.",
                    advice="Look for a category that was renamed, newly opened or left out of the export.",
                    severity="warning",
                ),
            )
        ],
    )


def _utc(moment: datetime) -> datetime:
    """The same moment in UTC without a zone, as the view stores times."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
