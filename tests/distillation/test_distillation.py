"""Objectives against written-out float64 references, and the Learner with fastai's own callbacks."""
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
from kd_knowledge.torch_core import generator
from kd_knowledge.data import get_dls
from kd_knowledge.distillation import CRD, KL, WEIGHTS, Cohort, Hint, Nobody, distill_learner, paper_objectives
from kd_knowledge.models import anatomy, create_model


@pytest.fixture(scope='module')
def teacher(): return create_model('resnet_small', 10, width=8, seed=1)


@pytest.fixture
def dls(): return get_dls('shapes', bs=16, n_train=64, n_valid=32)


def student(): return create_model('resnet_small', 10, width=4)


def fit(learn, epochs=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-2)
    return learn


class Labelled:
    "The labels of a training set, which is all that CRD reads of it."
    def __init__(self, y): self.y = y
    def __len__(self): return len(self.y)


@pytest.mark.parametrize('tau', [1., 4., 8.])
def test_kl_is_the_written_out_formula(tau):
    z_s, z_t = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    def soft(z): exps = [math.exp(v/tau) for v in z.tolist()]; return [e/sum(exps) for e in exps]
    expected = sum(-tau**2*sum(p*math.log(q) for p, q in zip(soft(t), soft(s))) for s, t in zip(z_s, z_t))/6
    assert abs(KL(tau=tau)(dict(logits=z_s), dict(logits=z_t), None, None).item() - expected) < 1e-10


def test_hint_is_the_written_out_formula():
    hint = Hint()
    hint.student_layers, hint.teacher_layers, hint.maps = ['s'], ['t'], (lambda a: a,)*2
    f_s, f_t = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    hint.build(dict(s=f_s), dict(t=f_t), None)
    hint.double()
    f_s, f_t = f_s.double(), f_t.double()
    weight, bias = hint.regressor.weight[:, :, 0, 0].detach(), hint.regressor.bias.detach()
    total = 0.
    for n in range(2):
        for c in range(5):
            for i in range(4):
                for j in range(4):
                    mapped = sum(weight[c, k]*f_s[n, k, i, j] for k in range(3)) + bias[c]
                    total += float(f_t[n, c, i, j] - mapped)**2
    assert abs(hint(dict(s=f_s), dict(t=f_t), None, None).item() - .5*total/f_t.numel()) < 1e-10


def crd_case(**kwargs):
    y = torch.arange(12) % 3
    crd = CRD(dim=4, n_negatives=5, tau=.2, **kwargs)
    crd.student_layers = crd.teacher_layers = ['f']
    features = torch.randn(3, 6), torch.randn(3, 6)
    crd.build(dict(f=features[0]), dict(f=features[1]), Labelled(y))
    return crd.double(), [f.double() for f in features], torch.tensor([0, 1, 2]), torch.tensor([0, 4, 8])


def crd_by_hand(crd, features, labels, drawn, z):
    s, t = crd._embed(dict(f=features[0]), dict(f=features[1]))
    def h(a, b): e = (sum(x*y for x, y in zip(a, b))/crd.tau).exp()/z; return e/(e + drawn.shape[1]/crd.n_images)
    return sum(-h(s[i], t[i]).log() - sum((1 - h(s[i], crd.bank[j])).log() for j in drawn[i]) for i in range(3))/3


@pytest.mark.parametrize('partition', [1., 37.])
def test_crd_is_the_written_out_formula_with_its_gradient(partition):
    crd, features, labels, index = crd_case(partition=partition)
    drawn = crd._draw(labels); crd._draw = lambda labels: drawn
    features[0].requires_grad_()
    ours, theirs = crd(dict(f=features[0]), dict(f=features[1]), labels, index), crd_by_hand(crd, features, labels, drawn, partition)
    assert abs(ours.item() - theirs.item()) < 1e-6
    grads = [torch.autograd.grad(l, features[0])[0] for l in (ours, theirs)]
    assert torch.allclose(*grads, atol=1e-6)


