"The explorers in a real browser: every control is moved, and picture and numbers become what the probes say."
import base64
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kd_knowledge.data import adjust_colours
from kd_knowledge.explorer import (
    plot_behind, plot_boundary, plot_fooled_at, plot_looks, plot_report, plot_training, plot_unmoved, png_bytes)
from kd_knowledge.probes import adversarial, boundary, fgsm, localization, triplets
from tests.common import CHROMIUM, needs_browser

pytest.importorskip('voila', reason="no voila: pip install 'kd_knowledge[explore]' brings it")
sync_api = pytest.importorskip('playwright.sync_api', reason='no playwright: pip install playwright brings it')
psutil = pytest.importorskip('psutil', reason='no psutil: pip install psutil brings it')
pytestmark = needs_browser
PATIENCE = 240  # seconds until something is said to hang; on a machine at rest all is there within a few


### A page of ours, and what a user does in it

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Served:
    "A page of our command in a process of its own, open in a browser; what goes wrong there is kept in `faults`."
    def __init__(self, code, browser, folder):
        self.port, self.faults = free_port(), []
        self.process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-c', code, str(self.port)], cwd=folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))  # a shell's background job ignores it
        self._wait()
        self.page = browser.new_page(viewport=dict(width=1000, height=1000))
        self._watch()
        self.page.goto(f'http://localhost:{self.port}/', timeout=1000*PATIENCE)

    def _wait(self):
        end = time.monotonic() + PATIENCE
        while socket.socket().connect_ex(('127.0.0.1', self.port)):
            if time.monotonic() > end: self.process.kill()
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(.1)

    def _watch(self):
        note, here = self.faults.append, f'localhost:{self.port}/'
        own = f'http://{here}', f'ws://{here}', 'data:', 'blob:'
        self.page.on('console', lambda m: note(f'console: {m.text}') if m.type == 'error' else None)
        self.page.on('pageerror', lambda e: note(f'error: {e}'))
        self.page.on('requestfailed', lambda r: note(f'failed: {r.url}'))
        self.page.on('response', lambda r: note(f'{r.status}: {r.url}') if r.status >= 400 else None)
        self.page.on('request', lambda r: None if r.url.startswith(own) else note(f'foreign: {r.url}'))

    def stop(self, how):
        "End the process by a signal; its exit status, and the kernels that are left."
        kernels = psutil.Process(self.process.pid).children(recursive=True)
        assert kernels, 'the page had no kernel'
        self.page.close()
        self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        return status, psutil.wait_procs(kernels, timeout=30)[1]


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


COMMAND = """
import sys
from kd_knowledge.cli import kd_explore
sys.exit(kd_explore(['run', '--port', sys.argv[1], '--no-browser']))
"""


@pytest.fixture(scope='module')
def served(run, browser):
    served = Served(COMMAND, browser, run.parent)
    yield served
    if served.process.poll() is None: served.process.kill()


SOURCE = """async image => {
    const reader = new FileReader()
    const blob = await (await fetch(image.src)).blob()
    return await new Promise(done => { reader.onload = () => done(reader.result); reader.readAsDataURL(blob) })
}"""
CELLS = 'table => [...table.rows].map(row => [...row.cells].map(cell => cell.innerText.trim()))'


class Shown:
    "One explorer in the page."
    def __init__(self, page, name, tab=None):
        self.page, self.root = page, page.locator(f'.kd-{name.lower()}')
        if tab != '': page.locator(f'.lm-TabBar-tabLabel:text-is("{tab or name}")').click()
        self.root.locator('img').first.wait_for(timeout=1000*PATIENCE)

    def control(self, label):
        own = self.page.locator(f'label:text-is("{label}")')
        return self.root.locator('.widget-inline-hbox').filter(has=own).first

    def slide(self, label, value):
        "Type a value into a slider's readout, as a user may."
        self.control(label).locator('.widget-readout').click()
        self.page.keyboard.press('Control+A')
        self.page.keyboard.type(str(value))
        self.page.keyboard.press('Enter')

    def drag(self, label, key='ArrowRight'): self.control(label).locator('.noUi-handle').press(key)

    def select(self, label, *values): self.control(label).locator('select').select_option(list(values))

    def write(self, label, text):
        self.control(label).locator('input').fill(text)
        self.control(label).locator('input').press('Enter')

    def alert(self): return self.root.locator('[role=alert]').inner_text()

    def numbers(self):
        "The table below the picture: a dict for each row."
        cells = self.root.locator('table').first.evaluate(CELLS)
        return [dict(zip(cells[0], row)) for row in cells[1:]]

    def column(self, name): return [row[name] for row in self.numbers()]

    def picture(self, i=0):
        "The pixels of a picture in the page."
        return pixels(base64.b64decode(self.root.locator('img').nth(i).evaluate(SOURCE).split(',')[1]))


def pixels(png): return np.asarray(Image.open(BytesIO(png)).convert('RGB')).astype(int)


def close(a, b): return a.shape == b.shape and np.abs(a - b).mean() < .5


