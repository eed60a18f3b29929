"The explorers in a real browser: every control is moved, and picture and numbers become what the probes say."
import base64, shutil, signal, socket, subprocess, sys, time
from functools import partial
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kd_knowledge.probes.adversarial import adversarial, fgsm
from kd_knowledge.probes.boundary import boundary, triplets
from kd_knowledge.data import adjust_colours, get_images
from kd_knowledge.explorer import (
    EXPLORERS, explore, open_run, plot_behind, plot_boundary, plot_fooled_at, plot_looks, plot_report, plot_training,
    plot_unmoved, png_bytes, Scene)
from kd_knowledge.cli import kd_explore
from kd_knowledge.probes.invariance import invariance
from kd_knowledge.probes.localization import localization
from kd_knowledge.models import create_model
from kd_knowledge.probes import Cast
from kd_knowledge.study.config import Study
from kd_knowledge.cli import kd_probe, kd_study

pytest.importorskip('voila', reason='the pages need voila')
sync_api = pytest.importorskip('playwright.sync_api', reason='the browser is driven by playwright')
psutil = pytest.importorskip('psutil', reason='to see which kernels are left')
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
browsing = pytest.mark.skipif(CHROMIUM is None, reason='chromium is not installed')

TINY = ('--probes localization colour boundary --n-train 128 --n-probe 64 --teacher-epochs 2 --epochs 2 --seeds 2 --independent-seeds 2 --bs 16 --lr .03 '
        '--device cpu --workers 1 --no-starred').split() + ['--teacher-args', '{width: 8}', '--student-args', '{width: 4}', '--probe-args', '{boundary: {points: 8, planes: 4}}']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of a tiny finished study."
    folder = tmp_path_factory.mktemp('explorer')/'run'
    assert kd_study([*TINY, '--out', str(folder)]) == 0
    return folder


@pytest.fixture(scope='module')
def scene(run): return open_run(run)


def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]


class Served:
    "A page of our command in a process of its own, open in a browser; what goes wrong there is kept in `faults`."
    def __init__(self, code, browser, folder):
        self.port, self.faults = free_port(), []
        self.process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(self.port)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL)) # a shell's background job ignores it
        end = time.monotonic() + 60
        while socket.socket().connect_ex(('127.0.0.1', self.port)):
            if time.monotonic() > end: self.process.kill()
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(.1)
        self.page = browser.new_page(viewport=dict(width=1000, height=1000))
        self._watch()
        self.page.goto(f'http://localhost:{self.port}/', timeout=60_000)

    def _watch(self):
        note, home = self.faults.append, (f'http://localhost:{self.port}/', f'ws://localhost:{self.port}/', 'data:', 'blob:')
        self.page.on('console', lambda m: note(f'console: {m.text}') if m.type == 'error' else None)
        self.page.on('pageerror', lambda e: note(f'error: {e}'))
        self.page.on('requestfailed', lambda r: note(f'failed: {r.url}'))
        self.page.on('response', lambda r: note(f'{r.status}: {r.url}') if r.status >= 400 else None)
        self.page.on('request', lambda r: None if r.url.startswith(home) else note(f'foreign: {r.url}'))

    def stop(self, how):
        "End the process by a signal; its exit status, and the kernels that are left."
        kernels = psutil.Process(self.process.pid).children(recursive=True)
        assert kernels, 'the page had no kernel'
        self.page.close()
        self.process.send_signal(how)
        status = self.process.wait(30)
        return status, psutil.wait_procs(kernels, timeout=5)[1]


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def served(run, browser):
    served = Served('import sys; from kd_knowledge.cli import kd_explore; sys.exit(kd_explore(["run", "--port", sys.argv[1], "--no-browser"]))', browser, run.parent)
    yield served
    if served.process.poll() is None: served.process.kill()


