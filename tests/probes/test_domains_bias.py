"Consensus, 16-class decisions, shape bias and groups, each worked out one image at a time."
import inspect
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from torch import nn

from tests.common import says
from kd_knowledge import bias, domains
from kd_knowledge.probes.bias import group_bias, group_gap, group_table, plot_groups, plot_shape_bias, shape_bias, shape_bias_by_class
from kd_knowledge.core import KDError
from kd_knowledge.data import SIXTEEN, Images, get_images
from kd_knowledge.probes.domains import consensus, decisions, domain_table, plot_consensus
from kd_knowledge.probes import COLUMNS, Cast, estimate, summary


class Says(nn.Module):
    "Reads a number off the first pixel and gives the row of `logits` with that number."
    def __init__(self, logits): super().__init__(); self.logits, self.recipe = nn.Parameter(logits.float()), dict(n_classes=logits.shape[1])

    def forward(self, x):
        low, high = (255*x[:, :2, 0, 0]).round().long().T
        return self.logits[low + 256*high]


def numbered(y, start=0, classes=3, vocab=None, **known):
    "Images with the numbers `start`, `start` + 1, ... in their first pixels."
    x, i = torch.zeros(len(y), 3, 8, 8).byte(), torch.arange(start, start + len(y))
    x[:, 0, 0, 0], x[:, 1, 0, 0] = i % 256, i//256
    return Images(x, y, vocab or [f'class {k}' for k in range(classes)], 8, **known)


def answering(answers, classes=3): return Says(F.one_hot(torch.as_tensor(answers), classes))


def a_cast(n, classes=3, logits=None):
    "A teacher, two independent and two distilled students and a foreign network that answer n images by lot."
    make = lambda seed: Says(torch.randn(n, logits or classes, generator=torch.Generator().manual_seed(seed)))
    return Cast(make(0), dict(Ind=[make(1), make(2)], KL=[make(3), make(4)]), dict(foreign=make(5)))


def answer(member, i): return member.net.logits[i].argmax().item()


# decisions

def loop(logits, vocab):
    "Geirhos 2018, one image and one class at a time."
    out = []
    for z in logits.double():
        p = (z - z.max()).exp(); p = p/p.sum()
        means = [sum(p[i].item() for i in SIXTEEN[name])/len(SIXTEEN[name]) for name in vocab]
        out.append(means.index(max(means)))
    return out


@pytest.mark.parametrize('turn', [0, 5])
def test_sixteen_classes_as_a_loop(turn):
    vocab = list(SIXTEEN)[turn:] + list(SIXTEEN)[:turn]
    logits = 3*torch.randn(60, 1000, generator=torch.Generator().manual_seed(0))
    found = decisions(logits, numbered([0]*60, vocab=vocab))
    assert found.tolist() == loop(logits, vocab) and len(set(found.tolist())) > 5
    assert decisions(logits.half(), numbered([0]*60, vocab=vocab)).shape == (60,)


def test_decisions_in_the_networks_own_classes():
    logits = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    assert decisions(logits, numbered([0]*20, vocab=list(SIXTEEN))).equal(logits.argmax(1))
    assert decisions(torch.eye(1000)[:7], numbered([0]*7, classes=1000)).tolist() == list(range(7))


@pytest.mark.parametrize('n, vocab', [(10, list(SIXTEEN)), (1000, list(SIXTEEN)[:15]), (1000, list(SIXTEEN)[:15] + ['zebra']), (3, ['unlabelled'])])
def test_classes_that_fit_nothing_are_told(n, vocab):
    says(lambda: decisions(torch.randn(2, n), numbered([0, 0], vocab=vocab)), 'images', f'{len(vocab)} classes', str(n))


# consensus

