"""The page in a real browser, before a real server: what it draws is what the service says."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving.service import create_app
from serving.settings import ServiceSettings
from tests.serving.shelf_registry import ShelfRegistry
from tests.serving.small_shop import write_shop

pytestmark = [pytest.mark.slow, pytest.mark.browser]
CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(path).exists()), None)
DRIVER = next((path for path in ("/usr/bin/chromedriver", "/usr/lib/chromium/chromedriver") if Path(path).exists()), None)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address(shop_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server in a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "PERENNIAL_BUNDLE": str(shop_bundle),
        "PERENNIAL_CACHE": str(folder / "cache"),
        "PERENNIAL_LOG_FOLDER": str(folder / "log"),
        "PERENNIAL_BROWSE_USERS": "true",
    }
    command = [sys.executable, "-m", "serving", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}) as process:
        found = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: urllib.request.urlopen(found + "/readyz", timeout=2).status == 200, seconds=60)
            yield found
        finally:
            process.terminate()
            assert process.wait(40) in (0, -15)
            assert list((folder / "log/impressions").rglob("*.parquet")), "what was shown is written before the end"


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_window_size(1200, 1000)
    driver.get(address + "/")
    wait_for(lambda: driver.execute_script("return document.querySelectorAll('ol.items > li').length") == 10)
    yield driver
    driver.quit()


def wait_for(is_true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if is_true():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def ask(address: str, **body: Any) -> list[dict[str, Any]]:
    request = urllib.request.Request(address + "/recommend", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return list(json.load(answer)["items"])


def drawn(browser: Any) -> list[dict[str, Any]]:
    """What the page shows: per item its id, score, and the value, left and width (in shares of the row) of each part's bar."""
    return list(
        browser.execute_script(
            """return [...document.querySelectorAll('ol.items > li')].map(node => ({
                item_id: node.dataset.key.split('/')[1], score: Number(node.querySelector('.score').textContent),
                parts: Object.fromEntries([...node.querySelectorAll('.bar')].map(bar => [bar.dataset.part,
                    {value: Number(bar.dataset.value), width: bar.getBoundingClientRect().width / bar.parentNode.getBoundingClientRect().width}]))}))"""
        )
    )