class Shown:
    "One explorer in the page."
    def __init__(self, page, name, tab=None):
        self.page, self.root = page, page.locator(f'.kd-{name.lower()}')
        if tab != '': page.locator(f'.lm-TabBar-tabLabel:text-is("{tab or name}")').click()
        self.root.locator('img').first.wait_for(timeout=60_000)

    def control(self, label): return self.root.locator('.widget-inline-hbox').filter(has=self.page.locator(f'label:text-is("{label}")')).first

    def slide(self, label, value):
        "Type a value into a slider's readout, as a user may."
        self.control(label).locator('.widget-readout').click()
        self.page.keyboard.press('Control+A'); self.page.keyboard.type(str(value)); self.page.keyboard.press('Enter')

    def drag(self, label, key='ArrowRight'): self.control(label).locator('.noUi-handle').press(key)
    def select(self, label, *values): self.control(label).locator('select').select_option(list(values))
    def write(self, label, text): self.control(label).locator('input').fill(text); self.control(label).locator('input').press('Enter')

    def numbers(self):
        "The table below the picture: a dict for each row."
        cells = self.root.locator('table').first.evaluate('t => [...t.rows].map(r => [...r.cells].map(c => c.innerText.trim()))')
        return [dict(zip(cells[0], row)) for row in cells[1:]]

    def picture(self, i=0):
        "The pixels of a picture in the page."
        url = self.root.locator('img').nth(i).evaluate('''async i => { const r = new FileReader(); const b = await (await fetch(i.src)).blob();
            return await new Promise(done => { r.onload = () => done(r.result); r.readAsDataURL(b) }) }''')
        return pixels(base64.b64decode(url.split(',')[1]))


def pixels(png): return np.asarray(Image.open(BytesIO(png)).convert('RGB')).astype(int)
def close(a, b): return a.shape == b.shape and np.abs(a - b).mean() < .5


def until(holds, said=lambda: '', seconds=20):
    "Wait until something holds in the page."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if holds(): return
        except (AssertionError, IndexError, KeyError, sync_api.Error): pass
        time.sleep(.05)
    assert holds(), said()


def becomes(shown, column, wanted, figure, seconds=20):
    "Numbers and picture become these."
    until(lambda: [r[column] for r in shown.numbers()] == wanted, lambda: f'{[r[column] for r in shown.numbers()]} for {wanted}', seconds)
    until(lambda: close(shown.picture(), pixels(png_bytes(figure))), lambda: 'another picture', seconds)


def two(values): return [f'{v:.2f}' for v in values]


def models(scene): return [m.model for m in scene.shown.networks]


@browsing
def test_looks(served, scene):
    shown, images = Shown(served.page, 'Looks'), scene.images
    rows = localization(scene.shown, images)
    rows = pd.concat((rows[rows.metric == 'cosine'], rows[(rows.metric == 'all-zero map') & (rows.model == 'T')].assign(value=lambda r: 1 - r.value)))
    def cosines(i): return two(rows[(rows['sample'] == i) & (rows.model == m)].value.item() for m in models(scene))
    before = shown.picture()
    becomes(shown, 'cosine', cosines(0), plot_looks(scene, 0))
    shown.drag('image'); becomes(shown, 'cosine', cosines(1), plot_looks(scene, 1))
    assert not close(before, shown.picture())
    shown.slide('image', 7); becomes(shown, 'cosine', cosines(7), plot_looks(scene, 7))
    shown.select('stage', 'F2'); until(lambda: close(shown.picture(), pixels(png_bytes(plot_looks(scene, 7, stage='F2')))))
    shown.select('class', images.vocab[2]); until(lambda: close(shown.picture(), pixels(png_bytes(plot_looks(scene, 7, images.vocab[2], 'F2')))))
    shown.select('class', 'true class'); shown.select('stage', 'last')
    effect = scene.found('localization').query('metric == "cosine"').groupby(['sample', 'model']).value.mean().unstack()
    effect = (effect.KL - effect.Ind).sort_values(ascending=False)
    shown.slide('image', 0); shown.select('order', 'KL, strongest'); becomes(shown, 'cosine', cosines(effect.index[0]), plot_looks(scene, effect.index[0]))
    shown.select('order', 'KL, weakest'); becomes(shown, 'cosine', cosines(effect.index[-1]), plot_looks(scene, effect.index[-1]))
    shown.write('search', '11'); becomes(shown, 'cosine', cosines(11), plot_looks(scene, 11))
    shown.write('search', 'zebra'); until(lambda: 'no image is' in shown.root.locator('[role=alert]').inner_text())


