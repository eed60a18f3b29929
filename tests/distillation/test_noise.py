"The noise channel: what a student begins with, what it looks at, and a study whose control begins elsewhere."
import pandas as pd
import pytest
import torch

from kd_knowledge.cli import kd_study
from kd_knowledge.core import KDError
from kd_knowledge.data import get_dls
from kd_knowledge.distillation import Ghost, OBJECTIVES, distill_learner
from kd_knowledge.models import create_model, load_model
from kd_knowledge.study.config import Study
from kd_knowledge.study.steps import asked_beside

FITS_ROWS = 'KL Nobody Hint CRD DKD NKD RLD DIST LSKD WTTM WSLD OFA MLLD CTKD RKD PKT CC FeatureMSE SP Choose Ghost Compressed'.split()


def network(seed): return create_model('mlp', 10, width=8, side=16, seed=seed)
def weights(net): return torch.cat([p.detach().flatten() for p in net.parameters()])


def loaders(): return get_dls('shapes', bs=16, size=16, n_train=64, n_valid=32, device='cpu')


@pytest.fixture(scope='module')
def dls(): return loaders()


def learner(dls, **students):
    return distill_learner(dls, network(0), students, student=lambda: network(1), others=dict(start=network(2), random=network(3)))


def test_where_each_begins(dls):
    nets = learner(dls, Same=Ghost(), Random=Ghost(source='random'), Head=Ghost(start='own'), Ind=None).students
    same = {k: torch.equal(weights(net), weights(network(2))) for k, net in nets.items()}
    assert same == dict(Same=True, Random=True, Head=False, Ind=False)
    with pytest.raises(KDError, match='others: .*start'):
        distill_learner(dls, network(0), dict(A=Ghost()), student=lambda: network(1))


def test_labels_are_never_told():
    "With all labels changed the student is the same to the last digit."
    found = []
    for change in (0, 1):
        dls = loaders()
        dls.train_ds.y.add_(change).remainder_(10)
        learn = learner(dls, Same=Ghost())
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
        found.append(weights(learn.students['Same']))
    assert torch.equal(*found) and not torch.equal(found[0], weights(network(2)))


@pytest.mark.parametrize('name', sorted(OBJECTIVES))
def test_networks_without_maps(dls, name):
    "Train with objectives on answers and features; the others say in one line what they lack."
    def train():
        others = dict(start=network(2), sibling=network(3))
        learn = distill_learner(dls, network(0), dict(A=OBJECTIVES[name]()), student=lambda: network(1), others=others)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    if name in FITS_ROWS: return train()
    with pytest.raises(KDError): train()


def test_a_study_whose_control_begins_elsewhere(tmp_path):
    out = tmp_path/'run'
    options = ['--preset', 'noise', '--out', str(out), '--n-train', '96', '--n-probe', '64', '--seeds', '2', '--epochs', '1',
               '--teacher-epochs', '1', '--probes', 'fidelity', 'colour', '--workers', '1', '--device', 'cpu']
    assert kd_study(options) == 0
    start, random = (load_model(out/'models'/f'{name}-0') for name in ('start', 'random'))
    teacher = load_model(out/'models'/'T-0')
    assert teacher.recipe['name'] == 'mlp' and not torch.equal(weights(start), weights(random))
    found = pd.read_csv(out/'estimates.csv')
    assert 'Same start' in set(found.student) and 'Ind' not in set(found.student)
    log = pd.read_csv(out/'logs'/sorted(p.name for p in (out/'logs').iterdir())[0])
    assert 'Ghost' in set(log[log.student == 'Ind'].term)


def test_nobody_knows_how_a_given_teacher_began():
    study = Study(objectives=dict(Ghost={}), teacher_weights='mine.safetensors')
    with pytest.raises(KDError, match='Ghost: nobody knows how a given teacher began'): asked_beside(study)
