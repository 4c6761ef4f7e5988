"""The report as text; what a browser makes of it is in test_report_in_browser.py."""

import datetime as dt
from html import escape
from html.parser import HTMLParser

import polars as pl
import pytest

from evaluation.gates import PromotionDecision
from evaluation.new_items import BY_CHANCE, KIND, SLICE
from evaluation.report import PageData, ReportData, render_forecast_report, render_report
from evaluation.report_charts import signed_percent, ticks
from evaluation.report_panels import HeatMap, LevelError, SeriesPart, example_of, forecast_panel, level_errors, season_heat_map
from evaluation.results import SliceRow


class Page(HTMLParser):
    """Attributes and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.drawn, self.tabled, self.attributes, self.tags, self.headings, self.open = {}, {}, [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.attributes.append((tag, found))
        if "data-key" in found:
            (self.tabled if tag == "td" else self.drawn)[found["data-key"]] = float(found["data-value"])
        if tag not in {"meta", "link", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def page(report_data):
    return Page(render_report(report_data))


def test_every_tag_is_closed_in_order(page):
    assert page.open == []


def test_every_drawn_value_stands_in_a_table(page):
    drawn = {key: value for key, value in page.drawn.items() if not key.startswith("tile")}
    assert len(drawn) > 300
    assert {key.split("|")[0] for key in drawn} == {"gain", "lead", "slice", "lift", "control", "mase", "heat", "fan", "parts", "rows"}
    assert drawn == page.tabled


def test_items_without_history_have_a_table_of_their_own_where_they_were_ranked(report_data):
    evaluation = report_data.evaluation
    figures = {"metric": "ndcg@10", "ci_low": 0.25, "ci_high": 0.375, "num_users": 1_234, "num_rows": 1_300}
    rows = tuple(SliceRow(kind=KIND, slice=SLICE, list="discover", model=name, value=0.3125, **figures) for name in (evaluation.model, BY_CHANCE))
    text = render_report(report_data.model_copy(update={"evaluation": evaluation.model_copy(update={"new_items": rows})}))
    title = "Items without history, ranked among themselves"
    part = text.split(f"<summary>{title}</summary>")[1].split("</details>")[0]
    assert "declares them available" in part
    assert all(word in part for word in ("by chance", "1,234", "0.3125", "0.2500 to 0.3750"))
    assert Page(text).open == []
    assert title not in render_report(report_data)


def test_the_page_asks_for_nothing_and_runs_nothing(page, report_data):
    assert not {"script", "iframe", "img", "object", "embed"} & set(page.tags)
    sources = [value for tag, found in page.attributes for name, value in found.items() if name in {"src", "srcset"} or (tag == "link" and name == "href")]
    assert sources == ["data:,"]
    style = render_report(report_data).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_decision_comes_first_with_its_reasons(page, report_data):
    assert page.headings[0] == "Not promoted"
    text = render_report(report_data)
    assert text.index("Not promoted") < text.index("How good it is")
    assert report_data.decision.reasons
    assert all(escape(reason) in text.split("<nav")[0] for reason in report_data.decision.reasons)


@pytest.mark.parametrize(
    ("promoted", "gates", "headline"), [(True, True, "Promoted to champion"), (False, True, "Waits for review"), (False, False, "Not promoted")]
)
def test_headline_says_what_was_decided(report_data, promoted, gates, headline):
    opened = tuple(gate.model_copy(update={"passed": True, "failures": ()}) for gate in report_data.decision.gates) if gates else ()
    decision = PromotionDecision(promoted=promoted, reasons=("because",), gates=opened)
    assert Page(render_report(report_data.model_copy(update={"decision": decision}))).headings[0] == headline


def shared(report_data):
    """What a page without a recommender shows of the same run."""
    return PageData(**{name: getattr(report_data, name) for name in PageData.model_fields})


def test_a_page_without_a_recommender_shows_forecasts_and_data_only(report_data):
    page = Page(render_forecast_report(shared(report_data)))
    assert page.headings == ["Forecasts beat last year", "The year in demand", "Forecast against actual", "The data behind it"]
    assert page.open == []
    drawn = {key: value for key, value in page.drawn.items() if not key.startswith("tile")}
    assert {key.split("|")[0] for key in drawn} == {"mase", "heat", "fan", "rows"}
    assert drawn == page.tabled
    assert page.drawn["tile|total"] == report_data.forecast_errors[0].chosen


def test_a_series_is_shown_with_its_parts_and_their_numbers(report_data):
    dates = tuple(dt.date(2020, 1, 6) + dt.timedelta(weeks=week) for week in range(104))
    parts = (SeriesPart(name="trend", values=tuple(100.0 + week for week in range(104))), SeriesPart(name="yearly", values=(0.5, 1.25) * 52))
    panel = report_data.forecasts[0].model_copy(update={"part_dates": dates, "parts": parts})
    text = render_report(report_data.model_copy(update={"forecasts": (panel,)}))
    assert Page(text).open == []
    assert Page(text).drawn == Page(render_report(report_data)).drawn
    assert text.count('class="plot strip"') == 2
    assert "<h3>All items, taken apart</h3>" in text
    assert f"{dates[-1]}</th><td>203</td><td>1.25</td>" in text
    assert text.split('aria-label="yearly of All items')[1].startswith(": 0.50 to 1.25")
    assert "taken apart" not in render_report(report_data)


@pytest.mark.parametrize(("chosen", "headline"), [((0.4, 0.8), "Forecasts beat last year"), ((0.4, 0.9), "Forecasts made"), ((), "Forecasts made")])
def test_forecasts_beat_last_year_only_at_every_level(report_data, chosen, headline):
    errors = tuple(LevelError(level=f"level {n}", num_series=3, chosen=value, last_year=0.85, models="x") for n, value in enumerate(chosen))
    text = render_forecast_report(shared(report_data).model_copy(update={"forecast_errors": errors}))
    assert Page(text).headings[0] == headline
    assert ("cannot be judged" in text) == (not chosen)


def test_errors_of_levels_go_from_coarse_to_fine_and_name_their_models():
    cutoff = dt.date(2021, 3, 1)
    rows = [("item", "a", "theta"), ("item", "b", "combination"), ("item", "c", "combination"), ("total", "total", "mstl")]
    choices = pl.DataFrame([{"cutoff": cutoff, "level": level, "id": name, "region": "all", "model": model} for level, name, model in rows])
    errors = level_errors({"item": (0.9, 1.0), "total": (0.5, 0.6)}, choices, cutoffs=[cutoff])
    assert [(error.level, error.num_series, error.chosen, error.last_year) for error in errors] == [("total", 1, 0.5, 0.6), ("item", 3, 0.9, 1.0)]
    assert errors[1].models == "a weighted mean of models or the theta method"


def test_names_from_data_are_text_and_never_markup(report_data):
    nasty = '<script>alert("x")</script>'
    example = report_data.examples[0]
    items = (example.items[0].model_copy(update={"title": nasty}), *example.items[1:])
    heat = HeatMap(title=nasty, rows=(nasty,), columns=(dt.date(2021, 1, 4),), values=((1.0,),))
    changed = report_data.model_copy(
        update={"title": nasty, "model_label": nasty, "examples": (example.model_copy(update={"items": items}),), "heat_maps": (heat,), "facts": {nasty: nasty}}
    )
    text = render_report(changed)
    assert "<script>" not in text
    assert Page(text).open == []


def test_a_short_report_leaves_empty_panels_out(report_data):
    short = ReportData(title="short", evaluation=report_data.evaluation, decision=report_data.decision)
    page = Page(render_report(short))
    assert page.headings[1:] == ["How good it is", "Further ahead", "Season by season"]
    assert page.open == []


def test_drawings_and_scrolling_tables_have_names(page):
    named = [found for _, found in page.attributes if found.get("role") in {"img", "region"}]
    assert len(named) > 20
    assert all(found.get("aria-label") for found in named)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-0.2, 0.1), (0.0431, 0.0432), (0, 5e6), (3.0, 3.0)])
def test_ticks_cover_the_range_with_few_round_numbers(low, high):
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8


def test_gains_beyond_measure_are_factors():
    assert (signed_percent(0.054), signed_percent(-0.054), signed_percent(19.0), signed_percent(1e300)) == (
        "+5.4\u202f%",
        "\u22125.4\u202f%",
        "\u00d720",
        "\u221e",
    )


def test_a_category_is_shown_where_it_says_more_than_the_title(report_data):
    example = report_data.examples[0]
    items = [example.items[0].model_copy(update={"title": title, "category": "RADISH"}) for title in ("Radish, 24 ct", "Red ones")]
    for item, count in zip(items, (0, 1), strict=True):
        changed = report_data.model_copy(update={"examples": (example.model_copy(update={"items": (item,)}),)})
        assert render_report(changed).count("<small>RADISH</small>") == count


def test_large_axes_are_short(report_data):
    panel = report_data.forecasts[0]
    periods = tuple(period.model_copy(update={"actual": 4_000_000.0}) for period in panel.periods)
    text = render_report(report_data.model_copy(update={"forecasts": (panel.model_copy(update={"periods": periods}),)}))
    assert ">4M</span>" in text
    assert "000k</span>" not in text


def demand(rows, region="all"):
    schema = {"level": pl.String, "id": pl.String, "region": pl.String, "date": pl.Date, "units": pl.Float64}
    return pl.DataFrame([("category", name, region, date, units) for name, date, units in rows], schema=schema, orient="row")


def test_heat_map_shows_the_largest_categories_in_the_order_of_their_peaks():
    monday = dt.date(2021, 1, 4)
    days = [monday + dt.timedelta(days=k) for k in range(28)]
    late = [("late", day, 9.0 if place >= 21 else 1.0) for place, day in enumerate(days)]
    early = [("early", day, 4.0 if place < 7 else 1.0) for place, day in enumerate(days)]
    small = [("small", day, 0.1) for day in days]
    heat = season_heat_map(demand(late + early + small), num_rows=2, num_weeks=4)
    assert heat.rows == ("early", "late")
    assert heat.columns == tuple(monday + dt.timedelta(days=7 * week) for week in range(4))
    assert heat.values[0] == pytest.approx((16 / 7, 4 / 7, 4 / 7, 4 / 7))
    assert heat.values[1] == pytest.approx((1 / 3, 1 / 3, 1 / 3, 3.0))


def test_weeks_before_the_first_sale_are_unknown_and_not_zero():
    heat = season_heat_map(demand([("new", dt.date(2021, 1, 18), 5.0), ("new", dt.date(2021, 1, 25), 15.0)]), num_weeks=3)
    assert heat.values == ((None, 0.5, 1.5),)
    assert season_heat_map(demand([])).rows == ()


def test_a_heat_map_must_be_rectangular():
    with pytest.raises(ValueError, match="expected 1 rows of 2 values"):
        HeatMap(title="t", rows=("a",), columns=(dt.date(2021, 1, 4), dt.date(2021, 1, 11)), values=((1.0,),))


def forecasts(regions=("all",)):
    weeks = [dt.date(2021, 3, 1), dt.date(2021, 3, 8)]
    rows = [(dt.date(2021, 3, 1), "category", "tea", region, day, "mstl", 10.0, 4.0, 6.0, 10.0, 14.0, 16.0) for region in regions for day in weeks]
    return pl.DataFrame(rows, schema=["cutoff", "level", "id", "region", "date", "model", "mean", "q025", "q100", "q500", "q900", "q975"], orient="row")


def test_fan_shows_what_was_known_and_what_came():
    past = demand([("tea", dt.date(2021, 2, 1) + dt.timedelta(days=7 * k), float(k)) for k in range(5)])
    panel = forecast_panel(past, forecasts(), level="category", id="tea", cutoff=dt.date(2021, 3, 1), num_periods_before=2)
    assert [(period.date.isoformat(), period.actual, period.mean, period.low_80) for period in panel.periods] == [
        ("2021-02-15", 2.0, None, None),
        ("2021-02-22", 3.0, None, None),
        ("2021-03-01", 4.0, 10.0, 6.0),
        ("2021-03-08", None, 10.0, 6.0),
    ]


@pytest.mark.parametrize(
    ("model", "leading", "fallback", "said"),
    [
        ("combination", "theta", None, "a weighted mean of models, the theta method first"),
        ("seasonal_naive", "seasonal_naive", None, "last year's values (seasonal naive)"),
        ("mstl", "mstl", "constant: repeated", "MSTL (season and trend decomposed) (constant: repeated)"),
    ],
)
def test_caption_of_a_forecast_names_the_model_that_speaks(model, leading, fallback, said, report_data):
    cutoff, past = dt.date(2021, 3, 1), demand([("tea", dt.date(2021, 2, 22), 3.0)])
    row = {"cutoff": cutoff, "level": "category", "id": "tea", "region": "all", "model": model, "leading_model": leading, "fallback": fallback}
    other = {**row, "id": "jam", "model": "croston", "leading_model": "croston"}
    choices = pl.DataFrame([row, other], schema_overrides={"fallback": pl.String})
    chosen = forecasts().with_columns(model=pl.lit("chosen"))
    panel = forecast_panel(past, chosen, level="category", id="tea", cutoff=cutoff, choices=choices)
    assert panel.model == said
    assert f"forecast by {escape(said)}." in render_report(report_data.model_copy(update={"forecasts": (panel,)}))
    assert forecast_panel(past, chosen, level="category", id="tea", cutoff=cutoff).model == "the model its back-test chose"


def test_quantiles_of_several_regions_are_not_added_up():
    past = pl.concat([demand([("tea", dt.date(2021, 2, 22), 3.0)], region) for region in ("GB", "AU")])
    panel = forecast_panel(past, forecasts(("GB", "AU")), level="category", id="tea", cutoff=dt.date(2021, 3, 1))
    assert (panel.periods[0].actual, panel.periods[1].mean, panel.periods[1].low_80) == (6.0, 20.0, None)


def test_an_unknown_series_names_the_known_ones():
    with pytest.raises(ValueError, match=r"nothing for level 'category', id 'jam'.*\['tea'\]"):
        forecast_panel(demand([]), forecasts(), level="category", id="jam", cutoff=dt.date(2021, 3, 1))


def test_an_example_is_one_users_list_with_titles():
    day = dt.date(2021, 7, 4)
    rows = [("ann", "again", day, 2, "i2", 1.0, None, 0.5), ("ann", "again", day, 1, "i1", 2.0, 1.0, 0.5), ("bob", "again", day, 1, "i3", 1.0, 0.0, 0.0)]
    rankings = pl.DataFrame(rows, schema=["user_id", "list", "request_date", "rank", "item_id", "taste", "habit", "season"], orient="row")
    catalogue = pl.DataFrame({"item_id": ["i1"], "title": ["Ice cream"], "category": ["food > frozen"]})
    example = example_of(rankings, user="ann", list_name="again", request_date=day, title="July", item_catalogue=catalogue)
    assert [(item.rank, item.title, item.category, item.score) for item in example.items] == [(1, "Ice cream", "frozen", 3.5), (2, "i2", "", 1.5)]
    with pytest.raises(ValueError, match="no list 'discover' of user 'ann' for 2021-07-04"):
        example_of(rankings, user="ann", list_name="discover", request_date=day, title="July")


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1.0, 1.0 + 4e-16), (0.0, 0.0), (1.0 - 1e-14, 1.0)])
def test_an_axis_of_values_that_hardly_differ_still_has_a_length(low: float, high: float) -> None:
    found = ticks(low, high, 3)
    assert found[-1] - found[0] >= 1.0
    assert found[0] <= low + 1e-9
    assert found[-1] >= high
