"""Suite of the item catalogue; a row that breaks a row rule is set aside."""

from typing import TYPE_CHECKING

from contracts import columns as c
from contracts.sections.validation import ValidationConfig
from expectations.engine import load_great_expectations
from expectations.row_views import IS_REPEATED
from expectations.suites.rules import rule

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

ITEM_CATALOGUE_VIEW = "item_catalogue"

IS_PERIOD_IN_ORDER = "is_period_in_order"
DERIVED = {IS_PERIOD_IN_ORDER: f"coalesce(epoch_us({c.AVAILABLE_FROM}) <= epoch_us({c.AVAILABLE_UNTIL}), TRUE)"}
SUMMARY_VIEW = "item_catalogue_summary"


def item_catalogue_suite() -> "ExpectationSuite":
    """Items have an id, once; what they say of themselves makes sense."""
    gx = load_great_expectations()
    gxe = gx.expectations
    return gx.ExpectationSuite(
        name=ITEM_CATALOGUE_VIEW,
        expectations=[
            gxe.ExpectColumnValuesToNotBeNull(
                column=c.ITEM_ID, **rule("item_id_missing", "Every entry has an item id.", advice="Check source.catalogue_columns.item_id.", severity="warning")
            ),
            gxe.ExpectColumnValuesToNotBeInSet(
                column=c.ITEM_ID,
                value_set=[""],
                **rule("item_id_empty", "No item id is an empty text.", advice="Check source.catalogue_columns.item_id.", severity="warning"),
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column=IS_REPEATED,
                value_set=[False],
                **rule(
                    "item_id_repeated",
                    "An item has one entry; the first is kept.",
                    advice="Export one row per item, or check source.catalogue_columns.item_id.",
                    severity="warning",
                ),
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column=IS_PERIOD_IN_ORDER,
                value_set=[True],
                **rule(
                    "available_until_before_from",
                    "An item is not withdrawn before it appears.",
                    advice="Check source.catalogue_columns.available_from and available_until.",
                    severity="warning",
                ),
            ),
        ],
    )


def catalogue_summary_suite(config: ValidationConfig) -> "ExpectationSuite":
    """Rules on the catalogue as a whole, against its one row of counts."""
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
                column="share_without_category",
                max_value=config.max_share_without_category,
                **rule(
                    "category_missing",
                    f"At most {config.max_share_without_category:.1%} of the items have no category (validation.max_share_without_category).",
                    advice="Map the category columns in source.catalogue_columns.category: new items borrow their season from their category.",
                    severity="warning",
                ),
            ),
        ],
    )
