"""The page of the server in headless Chromium, with real clicks and keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from animate_rt import Job
from PIL import Image, ImageSequence

from .browser import Page, browser
from .conftest import Case
from .service_requests import held
from .serving import FRAMES, LONG, POSE_MS, TOKEN, Served, pose_file, serving

PLAYS = "document.querySelector('#video').currentTime > 0.05"
ENDED = "document.querySelector('#remove').checkVisibility()"
READY = "document.querySelector('#server').textContent.includes(' \\u00d7 ')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Served]:
    with serving(small_bundle) as served:
        yield served


@pytest.fixture(autouse=True)
def desktop(page: Page) -> Iterator[None]:
    """Every test begins on a screen, and none leaves an error of a script or a blocked request behind."""
    page.screen(1280, 860)
    page.problems.clear()
    yield
    assert not [line for line in page.problems if "Failed to load resource" not in line]


def begin(page: Page, served: Served, case: Case, motion: Path, steps: str) -> None:
    """Open the page, choose the inputs and set the number of steps."""
    page.open(served.url)
    page.wait_for(READY)
    page.choose_files("#picture", [case.reference])
    page.drop("#motion-drop", [motion])
    page.wait_for("document.querySelectorAll('.preview img').length === 2")
    page.click("#settings summary")
    page.click("#steps")
    page.type(steps)


def make(page: Page, served: Served) -> Job:
    """Press the button, and return the job."""
    before = {job.id for job in served.service.list()}
    page.click("#submit")
    return accepted(page, served, before)


def accepted(page: Page, served: Served, before: set[str]) -> Job:
    """Wait for a job that was not there before, and until the page shows it."""
    page.wait_for(f"!{json.dumps(['', *before])}.includes(location.hash.slice(1))")
    job = served.service.get(page.evaluate("location.hash.slice(1)"))
    assert job is not None
    page.wait_for(has("#submit", "Make the video"))
    return job


def repeated(motion: Path, times: int) -> Path:
    """An animated WebP several times in a row."""
    with Image.open(motion) as opened:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(opened)] * times
    path = motion.with_name("repeated.webp")
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=POSE_MS, lossless=True)
    return path


def wait_for_file(path: Path) -> None:
    end = monotonic() + 20
    while not path.exists():
        assert monotonic() < end, "nothing was downloaded"
        sleep(0.02)


def has(selector: str, text: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).textContent.includes({json.dumps(text)})"


def test_from_upload_to_download(page: Page, served: Served, small: Case, tmp_path: Path) -> None:
    motion, num_frames = repeated(pose_file(small, tmp_path), 5), 5 * FRAMES
    begin(page, served, small, motion, "2")
    assert page.evaluate("document.querySelector('input[value=pose]').checked")  # seen in the picture
    assert f"for {num_frames} frames" in page.text("#estimate")
    with held(served.service, lambda job: job.status.frames_done >= FRAMES):  # the others have to wait
        job = make(page, served)
        page.wait_for(has("#activity", f"of {num_frames} are ready"))
        page.wait_for(f"{PLAYS} || {ENDED}")
        assert page.evaluate(f"!{ENDED} && document.querySelector('#video').checkVisibility()")
        assert not job.status.has_ended, "playback began after the clip was finished"
        assert 0 < page.evaluate("document.querySelector('#progress').value") < 100
    page.wait_for(f"document.querySelector('#video').src.endsWith('/content') && {PLAYS}")
    assert page.text("#activity") == "Finished"
    page.click("#download")
    file = page.downloads / f"{job.id}.mp4"
    wait_for_file(file)
    assert file.read_bytes() == job.path.read_bytes()
    page.wait_for("document.querySelector('#past .row img').naturalWidth > 0")  # the thumbnail
    page.click("#remove")
    page.click("#remove")
    page.wait_for("document.querySelector('#empty').checkVisibility()")
    assert served.service.get(job.id) is None


def test_cancel(page: Page, served: Served, small: Case, tmp_path: Path) -> None:
    begin(page, served, small, pose_file(small, tmp_path), LONG)
    first, second = make(page, served), make(page, served)
    page.wait_for("document.querySelectorAll('#queue .row').length === 2")
    page.click("#cancel")
    page.wait_for(f"{ENDED} && {has('#activity', 'Cancelled')}")
    assert second.wait(10).state == "cancelled"
    assert not first.status.has_ended
    page.click("#queue .row")
    page.wait_for(f"!{ENDED}")
    page.click("#cancel")
    page.wait_for(ENDED)
    assert first.wait(10).state == "cancelled"


def test_with_the_keyboard_alone(page: Page, served: Served) -> None:
    page.open(served.url)
    page.wait_for(READY)
    focused = "document.activeElement.id"
    page.tab_to("picture-example")
    page.press("Enter")
    page.tab_to("motion-example")
    page.press(" ")
    page.wait_for("document.querySelectorAll('.preview img').length === 2")
    page.tab_to("")  # the summary of the settings
    page.press("Enter")
    page.tab_to("frames")
    page.type("8")
    page.tab_to("steps")
    page.type(LONG)
    before = {job.id for job in served.service.list()}
    page.press("Enter")
    job = accepted(page, served, before)
    page.wait_for("document.querySelector('#announcement').textContent")
    page.tab_to("cancel")
    page.press("Enter")
    page.wait_for(f"{focused} === 'viewer-title'")  # the pressed button has gone
    assert job.wait(10).state == "cancelled"
    assert job.record.num_frames == 8


def test_errors_are_one_line(page: Page, served: Served, small: Case, tmp_path: Path) -> None:
    broken = tmp_path / "hero.png"
    broken.write_text("no picture")
    page.open(served.url)
    page.wait_for(READY)
    page.click("#submit")
    page.wait_for(has("#problem", "Choose a picture"))
    assert page.evaluate("document.activeElement.id") == "picture"
    page.choose_files("#picture", [broken])
    page.choose_files("#motion", [pose_file(small, tmp_path)])
    page.click("#submit")
    page.wait_for(has("#problem", "as a picture: expected"))
    line = page.text("#problem")
    assert "\n" not in line
    assert str(tmp_path) not in line


@pytest.mark.slow
def test_a_lost_connection_comes_back(page: Page, served: Served, small: Case, tmp_path: Path) -> None:
    begin(page, served, small, pose_file(small, tmp_path), "60")
    job = make(page, served)
    page.wait_for(has("#activity", "Making frames"))
    page.offline(True)
    page.wait_for("document.querySelector('#lost').checkVisibility()")
    page.offline(False)
    page.wait_for("!document.querySelector('#lost').checkVisibility()")
    page.wait_for(has("#activity", "Finished"))
    page.wait_for(f"document.querySelector('#video').src.endsWith('/content') && {PLAYS}")
    assert job.status.state == "completed"


def test_a_token_is_asked_for_once(page: Page, small_bundle: Path, small: Case, tmp_path: Path) -> None:
    with serving(small_bundle, tokens=(TOKEN,)) as served:
        page.open(served.url)
        page.wait_for("document.querySelector('#token').open")
        page.type("another-token-than-this")
        page.press("Enter")
        page.wait_for(has("#token-title", "not accepted"))
        page.type(TOKEN)
        page.press("Enter")
        page.wait_for(READY)
        begin(page, served, small, pose_file(small, tmp_path), "2")  # which opens the page again
        job = make(page, served)
        page.wait_for(f"document.querySelector('#video').src.startsWith('blob:') && {ENDED} && {PLAYS}")
        page.wait_for("document.querySelector('#past .row img').naturalWidth > 0")
        page.click("#download")
        wait_for_file(page.downloads / f"{job.id}.mp4")
        page.open("about:blank")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_fits_every_width(page: Page, served: Served, width: int) -> None:
    page.screen(width, 800)
    page.open(served.url)
    page.wait_for(READY)
    page.click("#settings summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small_targets = (
        "[...document.querySelectorAll('button, a, select')].filter((one) => one.checkVisibility())"
    )
    heights: list[float] = page.evaluate(f"{small_targets}.map((one) => one.offsetHeight)")
    assert min(heights) >= 24


def test_dark_and_light_have_enough_contrast(page: Page, served: Served) -> None:
    page.open(served.url)
    colours = {}
    for dark in (False, True):
        page.screen(1280, 860, dark)
        style = "getComputedStyle(document.documentElement)"
        names = ("paper", "card", "fill", "wash", "ink", "soft", "accent", "on-accent", "error")
        colours[dark] = {
            name: page.evaluate(f"{style}.getPropertyValue('--{name}').trim()") for name in names
        }
        found = {name: luminance(colour) for name, colour in colours[dark].items()}
        for text, background in (
            *((text, paper) for text in ("ink", "soft", "accent", "error") for paper in ("paper", "card")),
            ("on-accent", "accent"),
            ("soft", "fill"),
            ("soft", "wash"),
            ("accent", "wash"),
        ):
            bright, dim = sorted((found[text], found[background]), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (dark, text, background)
    assert colours[False]["paper"] != colours[True]["paper"]


def luminance(colour: str) -> float:
    """The relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_loads_nothing_from_elsewhere_and_no_inline_script(served: Served, page: Page) -> None:
    with served.client() as client:
        policy = client.get("/").headers["content-security-policy"]
        pages: list[httpx.Response] = [client.get("/"), client.get("/page/script.js")]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert all(answer.status_code == 200 for answer in pages)
    page.open(served.url)
    page.wait_for(READY)
    names: list[Any] = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(names) > 10
    assert all(name.startswith(served.url) for name in names)
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 1\">')"
    )
    page.wait_for("document.images[document.images.length - 1].complete")
    assert page.evaluate("window.broken === undefined")
    page.problems.clear()  # the policy has told of it