@browsing
def test_fooled(served, scene):
    shown, images, teacher = Shown(served.page, 'Fooled'), scene.images, scene.cast.teacher
    def answers(i, eps, steps):
        x = images.pixels([i])
        moved = fgsm(teacher, x, images.y[[i]], eps/255, steps)
        with torch.no_grad(): return ['no yes'.split()[m.net(x).argmax() != m.net(moved).argmax()] for m in scene.shown.networks]
    def rates(eps, steps):
        rows = adversarial(scene.shown, scene.few, eps=eps/255, steps=steps)
        return two(rows[rows.metric.isin(['fooled', 'fooling rate'])].groupby('model').value.mean()[models(scene)])
    shown.slide('image', 3); shown.slide('epsilon', 32)
    until(lambda: [r['changed'] for r in shown.numbers()] == answers(3, 32, 5))
    becomes(shown, 'fooling rate', rates(32, 5), plot_fooled_at(scene, 3, 32, 5), seconds=60)
    shown.slide('steps', 2); until(lambda: [r['changed'] for r in shown.numbers()] == answers(3, 32, 2))
    until(lambda: [r['fooling rate'] for r in shown.numbers()] == rates(32, 2), seconds=60)
    shown.drag('epsilon', 'ArrowLeft'); until(lambda: [r['changed'] for r in shown.numbers()] == answers(3, 31, 2))
    shown.slide('epsilon', 0); until(lambda: {r['changed'] for r in shown.numbers()} == {'no'})
    assert all(r['before'] == r['after'] for r in shown.numbers())


@browsing
def test_unmoved(served, scene):
    shown, x = Shown(served.page, 'Unmoved'), scene.few.pixels(range(len(scene.few)))
    assert {r['agreement'] for r in shown.numbers()} == {'1.00'}
    def agreement(moved):
        with torch.no_grad(): return two([(m.net(moved).argmax(1) == m.net(x).argmax(1)).float().mean().item() for m in scene.shown.networks])
    factors, state = dict(brightness=1., contrast=1., saturation=1., hue=0.), {}
    for name, value in dict(brightness=.3, contrast=.5, saturation=1.8, hue=.2).items():
        factors[name] = state[name] = value
        shown.slide(name, value)
        becomes(shown, 'agreement', agreement(adjust_colours(x, torch.tensor([list(factors.values())]*len(x)))), plot_unmoved(scene, 0, **state))
    for name, value in dict(crop=.5, shift=4).items():
        state[name] = value
        shown.slide(name, value); until(lambda: close(shown.picture(), pixels(png_bytes(plot_unmoved(scene, 0, **state)))))
    shown.select('curve', 'shift'); until(lambda: close(shown.picture(), pixels(png_bytes(plot_unmoved(scene, 0, 'shift', **state)))))
    shown.slide('image', 9); until(lambda: close(shown.picture(), pixels(png_bytes(plot_unmoved(scene, 9, 'shift', **state)))))


@browsing
def test_boundary(served, scene):
    shown, three = Shown(served.page, 'Boundary'), triplets(scene.images, 1)[0].tolist()
    rows = boundary(scene.shown, scene.images, planes=1, points=8).query('metric == "agreement"').set_index('model').value
    becomes(shown, 'agreement', two([1., *rows[models(scene)[1:]]]), plot_boundary(scene, three, 8))
    for place, label in enumerate(['first', 'second', 'third']):
        three[place] = 20 + place
        shown.slide(label, three[place]); until(lambda: close(shown.picture(), pixels(png_bytes(plot_boundary(scene, three, 8)))))
    shown.slide('points', 11); until(lambda: close(shown.picture(), pixels(png_bytes(plot_boundary(scene, three, 11)))))
    shown.slide('second', 20); until(lambda: 'on one line' in shown.root.locator('[role=alert]').inner_text())