def test_consensus_by_hand():
    "Every value of the table, worked out for one image at a time."
    seen, sketch = numbered([0, 1, 2]*4), numbered([2, 1, 0]*3, start=12)
    cast = a_cast(21)
    rows = consensus(cast, seen, {'sketch': sketch}, bs=5)
    assert list(rows.columns) == COLUMNS and set(rows.probe) == {'domains'}
    assert list(rows.condition.unique()) == ['seen', 'sketch'] and list(rows.metric.unique()) == ['consensus', 'accuracy']
    assert len(rows) == 21*(5 + 6)
    nets, start = {(m.model, m.seed): m for m in cast.networks}, dict(seen=0, sketch=12)
    for r in rows.itertuples():
        i = start[r.condition] + r.sample
        told = answer(nets['T', 0], i) if r.metric == 'consensus' else dict(seen=seen, sketch=sketch)[r.condition].y[r.sample]
        assert r.value == (answer(nets[r.model, r.seed], i) == told)
    assert not ((rows.metric == 'consensus') & (rows.role == 'teacher')).any()


def test_order_of_conditions_and_batch_size():
    names = 'sketch stylized silhouette edge'.split() + ['cue conflict', 'grey']
    cast, sets = a_cast(30), {name: numbered([0, 1], start=4 + 2*i) for i, name in enumerate(names)}
    rows = consensus(cast, numbered([0, 1, 2, 0]), sets)
    assert list(rows.condition.unique()) == ['seen', *names]
    assert list(estimate(rows).condition.unique()) == ['seen', *names]
    assert consensus(cast, numbered([0, 1, 2, 0]), sets, bs=1).equals(rows)
    assert list(domain_table(summary(rows)).columns) == ['seen', *names]
    assert consensus(cast, numbered([0, 1]), {}).condition.unique().tolist() == ['seen']


def test_a_twin_agrees_everywhere():
    cast = a_cast(10)
    rows = consensus(Cast(cast.teacher, dict(Ind=cast.of('Ind')[0].net, twin=cast.teacher)), numbered([0]*10), {'x': numbered([0]*4, start=6)})
    assert rows[(rows.model == 'twin') & (rows.metric == 'consensus')].value.eq(1).all()


def test_domains_with_other_classes():
    "Consensus on the networks' own 1000 classes, accuracy among the 16, and no accuracy without labels."
    cast = a_cast(20, logits=1000)
    seen, broad, blank = numbered(range(8), classes=1000), numbered(range(8), start=8, vocab=list(SIXTEEN)), numbered([0]*4, start=16, vocab=['unlabelled'])
    rows = consensus(cast, seen, dict(broad=broad, blank=blank))
    assert set(rows[rows.condition == 'blank'].metric) == {'consensus'}
    part = rows[(rows.condition == 'broad') & (rows.model == 'KL') & (rows.seed == 0)].set_index('metric').value
    mine, teacher = (m.net.logits[8:16].detach() for m in (cast.of('KL')[0], cast.of('T')[0]))
    assert part['consensus'].tolist() == (mine.argmax(1) == teacher.argmax(1)).float().tolist()
    assert part['accuracy'].tolist() == [float(a == b) for a, b in zip(loop(mine, broad.vocab), range(8))]
    estimate(rows)


def test_bad_domains_are_told():
    cast, seen = a_cast(6), numbered([0, 1, 2])
    says(lambda: consensus(cast, seen, dict(seen=seen)), 'domains', 'another name')
    says(lambda: consensus(cast, seen, [seen]), 'domains', 'list')
    says(lambda: consensus(cast, seen, None), 'domains')
    says(lambda: consensus(cast, seen, dict(a=numbered([0], vocab=seen.vocab[::-1]))), "'a'", 'another order')
    says(lambda: consensus(cast, seen, {}, bs=0), 'bs')


def test_domain_table():
    rows = [('domains', c, 'accuracy', m, 'student', s, v, 9) for c, m, s, v in
            [('orig', 'T', 0, .5), ('orig', 'KL', 0, .7), ('orig', 'KL', 1, .8), ('Color', 'T', 0, .25), ('Color', 'KL', 0, .1), ('Color', 'KL', 1, .1)]]
    found = domain_table(pd.DataFrame(rows, columns=[*COLUMNS[:6], 'value', 'n']))
    assert found.to_dict() == dict(orig=dict(T='50.00', KL='75.00 ± 5.00'), Color=dict(T='25.00', KL='10.00 ± 0.00'))
    says(lambda: domain_table(pd.DataFrame(rows, columns=[*COLUMNS[:6], 'value', 'n']), 'consensus'), 'metric', 'consensus')


