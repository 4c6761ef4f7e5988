"""The Data Docs in a real browser, without a network."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from contracts.sections.validation import ValidationConfig
from expectations.validation import validate_interactions
from tests.expectations.made_tables import made_events, store_table

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the path")]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    events = made_events(100, hours_apart=24).with_columns(price=pl.when(pl.int_range(100) < 2).then(-1.0).otherwise("price"))
    table = store_table(folder / "stored", "interactions", events)
    return Path(validate_interactions(table, None, ValidationConfig(), folder=folder / "run", now=datetime(2024, 6, 1, tzinfo=UTC), horizon_days=28).data_docs)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    switches = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "host-resolver-rules=MAP * ~NOTFOUND", f"user-data-dir={profile}")
    for switch in switches:
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def at_width(browser, pixels: int, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 700})
    browser.get(page)


def overflows(browser) -> bool:
    return browser.execute_script("return document.documentElement.scrollWidth > document.documentElement.clientWidth")


def visible(browser, selector: str) -> list[object]:
    return [found for found in browser.find_elements("css selector", selector) if found.is_displayed()]


@pytest.mark.parametrize("pixels", [390, 1300])
def test_the_index_fits_and_shows_the_broken_rule_first(browser, index: Path, pixels: int):
    at_width(browser, pixels, index.as_uri())
    assert not overflows(browser)
    assert visible(browser, "tbody tr")[0].text.split()[:4] == ["!", "warning", "interactions", "price_negative"]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("pixels", [390, 1300])
def test_a_result_page_hides_what_holds_and_unfolds_what_is_folded(browser, index: Path, pixels: int):
    at_width(browser, pixels, index.as_uri())
    next(link for link in browser.find_elements("css selector", "tbody a") if link.text == "interactions").click()
    assert not overflows(browser)
    before = len(visible(browser, ".hide-succeeded-validation-target-child"))
    assert before > 10
    browser.find_element("xpath", "//label[contains(., 'Failed Only')]").click()
    assert visible(browser, ".hide-succeeded-validation-target-child") == []
    assert "2 unexpected values found" in browser.find_element("css selector", "body").text
    browser.find_element("xpath", "//label[contains(., 'Show All')]").click()
    assert len(visible(browser, ".hide-succeeded-validation-target-child")) == before
    assert not visible(browser, ".collapse")
    browser.find_element("css selector", '[data-toggle="collapse"]').click()
    assert visible(browser, ".collapse")
    assert browser.get_log("browser") == []