@browsing
def test_report(served, scene, run):
    shown, known = Shown(served.page, 'Report'), pd.read_csv(run/'estimates.csv', dtype={'condition': str})
    def row(part, i): return [two([part.value.iloc[i]])[0], part.student.iloc[i], part.condition.iloc[i]]
    def says(part, i): until(lambda: [shown.numbers()[0][k] for k in ('value', 'student', 'condition')] == row(part, i), lambda: f'{shown.numbers()} for {row(part, i)}')
    first = known.query('probe == "localization" and metric == "closer"')
    says(first, 0)
    shown.select('property', 'colour')
    colours = known.query('probe == "colour"')
    says(colours, 0); assert shown.root.locator('.kd-point').count() == len(colours)
    until(lambda: close(shown.picture(), pixels(png_bytes(plot_report(scene, 'colour', 'agreement', chosen=0)))))
    shown.root.locator('.kd-point').nth(3).click()
    says(colours, 3)
    until(lambda: close(shown.picture(), pixels(png_bytes(plot_report(scene, 'colour', 'agreement', chosen=3)))))
    until(lambda: close(shown.picture(1), pixels(png_bytes(plot_behind(scene, colours.iloc[3])))))
    shown.select('condition', '0.4'); says(colours[colours.condition == '0.4'], 0)
    shown.select('networks', 'Hint', 'CRD'); says(colours[(colours.condition == '0.4') & colours.student.isin(['Hint', 'CRD'])], 0)
    assert shown.root.locator('.kd-point').count() == 2
    shown.select('property', 'boundary'); shown.select('metric', 'agreement inside')
    says(known[(known.metric == 'agreement inside') & known.student.isin(['Hint', 'CRD'])], 0)


