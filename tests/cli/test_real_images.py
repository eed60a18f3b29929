"Real images: Fashion-MNIST and photographs on disk, from the command to the report."
import re
from html import unescape

import pandas as pd
import pytest
from PIL import Image

from kd_knowledge.cli import kd_probe, kd_study
from kd_knowledge.probes import ESTIMATES
from kd_knowledge.probes.core import PROBES
from tests.common import needs_fashion

SMALL = ['--teacher-args', '{width: 8}', '--student-args', '{width: 4}', '--device', 'cpu', '--no-starred',
         '--lr', '.02']
WORDS = 'inherited', 'opposite', 'no evidence', 'cannot tell'


def report(folder):
    "The words of a report, after a look at the files that others rely on."
    assert list(pd.read_csv(folder/'estimates.csv').columns) == ESTIMATES
    accuracy = pd.read_csv(folder/'accuracy.csv')
    assert list(accuracy.columns) == 'network role seed accuracy'.split() and accuracy.accuracy.between(0, 1).all()
    page = (folder/'report.html').read_text(encoding='utf-8')
    verdicts = re.search('(?s)<section id="verdicts">.*?</section>', page)[0].lower()
    assert any(w in verdicts for w in WORDS)
    assert 'src="http' not in page and len(page) < 5e6
    return unescape(re.sub(r'\s+', ' ', re.sub('<[^>]+>', ' ', re.sub('(?s)<style.*?</style>', '', page))))


@needs_fashion
def test_fashion_mnist(tmp_path, capsys):
    folder = tmp_path/'fashion'
    status = kd_study(['--data', 'fashion_mnist', '--n-train', '512', '--n-probe', '128',
                       '--probe-args', '{boundary: {planes: 5, points: 5}}', '--bs', '32',
                       '--teacher-epochs', '3', '--epochs', '2', '--seeds', '2', '--independent-seeds', '2',
                       '--objectives', '{KL: {}}', '--workers', '1', '--out', str(folder), *SMALL])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert shown.out.splitlines()[-1] == f'Report: {folder/"report.html"}'
    text = report(folder)
    assert 'fashion_mnist' in text and 'KL' in text
    found = pd.read_csv(folder/'estimates.csv')
    assert set(found.probe) == set(PROBES) - {'bias', 'groups'}
    assert set(found.student) == {'KL'} and set(found.seeds) == {2}
    accuracy = pd.read_csv(folder/'accuracy.csv').set_index('network').accuracy
    assert accuracy['T'] > .2  # chance is .1


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    "Patches of two photographs as JPEGs: in class folders with train and valid, and some in one flat folder."
    from sklearn.datasets import load_sample_images
    top = tmp_path_factory.mktemp('photographs')
    for name, whole in zip(('china', 'flower'), load_sample_images().images):
        patches = [(y, x) for y in range(0, 427 - 60, 60) for x in range(0, 640 - 60, 60)]
        for i, (y, x) in enumerate(patches):
            place = top/'classes'/('valid' if i % 4 == 0 else 'train')/name/f'{i:02d}.jpg'
            place.parent.mkdir(parents=True, exist_ok=True)
            (top/'flat').mkdir(exist_ok=True)
            patch = Image.fromarray(whole[y:y + 64, x:x + 72])
            patch.save(place, quality=90)
            if i % 6 == 0: patch.save(top/'flat'/f'{name}-{i:02d}.jpg', quality=90)
    return top


@pytest.fixture(scope='module')
def photo_run(photographs, fresh):
    "A study of the photographs, in a fresh process."
    folder = photographs/'run'
    argv = ['--data', photographs/'classes', '--size', '32', '--bs', '16', '--teacher-epochs', '12', '--epochs', '3',
            '--seeds', '1', '--independent-seeds', '2', '--objectives', '{KL: {}, Hint: {}}',
            '--probe-args', '{adversarial: {eps: 0.1}, boundary: {planes: 5, points: 5}}', '--out', folder, *SMALL]
    res = fresh('import sys; from kd_knowledge.cli import kd_study; sys.exit(kd_study())', *argv)
    assert res.returncode == 0 and res.stderr == '', res.stderr[-2000:]
    assert res.stdout.splitlines()[-1] == f'Report: {folder/"report.html"}'
    return folder


def test_a_folder_of_photographs(photo_run):
    text = report(photo_run)
    assert 'cannot tell' in text.lower()  # one seed of each
    assert 'china' in text or 'flower' in text or 'classes' in text
    accuracy = pd.read_csv(photo_run/'accuracy.csv').set_index('network').accuracy
    assert accuracy['T'] > .6 and set(accuracy.index) == {'T', 'Ind', 'KL', 'Hint', 'foreign', 'random'}


def probe_options(run, data, out, *more):
    nets = run/'models'
    return ['--teacher', nets/'T-0', '--students', f'KL={nets/"KL-0"}', f'Hint={nets/"Hint-0.safetensors"}',
            '--controls', nets/'Ind-0', nets/'Ind-1', '--foreign', nets/'foreign-1000',
            '--data', data, '--size', '32', '--device', 'cpu', '--out', out,
            '--probe-args', '{adversarial: {eps: 0.1}, boundary: {planes: 5, points: 5}}', *more]


def test_probing_saved_networks(photo_run, photographs, capsys):
    "The networks of the study on the images of the study: the study's own numbers."
    out = photographs/'probed'
    status = kd_probe([str(a) for a in probe_options(photo_run, photographs/'classes', out)])
    assert status == 0, capsys.readouterr().err
    report(out)
    mine, theirs = pd.read_csv(out/'values.csv'), pd.read_csv(photo_run/'values.csv')
    keys = 'probe condition metric model role'.split()
    both = mine.merge(theirs, on=keys + ['seed'], suffixes=('', '_study'))
    assert len(both) >= len(mine) - (mine.model == 'foreign').sum()
    assert (both.value - both.value_study).abs().max() < 1e-6 and (both.n == both.n_study).all()


def test_the_teachers_answers_in_the_labels_place(photo_run, photographs, capsys):
    "A flat folder has no labels: the teacher's top-1 takes their place, and the report says so."
    out = photographs/'predicted'
    argv = [str(a) for a in probe_options(photo_run, photographs/'flat', out, '--target', 'predicted')]
    assert kd_probe(argv) == 0, capsys.readouterr().err
    text = report(out)
    assert '--target predicted' in text and "teacher's own answer" in text
    accuracy = pd.read_csv(out/'accuracy.csv').set_index('network').accuracy
    assert accuracy['T'] == 1
    before = state(out)
    assert kd_probe(argv) == 0 and state(out) == before  # a second call does nothing


def state(folder):
    "What its files hold, and when they were written."
    files = [p for p in folder.rglob('*') if p.is_file() and p.name != '.lock']
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