def turn_to(browser: Any, week: int) -> None:
    """Turn the dial with the keyboard and wait for the list of that week."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    dial = browser.find_element(By.ID, "dial")
    dial.send_keys(Keys.HOME)
    for _ in range(week // 4):
        dial.send_keys(Keys.PAGE_UP)
    for _ in range(week % 4):
        dial.send_keys(Keys.ARROW_RIGHT)
    wait_for(
        lambda: (
            browser.execute_script("return state.week") == week
            and browser.execute_script("return state.answers.champion.date === dateOf(state.week) && !document.querySelector('.busy')")
        )
    )


def test_bars_equal_the_numbers_of_the_service(browser: Any, address: str) -> None:
    turn_to(browser, 0)
    expected = ask(address, user_id="u00", date="2024-07-01")
    found = drawn(browser)
    assert [item["item_id"] for item in found] == [item["item_id"] for item in expected]
    browser.execute_script("for (const bar of document.querySelectorAll('.bar')) bar.style.transition = 'none'")
    found = drawn(browser)
    widest = max(part["width"] / abs(part["value"]) for item in found for part in item["parts"].values() if abs(part["value"]) > 0.05)
    for item, said in zip(found, expected, strict=True):
        assert item["score"] == pytest.approx(said["score"], abs=0.006)
        for name, part in item["parts"].items():
            assert part["value"] == pytest.approx(said[name], abs=1e-6)
            assert part["width"] == pytest.approx(abs(said[name]) * widest, abs=0.01), "one scale for all bars"


def test_the_list_for_july_differs_from_that_for_december(browser: Any, address: str) -> None:
    turn_to(browser, 0)
    july = [item["item_id"] for item in drawn(browser)]
    turn_to(browser, 24)
    december = [item["item_id"] for item in drawn(browser)]
    assert december == [item["item_id"] for item in ask(address, user_id="u00", date="2024-12-16")]
    assert july != december
    assert browser.execute_script("return document.getElementById('dial').getAttribute('aria-valuetext')") == "16 December 2024"


def test_the_dial_follows_the_pointer(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    dial = browser.find_element(By.ID, "dial")
    radius = dial.size["width"] * 116 / 288
    ActionChains(browser).move_to_element_with_offset(dial, 0, int(radius)).click_and_hold().move_to_element_with_offset(
        dial, int(radius), 0
    ).release().perform()
    month = browser.execute_script("return new Date(dateOf(state.week)).getUTCMonth()")
    assert month in (2, 3), "a quarter round from New Year is the turn of March"


def test_an_item_opens_to_reasons_and_its_year(browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    turn_to(browser, 0)
    first = browser.find_element(By.CSS_SELECTOR, "ol.items button.item")
    first.send_keys(Keys.ENTER)
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, ".detail figure svg path")) >= 3, seconds=60)
    assert browser.find_element(By.CSS_SELECTOR, ".detail ul").text
    assert browser.switch_to.active_element.get_attribute("aria-expanded") == "true", "focus stays with the item"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert not browser.find_elements(By.CSS_SELECTOR, ".detail")


def test_a_history_is_built_by_clicking(browser: Any, address: str) -> None:
    from selenium.webdriver.common.by import By

    turn_to(browser, 0)
    user = browser.find_element(By.ID, "user")
    user.clear()
    user.send_keys("someone new")
    wait_for(lambda: browser.execute_script("return state.user === null && state.answers.champion.user_id === null"))
    stranger = [item["item_id"] for item in drawn(browser)]
    browser.find_element(By.ID, "find").send_keys("frosty thing 35")
    wait_for(lambda: browser.execute_script("return document.querySelector('#hits button')?.textContent") == "+ Frosty thing 35")
    browser.execute_script("document.querySelector('#hits button').click()")  # in one call: the list of hits is made anew while it is typed
    wait_for(lambda: browser.execute_script("return state.built.length === 1 && state.answers.champion.items.some(item => item.taste !== 0)"))
    assert browser.find_element(By.CSS_SELECTOR, "#built button").text == "Frosty thing 35 ×"
    assert [item["item_id"] for item in drawn(browser)] != stranger
    browser.find_element(By.CSS_SELECTOR, "#built button").click()
    wait_for(lambda: [item["item_id"] for item in drawn(browser)] == stranger)
    user.clear()
    user.send_keys("u00")
    wait_for(lambda: browser.execute_script("return state.answers.champion.user_id") == "u00")


def test_nothing_overflows_on_a_phone_and_nothing_is_reported(browser: Any) -> None:
    from selenium.webdriver.common.by import By

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    try:
        browser.find_element(By.CSS_SELECTOR, "ol.items button.item").click()
        wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, ".detail figure"), seconds=60)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        too_wide = browser.execute_script(
            "return [...document.querySelectorAll('main *')].filter(node => node.getBoundingClientRect().right > 391).map(node => node.outerHTML.slice(0, 80))"
        )
        assert too_wide == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_champion_and_challenger_stand_side_by_side(browser: Any, shop_bundle: Path, tmp_path: Path) -> None:
    """Another server with two versions: the button appears, and each column is the list of its own model."""
    from selenium.webdriver.common.by import By

    registry = ShelfRegistry({"1": shop_bundle, "2": write_shop(tmp_path / "other", seed=1)})
    registry.aliases["challenger"] = "2"
    settings = ServiceSettings(tracking_uri="none", cache=tmp_path / "cache", log_folder=None, browse_users=True, warm_year=False)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(settings, registry=registry), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        before, address = browser.current_url, f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            wait_for(lambda: urllib.request.urlopen(address + "/readyz", timeout=2).status == 200, seconds=30)
            browser.get(address + "/")
            wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "ol.items > li"))
            browser.find_element(By.ID, "compare").click()
            wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "ol.items > li")) == 20)
            headings = [node.text for node in browser.find_elements(By.CSS_SELECTOR, "#lists h2")]
            assert headings == ["champion (version 1)", "challenger (version 2)"]
            shown = browser.execute_script("return [...document.querySelectorAll('ol.items > li')].map(node => node.dataset.key)")
            expected = [
                f"{model}/{item['item_id']}" for model in ("champion", "challenger") for item in ask(address, user_id="u00", date="2024-07-01", model=model)
            ]
            assert shown == expected
            assert shown[:10] != [key.replace("challenger", "champion") for key in shown[10:]]
        finally:
            browser.get(before)
            server.should_exit = True
            thread.join(20)