@browsing
def test_logs(served, run):
    shown = Shown(served.page, 'Logs', 'Training')
    for name in ('foreign-1000', 'Ind-KL-Hint-CRD-1'):
        log = pd.read_csv(run/'logs'/f'{name}.csv')
        shown.select('cohort', name); becomes(shown, 'value', two(log[log.epoch == log.epoch.max()].value), plot_training(log))


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
learn = distill_learner(get_dls('shapes', bs=8, size=24, n_train=96, n_valid=32), network(seed=3), dict(Ind=None, KL=KL(), Hint=Hint()), student=network, seed=1, cbs=live)
def train(button=None):
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
button = ipywidgets.Button(description='train')
button.on_click(train)
"""


@browsing
def test_training(browser, tmp_path):
    served = Served(f'import sys; from kd_knowledge.explorer.page import serve; serve({LIVE + "ipywidgets.VBox([button, live.widget])"!r}, int(sys.argv[1]), True)', browser, tmp_path)
    try:
        page, sources = served.page, set()
        page.locator('button:text-is("train")').click()
        shown = Shown(page, 'Training', tab='')
        there = {}; exec(LIVE, there); there['train']()
        last = there['live'].log.groupby(['student', 'term'], sort=False).value.last()
        def ends():
            sources.add(shown.root.locator('img').get_attribute('src'))
            return [r.get('validation accuracy') for r in shown.numbers()] == two(last[s, 'validation accuracy'] for s in ('Ind', 'KL', 'Hint'))
        until(ends, shown.numbers, 60)
        becomes(shown, 'cross-entropy', two(last[s, 'cross-entropy'] for s in ('Ind', 'KL', 'Hint')), plot_training(there['live'].log))
        assert shown.numbers()[1]['KL'] == two([last['KL', 'KL']])[0]
        logged = there['learn'].distill.log.query('epoch == 1').set_index(['student', 'term']).value
        mine = there['live'].log.query('step > 12').groupby(['student', 'term']).value.mean()
        assert np.allclose(mine[logged.index], logged, atol=1e-4)
        assert not served.faults, served.faults
        assert served.stop(signal.SIGTERM) == (0, [])
    finally:
        if served.process.poll() is None: served.process.kill()


@browsing
def test_no_fault_in_the_page_and_no_kernel_after_it(served):
    assert not served.faults, served.faults
    assert served.stop(signal.SIGINT) == (0, [])


def told(capsys, *argv):
    "The one line that a mistake is told in."
    assert kd_explore(list(map(str, argv))) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith('kd_explore: ') and len(err.splitlines()) == 1, err
    return err


def test_bad_input(run, tmp_path, capsys):
    assert 'there is no run folder' in told(capsys, tmp_path/'nowhere') and 'kd_study --out' in told(capsys, tmp_path/'nowhere')
    shutil.copytree(run, tmp_path/'half'); (tmp_path/'half'/'estimates.csv').unlink()
    assert 'not finished' in told(capsys, tmp_path/'half')
    for port in (0, -1, 65536): assert 'port: got' in told(capsys, run, '--port', port)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)); s.listen()
        assert 'in use' in told(capsys, run, '--port', s.getsockname()[1])
    for argv in (['--port', 'x'], ['--prot', '1'], ['a', 'b']):
        with pytest.raises(SystemExit) as error: kd_explore(argv)
        assert error.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_without_voila(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'voila.app', None)
    assert "pip install 'kd_knowledge[explore]'" in told(capsys, run)


NETWORKS = """
from kd_knowledge.models import create_model
def make(seed): return create_model('resnet_small', 10, width=4, seed=seed)
def teacher(): return make(1)
def control(): return make(2)
def student(): return make(3)
"""


def test_a_run_of_kd_probe(tmp_path, monkeypatch):
    "Networks and images that were given by name are found again; what was not probed is worked out, and there are no logs."
    (tmp_path/'my_networks_2.py').write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    assert kd_probe(['--teacher', 'my_networks_2:teacher', '--students', 'KL=my_networks_2:student', '--controls', 'my_networks_2:control', '--data', 'digits', '--size', '32',
                     '--n', '40', '--probes', 'localization', '--device', 'cpu', '--out', 'found']) == 0
    tabs = explore('found')
    assert [tabs.get_title(i) for i in range(len(tabs.children))] == ['Looks', 'Fooled', 'Unmoved', 'Boundary', 'Report']
    for i, name in enumerate(['Looks', 'Fooled', 'Unmoved', 'Boundary', 'Report']):
        tabs.selected_index = i
        assert type(tabs.children[i].children[0]).__name__ == name and 'alert' not in tabs.children[i].children[0].numbers.value


MOVES = dict(Looks=dict(image=5, stage='F2', target='ring', order='KL, strongest', search='1'), Fooled=dict(eps=16, steps=3, image=4),
             Unmoved=dict(brightness=.5, contrast=1.5, saturation=.2, hue=.2, crop=.6, shift=3, curve='crop', image=8), Boundary=dict(first=40, second=41, third=42),
             Report=dict(probe='colour', condition='0.4', networks=('Hint',)))


def test_reaction_time(capsys):
    "A move is answered within 200 ms, with networks and images as in the default study."
    study = Study().filled()
    make = lambda name, args, seed: create_model(name, 10, **args, seed=seed).eval()
    cast = Cast(make(study.teacher, study.teacher_args, 0), {name: make(study.student, study.student_args, i) for i, name in enumerate(['Ind', *study.objectives], 1)})
    images = get_images(study.data, 'valid', n=64, size=study.size, **study.data_args)
    few = images.subset(range(32))
    scene = Scene(cast, images, pd.concat([localization(cast, few), invariance(cast, few, colours=(.2, .4), crops=(.5,), shifts=(4,))]))
    def moved(explorer, name, value):
        "Wall and processor time of a move, in seconds; the second is what counts where others keep the machine busy."
        start = time.perf_counter(), time.process_time()
        explorer.controls[name].value = value
        return min(time.perf_counter() - start[0], time.process_time() - start[1])
    took = {}
    for name, moves in MOVES.items():
        explorer = EXPLORERS[name](scene)
        before = explorer.state
        took[name] = pd.Series([moved(explorer, k, v[k]) for v in (moves, before, moves) for k in moves])
    took = pd.DataFrame({k: dict(median=v.median(), longest=v.max()) for k, v in took.items()}).T
    with capsys.disabled(): print('', (1000*took).round().to_string(), sep='\n')
    assert (took['median'] < .2).all(), took
