"""The page of the monitoring as headless Chromium shows it, and as text."""

import shutil
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from monitoring.page import Chart, Curve, render_page

DRIVER = Path(shutil.which("chromedriver") or "/usr/bin/chromedriver")
DAYS = [date(2023, 1, 2) + timedelta(days=7 * number) for number in range(104)]


def page() -> str:
    values = [100.0 + number % 52 for number in range(104)]
    charts = [
        Chart("Events a week", "per week", [Curve("expected", list(zip(DAYS, values, strict=True)), is_expected=True)], alarms=[DAYS[90]], limit=120.0),
        Chart("Nothing yet", "empty", [Curve("none", [(DAYS[0], None)])]),
        Chart("Share", "with a gap", [Curve("share", [(DAYS[0], 0.1), (DAYS[5], None), (DAYS[9], 0.2)])], as_percent=True),
    ]
    span = [DAYS[0] + timedelta(days=number) for number in range(740)]
    seasons = {day: "winter" if day.month in (12, 1, 2) else "warm_time" for day in span}
    return render_page(
        name="a <shop>", day=date(2025, 1, 1), alarms=["week of 2024-09-23: <less>"], freshness=[("data", "1 days old")], charts=charts, seasons=seasons
    )


def test_text_is_escaped_empty_charts_are_left_out_and_nothing_foreign_is_loaded():
    text = page()
    assert "a &lt;shop&gt;" in text
    assert "&lt;less&gt;" in text
    assert "Nothing yet" not in text
    assert "http" not in text.replace('rel="icon" href="data:,"', "")


@pytest.mark.browser
@pytest.mark.slow
def test_seasons_are_shaded_side_by_side_and_alarms_marked_in_their_week(tmp_path: Path):
    if not DRIVER.exists():
        pytest.skip(f"no chromedriver on the path nor at {DRIVER}")
    webdriver = pytest.importorskip("selenium.webdriver")
    (tmp_path / "page.html").write_text(page(), encoding="utf-8")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        driver.get((tmp_path / "page.html").as_uri())
        boxes = driver.execute_script(
            "return [...document.querySelectorAll('figure:first-of-type rect.season')].map(r => [r, r.getBoundingClientRect()])"
            ".map(([r, box]) => [r.dataset.season, box.left, box.right])"
        )
        assert [name for name, _, _ in boxes] == ["winter", "warm_time", "winter", "warm_time", "winter"]
        assert all(abs(right - left) < 1 for (_, _, right), (_, left, _) in pairwise(boxes))
        mark = driver.execute_script("const b = document.querySelector('circle.alarm-mark').getBoundingClientRect(); return (b.left + b.right) / 2")
        line = driver.execute_script("const b = document.querySelector('polyline').getBoundingClientRect(); return [b.left, b.right]")
        assert abs(mark - (line[0] + (line[1] - line[0]) * 90 / 103)) < 2
        assert driver.execute_script("return document.querySelectorAll('polyline[data-curve=share], circle.point').length") == 4
    finally:
        driver.quit()
