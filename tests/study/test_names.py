"Students under any names: in a cohort, in files, in tables and in the report, and never outside the run folder."
from html import unescape

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from kd_knowledge.core import file_name
from kd_knowledge.data import get_dls
from kd_knowledge.distillation.cohort import distill_learner
from kd_knowledge.explorer.scene import open_run
from kd_knowledge.probes.core import Cast
from kd_knowledge.study.config import Study
from kd_knowledge.study.run import run_study
from kd_knowledge.study.steps import objectives_of
from tests.common import says

@pytest.fixture
def dls(): return get_dls('shapes', bs=16, n_train=32, n_valid=16)


ODD = ['CRD.05', 'hint/2', '../../<b>größe</b>', 'training', 'T-0', '$a$\\frac$', 'x'*200]


@pytest.mark.filterwarnings('ignore:Glyph')
def test_a_study_of_students_with_odd_names(tmp_path):
    out, small = tmp_path/'deep'/'run', dict(width=4)
    run_study(Study(out=str(out), objectives={name: dict(objective='KL') for name in ODD}, starred=False, seeds=1,
                    independent_seeds=1, n_train=32, n_probe=32, bs=16, epochs=1, teacher_epochs=1, workers=1,
                    teacher_args=small, student_args=small, probes=['fidelity'], device='cpu'))
    assert {p.name for p in tmp_path.iterdir()} == {'deep'} and {p.name for p in out.parent.iterdir()} == {'run'}
    assert all((out/'models'/f'{file_name(name)}.safetensors').exists() for name in ODD)
    assert set(pd.read_csv(out/'estimates.csv').student) == set(ODD)
    page = (out/'report.html').read_text(encoding='utf-8')
    assert '<b>größe' not in page and all(name in unescape(page) for name in ODD)
    assert {ModelCard.load(path).data.model_name for path in (out/'cards').iterdir()} == set(ODD)
    assert open_run(out).students == ODD


def test_odd_names_in_a_cohort_and_its_checkpoint(dls, tmp_path):
    names = ['CRD.05', 'keys', '..', 'KL']
    make = lambda: distill_learner(dls, None, dict.fromkeys(names), student='resnet_small', path=tmp_path)
    learn = make()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    learn.save('odd')
    again = make().load('odd', weights_only=True)
    for name in names:
        assert learn.students[name].recipe['name'] == 'resnet_small' and set(learn.distill.log.student) == set(names)
        pairs = zip(learn.students[name].parameters(), again.students[name].parameters())
        assert all(p.equal(q) for p, q in pairs)
    assert 'students.KL.net.stem.0.weight' in learn.model.state_dict()


@pytest.mark.parametrize('name', ['T', 'ind', 'foreign', 'limit', 'random', 'effect', 'kl', '', ' KL', 'a\nb', 1, 'K*',
                                  'x'*201])
def test_names_that_are_refused(name):
    says(lambda: objectives_of(Study(objectives={'KL': {}, name: dict(objective='KL')})), 'objectives: ')


def test_names_that_a_cast_and_a_learner_refuse(dls):
    net = distill_learner(dls, None, dict(Ind=None), student='resnet_small').students['Ind']
    for name in ('T', 'random', 'sample'): says(lambda: Cast(net, {'Ind': net, name: net}), 'students: ', 'another name')
    says(lambda: Cast(net, dict(Ind=net, KL=net), dict(KL=net)), 'others: ', 'there already')
    for name in ('', 5, '_x'): says(lambda: distill_learner(dls, None, {name: None}), 'students: ', 'is no name')
