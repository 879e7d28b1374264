"""The page in a real browser: readable on a desktop and a phone, in both themes, by keyboard and to axe-core."""

import itertools
import os
import pathlib
import shutil

import pytest

from composer_kd.reports import Report
from composer_kd.reports.page import as_html
from tests.reports.building import evidence, timings

BROWSER = os.environ.get('COMPOSER_KD_BROWSER') or shutil.which('chromium') or shutil.which('chromium-browser')
AXE = pathlib.Path(os.environ.get('COMPOSER_KD_AXE', 'node_modules/axe-core/axe.min.js'))  # of npm, never committed
VIEWS = [(1280, 'light'), (1280, 'dark'), (390, 'light'), (390, 'dark')]

sync_api = pytest.importorskip('playwright.sync_api')
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no browser: install Debian's chromium, or set COMPOSER_KD_BROWSER"),
]


@pytest.fixture(scope='module')
def browser():
    arguments = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run']
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=arguments, headless=True)
        yield found
        found.close()


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    file = tmp_path_factory.mktemp('page') / 'report.html'
    file.write_text(as_html(Report(evidence(bench=timings(warnings=['the machine was busy at the start: 9'])))))
    return file.as_uri()


@pytest.fixture(params=VIEWS, ids=lambda view: f'{view[0]}-{view[1]}')
def page(browser, address, request):
    width, scheme = request.param
    context = browser.new_context(color_scheme=scheme, viewport={'width': width, 'height': 900})
    found = context.new_page()
    found.goto(address)
    yield found
    context.close()


def test_nothing_is_wider_than_the_page_and_it_can_be_looked_at(page, tmp_path):
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    shown = pathlib.Path(os.environ.get('COMPOSER_KD_SCREENSHOTS', tmp_path))
    scheme = 'dark' if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else 'light'
    page.screenshot(path=shown / f'report-{page.viewport_size["width"]}-{scheme}.png', full_page=True)


def test_what_scrolls_is_reached_by_keyboard(page):
    left_out = """[...document.querySelectorAll('*')].filter(one => {
        const style = getComputedStyle(one), scrolls = ['auto', 'scroll'].includes(style.overflowX);
        return scrolls && one.scrollWidth > one.clientWidth && one.tabIndex < 0;
    }).map(one => one.outerHTML.slice(0, 80))"""
    assert page.evaluate(left_out) == []


def test_plots_are_stacked_on_a_phone(page):
    visible = page.locator('.panels').first.is_visible()
    assert visible == (page.viewport_size['width'] < 640)
    if visible:
        boxes = [one.bounding_box() for one in page.locator('#pareto .panels svg, #classes .panels svg').all()]
        assert len(boxes) >= 3
        assert all(box['width'] <= 390 and box['height'] > 10 for box in boxes)
        assert all(low['y'] >= high['y'] + high['height'] - 1 for high, low in itertools.pairwise(boxes))


@pytest.mark.skipif(not AXE.is_file(), reason='no axe-core: npm install --no-save axe-core, or set COMPOSER_KD_AXE')
def test_axe_finds_nothing(page):
    page.evaluate(AXE.read_text())
    found = page.evaluate('axe.run()')
    assert [(one['id'], one['nodes'][0]['html'][:200]) for one in found['violations']] == []
