"The report of a small real study in a real browser, opened from disk: it asks for nothing, and its tables sort."
import json, re

import pandas as pd
import pytest
import torch
import yaml

from kd_knowledge.report.findings import _number, _percent, headline, read_run
from kd_knowledge.study.config import Study
from kd_knowledge.study.run import run_study

from tests.common import CHROMIUM, needs_browser

playwright = pytest.importorskip('playwright.sync_api')
pytestmark = needs_browser
SMALL = dict(
    n_train=256, n_probe=80, teacher_args=dict(width=8), student_args=dict(width=4), teacher_epochs=2, epochs=1,
    independent_seeds=2, bs=32, device='cpu', workers=1, objectives=dict(KL={}, Hint=dict(weight=10.)), starred=False,
    probes=['localization', 'adversarial', 'colour', 'groups', 'fidelity', 'calibration'],
    probe_args=dict(adversarial=dict(eps=.1)))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "The folder of a small finished study."
    folder, threads = tmp_path_factory.mktemp('study'), torch.get_num_threads()
    torch.set_num_threads(1)
    run_study(Study(**SMALL, out=str(folder)))
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as p:
        there = p.chromium.launch(executable_path=str(CHROMIUM), args=['--no-sandbox'])
        yield there
        there.close()


@pytest.fixture
def open_page(browser, folder):
    "A function that opens the report, with what the browser said and asked for."
    contexts = []
    def page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        there = context.new_page()
        there.said, there.asked = [], []
        there.on('console', lambda m: there.said.append(m.text))
        there.on('pageerror', lambda e: there.said.append(str(e)))
        there.on('request', lambda r: there.asked.append(r.url))
        there.goto((folder/'report.html').as_uri())
        return there
    yield page
    for context in contexts: context.close()


def test_opens_from_disk_without_an_error_or_a_request(open_page, folder):
    page = open_page()
    assert page.title() and page.said == [] and {u.split(':')[0] for u in page.asked} <= {'file', 'data'}
    assert [u for u in page.asked if u.startswith('file')] == [(folder/'report.html').as_uri()]
    assert page.evaluate('[...document.images].every(i => i.complete && i.naturalWidth > 0)')
    assert (folder/'report.html').stat().st_size < 5_000_000


COLUMN = '(t, i) => [...t.tBodies[0].rows].map(r => r.cells[i].dataset.sort ?? r.cells[i].textContent)'

def column(table, i): return table.evaluate(COLUMN, i)

def number(text): return float(text.replace('−', '-').replace('±', '').split()[0])


def unfold(page): page.evaluate('document.querySelectorAll("details").forEach(d => d.open = true)')


CLICKS = '''() => [...document.querySelectorAll('table')].map(table => {
  const column = i => [...table.tBodies[0].rows].map(r => r.cells[i].dataset.sort ?? r.cells[i].textContent)
  const all = () => [...table.tBodies[0].rows].map(r => r.textContent).sort().join()
  const before = all()
  const seen = [...table.tHead.rows[0].cells].flatMap((head, i) => ['ascending', 'descending'].map(wanted => {
    head.querySelector('button').click()
    return {name: head.textContent, wanted, order: head.getAttribute('aria-sort'),
            marked: table.querySelectorAll('[aria-sort]').length, values: column(i)}
  }))
  return {seen, same: all() == before}
})'''


def test_every_table_sorts_by_every_column(open_page):
    page = open_page()
    unfold(page)
    tables, numeric = page.evaluate(CLICKS), 0
    assert len(tables) > 12 and all(t['same'] for t in tables)
    for head in (h for t in tables for h in t['seen']):
        assert head['order'] == head['wanted'] and head['marked'] == 1
        found = [v for v in head['values'] if v not in ('', '–')]
        assert head['values'][:len(found)] == found
        try: values = [number(v) for v in found if not re.match(r'\d{4}-', v)]
        except ValueError: continue
        assert values == sorted(values, reverse=head['order'] == 'descending'), head
        numeric += 1
    assert numeric > 100 and page.said == []


FILL = '''t => document.querySelector('.overview').tBodies[0].innerHTML =
  t.map(v => `<tr><th>x</th><td>${v}</td></tr>`).join('')'''


def test_numbers_sort_as_numbers_and_missing_ones_come_last(open_page):
    page = open_page()
    page.evaluate(FILL, ['+9.5', '−2.0', '–', '+10', '0.0', '1,200', '−11 %'])
    head = page.locator('.overview thead th').nth(1).get_by_role('button')
    upwards = ['−11 %', '−2.0', '0.0', '+9.5', '+10', '1,200']
    head.click()
    assert column(page.locator('.overview'), 1) == [*upwards, '–']
    head.click()
    assert column(page.locator('.overview'), 1) == [*upwards[::-1], '–']


