"The site: built from a copy of the sources, served, and read in a real browser."
import functools, importlib, inspect, json, os, pkgutil, re, subprocess, sys, threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urldefrag

import pytest
import kd_knowledge
from fastcore.docments import docments
from tests.common import CHROMIUM, needs_browser
from tests.conftest import copy_sources

sync_api = pytest.importorskip('playwright.sync_api', reason='no Playwright: pip install -e .[dev] brings it')
pytest.importorskip('smalldocs', reason='no smalldocs: it needs Python 3.11')
DESKTOP, PHONE = dict(width=1280, height=800), dict(width=390, height=844)
NAMES = [o.name.partition('.')[2] for o in pkgutil.walk_packages(kd_knowledge.__path__, 'kd_knowledge.')]
MODULES = [n for n in NAMES if not n.startswith('_')]  # and the indexes of the folders
AT_ONCE = 8  # pages that are open while they come to rest

pytestmark = needs_browser

### The site and a browser

@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "A copy of the sources: a site that was built before is no part of it."
    tree = tmp_path_factory.mktemp('site')/'tree'
    copy_sources(tree)
    return tree

@pytest.fixture(scope='module')
def site(tree):
    "The built site: two builds, in fresh processes, were the same."
    env = {**os.environ, 'PYTHONPATH': str(tree)}
    command = [sys.executable, '.ci/docs', '--smalldocs', '--check']
    res = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=env)
    assert res.returncode == 0, res.stdout[-2000:] + res.stderr[-4000:]
    return tree/'_docs'

class Quiet(SimpleHTTPRequestHandler):
    "A server of files that does not report."
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def home(site):
    "The address of the site, served by Python's own server."
    with ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()

@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()

@pytest.fixture
def page(browser, home):
    "A new page, with the front page open."
    page = browser.new_page(viewport=DESKTOP, base_url=home)
    page.goto(home)
    yield page
    page.close()

### Every page, visited once

LOOK = """() => ({
  ids: [...document.querySelectorAll('[id]')].map(o => o.id),
  links: [...document.querySelectorAll('a[href]')].map(o => o.href),
  unnamed: [...document.querySelectorAll('img')].filter(o => !o.alt).map(o => o.src.slice(0, 80)),
  formulas: document.querySelectorAll('.katex').length,
  broken: document.querySelectorAll('.katex-error').length,
  text: document.querySelector('main').innerText,
  reference: [...document.querySelectorAll('main .cell-output-markdown:has(h3)')].map(o => ({
    name: o.querySelector('h3').dataset.anchorId && o.querySelector('h3').firstChild.textContent,
    source: (o.querySelector('a') || {href: ''}).href,
    code: (o.querySelector('pre') || {innerText: ''}).innerText,
    table: [...o.querySelectorAll('tbody td:first-child')].map(o => o.innerText)})),
})"""
PHONE_LOOK = """() => {
  const scrolls = o => o && (/auto|scroll/.test(getComputedStyle(o).overflowX) || scrolls(o.parentElement));
  const wide = o => o.getBoundingClientRect().right > innerWidth + 1;
  const cut = [...document.querySelectorAll('main *:not(.katex-mathml *, svg *)')]
    .filter(o => wide(o) && !scrolls(o.parentElement));
  return {width: document.documentElement.scrollWidth, cut: cut.slice(0, 5).map(o => o.outerHTML.slice(0, 120))};
}"""

def listen(page):
    "What the page complains of, and what it asks for, from now on."
    seen = dict(noise=[], requests=[])
    def complain(o): seen['noise'].append(o)
    page.on('console', lambda o: o.type in ('error', 'warning') and complain(o.text))
    page.on('pageerror', lambda o: complain(str(o)))
    page.on('request', lambda o: seen['requests'].append(o.url))
    page.on('requestfailed', lambda o: complain(f'{o.url}: {o.failure}'))
    page.on('response', lambda o: o.status >= 400 and complain(f'{o.url}: {o.status}'))
    return seen

def look(page, seen):
    "What a reader of an open page sees, on a desktop and on a phone."
    page.wait_for_load_state('networkidle')
    seen |= page.evaluate(LOOK)
    page.set_viewport_size(PHONE)
    return seen | page.evaluate(PHONE_LOOK)

def visit(browser, urls):
    "Address -> what was seen there; the pages are open side by side, because each is waited for until it rests."
    pages = {url: browser.new_page(viewport=DESKTOP) for url in urls}
    heard = {url: listen(page) for url, page in pages.items()}
    for url, page in pages.items(): page.goto(url)
    found = {url: look(page, heard[url]) for url, page in pages.items()}
    for page in pages.values(): page.close()
    return found

@pytest.fixture(scope='module')
def visits(site, home, browser):
    "Address -> what was seen there, of every page."
    urls = [home + p.relative_to(site).as_posix() for p in sorted(site.rglob('*.html'))]
    return {url: o for i in range(0, len(urls), AT_ONCE) for url, o in visit(browser, urls[i:i + AT_ONCE]).items()}

def faults(visits, home, fault):
    "Page -> what is wrong with it, of the pages where `fault` finds something."
    return {url.removeprefix(home): o for url, seen in visits.items() if (o := fault(seen))}

def page_of(notebook):
    "The page of a notebook, under nbdev's name: without its number."
    return notebook.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', notebook.name)).with_suffix('.html').as_posix()

def test_every_notebook_is_a_page(site, tree):
    notebooks = [p.relative_to(tree/'nbs') for p in (tree/'nbs').rglob('*.ipynb')]
    assert {page_of(p) for p in notebooks} == {p.relative_to(site).as_posix() for p in site.rglob('*.html')}