def test_crd_estimates_the_partition_on_the_first_batch_and_keeps_it():
    crd, features, labels, index = crd_case()
    drawn = crd._draw(labels); crd._draw = lambda labels: drawn
    s = crd._embed(dict(f=features[0]), dict(f=features[1]))[0].detach()
    expected = 12*torch.stack([(s[i]@crd.bank[j]/crd.tau).exp() for i in range(3) for j in drawn[i]]).mean()
    crd(dict(f=features[0]), dict(f=features[1]), labels, index)
    assert abs(crd.log_z.exp().item()/expected.item() - 1) < 1e-5
    before = crd.log_z.clone()
    crd(dict(f=2*features[1]), dict(f=features[0]), labels, index)
    assert torch.equal(before, crd.log_z)


def test_negatives_never_share_the_class():
    y = torch.tensor([0]*50 + [1]*3 + [2]*47)
    crd = CRD(dim=2, n_negatives=10_000); crd.student_layers = crd.teacher_layers = ['f']
    crd.build(dict(f=torch.ones(1, 2)), dict(f=torch.ones(1, 2)), Labelled(y))
    assert crd.n_drawn == 50
    for label in range(3):
        drawn = crd._draw(torch.full((40,), label))
        assert not (y[drawn] == label).any() and set(drawn.flatten().tolist()) == {i for i in range(100) if y[i] != label}


def test_total_is_gamma_cross_entropy_plus_weighted_terms(dls, teacher):
    learn = distill_learner(dls, teacher, dict(both=[KL(.3, gamma=.7), Hint(2., gamma=.7)]), student=student)
    cohort = learn.cohort.train()
    x, y, index = dls.one_batch()
    total = cohort.loss(cohort(x), y, index)
    terms = cohort.terms['both']
    assert torch.isclose(total, .7*terms['cross-entropy'] + .3*terms['KL'] + 2*terms['Hint'])
    cohort.eval()
    assert torch.isclose(cohort.loss(cohort(x), y, index), nn.functional.cross_entropy(cohort(x)['both'], y))
    with pytest.raises(KDError, match='gamma'): Cohort(teacher, dict(a=student()), dict(a=[KL(gamma=.5), Hint(gamma=1.)]))


def test_fastai_callbacks_work(dls, teacher, tmp_path):
    cbs = [CSVLogger(fname=tmp_path/'log.csv'), SaveModelCallback(monitor='KL', fname='best'), GradientAccumulation(n_acc=32), MixedPrecision()]
    learn = distill_learner(dls, teacher, dict(Ind=None, KL=KL(), Hint=Hint(), CRD=CRD()), student=student, cbs=cbs, path=tmp_path, clip=1.).to_channelslast(use_amp=False)
    fit(learn, 2)
    assert list(pd.read_csv(tmp_path/'log.csv').columns)[:7] == ['epoch', 'train_loss', 'valid_loss', 'Ind', 'KL', 'Hint', 'CRD']
    assert (tmp_path/'models'/'best.pth').exists()
    assert set(learn.distill.log.term) == {'cross-entropy', 'KL', 'Hint', 'CRD'} and learn.distill.log.epoch.max() == 1


def test_bank_and_regressor_are_saved_and_the_student_is_free_of_them(dls, teacher, tmp_path):
    learn = fit(distill_learner(dls, teacher, dict(Hint=Hint(), CRD=CRD()), student=student, path=tmp_path))
    learn.save('cohort')
    other = distill_learner(dls, teacher, dict(Hint=Hint(), CRD=CRD(seed=5)), student=student, seed=9, path=tmp_path)
    assert not torch.equal(other.cohort.objectives['CRD'][0].bank, learn.cohort.objectives['CRD'][0].bank)
    other.load('cohort')
    for a, b in zip(learn.cohort.state_dict().values(), other.cohort.state_dict().values()): assert torch.equal(a, b)
    assert not any(k.startswith('teacher') for k in learn.cohort.state_dict())
    assert learn.students['CRD'].state_dict().keys() == student().state_dict().keys()


def test_a_student_whose_gradient_explodes_holds_up_nobody(dls, teacher):
    class Explode(KL):
        def forward(self, *given): return super().forward(*given)*(math.inf if self.training else 1)
    alone = fit(distill_learner(dls, teacher, dict(Ind=None), student=student, clip=1.))
    dls = get_dls('shapes', bs=16, n_train=64, n_valid=32)
    both = distill_learner(dls, teacher, dict(Ind=None, bad=Explode()), student=student, clip=1.)
    with pytest.raises(FloatingPointError, match='bad: Explode'): fit(both)
    assert both.distill.skipped == dict(bad=4)
    for a, b in zip(alone.students['Ind'].parameters(), both.students['Ind'].parameters()): assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_on_the_teacher(dls, teacher, error):
    class Fail(KL):
        def forward(self, *given): raise error
    teacher.train(); teacher.net.fc.requires_grad_(False)
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