def until(holds, otherwise=lambda: ''):
    "Wait until something holds in the page."
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if holds(): return
        except (AssertionError, IndexError, KeyError, sync_api.Error): pass
        time.sleep(.05)
    assert holds(), otherwise()


def pictures(shown, figure, i=0):
    "A picture becomes this figure."
    wanted = pixels(png_bytes(figure))
    until(lambda: close(shown.picture(i), wanted), lambda: 'another picture')


def becomes(shown, column, wanted, figure):
    "Numbers and picture become these."
    until(lambda: shown.column(column) == wanted, lambda: f'{shown.column(column)} for {wanted}')
    pictures(shown, figure)


def two(values): return [f'{v:.2f}' for v in values]


def models(scene): return [m.model for m in scene.shown.networks]


### Each explorer

def test_looks(served, scene):
    shown, images = Shown(served.page, 'Looks'), scene.images
    rows = localization(scene.shown, images)
    zero = rows[(rows.metric == 'all-zero map') & (rows.model == 'T')].assign(value=lambda r: 1 - r.value)
    rows = pd.concat((rows[rows.metric == 'cosine'], zero))
    def cosines(i): return two(rows[(rows['sample'] == i) & (rows.model == m)].value.item() for m in models(scene))
    def shows(i): becomes(shown, 'cosine', cosines(i), plot_looks(scene, i))
    before = shown.picture()
    shows(0)
    shown.drag('image')
    shows(1)
    assert not close(before, shown.picture())
    shown.slide('image', 7)
    shows(7)
    shown.select('stage', 'F2')
    pictures(shown, plot_looks(scene, 7, stage='F2'))
    shown.select('class', images.vocab[2])
    pictures(shown, plot_looks(scene, 7, images.vocab[2], 'F2'))
    shown.select('class', 'true class')
    shown.select('stage', 'last')
    found = scene.found('localization').query('metric == "cosine"').groupby(['sample', 'model']).value.mean().unstack()
    effect = (found.KL - found.Ind).sort_values(ascending=False)
    shown.slide('image', 0)
    shown.select('order', 'KL, strongest')
    shows(effect.index[0])
    shown.select('order', 'KL, weakest')
    shows(effect.index[-1])
    shown.write('search', '11')
    shows(11)
    shown.write('search', 'zebra')
    until(lambda: 'no image is' in shown.alert())


def test_fooled(served, scene):
    shown, images, teacher = Shown(served.page, 'Fooled'), scene.images, scene.cast.teacher
    def answers(i, eps, steps):
        x = images.pixels([i])
        moved = fgsm(teacher, x, images.y[[i]], eps/255, steps)
        with torch.no_grad():
            return ['no yes'.split()[m.net(x).argmax() != m.net(moved).argmax()] for m in scene.shown.networks]
    def answered(*state): until(lambda: shown.column('changed') == answers(*state))
    def rates(eps, steps):
        rows = adversarial(scene.shown, scene.few, eps=eps/255, steps=steps)
        rows = rows[rows.metric.isin(['fooled', 'fooling rate'])]
        return two(rows.groupby('model').value.mean()[models(scene)])
    shown.slide('image', 3)
    shown.slide('epsilon', 32)
    answered(3, 32, 5)
    becomes(shown, 'fooling rate', rates(32, 5), plot_fooled_at(scene, 3, 32, 5))
    shown.slide('steps', 2)
    answered(3, 32, 2)
    wanted = rates(32, 2)
    until(lambda: shown.column('fooling rate') == wanted)
    shown.drag('epsilon', 'ArrowLeft')
    answered(3, 31, 2)
    shown.slide('epsilon', 0)
    until(lambda: set(shown.column('changed')) == {'no'})
    assert shown.column('before') == shown.column('after')


def test_unmoved(served, scene):
    shown, x = Shown(served.page, 'Unmoved'), scene.few.pixels(range(len(scene.few)))
    assert set(shown.column('agreement')) == {'1.00'}
    def kept(net, moved): return (net(moved).argmax(1) == net(x).argmax(1)).float().mean().item()
    def agreement(moved):
        with torch.no_grad(): return two([kept(m.net, moved) for m in scene.shown.networks])
    factors, state = dict(brightness=1., contrast=1., saturation=1., hue=0.), {}
    for name, value in dict(brightness=.3, contrast=.5, saturation=1.8, hue=.2).items():
        factors[name] = state[name] = value
        shown.slide(name, value)
        moved = adjust_colours(x, torch.tensor([list(factors.values())]*len(x)))
        becomes(shown, 'agreement', agreement(moved), plot_unmoved(scene, 0, **state))
    for name, value in dict(crop=.5, shift=4).items():
        state[name] = value
        shown.slide(name, value)
        pictures(shown, plot_unmoved(scene, 0, **state))
    shown.select('curve', 'shift')
    pictures(shown, plot_unmoved(scene, 0, 'shift', **state))
    shown.slide('image', 9)
    pictures(shown, plot_unmoved(scene, 9, 'shift', **state))