def test_the_picture_of_rows_and_of_estimates():
    rows = consensus(a_cast(30), numbered([0, 1, 2]*5), dict(sketch=numbered([0, 1, 2]*5, start=15)))
    for given in (rows, estimate(rows)):
        ax = plt.subplots()[1]
        assert plot_consensus(given, ax=ax) is ax
        assert [t.get_text() for t in ax.get_xticklabels()] == ['seen', 'sketch'] and 'consensus' in ax.get_ylabel()
    says(lambda: plot_consensus(estimate(rows), 'kappa'), 'metric')
    plt.close('all')


# shape bias

def test_shape_bias_by_hand():
    y, texture = torch.tensor([0, 0, 1, 2]*10), torch.tensor([1, 0, 2, 0]*10)
    images, cast = numbered(y, cues=dict(texture=texture)), a_cast(40)
    rows = shape_bias(cast, images, bs=7)
    nets = {(m.model, m.seed): m for m in cast.networks}
    assert rows.metric.unique().tolist() == ['shape bias', 'answered by a cue'] and set(rows.condition) == {'cue conflict'}
    assert sorted(rows['sample'].unique()) == [i for i in range(40) if i % 4 != 1]
    assert len(rows) == 2*30*6
    for (model, seed), part in rows.groupby(['model', 'seed']):
        kept = part[part.metric == 'shape bias']['sample'].tolist()
        a = [answer(nets[model, seed], i) for i in kept]
        shape, told = [int(v == y[i]) for v, i in zip(a, kept)], [int(v in (y[i], texture[i])) for v, i in zip(a, kept)]
        b, share = sum(shape)/sum(told), sum(told)/len(told)
        assert np.allclose(part[part.metric == 'shape bias'].value, [b + (s - b*c)/share for s, c in zip(shape, told)], atol=1e-6)
        assert part[part.metric == 'answered by a cue'].value.tolist() == told
        assert math.isclose(part[part.metric == 'shape bias'].value.mean(), b, abs_tol=1e-6)
    assert (estimate(rows).n == 30).all()


def test_where_the_cue_conflict_is_taken_from():
    cast, found = a_cast(12), numbered([0, 1, 2], cues=dict(texture=torch.tensor([1, 2, 0])))
    plain = numbered([0, 1, 2], start=3)
    rows = shape_bias(cast, found)
    for name in ('cue conflict', 'cue-conflict'): assert shape_bias(cast, plain, {'sketch': plain, name: found}).equals(rows)
    assert shape_bias(cast, found, {'sketch': plain}).equals(rows)
    says(lambda: shape_bias(cast, plain), 'cue conflict', 'textures')
    says(lambda: shape_bias(cast, plain, {'cue conflict': plain}), 'textures')
    says(lambda: shape_bias(cast, numbered([0, 1], cues=dict(texture=torch.tensor([0, 1])))), 'what the shape says')
    says(lambda: shape_bias(cast, numbered([0, 1], vocab=['a', 'b'], cues=dict(texture=torch.tensor([1, 0])))), '2 classes', '3')


def test_the_cue_conflict_of_shapes():
    images = get_images('shapes', 'valid', n=30, domain='cue conflict')
    shape, texture, hidden = (answering([*v, *[0]*10], 10) for v in (images.y, images.cues['texture'], (images.y + 5) % 10))
    for net, i in zip((shape, texture, hidden), range(3)): net.forward = (lambda x, net=net: net.logits[:len(x)])
    cast = Cast(shape, dict(Ind=texture))
    value = summary(shape_bias(cast, images)).set_index(['metric', 'model']).value
    assert value.to_dict() == {('shape bias', 'T'): 1, ('shape bias', 'Ind'): 0, ('answered by a cue', 'T'): 1, ('answered by a cue', 'Ind'): 1}


