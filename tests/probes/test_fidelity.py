"Fidelity and calibration: hand-worked cases, other libraries, and contributions whose mean is the measure."
import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import nn

from kd_knowledge.core import KDError
from kd_knowledge.data import Images
from kd_knowledge.probes.core import Cast, summary
from kd_knowledge.probes.evidence import estimate, plot_estimates
from kd_knowledge.probes.fidelity import calibration, copy_probability, ece, fidelity, kappa, plot_reliability


class Says(nn.Module):
    "A network that gives to each image the logits that were written for it; an image is known by its first pixel."
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits).float())
        self.recipe = dict(n_classes=self.logits.shape[1])
    def forward(self, x): return self.logits[(x[:, 0, 0, 0]*255).round().long()]


def numbered(y):
    x = torch.zeros(len(y), 3, 8, 8).byte()
    x[:, 0, 0, 0] = torch.arange(len(y)).byte()
    return Images(x, torch.as_tensor(y), list('abc'), 8)


def onehot(answers, sure=2.): return sure*torch.eye(3)[torch.as_tensor(answers)]


def some_cast(n=200, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    def says(right, scale=1.5):
        answers = np.where(rng.random(n) < right, y, rng.integers(3, size=n))
        return Says(onehot(answers) + scale*torch.tensor(rng.normal(size=(n, 3))))
    return Cast(says(.8), dict(Ind=[says(.6), says(.6)], KL=[says(.7), says(.7)]), dict(random=says(0))), numbered(y)


def values(rows, **where):
    for k, v in where.items(): rows = rows[rows[k] == v]
    return rows.set_index('sample').value.to_dict()


# Error consistency

def test_kappa_by_hand():
    "Ten images, eight and six of them right, five right together: c = .6, e = .8 x .6 + .2 x .4 = .56."
    first, second = [1]*8 + [0]*2, [1]*5 + [0]*3 + [1, 0]
    assert kappa(first, second) == pytest.approx((.6 - .56)/.44)


@pytest.mark.parametrize('seed', range(5))
def test_kappa_is_cohens(seed):
    rng = np.random.default_rng(seed)
    a = rng.random(300) < .7
    b = np.where(rng.random(300) < .5, a, rng.random(300) < .6)
    assert kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
    assert kappa(a, b) == kappa(b, a) and kappa(a, a) == pytest.approx(1)


def test_kappa_where_it_is_undefined():
    assert np.isnan(kappa([1, 1, 1], [1, 1, 1])) and np.isnan(kappa([0, 0], [0, 0]))
    assert abs(kappa([1, 1, 1], [1, 0, 1])) < 1e-12 and abs(kappa([0, 0], [1, 1])) < 1e-12


@pytest.mark.parametrize('share', [0, .3, .5, .7])
def test_copy_probability_is_what_was_planted(share):
    "And it is Klein's form, and how much oftener the student is right where the teacher is."
    rng = np.random.default_rng(7)
    teacher, own, copied = rng.random(20_000) < .8, rng.random(20_000) < .55, rng.random(20_000) < share
    student = np.where(copied, teacher, own)
    p, q = teacher.mean(), student.mean()
    e, found = p*q + (1 - p)*(1 - q), copy_probability(teacher, student)
    assert found == pytest.approx(share, abs=.02)
    assert found == pytest.approx(kappa(teacher, student)*(1 - e)/(1 - p**2 - (1 - p)**2))
    assert found == pytest.approx(student[teacher].mean() - student[~teacher].mean())


def test_copy_probability_where_it_is_undefined():
    for teacher in ([1, 1, 1], [0, 0, 0]):
        for student in ([1, 1, 1], [1, 0, 0], [0, 0, 0]): assert np.isnan(copy_probability(teacher, student))


# Calibration error

@pytest.mark.parametrize('bins', [1, 10, 15])
@pytest.mark.parametrize('case', ['spread', 'edges', 'certain', 'network'])
def test_ece_is_torchmetrics(case, bins):
    reference = pytest.importorskip('torchmetrics.functional.classification').multiclass_calibration_error
    random = torch.Generator().manual_seed(bins)
    y, logits = torch.randint(3, (500,), generator=random), 3*torch.randn(500, 3, generator=random)
    edges = torch.tensor([[.6, .2, .2], [.4, .3, .3], [1., 0, 0], [.2, .8, 0], [.1, .2, .7]]).repeat(100, 1)
    p = dict(spread=logits.softmax(1), network=(20*logits).softmax(1), certain=torch.eye(3)[logits.argmax(1)],
             edges=edges)[case]
    want = reference(p, y, num_classes=3, n_bins=bins, norm='l1').item()
    assert ece(p.amax(1), p.argmax(1) == y, bins) == pytest.approx(want, abs=2e-6)


def test_ece_by_hand():
    assert ece([.9]*10, [1]*9 + [0]) == pytest.approx(0, abs=1e-7)
    assert ece([.9]*10, [1]*5 + [0]*5) == pytest.approx(.4, abs=1e-7)
    assert ece([.95]*5 + [.55]*5, [1]*5 + [0]*5) == pytest.approx(.5*.05 + .5*.55, abs=1e-7)


def test_bad_input():
    for call, name in ((lambda: ece([1.5], [1]), 'confidence'), (lambda: ece([float('nan')], [1]), 'confidence'),
                       (lambda: ece([.5], [1, 0]), 'correct'), (lambda: ece([], []), 'correct'),
                       (lambda: ece([.5], [1], 0), 'bins'), (lambda: kappa([1], [1, 0]), 'second'),
                       (lambda: kappa([], []), 'second')):
        with pytest.raises(KDError) as e: call()
        assert str(e.value).startswith(f'{name}:') and '\n' not in str(e.value)


# The probes

def test_fidelity_by_hand():
    "The teacher is right on the images 0 and 1; the student agrees on 0 and on 2, which both get wrong."
    y, teacher, student = [0, 1, 2, 0], [0, 1, 0, 2], [0, 2, 0, 0]
    cast = Cast(Says(onehot(teacher)), dict(Ind=Says(onehot(student)), flat=Says(torch.zeros(4, 3))))
    rows = fidelity(cast, numbered(y))
    agreed = lambda condition: values(rows, metric='agreement', model='Ind', condition=condition)
    assert agreed('all') == {0: 1, 1: 0, 2: 1, 3: 0}
    assert agreed('teacher right') == {0: 1, 1: 0} and agreed('teacher wrong') == {2: 1, 3: 0}
    e2 = np.exp(2)
    p = np.array([e2, 1, 1])/(e2 + 2)
    assert values(rows, metric='KL', model='flat', condition='all')[0] == pytest.approx((p*np.log(3*p)).sum(), abs=1e-6)
    assert values(rows, metric='KL', model='Ind', condition='all')[1] == pytest.approx(2*(p[0] - p[1]), abs=1e-6)
    # right: teacher 1 1 0 0, student 1 0 0 1: c = .5, e = .5
    assert np.mean(list(values(rows, metric='error consistency', model='Ind').values())) == pytest.approx(0, abs=1e-7)


def test_kl_of_the_teacher_with_itself_is_zero():
    cast, images = some_cast()
    cast = Cast(cast.teacher, dict(Ind=cast.of('Ind')[0].net, twin=cast.teacher))
    rows = fidelity(cast, images)
    assert (rows[rows.metric.eq('KL') & rows.model.isin(['T', 'twin'])].value == 0).all()
    assert (rows[rows.metric.eq('agreement') & rows.model.eq('twin')].value == 1).all()
    assert (rows[rows.metric.eq('KL') & rows.model.eq('Ind')].value >= 0).all()
    assert set(rows[rows.model == 'T'].metric) == {'KL'}


def test_split_counts():
    cast, images = some_cast()
    rows, right = fidelity(cast, images), int((cast.logits(images)['T', 0].argmax(1) == images.y).sum())
    count = rows[rows.metric.eq('agreement')].groupby(['model', 'seed', 'condition']).size().unstack()
    assert (count['all'] == 200).all()
    assert (count['teacher right'] == right).all() and (count['teacher wrong'] == 200 - right).all()
    assert set(rows[rows.metric == 'error consistency'].condition) == {'all'}
    samples = {c: set(r['sample']) for c, r in rows.groupby('condition')}
    assert samples['teacher right'] | samples['teacher wrong'] == samples['all'] == set(range(200))
    assert not samples['teacher right'] & samples['teacher wrong']


def test_mean_of_the_parts_is_the_measure():
    cast, images = some_cast()
    logits, found = cast.logits(images), summary(fidelity(cast, images))
    found = found.set_index(['condition', 'metric', 'model', 'seed']).value
    sure = summary(calibration(cast, images)).set_index(['model', 'seed']).value
    right = {k: z.argmax(1) == images.y for k, z in logits.items()}
    assert len(sure) == 6
    for k, z in logits.items():
        assert sure[k] == pytest.approx(ece(z.softmax(1).amax(1), right[k]), abs=1e-6)
        if k[0] == 'T': continue
        assert found['all', 'error consistency', *k] == pytest.approx(kappa(right['T', 0], right[k]), abs=1e-6)


def test_conditions_that_no_image_meets_are_left_out():
    y = [0, 1, 2]
    for answers, left in ((y, {'all', 'teacher right'}), ([1, 2, 0], {'all', 'teacher wrong'})):
        students = dict(Ind=Says(onehot(answers)), KL=Says(onehot([0, 0, 0])))
        rows = fidelity(Cast(Says(onehot(answers)), students), numbered(y))
        assert set(rows.condition) == left and 'error consistency' not in set(rows.metric)
        assert rows.value.notna().all() and len(estimate(rows)) == 4


def test_estimates_and_pictures():
    cast, images = some_cast()
    rows = [fidelity(cast, images), calibration(cast, images)]
    found = estimate(__import__('pandas').concat(rows))
    assert len(found) == 3 + 3 + 1 + 1 + 1 and found.value.notna().all()
    kl = plot_estimates(found, 'fidelity', 'KL')
    control = found[found.metric == 'KL'].control.iloc[0]
    assert kl.get_ylabel() == 'KL (nats)' and kl.patches[0].get_height() == pytest.approx(control)
    assert plot_estimates(found, 'calibration', 'ECE').get_ylabel() == 'ECE (%)'
    assert [ax.get_title().split('\n')[0] for ax in plot_reliability(cast, images)] == ['T', 'Ind', 'KL', 'random']


def test_less_kl_is_nearer_the_teacher():
    "The teacher's rows are 0, so an effect that lowers KL is one towards the teacher."
    cast, images = some_cast()
    noise = lambda seed: torch.randn(200, 3, generator=torch.Generator().manual_seed(seed))
    near = lambda seed: Says(cast.teacher.logits.detach() + .1*noise(seed))
    cast = Cast(cast.teacher, dict(Ind=[m.net for m in cast.of('Ind')], KL=[near(0), near(1)]))
    found = estimate(fidelity(cast, images)).set_index(['metric', 'condition'])
    assert found.difference['KL', 'all'] < 0 and found.verdict['KL', 'all'] == 'inherited'
    assert found.difference['agreement', 'all'] > 0 and found.verdict['error consistency', 'all'] == 'inherited'


def test_one_pass():
    "Both probes, their picture and the accuracy share one forward pass of each network."
    cast, images = some_cast()
    calls = []
    handles = [m.net.register_forward_hook(lambda m, args, out: calls.append(len(args[0]))) for m in cast.networks]
    fidelity(cast, images)
    calibration(cast, images)
    plot_reliability(cast, images)
    cast.accuracy(images)
    assert calls.count(len(images)) == 6 and max(calls) == len(images) and [h.remove() for h in handles]
