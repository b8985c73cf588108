"""A real Chromium, where there is one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver: apt-get install chromium chromium-driver"
)


def start_chromium(profile: Path, *further: str, logs: tuple[str, ...] = ("browser",)):
    """
    A Chromium without a window, to be ended with `quit()`.

    Args:
        profile: an empty folder of its own; downloads go there, too.
        further: options of Chromium.
        logs: what it keeps for `get_log`.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={profile}", *further):
        options.add_argument(option)
    options.add_experimental_option("prefs", {"download.default_directory": str(profile)})
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    chromium = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    chromium.set_window_size(1280, 900)
    return chromium
