"A probe and an objective of a user's own: each registered by one line, and all else follows."
import inspect

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from kd_knowledge.distillation.objectives import Objective, OBJECTIVES, register_objective
from kd_knowledge.explorer import Report
from kd_knowledge.explorer.scene import open_run
from kd_knowledge.probes.core import Probe, PROBES, register_probe, table
from kd_knowledge.study.config import Study
from kd_knowledge.study.run import run_study

TINY = dict(n_train=128, n_probe=64, size=16, teacher_args=dict(width=8), student_args=dict(width=4), teacher_epochs=1,
            epochs=1, bs=32, starred=False, seeds=2, independent_seeds=2, device='cpu')


def upside_down(cast, images, device=None):
    "The share of images to which a network gives the same answer when they stand on their head."
    rows = []
    with cast.run(device), torch.inference_mode():
        for m in cast.networks:
            same = [(m.net(x).argmax(1) == m.net(x.flip(2)).argmax(1)).cpu() for x, _, _ in images.batches(32, device)]
            rows.append(table('upside down', 'flipped', 'agreement', m, range(len(images)), torch.cat(same)))
    return pd.concat(rows)


def draw(cast, images, domains, rows):
    ax = rows.groupby('model').value.mean().plot.bar()
    return ax, 'The share of answers that stay.'


def add_probe():
    register_probe(Probe('upside down', upside_down, 'Upside down', 'Does the student mind the sky below?',
                         picture=draw))


def add_objective():
    @register_objective
    class Cosine(Objective):
        "One minus the cosine of the two networks' logits."
        def __init__(self, weight=1., gamma=1.): super().__init__(weight, gamma)
        def forward(self, student, teacher, labels, index):
            return (1 - F.cosine_similarity(student['logits'], teacher['logits'])).mean()


@pytest.fixture
def plugins():
    add_probe()
    add_objective()
    yield
    del PROBES['upside down'], OBJECTIVES['Cosine']


@pytest.fixture
def ran(plugins, tmp_path):
    "A study that is run with both, in one process and in two."
    for workers in (1, 2):
        run_study(Study(**TINY, objectives=dict(Cosine={}), probes=['upside down', 'fidelity'], workers=workers,
                        out=str(tmp_path/f'{workers}')))
    return tmp_path


def test_a_study_runs_with_them_and_tells_of_them(ran):
    one, two = ran/'1', ran/'2'
    for name in ('estimates.csv', 'values.csv', 'accuracy.csv'):
        assert (one/name).read_bytes() == (two/name).read_bytes(), name
    found = pd.read_csv(one/'estimates.csv')
    assert set(found.probe) == {'upside down', 'fidelity'} and set(found.student) == {'Cosine'}
    log = pd.read_csv(one/'logs'/'Ind-Cosine-0.csv')
    assert 'Cosine' in set(log.student) and log.value.notna().all()
    check_report((one/'report.html').read_text(encoding='utf-8'), one)
    scene = open_run(one)
    assert set(scene.found('upside down').model) >= {'T', 'Ind', 'Cosine'}
    check_explorer(Report(scene))


def check_report(page, folder):
    "Verdict, figure and picture with its caption."
    for text in ('Upside down', 'Does the student mind the sky below?', 'The share of answers that stay.', 'Cosine'):
        assert text in page, text
    for name in ('upside-down-agreement', 'pictures-upside down'):
        assert (folder/'figures'/f'{name}.png').exists(), name


def check_explorer(report):
    "Its estimates can be chosen, and the images behind them are shown."
    def values(widget):
        yield widget
        for child in getattr(widget, 'children', ()): yield from values(child)
    texts = ' '.join(str(getattr(w, 'value', '')) + str(getattr(w, 'options', '')) for w in values(report))
    assert 'upside down' in texts.lower()


def test_they_are_gone_afterwards():
    assert 'upside down' not in PROBES and 'Cosine' not in OBJECTIVES


def test_they_are_short():
    "Fewer than 20 lines for a probe, fewer than 15 for an objective."
    assert sum(len(inspect.getsource(f).splitlines()) for f in (upside_down, draw, add_probe)) < 20
    assert len(inspect.getsource(add_objective).splitlines()) < 15
