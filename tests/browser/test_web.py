"""The page in headless Chromium. Skipped where Gradio, Selenium, Chromium or its driver are missing."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile

import pytest

from soc_rvos import Segmenter
from tests.tiny_labels import write_file, write_pngs
from tests.tiny_run import tiny_model_overrides, write_tiny_root
from tests.tiny_saved_model import write_tiny_saved_model

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
MISSING = [name for name in ("gradio", "selenium") if importlib.util.find_spec(name) is None]
MISSING += [name for name, path in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if path is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1400,1500",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip

PATIENCE = 400
"""Seconds; the machine may be busy."""

FRAME = "return document.querySelector('#segment-frame img')?.src"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def teach_overrides(folder):
    """A model so small that it is taught in seconds; nothing is fetched."""
    root = write_tiny_root(folder)
    steps = ["stages.0.max_steps=6", "stages.1.max_steps=4", "train.log_every=2", "num_threads=1"]
    return [*tiny_model_overrides(root), *steps]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A video of 12 frames with labels."""
    folder = tmp_path_factory.mktemp("pets")
    write_file(folder / "pets.mp4")
    write_pngs(folder / "labels")
    return folder


@pytest.fixture(scope="module")
def sentences(pets, model):
    """Two sentences that a model with random weights sees something in, of which it then rejects none."""
    candidates = ["a square", "the upper square", "the square on the left", "a square moving right"]
    result = Segmenter.from_pretrained(model, device="cpu")(pets / "pets.mp4", candidates)
    seen = [s for s, masks in zip(candidates, result.masks, strict=True) if masks.any(axis=(1, 2)).all()]
    assert len(seen) >= 2
    return seen[:2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "m"
    write_tiny_saved_model(folder)
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(model, pets, temporary, tmp_path_factory):
    port = free_port()
    command = [sys.executable, "-m", "tools.web", "--model", str(model), "--port", str(port), "--device", "cpu"]
    command += ["--examples", str(pets / "pets.mp4"), "--max-seconds", "20"]
    command += ["--teach-overrides", *teach_overrides(tmp_path_factory.mktemp("tiny") / "root")]
    log = temporary.parent / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while "the page: " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert not list(temporary.glob("soc_web_*")), "the folder of the page is still there"


class Tab:
    """A browser with the page."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address
        driver.get(address)
        self.wait("return document.querySelector('#segment-run')")

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments):
        """The value of the script, once it is neither empty nor false."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            value = self.js(script, *arguments)
            if value:
                return value
            error = self.js("return document.querySelector('.toast-body.error')?.innerText")
            assert not error or "error" in script, error
            time.sleep(0.3)
        raise AssertionError(f"never true: {script}")

    def click(self, selector):
        self.wait("return document.querySelector(arguments[0])", selector)
        element = self.driver.find_element("css selector", selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def click_text(self, text):
        """The button with this text that can be seen; the page has hidden copies of the buttons of its tabs."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            buttons = self.driver.find_elements("css selector", "button")
            seen = [button for button in buttons if button.is_displayed() and button.text.startswith(text)]
            if seen:
                seen[0].click()
                return
            time.sleep(0.3)
        raise AssertionError(f"no button {text!r}")

    def write(self, selector, text):
        box = self.driver.find_element("css selector", selector)
        box.clear()
        box.send_keys(text)

    def requests(self):
        """Addresses of everything that the page asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def tab(address, tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    try:
        yield Tab(driver, address)
    finally:
        driver.quit()


def download(tab, selector, file):
    """The archive that the browser saves when the button is pressed."""
    tab.click(f"{selector}:not([disabled])")
    deadline = time.monotonic() + PATIENCE
    while not file.is_file():
        assert time.monotonic() < deadline, "nothing was downloaded"
        time.sleep(0.3)
    return zipfile.ZipFile(file)


def test_a_sample_is_segmented_played_stepped_through_and_taken_away(tab, sentences, temporary, tmp_path):
    tab.click_text("Sample: pets.mp4")
    tab.wait("return document.querySelector('#segment-video video')")
    tab.write("#segment-sentences textarea", "\n".join(sentences))
    tab.click("#segment-run")
    playing = (
        "const v = document.querySelector('#segment-overlay video'); return v && v.videoWidth && v.currentTime > 0"
    )
    tab.wait(playing)
    verdicts = tab.js("return document.querySelector('#segment-verdicts').innerText")
    assert all(sentence in verdicts for sentence in sentences)
    assert "found in all frames" in verdicts

    first = tab.wait(FRAME)
    assert first.startswith("data:image/jpeg")
    tab.js(
        "const n = document.querySelector('#segment-position input[type=number]'); n.value = arguments[0]; "
        "n.dispatchEvent(new Event('input', {bubbles: true})); n.dispatchEvent(new Event('blur'))",
        9,
    )
    second = tab.wait(f"const s = (() => {{{FRAME}}})(); return s != arguments[0] && s", first)
    assert "frame 9" in tab.js("return document.querySelector('#segment-frame img').alt")

    tab.click("#segment-shown input[type=checkbox]")
    third = tab.wait(f"const s = (() => {{{FRAME}}})(); return s != arguments[0] && s", second)
    assert sentences[0] not in tab.js("return document.querySelector('#segment-frame img').alt").split(" with ")[
        1
    ].split(", ")
    tab.click("#segment-shown input[type=checkbox]")
    assert tab.wait(f"const s = (() => {{{FRAME}}})(); return s != arguments[0] && s", third) == second

    names = download(tab, "#segment-download", tmp_path / "segmentation.zip").namelist()
    assert "segmentation/overlay.mp4" in names
    assert sum(name.startswith("segmentation/masks/") for name in names) == 24
    assert tab.wait("return document.querySelector('#segment-scores canvas, #segment-scores svg')")

    elsewhere = [url for url in tab.requests() if not url.startswith((tab.address, "data:", "blob:", "chrome:"))]
    assert elsewhere == []
    (root,) = temporary.glob("soc_web_*")
    assert list(root.glob("session-*/answer-*"))
    tab.driver.get("about:blank")
    deadline = time.monotonic() + 120
    while list(root.glob("session-*")) or list((root / "uploads").rglob("*.mp4")):
        assert time.monotonic() < deadline, "files of a visitor who has left are still there"
        time.sleep(0.5)


def test_a_mistake_arrives_as_one_message(tab):
    tab.click("#segment-run")
    assert (
        tab.wait("return document.querySelector('.toast-body.error')?.innerText").count("there are no sentences") == 1
    )


def test_labels_are_uploaded_and_a_model_is_taught_and_tried(tab, pets, sentences, tmp_path):
    tab.click_text("Teach")
    tab.wait("return document.querySelector('#teach-video')?.offsetParent != null")
    tab.click("#teach-how input[value=upload]")
    tab.wait("return document.querySelector('#teach-files input[type=file]')")
    tab.driver.find_element("css selector", "#teach-video input[type=file]").send_keys(str(pets / "pets.mp4"))
    tab.wait("return document.querySelector('#teach-video video')")
    labels = sorted(str(path) for path in (pets / "labels").iterdir())
    tab.driver.find_element("css selector", "#teach-files input[type=file]").send_keys("\n".join(labels))
    tab.wait("return document.querySelector('#teach-files').innerText.includes('sentences')")
    tab.click("#teach-train")
    outcome = "return document.querySelector('#teach-outcome')?.innerText"
    tab.wait(f"const t = (() => {{{outcome}}})(); return t.includes('The model is ready')")
    text = tab.js(outcome)
    assert "J&F on them:" in text
    assert "held-out frames: " in text
    assert tab.js("return document.querySelector('#teach-curve canvas, #teach-curve svg')")
    names = download(tab, "#teach-download", tmp_path / "model.zip").namelist()
    assert {"model/model.safetensors", "model/config.yaml", "model/README.md"} <= set(names)

    tab.click("#teach-try")
    tab.wait("return document.querySelector('#segment-run')?.offsetParent")
    tab.wait("return document.querySelector('#segment-video video')")
    tab.write("#segment-sentences textarea", "\n".join(sentences))
    tab.click("#segment-run")
    tab.wait("return document.querySelector('#segment-verdicts').innerText.includes('found')")
