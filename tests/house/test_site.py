"The site: built from a copy of the sources, served, and read in a real browser."
import functools, importlib, inspect, json, os, pkgutil, re, shutil, subprocess, sys, threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urldefrag

import pytest
import kd_knowledge
from fastcore.docments import docments
from conftest import copy_sources

sync_api = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed: pip install -e .[dev]')
pytest.importorskip('smalldocs', reason='smalldocs is not installed: it needs Python 3.11')
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no program named chromium, chromium-browser or google-chrome: apt-get install chromium')
DESKTOP, PHONE = dict(width=1280, height=800), dict(width=390, height=844)
MODULES = [o.name for o in pkgutil.iter_modules(kd_knowledge.__path__) if not o.name.startswith('_')]

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
    res = subprocess.run([sys.executable, '.ci/docs', '--smalldocs', '--check'], cwd=tree, env={**os.environ, 'PYTHONPATH': str(tree)}, capture_output=True, text=True)
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
  const cut = [...document.querySelectorAll('main *:not(.katex-mathml *, svg *)')].filter(o => o.getBoundingClientRect().right > innerWidth + 1 && !scrolls(o.parentElement));
  return {width: document.documentElement.scrollWidth, cut: cut.slice(0, 5).map(o => o.outerHTML.slice(0, 120))};
}"""

def visit(page, url):
    "What a reader of the page at `url` sees, on a desktop and on a phone."
    noise, requests = [], []
    listeners = dict(console=lambda o: noise.append(o.text) if o.type in ('error', 'warning') else None, pageerror=lambda o: noise.append(str(o)),
                     request=lambda o: requests.append(o.url), requestfailed=lambda o: noise.append(f'{o.url}: {o.failure}'),
                     response=lambda o: noise.append(f'{o.url}: {o.status}') if o.status >= 400 else None)
    for event, listener in listeners.items(): page.on(event, listener)
    page.set_viewport_size(DESKTOP)
    page.goto(url, wait_until='networkidle')
    seen = page.evaluate(LOOK)
    page.set_viewport_size(PHONE)
    seen |= page.evaluate(PHONE_LOOK) | dict(noise=noise, requests=requests)
    for event, listener in listeners.items(): page.remove_listener(event, listener)
    return seen

@pytest.fixture(scope='module')
def visits(site, home, browser):
    "Address -> what was seen there, of every page."
    page = browser.new_page()
    found = {home + p.relative_to(site).as_posix(): visit(page, home + p.relative_to(site).as_posix()) for p in sorted(site.rglob('*.html'))}
    page.close()
    return found

def faults(visits, home, look): return {url.removeprefix(home): o for url, seen in visits.items() if (o := look(seen))}

def page_of(notebook): return notebook.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', notebook.name)).with_suffix('.html').as_posix()

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
    assert any('katex' in r for r in visits[home + 'distillation.html']['requests'])

def test_links_and_anchors_lead_somewhere(visits, home, site):
    def lost(link):
        url, anchor = urldefrag(link)
        if not link.startswith(home): return False
        url += 'index.html' * url.endswith('/')
        if url not in visits: return not (site/unquote(url.removeprefix(home))).is_file()
        return anchor and unquote(anchor) not in visits[url]['ids']
    assert not faults(visits, home, lambda o: sorted({l for l in o['links'] if lost(l)}))

def test_no_page_scrolls_sideways_on_a_phone(visits, home): assert not faults(visits, home, lambda o: o['width'] > PHONE['width'] and o['width'])

def test_nothing_is_cut_off_on_a_phone(visits, home): assert not faults(visits, home, lambda o: o['cut'])

def test_formulas_are_drawn(visits, home):
    assert not faults(visits, home, lambda o: o['broken'] or re.findall(r'\$\$|\\\(|\\\[|\\frac|(?m:^:::)|@fig-', o['text']))
    assert visits[home + 'distillation.html']['formulas'] > 10

def test_pictures_have_words(visits, home): assert not faults(visits, home, lambda o: o['unnamed'])

### What a reader does

def test_search_finds_a_chapter(page, home):
    page.locator('#quarto-search input, #quarto-search button, .aa-DetachedSearchButton').first.click()
    page.keyboard.type('Hint')
    page.locator('a[href*="distillation.html"]:visible', has_text='Hint').first.click()
    page.wait_for_url('**/distillation.html*')

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
    link = page.locator('#quarto-sidebar a[href="distillation.html"]')
    page.locator('.quarto-btn-toggle').first.click()
    link.click()
    page.wait_for_url('**/distillation.html')

def test_the_sidebar_is_in_reading_order(page):
    found = page.locator('#quarto-sidebar a[href$=".html"]').evaluate_all('all => all.map(o => o.getAttribute("href"))')
    chapters = [o for o in found if o.removesuffix('.html') in MODULES]
    assert found[:2] == ['index.html', 'tutorials/ten_minutes.html'] and chapters[0] == 'core.html' and chapters[-1] == 'paper.html'
    assert found.index('studies/agreement.html') > found.index('paper.html') and found[-1] == 'tutorials/add_probe.html'

### Every public name in its chapter

def public(module): return {n: o for n in module.__all__ if (inspect.isfunction(o := getattr(module, n)) or inspect.isclass(o)) and o.__module__ == module.__name__}

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
    if not re.search(rf'(def|class) {name}\b', line_of(shown[name]['source'], tree)): return f'its source is not at {shown[name]["source"]}'
    return [f'{p}: not in the signature' for p in parameters(o) if not re.search(rf'\b{p}\b', code)] + \
        [f'{p}: not in the table' for p in parameters(o) if said.get(p) and p not in table]

@pytest.mark.parametrize('name', MODULES)
def test_every_public_name_is_in_its_chapter(name, visits, home, tree):
    shown = {o['name']: o for o in visits[f'{home}{name}.html']['reference']}
    wrong = {n: f for n, o in public(importlib.import_module(f'kd_knowledge.{name}')).items() if (f := fault(n, o, shown, tree))}
    assert not wrong

def test_names_that_are_mentioned_are_links(visits, home):
    links = visits[home + 'invariance.html']['links']
    assert {home + 'probes.html#cast', home + 'data.html#images'} <= set(links)
