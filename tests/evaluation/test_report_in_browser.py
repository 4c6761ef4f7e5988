"""The report as headless Chromium shows it, on a phone and on a screen, light and dark."""

import shutil
from pathlib import Path

import pytest

from evaluation.report import render_report
from evaluation.report_charts import heat_step

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRIVER = Path(shutil.which("chromedriver") or "/usr/bin/chromedriver")
PHONE, SCREEN = 390, 1280

# every drawn value with the place of its mark in its frame, as the browser laid it out
DRAWN = """
return [...document.querySelectorAll('[data-key]:not(td):not(p)')].map(mark => {
  const frame = mark.closest('.track, .canvas, .stack, .cells, .shares');
  const own = mark.getBoundingClientRect(), outer = frame.getBoundingClientRect();
  const chart = mark.closest('.rows, .plot, .items, .heat-map, .shares').getAttribute('aria-label') || mark.closest('figure').innerText;
  return {key: mark.dataset.key, value: Number(mark.dataset.value), css: mark.className, width: own.width, frame: outer.width, chart,
          x: own.left + own.width / 2 - outer.left, y: own.top + own.height / 2 - outer.top};
})"""
TABLED = """
const cells = [...document.querySelectorAll('td[data-key]')];
return Object.fromEntries(cells.map(cell => [cell.dataset.key, [Number(cell.dataset.value), cell.textContent]]))"""
TOO_WIDE = """
const width = document.documentElement.clientWidth;
return [...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll') && !e.closest('.skip') && !e.closest('caption'))
  .filter(e => e.getBoundingClientRect().width > 0)
  .filter(e =>
    (e.getBoundingClientRect().right > width + 0.5 || e.getBoundingClientRect().left < -0.5))
  .map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40))"""
# text whose contrast with what lies behind it is below 4.5 (WCAG 2.2, AA)
POOR_CONTRAST = """
const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true});
const parts = colour => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const linear = v => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = e => {
  for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
  return [255, 255, 255];
};
const has_text = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
const ratio = e => {
  const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((p, q) => q - p);
  return (a + 0.05) / (b + 0.05);
};
return [...document.body.querySelectorAll('*')]
  .filter(e => has_text(e) && e.getBoundingClientRect().width > 0 && !e.closest('caption, .skip') && ratio(e) < 4.5)
  .map(e => [ratio(e), e.className + ' ' + e.textContent.slice(0, 40)])"""


@pytest.fixture(scope="module")
def browser(report_data, tmp_path_factory):
    if not DRIVER.exists():
        pytest.skip(f"no chromedriver on the path nor at {DRIVER}")
    webdriver = pytest.importorskip("selenium.webdriver")
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(render_report(report_data), encoding="utf-8")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.get((folder / "report.html").as_uri())
    yield driver
    driver.quit()


def show(browser, width, scheme="light", *, unfolded=True):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = arguments[0])", unfolded)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def test_nothing_is_asked_for_and_nothing_goes_wrong(browser):
    show(browser, SCREEN)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))") == []
    assert browser.title == "A small shop"


@pytest.mark.parametrize("width", [PHONE, SCREEN])
@pytest.mark.parametrize("unfolded", [False, True])
def test_nothing_sticks_out(browser, width, unfolded):
    show(browser, width, unfolded=unfolded)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(TOO_WIDE) == []


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_drawn_values_equal_the_tables(browser, width):
    show(browser, width)
    drawn, tabled = browser.execute_script(DRAWN), browser.execute_script(TABLED)
    assert len(drawn) > 300
    assert {mark["key"]: mark["value"] for mark in drawn} == {key: value for key, (value, _) in tabled.items()}
    for key, (value, text) in tabled.items():
        if key.startswith(("lead", "slice")):
            assert text.startswith(f"{value:.3f}")


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_marks_stand_where_their_values_say(browser, width):
    show(browser, width)
    drawn = browser.execute_script(DRAWN)
    places = {"gain": "x", "slice": "x", "lift": "x", "lead": "y", "fan": "y"}
    charts = {}
    for mark in drawn:
        kind = mark["key"].split("|")[0]
        if kind in places:
            charts.setdefault((kind, mark["chart"]), []).append((mark["value"], mark[places[kind]]))
    assert len(charts) >= 7
    for name, marks in charts.items():
        (low, at_low), (high, at_high) = min(marks), max(marks)
        if high == low:
            continue
        for value, at in marks:
            assert at == pytest.approx(at_low + (value - low) / (high - low) * (at_high - at_low), abs=0.6), name


AXES = """
const middle = e => { const box = e.getBoundingClientRect(); return box.left + box.width / 2; };
return [...document.querySelectorAll('.rows')].map(chart => ({
  ticks: [...chart.querySelectorAll('.axis .track span')].map(e => [Number(e.textContent.replace('\u2212', '-').replace('%', 'e-2')), middle(e)]),
  marks: [...chart.querySelectorAll('.mark')].map(e => [Number(e.dataset.value), middle(e)])
}))"""


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_axes_say_where_the_marks_stand(browser, width):
    show(browser, width)
    charts = browser.execute_script(AXES)
    assert len(charts) > 5
    for chart in charts:
        (low, at_low), (high, at_high) = chart["ticks"][0], chart["ticks"][-1]
        for value, at in chart["marks"]:
            assert at == pytest.approx(at_low + (value - low) / (high - low) * (at_high - at_low), abs=1)


def test_bars_are_as_long_as_their_parts_and_colours_say_the_level(browser):
    show(browser, SCREEN)
    drawn = browser.execute_script(DRAWN)
    for example in ("parts|again|2021-07-05", "parts|again|2021-11-22"):
        bars = [mark for mark in drawn if mark["key"].startswith(example) and not mark["key"].endswith("score")]
        longest = max(bars, key=lambda mark: abs(mark["value"]))
        assert len(bars) == 30
        for mark in bars:
            assert mark["width"] == pytest.approx(longest["width"] * abs(mark["value"] / longest["value"]), abs=0.6)
    cells = [mark for mark in drawn if mark["key"].startswith("heat")]
    assert len(cells) == 3 * 49
    assert all(mark["css"] == f"heat h{heat_step(mark['value'])}" for mark in cells)
    accepted, quarantined = (next(mark for mark in drawn if mark["key"] == f"rows|{name}") for name in ("accepted", "quarantined"))
    assert accepted["width"] / accepted["frame"] == pytest.approx(6_000 / 6_010, abs=0.005)
    assert quarantined["width"] >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser, scheme):
    show(browser, SCREEN, scheme)
    assert browser.execute_script(POOR_CONTRAST) == []


def test_dark_is_dark(browser):
    lightness = {}
    for scheme in ("light", "dark"):
        show(browser, SCREEN, scheme)
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        lightness[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")[:3])
    assert lightness["dark"] < 150
    assert lightness["light"] > 600
