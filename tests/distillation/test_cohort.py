"""The Learner with fastai's own callbacks, what each student owes to nobody, what is saved, what is refused."""
import math

import pandas as pd
import pytest
import torch
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation
from torch import nn

from kd_knowledge.core import KDError
from kd_knowledge.data import get_dls
from kd_knowledge.distillation import CRD, KL, Cohort, Hint, Nobody, distill_learner
from kd_knowledge.models import anatomy, create_model
from tests.distillation.common import batches, fit, paper_objectives, student


def test_total_is_gamma_cross_entropy_plus_weighted_terms(dls, teacher):
    learn = distill_learner(dls, teacher, dict(both=[KL(.3, gamma=.7), Hint(2., gamma=.7)]), student=student)
    cohort = learn.cohort.train()
    x, y, index = dls.one_batch()
    total = cohort.loss(cohort(x), y, index)
    terms = cohort.terms['both']
    assert torch.isclose(total, .7*terms['cross-entropy'] + .3*terms['KL'] + 2*terms['Hint'])
    cohort.eval()
    assert torch.isclose(cohort.loss(cohort(x), y, index), nn.functional.cross_entropy(cohort(x)['both'], y))
    two = dict(a=[KL(gamma=.5), Hint(gamma=1.)])
    with pytest.raises(KDError, match='gamma'): Cohort(teacher, dict(a=student()), two)


def test_fastai_callbacks_work(dls, teacher, tmp_path):
    cbs = [CSVLogger(fname=tmp_path/'log.csv'), SaveModelCallback(monitor='KL', fname='best'),
           GradientAccumulation(n_acc=32), MixedPrecision()]
    students = dict(Ind=None, KL=KL(), Hint=Hint(), CRD=CRD())
    learn = distill_learner(dls, teacher, students, student=student, cbs=cbs, path=tmp_path, clip=1.)
    learn = learn.to_channelslast(use_amp=False)
    fit(learn, 2)
    columns = list(pd.read_csv(tmp_path/'log.csv').columns)
    assert columns[:7] == ['epoch', 'train_loss', 'valid_loss', 'Ind', 'KL', 'Hint', 'CRD']
    assert (tmp_path/'models'/'best.pth').exists()
    assert set(learn.distill.log.term) == {'cross-entropy', 'KL', 'Hint', 'CRD'} and learn.distill.log.epoch.max() == 1


def test_bank_and_regressor_are_saved_and_the_student_is_free_of_them(dls, teacher, tmp_path):
    learn = fit(distill_learner(dls, teacher, dict(Hint=Hint(), CRD=CRD(negatives='bank')), student=student, path=tmp_path))
    learn.save('cohort')
    other = distill_learner(dls, teacher, dict(Hint=Hint(), CRD=CRD(negatives='bank')), student=student, seed=9, path=tmp_path)
    assert not torch.equal(other.cohort.objectives['CRD'][0].bank, learn.cohort.objectives['CRD'][0].bank)
    other.load('cohort')
    for a, b in zip(learn.cohort.state_dict().values(), other.cohort.state_dict().values()): assert torch.equal(a, b)
    assert not any(k.startswith('teacher') for k in learn.cohort.state_dict())
    assert learn.students['CRD'].state_dict().keys() == student().state_dict().keys()


def test_a_student_whose_gradient_explodes_holds_up_nobody(dls, teacher):
    class Explode(KL):
        def forward(self, *given): return super().forward(*given)*(math.inf if self.training else 1)
    alone = fit(distill_learner(dls, teacher, dict(Ind=None), student=student, clip=1.))
    dls = batches()
    both = distill_learner(dls, teacher, dict(Ind=None, bad=Explode()), student=student, clip=1.)
    with pytest.raises(FloatingPointError, match='bad: Explode'): fit(both)
    assert both.distill.skipped == dict(bad=4)
    pairs = zip(alone.students['Ind'].parameters(), both.students['Ind'].parameters())
    for a, b in pairs: assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_on_the_teacher(dls, teacher, error):
    class Fail(KL):
        def forward(self, *given): raise error
    teacher.train()
    teacher.net.fc.requires_grad_(False)
    flags = [m.training for m in teacher.modules()], [p.requires_grad for p in teacher.parameters()]
    with pytest.raises(error): fit(distill_learner(dls, teacher, dict(KL=Fail(), Hint=Hint()), student=student))
    assert flags == ([m.training for m in teacher.modules()], [p.requires_grad for p in teacher.parameters()])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    teacher.net.fc.requires_grad_(True)


def test_bad_students_are_refused(dls, teacher):
    for students, message in [({}, 'there is none'), (dict(KL='KL'), 'no objective')]:
        with pytest.raises(KDError, match=message): distill_learner(dls, teacher, students, student=student)
    with pytest.raises(KDError, match='none to learn from'): distill_learner(dls, None, dict(KL=KL()), student=student)


def test_nobody_needs_no_teacher_and_does_not_look_at_one(dls, teacher):
    def weights(teacher, **more):
        dls = batches()
        net = fit(distill_learner(dls, teacher, dict(Nobody=Nobody(), **more), student=student)).students['Nobody']
        return torch.cat([p.flatten() for p in net.parameters()])
    alone = weights(None)
    assert torch.equal(alone, weights(teacher))
    assert torch.allclose(alone, weights(teacher, KL=KL()), atol=1e-5)
    two = dict(Nobody=Nobody(), KL=KL())
    with pytest.raises(KDError, match='none to learn from'): distill_learner(dls, None, two, student=student)


def flat(net): return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_hint_trains_at_every_depth(dls, teacher):
    depths = list(anatomy(teacher).layers)
    hints = {d: Hint(student_layer=d, teacher_layer=d) for d in depths}
    learn = distill_learner(dls, teacher, hints, student=student)
    objectives = learn.cohort.objectives
    before = {d: flat(objectives[d]).clone() for d in depths}
    assert [type(objectives[d][0].regressor) for d in depths] == [nn.Conv2d]*4 + [nn.Linear]*2
    fit(learn, 3)
    hints = learn.distill.log.query('term == "Hint"')
    log = hints.pivot(index='student', columns='epoch', values='value').loc[depths]
    assert (log[2] < log[0]).all(), log
    assert all((flat(objectives[d]) - before[d]).abs().max() > 0 for d in depths)


PAIRS = {  # preset -> small networks of its teacher's and its student's family
    'cifar100-wrn40_2-shufflenetv1': (('wrn', dict(depth=10)), ('shufflenet_v1', {})),
    'cifar100-vgg13-vgg8': (('vgg_small', dict(width=.1)), ('vgg_small', dict(depth=8, width=.1))),
    'cifar100-resnet50-mobilenetv2': (('resnet50_small', dict(width=4)), ('mobilenet_v2_small', {})),
    'resnet50-resnet18-imagenet': (('resnet_cifar', dict(width=4)), ('resnet_cifar', dict(width=4)))}


@pytest.mark.parametrize('preset', PAIRS)
def test_small_pairs_train(preset):
    dls = get_dls('shapes', bs=8, n_train=8, n_valid=8)
    teacher, student = (create_model(name, 10, seed=0, **kwargs) for name, kwargs in PAIRS[preset])
    learn = fit(distill_learner(dls, teacher, paper_objectives(preset), student=student))
    assert learn.distill.log.value.map(math.isfinite).all() and len(learn.distill.log) == 7
