"""Which suites look at which table, and what their views derive."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from contracts import columns as c
from contracts.tables import TABLES
from expectations.row_views import STORED_PART
from expectations.suites import feature_tables, forecasts, item_catalogue, rankings

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite


@dataclass(frozen=True)
class GroupCheck:
    """A check on groups of rows: a query over the table's view, its suite, and the columns that name a group."""

    view: str
    query: str
    suite: Callable[[], "ExpectationSuite"]
    key: tuple[str, ...]


@dataclass(frozen=True)
class TableCheck:
    """A check on a table. `suite` takes the table's columns; `derived` is name -> SQL; `sets_aside` says where bad rows go."""

    grain: tuple[str, ...]
    suite: Callable[[Sequence[str]], "ExpectationSuite"]
    derived: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[GroupCheck, ...] = ()
    sets_aside: bool = False


TABLE_CHECKS: Final = MappingProxyType(
    {
        "item_catalogue": TableCheck(TABLES["item_catalogue"].grain, lambda _: item_catalogue.item_catalogue_suite(), item_catalogue.DERIVED, sets_aside=True),
        "vocabulary": TableCheck(
            TABLES["vocabulary"].grain,
            lambda _: feature_tables.vocabulary_suite(),
            groups=(
                GroupCheck(
                    feature_tables.VOCABULARY_INDICES_VIEW, feature_tables.VOCABULARY_INDICES_QUERY, feature_tables.vocabulary_indices_suite, (c.ITEM_INDEX,)
                ),
            ),
        ),
        "demand": TableCheck(
            TABLES["demand"].grain,
            lambda _: feature_tables.demand_suite(),
            groups=(
                GroupCheck(
                    feature_tables.DEMAND_SERIES_VIEW,
                    feature_tables.DEMAND_SERIES_QUERY,
                    feature_tables.demand_series_suite,
                    (c.LEVEL, c.ID, c.REGION, "period_days", "first_date", "last_date"),
                ),
            ),
        ),
        "habits": TableCheck(feature_tables.HABITS_GRAIN, feature_tables.habits_suite, feature_tables.HABITS_DERIVED),
        "season": TableCheck((*feature_tables.SEASON_GRAIN, STORED_PART), feature_tables.season_suite),  # one part for each cut-off and lead
        "histories": TableCheck(TABLES["histories"].grain, lambda _: feature_tables.histories_suite(), feature_tables.HISTORIES_DERIVED),
        "item_weeks": TableCheck(TABLES["item_weeks"].grain, lambda _: feature_tables.item_weeks_suite(), feature_tables.ITEM_WEEKS_DERIVED),
        "forecasts": TableCheck(TABLES["forecasts"].grain, lambda _: forecasts.forecasts_suite(), forecasts.DERIVED),
        "rankings": TableCheck(
            TABLES["rankings"].grain,
            lambda _: rankings.rankings_suite(),
            rankings.DERIVED,
            groups=(GroupCheck(rankings.LISTS_VIEW, rankings.LISTS_QUERY, rankings.lists_suite, TABLES["rankings"].grain[:-1]),),
        ),
    }
)