def test_nothing_is_said_in_the_cell_of_the_title(tree):
    "nbdev makes a title and a description of the first cell, and drops the rest of it."
    first = {p: json.loads(p.read_text(encoding='utf-8'))['cells'][0]['source'] for p in (tree/'nbs').rglob('*.ipynb')}
    assert not [p.name for p, source in first.items() if not re.fullmatch(r'# .+\s+> .+\s*', ''.join(source))]

def test_no_page_complains_and_no_request_fails(visits, home): assert not faults(visits, home, lambda o: o['noise'])

def test_no_request_leaves_the_machine(visits, home):
    assert not faults(visits, home, lambda o: [r for r in o['requests'] if not r.startswith((home, 'data:'))])
    assert any('katex' in r for r in visits[home + 'distillation.objectives.html']['requests'])

def test_links_and_anchors_lead_somewhere(visits, home, site):
    def lost(link):
        url, anchor = urldefrag(link)
        if not link.startswith(home): return False
        url += 'index.html' * url.endswith('/')
        if url not in visits: return not (site/unquote(url.removeprefix(home))).is_file()
        return anchor and unquote(anchor) not in visits[url]['ids']
    assert not faults(visits, home, lambda o: sorted({l for l in o['links'] if lost(l)}))

def test_no_page_scrolls_sideways_on_a_phone(visits, home):
    assert not faults(visits, home, lambda o: o['width'] > PHONE['width'] and o['width'])

def test_nothing_is_cut_off_on_a_phone(visits, home): assert not faults(visits, home, lambda o: o['cut'])

def test_formulas_are_drawn(visits, home):
    raw = re.compile(r'\$\$|\\\(|\\\[|\\frac|^:::|@fig-', re.M)
    assert not faults(visits, home, lambda o: o['broken'] or raw.findall(o['text']))
    assert visits[home + 'distillation.objectives.html']['formulas'] > 10

def test_pictures_have_words(visits, home): assert not faults(visits, home, lambda o: o['unnamed'])

### What a reader does

def test_search_finds_a_chapter(page, home):
    page.locator('#quarto-search input, #quarto-search button, .aa-DetachedSearchButton').first.click()
    page.keyboard.type('Hint')
    page.locator('a[href*="distillation.objectives.html"]:visible', has_text='Hint').first.click()
    page.wait_for_url('**/distillation.objectives.html*')

def background(page): return page.evaluate('getComputedStyle(document.body).backgroundColor')

def test_dark_and_light(page, home):
    light = background(page)
    page.locator('.quarto-color-scheme-toggle').first.click()
    page.wait_for_function(f'getComputedStyle(document.body).backgroundColor != "{light}"')
    dark = background(page)
    page.goto(home + 'data.html')
    assert background(page) == dark  # it is remembered

def test_the_sidebar_opens_on_a_phone(page, home):
    page.set_viewport_size(PHONE)
    link = page.locator('#quarto-sidebar a[href="distillation.objectives.html"]')
    page.locator('.quarto-btn-toggle').first.click()
    link.click()
    page.wait_for_url('**/distillation.objectives.html')

def test_the_sidebar_is_in_reading_order(page):
    found = page.locator('#quarto-sidebar a[href$=".html"]').evaluate_all('all => all.map(o => o.getAttribute("href"))')
    chapters = [o for o in found if o.removesuffix('.html') in MODULES]
    assert found[:2] == ['index.html', 'tutorials/ten_minutes.html'] and chapters[0] == 'core.html'
    ground_up = 'data.images.html models.zoo.html probes.core.html report.html.html study.run.html cli.html'.split()
    assert [o for o in chapters if o in ground_up] == ground_up
    assert found.index('studies/agreement.html') > found.index('cli.html') and found[-1] == 'tutorials/add_probe.html'

### Every public name in its chapter

def public(module):
    "Name -> function or class, of what `module` itself defines and exports."
    there = {n: getattr(module, n) for n in getattr(module, '__all__', ())}
    own = {n: o for n, o in there.items() if inspect.isfunction(o) or inspect.isclass(o)}
    return {n: o for n, o in own.items() if o.__module__ == module.__name__}

def parameters(o):
    try: return [p for p in inspect.signature(o).parameters if p not in ('args', 'kwargs')]
    except ValueError: return []

def line_of(source, tree):
    "The line of the package that a source link leads to."
    _, file, number = re.fullmatch(r'(.*)/blob/main/(.*\.py)#L(\d+)', source).groups()
    return (tree/file).read_text().splitlines()[int(number) - 1]

def fault(name, o, shown, tree):
    "What the page does not show of the function or class `o`."
    if name not in shown: return 'is not there'
    code, table, said = shown[name]['code'], shown[name]['table'], docments(o)
    if not code.startswith((f'def {name}(', f'class {name}(')): return f'has no signature: {code[:80]}'
    source = shown[name]['source']
    if not re.search(rf'(def|class) {name}\b', line_of(source, tree)): return f'its source is not at {source}'
    return [f'{p}: not in the signature' for p in parameters(o) if not re.search(rf'\b{p}\b', code)] + \
        [f'{p}: not in the table' for p in parameters(o) if said.get(p) and p not in table]

@pytest.mark.parametrize('name', MODULES)
def test_every_public_name_is_in_its_chapter(name, visits, home, tree):
    shown = {o['name']: o for o in visits.get(f'{home}{name}.html', dict(reference=()))['reference']}
    defined = public(importlib.import_module(f'kd_knowledge.{name}'))
    assert not {n: f for n, o in defined.items() if (f := fault(n, o, shown, tree))}

def test_names_that_are_mentioned_are_links(visits, home):
    links = visits[home + 'probes.invariance.html']['links']
    assert {home + 'probes.core.html#cast', home + 'data.images.html#images'} <= set(links)
