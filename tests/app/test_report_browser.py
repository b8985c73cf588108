"""The HTML report in a real browser, opened from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import needs_chromium, start_chromium

from common.app.report import write_index, write_report

pytest.importorskip("selenium", reason="the browser test needs selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator:
    chromium = start_chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A report of 12 slices, of which those from 3 to 10 hold a kidney and from 5 to 8 a tumour, and an index."""
    folder = tmp_path_factory.mktemp("reports")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 12), dtype=np.uint8)
    label = np.zeros_like(image)
    label[10:25, 10:30, 2:10] = 1
    label[15:20, 15:25, 4:8] = 2
    label[14:22, 15:26, 5] = 2  # the largest tumour, in slice 6
    prediction = np.roll(label, 2, axis=0)
    case = "case <7> & co_synthetic"
    write_report(folder / "case.html", case, image, prediction, (1.0, 1.25, 3.0), {"Input": "a<b"}, label)
    write_index(folder / "index.html", [{"case": case, "report": "case.html", "tumor_ml": 1.2}])
    return folder


@pytest.fixture
def page(driver, folder):
    """The report, freshly opened; at the end its console must be empty."""
    driver.get((folder / "case.html").as_uri())
    yield driver
    assert driver.get_log("browser") == []


def state(page) -> tuple[str, str, str]:
    """Caption, picture and the label's tumour contour."""
    picture = page.find_element(By.ID, "picture")
    contour = page.find_element(By.CSS_SELECTOR, "#stage path.label.tumor")
    return page.find_element(By.ID, "caption").text, picture.get_attribute("src"), contour.get_attribute("d")


def test_keys_on_the_slider_move_picture_contours_and_caption(page):
    slider = page.find_element(By.ID, "slider")
    assert state(page)[0] == "Axial slice 6 of 12"
    before = state(page)
    slider.send_keys(Keys.ARROW_RIGHT)
    after = state(page)
    assert after[0] == slider.get_attribute("aria-valuetext") == "Axial slice 7 of 12"
    assert after[1] != before[1] and "" != after[2] != before[2]
    assert page.find_element(By.ID, "picture").get_attribute("alt") == after[0]
    slider.send_keys(Keys.HOME)
    assert state(page)[0] == "Axial slice 3 of 12" and state(page)[2] == ""
    slider.send_keys(Keys.END)
    assert state(page)[0] == "Axial slice 10 of 12"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert state(page)[0] == "Axial slice 10 of 12"


def test_arrow_keys_work_anywhere_on_the_page(page):
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_LEFT)
    assert state(page)[0] == "Axial slice 5 of 12"
    assert page.find_element(By.ID, "slider").get_attribute("value") == "2"


def test_buttons_key_slices_and_the_wheel_move_too(page):
    page.find_element(By.ID, "previous").click()
    assert state(page)[0] == "Axial slice 5 of 12"
    page.find_element(By.ID, "next").click()
    tile = page.find_element(By.CSS_SELECTOR, "[aria-label='Show axial slice 8']")
    tile.click()
    assert state(page)[0] == "Axial slice 8 of 12" and tile.get_attribute("aria-current") == "true"
    wheel = "stage.dispatchEvent(new WheelEvent('wheel', {deltaY: arguments[0], cancelable: true}))"
    page.execute_script(wheel, -120)
    assert state(page)[0] == "Axial slice 7 of 12"
    page.execute_script(wheel, 20)  # a trackpad's small move, not yet a slice
    assert state(page)[0] == "Axial slice 7 of 12"
    page.execute_script(wheel, 40)
    assert state(page)[0] == "Axial slice 8 of 12"


@pytest.mark.parametrize("source, other", [("prediction", "label"), ("label", "prediction")])
def test_ticks_switch_contours_off_and_on(page, source, other):
    tick = page.find_element(By.CSS_SELECTOR, f"[data-source={source}]")
    paths = {name: page.find_elements(By.CSS_SELECTOR, f".stage path.{name}") for name in (source, other)}
    assert len(paths[source]) > 2  # the browser's and the key slices'
    for shown in (False, True):
        tick.send_keys(Keys.SPACE)
        assert {path.is_displayed() for path in paths[source] if path.get_attribute("d")} == {shown}
        assert {path.is_displayed() for path in paths[other] if path.get_attribute("d")} == {True}


def test_contours_lie_on_the_picture(page):
    """Slice 10 holds the kidney alone: x from 10 to 25, y from 10 to 30 voxels of 64, mirrored in both directions."""
    page.find_element(By.ID, "slider").send_keys(Keys.END)
    picture = page.find_element(By.ID, "picture").rect
    box = page.execute_script(
        "const r = document.querySelector('#stage path.label.kidney').getBoundingClientRect();"
        "return [r.x + scrollX, r.y + scrollY, r.width, r.height]"
    )
    column, row = picture["width"] / 64, picture["height"] / 64
    expected = [picture["x"] + 39 * column, picture["y"] + 34 * row, 15 * column, 20 * row]
    assert row == pytest.approx(1.25 * column, rel=0.01)
    np.testing.assert_allclose(box, expected, atol=4)  # a stroke's width around


@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_fits_the_window(page, tmp_path, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    natural = page.execute_script("return [...document.images].map(image => image.complete && image.naturalWidth)")
    assert set(natural) == {64}
    assert page.save_screenshot(str(tmp_path / "page.png")) and (tmp_path / "page.png").stat().st_size > 10_000
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_index_leads_to_the_report(driver, folder):
    driver.get((folder / "index.html").as_uri())
    driver.find_element(By.LINK_TEXT, "case <7> & co_synthetic").click()
    assert driver.find_element(By.TAG_NAME, "h1").text == "case <7> & co_synthetic"
    assert driver.get_log("browser") == []
