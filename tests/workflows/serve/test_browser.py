"""The three pages in a real browser: what is shown, on a desktop and a phone, and that nothing else is asked for."""

import os
import shutil
import time
import urllib.parse

import pytest
from PIL import Image

from composer_kd.presentation.units import TIMES
from composer_kd.workflows.serve.page.server import serving

BROWSER = os.environ.get('COMPOSER_KD_BROWSER') or shutil.which('chromium') or shutil.which('chromium-browser')
ARGUMENTS = [
    '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-quic',
]  # fmt: skip

pytest.importorskip('gradio')
sync_api = pytest.importorskip('playwright.sync_api')
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no browser: install Debian's chromium, or set COMPOSER_KD_BROWSER"),
]


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS, headless=True)
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """Opens a page; at the end, checks what it asked for and said."""
    opened, asked, said = [], [], []

    def open_page(address, scheme='light', width=1280):
        context = browser.new_context(color_scheme=scheme, viewport={'width': width, 'height': 900})
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on('request', lambda request: asked.append(request.url))
        page.on('pageerror', lambda error: said.append(str(error)))
        opened.append(context)
        page.goto(address)
        page.wait_for_selector('.kd-card')
        return page

    yield open_page
    for context in opened:
        context.close()
    hosts = {urllib.parse.urlsplit(url).hostname for url in asked if not url.startswith(('data:', 'blob:'))}
    assert hosts == {'127.0.0.1'}
    assert said == []


@pytest.fixture(scope='module')
def digits_page(digits_task):
    with serving(digits_task, port=0) as address:
        yield address


@pytest.fixture(scope='module')
def pair_page(pair_task):
    with serving(pair_task, port=0) as address:
        yield address


@pytest.fixture(scope='module')
def language_page(language_task):
    with serving(language_task, port=0) as address:
        yield address


def fits(page):
    return page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')


def luminance(colour):
    parts = [float(one) / 255 for one in colour[colour.index('(') + 1 : -1].split(',')[:3]]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(page, selector):
    """The contrast of a text with what lies behind it (WCAG 2)."""
    colours = page.locator(selector).first.evaluate(
        """element => {
            const own = getComputedStyle(element).color;
            let behind = element;
            const clear = node => getComputedStyle(node).backgroundColor === 'rgba(0, 0, 0, 0)';
            while (behind.parentElement && clear(behind)) behind = behind.parentElement;
            return [own, getComputedStyle(behind).backgroundColor];
        }"""
    )
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(('scheme', 'width'), [('light', 1280), ('dark', 390)])
def test_a_sample_is_classified(visit, digits_page, digits_task, scheme, width):
    page = visit(digits_page, scheme, width)
    assert page.locator('.kd-card h3').all_inner_texts() == ['digits-teacher', 'digits-kd']
    page.fill('#kd-sample input', '7')
    page.click('#kd-take')
    page.wait_for_selector('.kd-label')
    expected = digits_task.answers(digits_task.sample(7)[0])
    assert page.locator('.kd-label strong').all_inner_texts() == [answer.label for answer in expected]
    assert page.locator('.kd-target').inner_text() == digits_task.sample(7)[1]
    assert page.locator('.kd-share').first.inner_text() == f'{100 * max(expected[0].confidences.values()):.1f} %'
    costs = page.locator('.kd-card').first.locator('dd').all_inner_texts()
    assert costs[1:] == ['202 k', '811 kB']
    assert costs[0].endswith('s')
    assert fits(page)
    for selector in ('.kd-footnote', '.kd-label strong', '.kd-cost dt', '.kd-teacher .kd-role', '.kd-head p'):
        assert contrast(page, selector) > 4.5, selector


def test_a_picture_from_elsewhere_is_classified(visit, digits_page, digits_task, tmp_path):
    page = visit(digits_page)
    Image.new('RGB', (60, 40), 'white').save(tmp_path / 'white.png')
    page.set_input_files('#kd-picture input[type=file]', tmp_path / 'white.png')
    page.wait_for_selector('text=Your picture')
    expected = digits_task.answers(Image.new('L', (8, 8), 255))
    assert page.locator('.kd-label strong').all_inner_texts() == [answer.label for answer in expected]
    assert f'8 {TIMES} 8 pixels of 60 {TIMES} 40' in page.locator('.kd-seen').inner_text()


def test_a_file_that_is_no_picture_is_answered_with_a_message(visit, digits_page, tmp_path):
    page = visit(digits_page)
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    page.set_input_files('#kd-picture input[type=file]', tmp_path / 'broken.png')
    page.wait_for_selector('.kd-message')
    assert 'expected a picture (PNG, JPEG, WebP, GIF or BMP)' in page.locator('.kd-message').inner_text()


def test_premise_and_hypothesis_are_classified(visit, pair_page, pair_task):
    page = visit(pair_page)
    assert page.locator('label span').filter(has_text='premise').count() == 1
    page.fill('#kd-text-0 textarea', 'the film was good')
    page.click('#kd-ask')
    page.wait_for_selector('.kd-message')
    assert 'hypothesis: expected a text, got an empty one' in page.locator('.kd-message').inner_text()
    page.fill('#kd-text-1 textarea', 'it was bad')
    page.click('#kd-ask')
    page.wait_for_selector('.kd-label')
    (expected,) = pair_task.answers('the film was good', 'it was bad')
    assert page.locator('.kd-label strong').inner_text() == expected.label
    assert page.locator('.kd-name').all_inner_texts() == list(expected.confidences)
    assert fits(page)


def test_a_text_is_written_as_it_comes(visit, language_page, language_task, monkeypatch):
    completions = language_task.completions

    def slowly(*wish, **options):  # these models write all in less time than the page takes to show it
        for found in completions(*wish, **options):
            yield found
            time.sleep(0.03)

    monkeypatch.setattr(language_task, 'completions', slowly)
    page = visit(language_page, 'dark', 390)
    page.evaluate(
        """() => {
            window.seen = new Set();
            const look = () => document.querySelectorAll('.kd-caret').length && window.seen.add(
                document.querySelector('#kd-answers').innerText);
            new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
        }"""
    )
    page.fill('#kd-query textarea', 'the film was')
    page.locator('#kd-tokens input[type=number]').fill('20')
    page.click('#kd-ask')
    page.wait_for_function("document.querySelectorAll('.kd-text').length === 2 && !document.querySelector('.kd-caret')")
    *_, expected = language_task.completions('the film was', max_tokens=20)
    shown = page.locator('.kd-text').all_inner_texts()
    assert [' '.join(one.split()) for one in shown] == [' '.join(one.text.split()) for one in expected]
    assert page.evaluate('window.seen.size') > 1
    assert fits(page)
    page.fill('#kd-query textarea', '')
    page.click('#kd-ask')
    page.wait_for_selector('.kd-message')
    assert 'query: expected a text, got an empty one' in page.locator('.kd-message').inner_text()