def test_a_network_that_never_answers_by_a_cue_has_no_shape_bias():
    images = numbered([0, 0, 0, 0], cues=dict(texture=torch.tensor([1, 1, 1, 1])))
    teacher, first, last, never = (answering(a) for a in ([0, 0, 1, 1], [0, 1, 2, 2], [2, 2, 0, 1], [2, 2, 2, 2]))
    rows = shape_bias(Cast(teacher, dict(Ind=first, KL=first, Hint=last, CRD=[first, never]), dict(foreign=never)), images)
    assert rows[rows.metric == 'shape bias'].model.unique().tolist() == ['T', 'Ind', 'KL', 'Hint']
    assert set(rows[rows.metric == 'answered by a cue'].model) == {'T', 'Ind', 'KL', 'Hint', 'CRD', 'foreign'}
    found = estimate(rows)
    assert found[found.metric == 'shape bias'].student.tolist() == ['KL', 'Hint'] and found[found.metric == 'answered by a cue'].student.tolist() == ['KL', 'Hint', 'CRD']
    nobody = shape_bias(Cast(teacher, dict(Ind=[first, never], KL=first)), images)
    assert nobody[nobody.metric == 'shape bias'].model.unique().tolist() == ['T']
    assert set(estimate(nobody).metric) == {'answered by a cue'}


def test_shape_bias_among_sixteen_classes():
    vocab, logits = list(SIXTEEN), torch.full((3, 1000), -9.)
    for i, name in enumerate(['cat', 'elephant', 'clock']): logits[i, SIXTEEN[name]] = 9.
    images = numbered([vocab.index('cat')]*3, vocab=vocab, cues=dict(texture=torch.tensor([vocab.index('elephant')]*3)))
    rows = shape_bias(Cast(Says(logits), dict(Ind=Says(logits))), images)
    values = rows[(rows.model == 'T') & (rows.metric == 'shape bias')].value.tolist()
    assert np.allclose(values, [.5 + (s - .5*c)*3/2 for s, c in ((1, 1), (0, 1), (0, 0))], atol=1e-6)


def test_shape_bias_by_class():
    images, cast = numbered([0, 1, 2]*20, cues=dict(texture=torch.tensor([1, 2, 0]*20))), a_cast(60)
    rows = shape_bias(cast, images)
    shares = shape_bias_by_class(rows, images)
    assert list(shares.index) == images.vocab and list(shares.columns) == ['T', 'Ind', 'KL', 'foreign']
    for model in shares:
        for k in range(3):
            each = []
            for m in cast.of(model):
                told = [answer(m, i) for i in range(60) if i % 3 == k]
                each.append(told.count(k)/(told.count(k) + told.count((k + 1) % 3)))
            assert math.isclose(shares.loc[images.vocab[k], model], np.mean(each), abs_tol=1e-6)
    ax = plot_shape_bias(rows, images)
    assert [t.get_text() for t in ax.get_yticklabels()] == images.vocab and ax.get_xlim()[0] < 0 < 1 < ax.get_xlim()[1]
    plt.close('all')
    says(lambda: shape_bias_by_class(rows[:0], images), 'shape_bias')


# groups

def test_group_bias_by_hand():
    groups = torch.tensor([3, 0, 3, 1]*6)
    images, cast = numbered([0, 1, 2]*8, groups=groups, group_vocab=['a', 'b', 'nobody', 'd']), a_cast(24)
    rows, nets = group_bias(cast, images, bs=5), {(m.model, m.seed): m for m in cast.networks}
    assert rows.condition.unique().tolist() == ['all', 'a', 'b', 'd'] and set(rows.probe) == {'groups'} and set(rows.metric) == {'accuracy'}
    assert rows.groupby('condition').size().to_dict() == dict(all=24*6, a=6*6, b=6*6, d=12*6)
    for r in rows.itertuples():
        assert r.condition == 'all' or images.group_vocab[groups[r.sample]] == r.condition
        assert r.value == (answer(nets[r.model, r.seed], r.sample) == images.y[r.sample])


