"""The web page, built and opened from disk in a real browser: masks as of the command line, and no request."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import needs_chromium, start_chromium
from bundle_runs import BUNDLES, DATA, POCKET, ROOT, read
from dicom_files import make_positions, write_stack
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.app.segmenter import Segmenter
from common.kits.masks import FORMS
from common.kits.metrics import measure_case
from common.kits.phantom import make_phantom
from zoo.pages import SHOWN as DESCRIPTION

WHOLE_SCAN = DATA[-1] / "case_00001/imaging.nii.gz"
SCREENSHOT = ROOT / "docs/web/screenshot.png"
DIFFERENT = 1e-4  # share of voxels
SHAPE, SPACING_MM = (16, 96, 88), (9.0, 4.3, 4.6)
DOWN = (0, 0, -SPACING_MM[0])  # from slice to slice
PREAMBLE = bytes(128) + b"DICM"
SHOWN = ("kidney_ml", "tumor_ml", "lesions", "tumor_diameter_mm")
OBLIQUE = np.array([[4.2, 0.3, 0.9, -190], [-0.3, 4.5, 0.2, -160], [-0.9, -0.3, 8.9, 40], [0, 0, 0, 1.0]])
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("web"),
    needs_chromium,
    pytest.mark.skipif(not shutil.which("npm"), reason="needs npm of Node.js 20.19 or later"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page, built as its how-to says, in a copy of its sources."""
    root = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("node_modules", "dist", "model")
    web = shutil.copytree(ROOT / "docs/web", root / "docs/web", ignore=ignored)
    (root / "scripts").symlink_to(ROOT / "scripts")
    installed = subprocess.run(["npm", "ci", "--prefer-offline"], cwd=web, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm ci found no packages: {installed.stderr.strip().splitlines()[-1]}")
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    built = subprocess.run(["npm", "run", "build"], cwd=web, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert [path.name for path in (web / "dist").iterdir()] == ["index.html"]
    return web / "dist/index.html"


class Visitor:
    """Somebody at the page, whose downloads go to a folder."""

    def __init__(self, driver, page: Path, folder: Path) -> None:
        self.driver, self.folder = driver, folder
        driver.get("about:blank")
        for log in ("browser", "performance"):
            driver.get_log(log)  # which empties it
        driver.get(page.as_uri())

    def find(self, name: str):
        return self.driver.find_element("id", name)

    def choose(self, path: Path) -> None:
        # what an earlier choice left, for a folder is read after send_keys returns
        self.driver.execute_script("for (const id of ['done', 'error']) document.getElementById(id).textContent = ''")
        self.find("folder" if path.is_dir() else "file").send_keys(str(path))
        self.wait_for("done", "error")

    def drop(self, path: Path) -> None:
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": 200, "y": 200, "data": data}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)
        self.wait_for("done", "error")

    def wait_for(self, *names: str) -> None:
        self.wait(lambda: any(self.find(name).text for name in names))

    def wait(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 500  # a page that hangs
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.1)

    def save(self, name: str) -> nib.Nifti1Image:
        path = self.folder / name
        path.unlink(missing_ok=True)
        assert self.find("error").text == ""
        self.find("save").click()
        self.wait(path.exists)
        return nib.load(path)

    def count_drawn(self) -> tuple[int, int]:
        """Pixels on the canvas in the colours of kidney and of tumour; CT is grey."""
        picture = Image.open(io.BytesIO(self.find("canvas").screenshot_as_png)).convert("RGB")
        red, _, blue = np.moveaxis(np.asarray(picture, int), -1, 0)
        return np.count_nonzero(blue - red > 40), np.count_nonzero(red - blue > 40)

    def write_screenshot(self, path: Path) -> None:
        """The whole page as it is, with the weights that it shows."""
        metadata = json.loads((BUNDLES / POCKET / "configs/metadata.json").read_text())
        metrics = {"width": 1120, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        bottom = "return document.querySelector('main').getBoundingClientRect().bottom + scrollY"
        metrics["height"] = round(self.driver.execute_script(bottom)) + 32
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.wait(lambda: any(self.count_drawn()))
        described = PngInfo()
        described.add_text(DESCRIPTION, json.dumps({"weights_sha256": metadata["weights"]["sha256"]}))
        picture = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        picture.save(path, optimize=True, pnginfo=described)
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def requests(self) -> set[str]:
        """Every address that the page has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return {params["request"]["url"] for params in sent}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator:
    # the profile's folder takes the downloads, too; software draws where there is no graphics card
    profile = tmp_path_factory.mktemp("profile")
    driver = start_chromium(profile, "--enable-unsafe-swiftshader", logs=("browser", "performance"))
    yield driver, profile
    driver.quit()


@pytest.fixture
def visitor(chromium, page) -> Visitor:
    return Visitor(chromium[0], page, chromium[1])


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(BUNDLES / POCKET, precision="f32")


def write_phantom(path: Path, kind: str) -> Path:
    """One phantom as files differ: in the order of voxels, their type, scale and byte order, and the header's forms."""
    volume = make_phantom(3, SHAPE, SPACING_MM)[0]
    affine = np.diag([*np.negative(SPACING_MM), 1.0])[[2, 1, 0, 3]]
    if kind == "as in KiTS":
        image = nib.Nifti1Image(volume, affine)
    elif kind == "oblique float32 with a qform alone":
        image = nib.Nifti1Image(volume[::-1, ::-1, ::-1].T.astype(np.float32), None)
        image.set_qform(nib.Nifti1Image(volume.T, OBLIQUE).get_qform(), 1)
    else:
        header = nib.Nifti2Header(endianness=">")
        header.set_data_dtype(np.dtype(">u2"))
        header.set_slope_inter(0.5, -1024)
        image = nib.Nifti2Image(volume.astype(np.float64), affine, header)
        image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def check_equal(visitor: Visitor, image: Path, mask: nib.Nifti1Image, segmenter: Segmenter, tmp_path: Path) -> None:
    """The mask of the page against that of the command line: voxels, forms of the header, and what is said of it."""
    segmentation = segmenter(image)
    segmentation.save(tmp_path / "expected.nii.gz")
    expected = nib.load(tmp_path / "expected.nii.gz")
    voxels = np.asarray(mask.dataobj)
    assert voxels.dtype == np.uint8 and voxels.shape == expected.shape
    assert (voxels != read(tmp_path / "expected.nii.gz")).mean() <= DIFFERENT and voxels.any()
    for field in FORMS:
        assert mask.header[field].tobytes() == expected.header[field].tobytes(), field
    in_ras = nib.as_closest_canonical(mask)
    measured = measure_case(np.asarray(in_ras.dataobj), nib.affines.voxel_sizes(in_ras.affine))
    said = [float(visitor.find(name).text.split()[0]) for name in SHOWN]
    np.testing.assert_allclose(said, [measured[name] for name in SHOWN], atol=0.051)


@pytest.mark.parametrize("kind", ["as in KiTS", "oblique float32 with a qform alone", "NIfTI-2, big-endian, scaled"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_the_mask_of_the_page_is_that_of_the_command_line(kind, suffix, visitor, segmenter, tmp_path):
    image = write_phantom(tmp_path / f"scan{suffix}", kind)
    visitor.choose(image)
    check_equal(visitor, image, visitor.save("scan_mask.nii.gz"), segmenter, tmp_path)


@pytest.mark.skipif(not WHOLE_SCAN.is_file(), reason=f"no {WHOLE_SCAN}")
def test_the_mask_of_a_whole_scan_is_that_of_the_command_line(visitor, segmenter, tmp_path, request):
    visitor.choose(WHOLE_SCAN)
    check_equal(visitor, WHOLE_SCAN, visitor.save("imaging_mask.nii.gz"), segmenter, tmp_path)
    if request.config.getoption("--write-screenshot", False):
        visitor.write_screenshot(SCREENSHOT)


def test_the_mask_is_drawn_over_the_scan_and_goes_where_it_is_not_wanted(visitor, tmp_path):
    visitor.choose(write_phantom(tmp_path / "scan.nii.gz", "as in KiTS"))
    visitor.wait(lambda: visitor.count_drawn()[0] > 100)  # of a tumour the page has next to nothing here
    visitor.find("shown").click()
    visitor.wait(lambda: max(visitor.count_drawn()) == 0)


def write_dicom(folder: Path, positions: np.ndarray, **tags: object) -> Path:
    """The phantom as a DICOM series whose files are named from the last slice to the first."""
    volume, names = make_phantom(3, SHAPE, SPACING_MM)[0].astype(int), range(len(positions))[::-1]
    tags = {"PixelSpacing": list(SPACING_MM[1:]), "SliceThickness": SPACING_MM[0]} | tags
    return write_stack(folder, volume, positions, names, **tags)


@pytest.mark.parametrize("way", ["choose", "drop"])
def test_a_dicom_folder_gives_the_mask_of_the_command_line(way, visitor, segmenter, tmp_path):
    series = write_dicom(tmp_path / "series", make_positions(SHAPE[0], DOWN))
    getattr(visitor, way)(series)
    found = nib.as_closest_canonical(visitor.save("series_mask.nii.gz"))
    segmenter(series).save(tmp_path / "expected.nii.gz")
    expected = nib.as_closest_canonical(nib.load(tmp_path / "expected.nii.gz"))
    assert (np.asarray(found.dataobj) != np.asarray(expected.dataobj)).mean() <= DIFFERENT
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-3)


def test_a_dropped_file_is_segmented_and_no_request_leaves_the_browser(visitor, page, tmp_path):
    visitor.drop(write_phantom(tmp_path / "scan.nii.gz", "as in KiTS"))
    visitor.save("scan_mask.nii.gz")
    asked = visitor.requests()
    assert page.as_uri() in asked
    assert {address.split(":")[0] for address in asked} <= {"file", "blob", "data"}
    assert {address for address in asked if address.startswith("file:")} == {page.as_uri()}


def test_the_policy_forbids_the_page_and_its_workers_to_make_a_request(visitor):
    source = """
        addEventListener("securitypolicyviolation", (event) => tell(event.effectiveDirective));
        fetch("http://127.0.0.1:9/").then(() => tell("sent"), () => {});
    """
    in_worker = f"new Worker(URL.createObjectURL(new Blob([`const tell = postMessage; {source}`])))"
    here = visitor.driver.execute_async_script(f"const tell = arguments[0]; {source}")
    there = visitor.driver.execute_async_script(f"{in_worker}.onmessage = (event) => arguments[0](event.data)")
    assert here == there == "connect-src"


def write_bad(path: Path, kind: str) -> Path:
    if kind == "text":
        path.write_bytes(gzip.compress(b"no image" * 200))
    elif kind == "RGB":
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), path)
    elif kind == "4-D":
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 2), np.int16), np.eye(4)), path)
    elif kind == "NaN":
        nib.save(nib.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4)), path)
    elif kind == "sheared":
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4) + np.eye(4, k=1) * 0.2), path)
    elif kind == "in metres":
        image = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4))
        image.header.set_xyzt_units("meter")
        nib.save(image, path)
    elif kind == "empty":
        path.touch()
    else:
        whole = write_phantom(path, "as in KiTS").read_bytes()
        damaged = {"truncated": whole[: len(whole) // 2], "header alone": whole[:60]}
        damaged["wrong checksum"] = whole[:-8] + bytes(4) + whole[-4:]
        path.write_bytes(damaged[kind])
    return path


@pytest.mark.parametrize(
    "kind, words",
    {
        "text": "expected a NIfTI image, found another kind of file",
        "RGB": "expected real numbers, found voxels of type RGB",
        "4-D": "expected a 3-D image, found shape (8, 8, 8, 2)",
        "NaN": "expected finite Hounsfield units, found NaN",
        "sheared": "expected orthogonal axes, found a sheared affine",
        "in metres": "expected millimetres in xyzt_units, found metres",
        "empty": "expected a NIfTI image, found a truncated or damaged file",
        "truncated": "expected (16, 96, 88) voxels, found a truncated or damaged file",
        "header alone": "expected a NIfTI image, found a truncated or damaged file",
        "wrong checksum": "found a truncated or damaged file",
    }.items(),
)
def test_a_bad_file_is_told_in_one_line(kind, words, visitor, tmp_path):
    visitor.choose(write_bad(tmp_path / "scan.nii.gz", kind))
    told = visitor.find("error").text
    assert told.startswith("scan.nii.gz: expected") and words in told and "\n" not in told
    assert not visitor.find("result").is_displayed()


@pytest.mark.parametrize(
    "name, content", [("report.pdf", b"%PDF-1.4"), ("scan.dcm", PREAMBLE)], ids=["PDF", "no image"]
)
def test_what_is_neither_nifti_nor_dicom_is_told_in_one_line(name, content, visitor, tmp_path):
    (tmp_path / name).write_bytes(content)
    visitor.choose(tmp_path / name)
    assert visitor.find("error").text == f"{name}: expected a NIfTI file or a DICOM series, found neither."


def test_a_series_with_a_gap_or_a_tilt_and_two_series_in_a_folder_are_refused(visitor, tmp_path):
    positions = make_positions(SHAPE[0], DOWN)
    gap = write_dicom(tmp_path / "gap", positions + np.outer(np.arange(SHAPE[0]) > 7, DOWN))
    visitor.choose(gap)
    assert visitor.find("error").text.startswith("gap: expected one evenly spaced DICOM series, found ")
    tilted = write_dicom(tmp_path / "tilted", make_positions(SHAPE[0], (0, 2, DOWN[2])))
    visitor.choose(tilted)
    assert visitor.find("error").text.startswith("tilted: expected slices straight above each other, found ")
    for series in ("1.2.3", "1.2.4"):
        write_dicom(tmp_path / "study" / series, positions, SeriesInstanceUID=series)
    visitor.choose(tmp_path / "study")
    assert visitor.find("error").text.startswith("study: expected one evenly spaced DICOM series, found ")


def test_nothing_dropped_is_told_in_one_line(visitor):
    visitor.driver.execute_script("dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer()}))")
    visitor.wait_for("error")
    assert visitor.find("error").text.endswith("found no file.")


def test_what_is_unlike_ct_is_segmented_with_a_warning(visitor, tmp_path):
    volume = make_phantom(3, SHAPE, SPACING_MM)[0]
    nib.save(nib.Nifti1Image((volume + 1024).astype(np.int16), np.diag([*SPACING_MM, 1])), tmp_path / "mr.nii")
    visitor.choose(tmp_path / "mr.nii")
    assert visitor.find("warnings").text.startswith("mr.nii: expected Hounsfield units with air below 0, found ")
    assert visitor.find("result").is_displayed()


def test_a_second_scan_takes_the_place_of_a_broken_one(visitor, tmp_path):
    visitor.choose(write_bad(tmp_path / "broken.nii.gz", "truncated"))
    visitor.choose(write_phantom(tmp_path / "scan.nii.gz", "as in KiTS"))
    assert visitor.find("error").text == "" and visitor.find("done").text.startswith("scan.nii.gz: ")


@pytest.mark.parametrize("width", [1280, 360])
def test_sliders_move_by_keys_and_the_page_fits_the_window(width, visitor, tmp_path):
    from selenium.webdriver.common.keys import Keys

    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    visitor.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    visitor.choose(write_phantom(tmp_path / "scan.nii.gz", "as in KiTS"))
    slider = visitor.driver.find_element("css selector", "[data-axis='2']")
    slider.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert slider.find_element("xpath", "following-sibling::output").text == "2 of 16"
    visitor.find("shown").send_keys(Keys.SPACE)
    assert not visitor.find("shown").is_selected()
    assert visitor.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    visitor.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    loud = [entry for entry in visitor.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert loud == []


def test_the_page_says_what_it_is(visitor):
    words = visitor.driver.find_element("tag name", "main").text
    assert "Research only, not a medical device." in words and "Nothing leaves the browser." in words