@pytest.mark.parametrize('tau,noise,temperature', [(4., .2, .15), (1., .5, 1.)])
def test_nobody_is_the_written_out_formula(tau, noise, temperature):
    nobody, again = (Nobody(tau=tau, noise=noise, temperature=temperature, seed=3) for _ in range(2))
    z, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 2, 1, 0])
    drawn = torch.randn(6, 5, generator=generator('nobody', 3)).tolist()
    def soft(v, tau): exps = [math.exp(a/tau) for a in v]; return [e/sum(exps) for e in exps]
    total = 0.
    for i in range(6):
        told = soft([float(j == labels[i]) + math.sqrt(noise)*drawn[i][j] for j in range(5)], temperature)
        total -= tau**2*sum(p*math.log(q) for p, q in zip(told, soft(z[i].tolist(), tau)))
    assert abs(nobody(dict(logits=z), {}, labels, None).item() - total/6) < 1e-4*total/6
    assert torch.equal(again.soft_labels(labels, 5), Nobody(tau=tau, noise=noise, temperature=temperature, seed=3).soft_labels(labels, 5))
    assert not torch.equal(again.soft_labels(labels, 5), again.soft_labels(labels, 5)), 'new noise for each batch'


def test_nobody_needs_no_teacher_and_does_not_look_at_one(dls, teacher):
    def weights(teacher, **more):
        dls = get_dls('shapes', bs=16, n_train=64, n_valid=32)
        net = fit(distill_learner(dls, teacher, dict(Nobody=Nobody(), **more), student=student)).students['Nobody']
        return torch.cat([p.flatten() for p in net.parameters()])
    alone = weights(None)
    assert torch.equal(alone, weights(teacher))
    assert torch.allclose(alone, weights(teacher, KL=KL()), atol=1e-5)
    with pytest.raises(KDError, match='none to learn from'): distill_learner(dls, None, dict(Nobody=Nobody(), KL=KL()), student=student)


def test_hint_trains_at_every_depth(dls, teacher):
    depths = list(anatomy(teacher).layers)
    learn = distill_learner(dls, teacher, {d: Hint(student_layer=d, teacher_layer=d) for d in depths}, student=student)
    before = {d: torch.cat([p.flatten() for p in learn.cohort.objectives[d].parameters()]).clone() for d in depths}
    assert [type(learn.cohort.objectives[d][0].regressor) for d in depths] == [nn.Conv2d]*4 + [nn.Linear]*2
    fit(learn, 3)
    log = learn.distill.log.query('term == "Hint"').pivot(index='student', columns='epoch', values='value').loc[depths]
    assert (log[2] < log[0]).all(), log
    assert all((torch.cat([p.flatten() for p in learn.cohort.objectives[d].parameters()]) - before[d]).abs().max() > 0 for d in depths)


@pytest.mark.parametrize('pair', WEIGHTS)
def test_the_papers_pairs(pair):
    students = paper_objectives(pair)
    assert list(students) == ['Ind', 'KL', 'Hint', 'CRD'] and (students['KL'].gamma, students['KL'].weight) == WEIGHTS[pair][0]


@pytest.mark.parametrize('pair,teacher,student', [('wrn_40_2-shufflenet_v1', ('wrn', dict(depth=10)), ('shufflenet_v1', {})),
                                                  ('vgg13-vgg8', ('vgg_small', dict(width=.1)), ('vgg_small', dict(depth=8, width=.1))),
                                                  ('resnet50-mobilenet_v2', ('resnet50_small', dict(width=4)), ('mobilenet_v2_small', {})),
                                                  ('resnet20-resnet20', ('resnet_cifar', dict(width=4)), ('resnet_cifar', dict(width=4)))])
def test_small_pairs_train(pair, teacher, student):
    dls = get_dls('shapes', bs=8, n_train=8, n_valid=8)
    teacher, student = (create_model(name, 10, seed=0, **kwargs) for name, kwargs in (teacher, student))
    learn = fit(distill_learner(dls, teacher, paper_objectives(pair), student=student))
    assert learn.distill.log.value.map(math.isfinite).all() and len(learn.distill.log) == 7