def test_the_keyboard_sorts(open_page):
    page = open_page()
    button = page.locator('.overview thead button').nth(1)
    button.focus()
    page.keyboard.press('Enter')
    assert page.evaluate('document.activeElement.tagName') == 'BUTTON'
    assert page.locator('.overview th[aria-sort=ascending]').count() == 1
    page.keyboard.press('Space')
    assert page.locator('.overview th[aria-sort=descending]').count() == 1


def plain(text): return text.replace('\u00a0', ' ')


def test_cards_say_what_the_tables_say(open_page, folder):
    page, run = open_page(), read_run(folder)
    told = pd.read_csv(folder/'figures'/'inherited.csv', dtype=dict(condition=str))
    estimates = pd.read_csv(folder/'estimates.csv', dtype=dict(condition=str))
    estimates = estimates.set_index(['probe', 'condition', 'metric', 'student'])
    assert len(told) == 12 and told.share.notna().any()
    for row in told.itertuples():
        name = page.get_by_role('heading', name=row.student, exact=True)
        verdict = page.locator(f'#card-{row.probe} .verdict').filter(has=name)
        mine = estimates.loc[row.probe, row.condition, row.metric, row.student]
        said = plain(verdict.text_content())
        assert any(f': {_number(mine.difference, d, "+")} points' in said for d in (0, 1))
        assert verdict.locator('.badge').count() == 1
        if pd.isna(row.share):
            assert 'No share' in said
            continue
        gap = row.teacher - mine.control
        assert row.share == pytest.approx(mine.difference/gap) and f'{_percent(row.share)}' in said
        assert sorted([mine.low/gap, mine.high/gap]) == pytest.approx([row.low, row.high])
    assert set(headline(run.estimates, 'colour').student) == {'KL', 'Hint'}


def test_galleries_model_cards_and_parts_are_there(open_page, folder):
    page, networks = open_page(), json.loads((folder/'networks.json').read_text())
    parameters = next(n['parameters'] for n in networks if n['network'] == 'KL')
    cards = page.locator('.network')
    assert cards.count() == len({n['network'] for n in networks})
    kl = plain(cards.filter(has=page.get_by_role('heading', name='KL student')).text_content())
    for part in (f'{parameters:,}', 'KL (weight 0.5, gamma 0.5, tau 4) from T', '256 images', '1 epoch',
                 'models/KL-0.safetensors', 'models/KL-1.safetensors'): assert part in kl
    for probe in ('localization', 'colour', 'groups', 'fidelity'):
        found = pd.read_csv(folder/'figures'/f'extremes-{probe}.csv')
        assert page.locator(f'#{probe} .tile img').count() == len(found) == 16 and found.effect.is_monotonic_decreasing
        assert page.locator(f'#{probe} .parts').count() == 2
    sizes = page.locator('.tile img').evaluate_all('images => images.map(i => i.naturalWidth)')
    assert set(sizes) == {yaml.safe_load((folder/'config.yaml').read_text())['size']}


CONTRAST = '''() => {
  const part = v => (v /= 255) <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4
  const shine = c => {
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(part)
    return .2126*r + .7152*g + .0722*b
  }
  const ancestors = e => e.parentElement ? [e.parentElement, ...ancestors(e.parentElement)] : []
  const behind = at => {
    for (const e of [at, ...ancestors(at)]) {
      const c = getComputedStyle(e).backgroundColor
      if (!/, 0\\)$|transparent/.test(c)) return c
    }
    return 'rgb(255, 255, 255)'
  }
  const hasText = e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())
  const weak = []
  for (const e of document.querySelectorAll('body *')) {
    if (!hasText(e) || ['SCRIPT', 'STYLE'].includes(e.tagName) || !e.getClientRects().length) continue
    const style = getComputedStyle(e), ink = e instanceof SVGElement ? style.fill : style.color
    const [a, b] = [shine(ink), shine(behind(e))].sort((x, y) => y - x), ratio = (a + .05)/(b + .05)
    if (ratio < 4.5) weak.push([e.tagName, e.className, e.textContent.slice(0, 30), ratio])
  }
  return weak }'''


@pytest.mark.parametrize('media', ['screen', 'print'])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_every_text_can_be_read(open_page, scheme, media):
    page = open_page(color_scheme=scheme)
    unfold(page)
    page.emulate_media(media=media, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    ground = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (ground == 'rgb(255, 255, 255)') == (media == 'print')
    if media == 'print': assert not page.locator('nav').is_visible()


def test_prints_to_paper(open_page):
    page = open_page()
    printed = page.pdf(format='A4')
    assert printed.startswith(b'%PDF') and len(printed) > 50_000


OUTSIDE = '''[...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll, pre') && e.getBoundingClientRect().right > 391)
  .map(e => e.outerHTML.slice(0, 80))'''


def test_a_phone_has_no_sideways_scroll(open_page):
    page = open_page(viewport=dict(width=390, height=844))
    unfold(page)
    assert page.evaluate('document.documentElement.scrollWidth') == 390
    assert page.evaluate(OUTSIDE) == []
