"""Example lists: one user asked for two dates half a year apart, so that a person sees what the season does."""

from datetime import date, timedelta

from contracts import columns as c
from serving.recommender import Recommender

US = "US"


def example_dates(end: date, country: str) -> dict[str, date]:
    """Mondays at or after `end`: a week of the coming July, and the coming Thanksgiving's (US) or the third before Christmas."""
    july = next(day for year in (end.year, end.year + 1) if (day := _monday_on_or_after(date(year, 7, 1))) >= end)
    if country.startswith(US):
        winter, name = next(day for year in (end.year, end.year + 1) if (day := _thanksgiving(year) - timedelta(days=3)) >= end), "the week of Thanksgiving"
    else:
        winter, name = next(day for year in (end.year, end.year + 1) if (day := _monday_on_or_after(date(year, 12, 1))) >= end), "the first week of December"
    return {"a week in July": july, name: winter}


def example_user(recommender: Recommender) -> str:
    """The user at the upper quartile of history length; ties fall to the smaller id."""
    lengths = recommender.stored.behaviour.lengths()
    ranked = sorted(zip(lengths.tolist(), recommender.users, strict=True))
    return str(ranked[(3 * len(ranked)) // 4][1])


def item_titles(recommender: Recommender) -> dict[str, str]:
    """Item id -> title, or the end of its category path, or the id."""
    catalogue = recommender.item_catalogue
    titles = catalogue[c.TITLE] if c.TITLE in catalogue.columns else [None] * catalogue.height
    paths = catalogue[c.CATEGORY] if c.CATEGORY in catalogue.columns else [None] * catalogue.height
    return {
        item: title or (path.split(c.CATEGORY_SEPARATOR)[-1] if path else item) for item, title, path in zip(catalogue[c.ITEM_ID], titles, paths, strict=True)
    }


def _monday_on_or_after(day: date) -> date:
    return day + timedelta(days=-day.weekday() % 7)


def _thanksgiving(year: int) -> date:
    first = date(year, 11, 1)
    return first + timedelta(days=(3 - first.weekday()) % 7 + 21)
