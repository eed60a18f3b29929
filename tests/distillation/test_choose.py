"A student that chooses: alone as in company, by its references alone, and from the command line."
import math

import pandas as pd
import pytest
import torch

from kd_knowledge.cli import kd_study
from kd_knowledge.core import KDError
from kd_knowledge.data import Augment, get_dls
from kd_knowledge.distillation import Choose, KL, distill_learner
from kd_knowledge.distillation.objectives import Batch
from kd_knowledge.models import create_model
from tests.distillation.common import student
from tests.models.common import hooks, state

CHOICES = dict(
    all=lambda: Choose(['colour', 'localization'], ['adversarial', 'shift', 'crop'], dose=dict(shift=2.)),
    place=lambda: Choose(withhold='localization'),
    foreign=lambda: Choose(['colour', 'localization'], source='foreign'))


def network(seed): return create_model('resnet_small', 10, width=8, seed=seed)
def weights(net): return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.fixture(scope='module')
def teacher(): return network(1)


@pytest.fixture(scope='module')
def others(): return dict(sibling=student(), foreign=network(3))


def untrained(teacher, students, others):
    dls = get_dls('shapes', bs=16, size=24, n_train=160, n_valid=32, augment=Augment())
    return distill_learner(dls, teacher, students, student=student, others=others)


def trained(*args):
    learn = untrained(*args)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    return learn


@pytest.fixture(scope='module')
def cohort(teacher, others):
    before = [state(net) for net in (teacher, *others.values())]
    students = {k: make() for k, make in CHOICES.items()} | dict(Ind=None, KL=KL())
    return trained(teacher, students, others), before


def test_all_train_and_leave_the_references_alone(cohort, teacher, others):
    learn, before = cohort
    assert learn.distill.log.value.map(math.isfinite).all() and not learn.distill.skipped
    nets = teacher, *others.values()
    assert [state(net) for net in nets] == before
    assert not any(p.grad is not None for net in nets for p in net.parameters())
    assert not any(hooks(net) for net in (*nets, *learn.students.values()))


@pytest.mark.parametrize('name', CHOICES)
def test_company_changes_no_student(name, cohort, teacher, others):
    alone = trained(teacher, {name: CHOICES[name]()}, others).students[name]
    assert (weights(cohort[0].students[name]) - weights(alone)).abs().max() <= 1e-5


@pytest.mark.parametrize(('name', 'other'), [('all', 'sibling'), ('place', 'sibling'), ('foreign', 'foreign')])
def test_another_reference_makes_another_student(name, other, cohort, teacher, others):
    changed = others | {other: student() if other == 'sibling' else network(4)}
    with torch.no_grad():
        for p in changed[other].parameters(): p.mul_(1.1)
    found = trained(teacher, {name: CHOICES[name]()}, changed).students[name]
    assert (weights(cohort[0].students[name]) - weights(found)).abs().max() > 1e-6


@pytest.mark.parametrize('name', CHOICES)
@torch.no_grad()
def test_parts_of_a_batch_have_its_mean(name, teacher, others):
    "Otherwise processes that share a batch would train another student than one process."
    learn = untrained(teacher, {name: CHOICES[name]()}, others)
    x, labels, index = learn.dls.one_batch()
    model = learn.cohort.train()
    model.batch = Batch(x, labels, index, learn.dls.train, teacher)
    model(x)
    seen = model.seen['students'][name], model._told(name)

    def said(part):
        parts = [{k: v[part] for k, v in activations.items()} for activations in seen]
        return model.objectives[name][0](*parts, labels[part], index[part]).item()
    assert (said(slice(8)) + said(slice(8, 16)))/2 == pytest.approx(said(slice(16)), rel=1e-4)


def test_a_network_without_class_activation_maps_is_refused(teacher):
    with pytest.raises(KDError, match='not the means of class activation maps'):
        dls = get_dls('shapes', bs=16, size=28, n_train=32, n_valid=16)
        distill_learner(dls, teacher, dict(C=Choose('localization')), student='mnist_cnn')


def test_from_the_command_line(tmp_path, capsys):
    few = '--n-train 48 --n-probe 24 --size 16 --epochs 1 --teacher-epochs 1 --seeds 1 --workers 1 --probes fidelity'.split()
    choice = ['--inherit', 'colour', '--withhold', 'shift', '--dose', '2', *few, '--out', str(tmp_path/'run')]
    assert kd_study(choice) == 0
    networks = set(pd.read_csv(tmp_path/'run'/'accuracy.csv').network)
    assert {'KL', 'Choose', 'Choose, foreign', 'KL .05', 'KL .1', 'KL .2'} < networks and 'sibling' not in networks
    assert (tmp_path/'run'/'models'/'sibling-2000.safetensors').is_file()
    capsys.readouterr()
    assert kd_study(choice) == 0 and 'done before  students sibling, seed 2000' in capsys.readouterr().out
    mixed = ['--withhold', 'shift', '--objectives', '{Hint: {}}', *few, '--out', str(tmp_path/'mixed')]
    assert kd_study(mixed) == 0
    assert {'Hint', 'Choose'} < set(pd.read_csv(tmp_path/'mixed'/'accuracy.csv').network)
