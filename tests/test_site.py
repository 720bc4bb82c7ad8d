"""The built site in a real browser: links, pictures, search, equations, width, colours, nothing from a network."""

import functools
import http.server
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"
PAGES = {
    "front": "docs/index.html",
    "tutorial": "tutorials/01_ssmtl.html",
    "entry": "pyrozoo/models/ssmtl/README.html",
    "api": "docs/api/names/pyrozoo.khat.html",
    "gallery": "docs/gallery.html",
    "how-to": "docs/howto/own_guide.html",
}
pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built: make docs"),
]


class Links(HTMLParser):
    """Addresses that a page refers to, and the names of its own places."""

    def __init__(self, page):
        super().__init__()
        self.links, self.pictures, self.places = [], [], set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        self.places.add(facts.get("id"))
        if tag == "a" and facts.get("href"):
            self.links.append(facts["href"])
        if tag == "img":
            self.pictures.append((facts.get("src"), facts.get("alt")))


@pytest.fixture(scope="module")
def pages():
    return {page.relative_to(SITE).as_posix(): Links(page) for page in SITE.rglob("*.html")}


def test_every_link_inside_the_site_leads_somewhere(pages):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            address, place = urldefrag(urljoin(f"http://site/{name}", link))
            if not address.startswith("http://site/"):
                continue
            target = unquote(address.removeprefix("http://site/"))
            lost = place and target in pages and unquote(place) not in pages[target].places
            if lost or not (SITE / target).is_file():
                dead.append((name, link))
    assert not dead, dead[:20]


def test_every_picture_is_there_and_says_what_it_shows(pages):
    missing = [
        (name, src)
        for name, page in pages.items()
        for src, _ in page.pictures
        if not src.startswith("data:") and not (SITE / name).parent.joinpath(unquote(src)).resolve().is_file()
    ]
    assert not missing, missing[:20]
    unsaid = [(name, src) for name, page in pages.items() for src, alt in page.pictures if not alt]
    # Pictures that a notebook's cells put out have their code above them as their text.
    assert not [pair for pair in unsaid if not pair[0].startswith("tutorials/")], unsaid[:20]


@pytest.fixture(scope="module")
def served():
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(SITE))
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    for flag in (*flags.split(), "disable-component-update", f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.set_page_load_timeout(60)
    yield found
    found.quit()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_width_without_errors(browser, served, name, width, theme, tmp_path_factory):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(f"{served}/{PAGES[name]}")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width + 1
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, background.removeprefix("rgb(").removeprefix("rgba(").rstrip(")").split(",")[:3])) / 765
    assert (lightness > 0.5) == (theme == "light")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    requests = [
        line["message"] for line in browser.get_log("performance") if 'Network.requestWillBeSent"' in line["message"]
    ]
    assert not [line for line in requests if '"url":"http' in line and served not in line]
    folder = SITE.parent / "screenshots"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-{width}-{theme}.png").write_bytes(browser.get_screenshot_as_png())


@pytest.mark.parametrize("words", ["khat", "custom prior", "StudentT"])
def test_the_search_finds(browser, served, words):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{served}/search.html?q={words.replace(' ', '+')}")
    found = WebDriverWait(browser, 30).until(lambda b: b.find_elements("css selector", "#search-results li a"))
    assert found


def test_code_can_be_copied_and_equations_are_drawn(browser, served):
    browser.get(f"{served}/docs/howto/own_guide.html")
    assert browser.find_elements("css selector", "button.copybtn")
    browser.get(f"{served}/tutorials/01_ssmtl.html")
    sizes = [e.size["height"] for e in browser.find_elements("css selector", "math")]
    assert sizes
    assert all(height > 0 for height in sizes)