def test_boundary(served, scene):
    shown, three = Shown(served.page, 'Boundary'), triplets(scene.images, 1)[0].tolist()
    rows = boundary(scene.shown, scene.images, planes=1, points=8).query('metric == "agreement"')
    agreement = rows.set_index('model').value
    becomes(shown, 'agreement', two([1., *agreement[models(scene)[1:]]]), plot_boundary(scene, three, 8))
    for place, label in enumerate(['first', 'second', 'third']):
        three[place] = 20 + place
        shown.slide(label, three[place])
        pictures(shown, plot_boundary(scene, three, 8))
    shown.slide('points', 11)
    pictures(shown, plot_boundary(scene, three, 11))
    shown.slide('second', 20)
    until(lambda: 'on one line' in shown.alert())


def test_report(served, scene, run):
    shown, known = Shown(served.page, 'Report'), pd.read_csv(run/'estimates.csv', dtype={'condition': str})
    def shows(part, i):
        wanted = [*two([part.value.iloc[i]]), part.student.iloc[i], part.condition.iloc[i]]
        until(lambda: [shown.numbers()[0][k] for k in ('value', 'student', 'condition')] == wanted,
              lambda: f'{shown.numbers()} for {wanted}')
    def points(): return shown.root.locator('.kd-point')
    shows(known.query('probe == "localization" and metric == "closer"'), 0)
    shown.select('property', 'colour')
    colours = known.query('probe == "colour"')
    shows(colours, 0)
    assert points().count() == len(colours)
    pictures(shown, plot_report(scene, 'colour', 'agreement', chosen=0))
    points().nth(3).click()
    shows(colours, 3)
    pictures(shown, plot_report(scene, 'colour', 'agreement', chosen=3))
    pictures(shown, plot_behind(scene, colours.iloc[3]), 1)
    shown.select('condition', '0.4')
    strong = colours[colours.condition == '0.4']
    shows(strong, 0)
    shown.select('networks', 'Hint', 'CRD')
    shows(strong[strong.student.isin(['Hint', 'CRD'])], 0)
    assert points().count() == 2
    shown.select('property', 'boundary')
    shown.select('metric', 'agreement inside')
    shows(known[(known.metric == 'agreement inside') & known.student.isin(['Hint', 'CRD'])], 0)


def test_logs(served, run):
    shown = Shown(served.page, 'Logs', 'Training')
    for name in ('foreign-1000', 'Ind-KL-Hint-CRD-1'):
        log = pd.read_csv(run/'logs'/f'{name}.csv')
        shown.select('cohort', name)
        becomes(shown, 'value', two(log[log.epoch == log.epoch.max()].value), plot_training(log))


def test_no_fault_in_the_page_and_no_kernel_after_it(served):
    assert not served.faults, served.faults
    assert served.stop(signal.SIGINT) == (0, [])


### While a cohort trains

LIVE = """
import ipywidgets, torch
from functools import partial
from kd_knowledge.data import get_dls
from kd_knowledge.distillation import KL, Hint, distill_learner
from kd_knowledge.explorer.training import Training
from kd_knowledge.models import create_model
torch.set_num_threads(1)
network = partial(create_model, 'resnet_small', 10, width=4)
live = Training(every=.3, show=False)
dls = get_dls('shapes', bs=8, size=24, n_train=96, n_valid=32)
learn = distill_learner(dls, network(seed=3), dict(Ind=None, KL=KL(), Hint=Hint()), student=network, seed=1, cbs=live)
def train(button=None):
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
button = ipywidgets.Button(description='train')
button.on_click(train)
"""
PAGE = LIVE + 'ipywidgets.VBox([button, live.widget])'
SERVE = f'import sys\nfrom kd_knowledge.explorer.page import serve\nserve({PAGE!r}, int(sys.argv[1]), True)'


def test_training(browser, tmp_path):
    served = Served(SERVE, browser, tmp_path)
    try:
        page, there = served.page, {}
        page.locator('button:text-is("train")').click()
        shown = Shown(page, 'Training', tab='')
        exec(LIVE, there)
        there['train']()
        last = there['live'].log.groupby(['student', 'term'], sort=False).value.last()
        def each(term): return two(last[s, term] for s in ('Ind', 'KL', 'Hint'))
        until(lambda: shown.column('validation accuracy') == each('validation accuracy'), shown.numbers)
        becomes(shown, 'cross-entropy', each('cross-entropy'), plot_training(there['live'].log))
        assert shown.numbers()[1]['KL'] == two([last['KL', 'KL']])[0]
        logged = there['learn'].distill.log.query('epoch == 1').set_index(['student', 'term']).value
        mine = there['live'].log.query('step > 12').groupby(['student', 'term']).value.mean()
        assert np.allclose(mine[logged.index], logged, atol=1e-4)
        assert not served.faults, served.faults
        assert served.stop(signal.SIGTERM) == (0, [])
    finally:
        if served.process.poll() is None: served.process.kill()