def test_groups_without_names_and_bad_ones():
    cast = a_cast(6)
    assert group_bias(cast, numbered([0, 1, 2], groups=torch.tensor([11, 2, 11]))).condition.unique().tolist() == ['all', '2', '11']
    says(lambda: group_bias(cast, numbered([0, 1])), 'images', 'no groups')
    says(lambda: group_bias(cast, numbered([0, 1], groups=torch.tensor([0, 2]), group_vocab=['a', 'b'])), 'group_vocab', '2 names')
    says(lambda: group_bias(cast, numbered([0, 1], groups=torch.tensor([0, -1]), group_vocab=['a', 'b'])), 'group_vocab')
    says(lambda: group_bias(cast, numbered([0, 1], groups=torch.tensor([0, 1]), group_vocab=['a', 'a'])), 'two groups')
    says(lambda: group_bias(cast, numbered([0, 1], groups=torch.tensor([0, 1]), group_vocab=['a', 'all'])), 'all')
    says(lambda: group_bias(cast, numbered([0, 1], vocab=['a', 'b'], groups=torch.tensor([0, 1]))), '2 classes')


def test_gaps_and_gains():
    images = numbered([0]*8, groups=torch.tensor([0]*4 + [1]*4), group_vocab=['first', 'second'])
    right = lambda a, b: answering([0]*a + [1]*(4 - a) + [0]*b + [1]*(4 - b))
    cast = Cast(right(4, 2), dict(Ind=[right(2, 2), right(1, 3)], KL=[right(4, 2), right(3, 2)]))
    rows = group_bias(cast, images)
    gaps = group_gap(rows)
    assert gaps.columns.tolist() == ['model', 'seed', 'worst group', 'worst accuracy', 'best group', 'best accuracy', 'gap']
    assert gaps[['model', 'seed', 'gap']].values.tolist() == [['T', 0, .5], ['Ind', 0, 0.], ['Ind', 1, .5], ['KL', 0, .5], ['KL', 1, .25]]
    assert gaps['worst group'].tolist()[2:] == ['first', 'second', 'second'] and gaps['best accuracy'].tolist()[2] == .75
    found = group_table(rows)
    assert found.group.tolist() == ['all', 'first', 'second'] and np.allclose(found.gain, [11/16 - 8/16, .5, -1/8])
    assert ((found.low <= found.gain) & (found.gain <= found.high)).all()
    assert group_table(estimate(rows)).equals(found)
    for bad in (group_gap, group_table, plot_groups): says(lambda: bad(rows[:0]), 'rows', 'group_bias')


@pytest.mark.parametrize('seeds', [1, 2])
def test_picture_of_the_gains(seeds):
    images = numbered([0, 1, 2]*10, groups=torch.arange(30) % 2, group_vocab=['first', 'second'])
    nets = {m.model: [] for m in a_cast(30).networks}
    for m in a_cast(30).networks: nets[m.model].append(m.net)
    rows = group_bias(Cast(nets['T'][0], {k: nets[k][:seeds] for k in ('Ind', 'KL')}), images)
    for given in (rows, estimate(rows)):
        ax = plot_groups(given)
        assert [t.get_text() for t in ax.get_xticklabels()] == ['all', 'first', 'second'] and 'points' in ax.get_ylabel()
    plt.close('all')


def test_networks_are_left_as_they_were():
    "Modes, gradients and hooks; and the answers are kept for other probes."
    images = numbered([0, 1, 2]*4, cues=dict(texture=torch.tensor([1, 2, 0]*4)), groups=torch.arange(12) % 3)
    cast = a_cast(12)
    for m in cast.networks[::2]: m.net.train()
    before = [(m.net.training, m.net.logits.requires_grad, len(m.net._forward_hooks)) for m in cast.networks]
    consensus(cast, images, {}); shape_bias(cast, images); group_bias(cast, images)
    assert before == [(m.net.training, m.net.logits.requires_grad, len(m.net._forward_hooks)) for m in cast.networks]
    assert len(cast._logits) == 1


def test_signatures():
    first = lambda f: list(inspect.signature(f).parameters)
    assert first(consensus) == ['cast', 'images', 'domains', 'bs', 'device'] == first(shape_bias)
    assert first(group_bias) == ['cast', 'images', 'bs', 'device']
    assert {'consensus', 'decisions', 'domain_table', 'plot_consensus'} == set(domains.__all__)
    assert {'shape_bias', 'group_bias', 'group_gap', 'group_table', 'plot_groups', 'plot_shape_bias', 'shape_bias_by_class'} == set(bias.__all__)
