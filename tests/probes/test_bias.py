"Shape bias and groups, each worked out one image at a time."
import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt

from tests.common import says
from tests.probes.common import a_cast, answer, answering, numbered, Says
from kd_knowledge.data import get_images, SIXTEEN
from kd_knowledge.probes import bias, Cast, domains, estimate, summary
from kd_knowledge.probes.bias import (group_bias, group_gap, group_table, plot_groups, plot_shape_bias, shape_bias,
    shape_bias_by_class)
from kd_knowledge.probes.domains import consensus


def test_shape_bias_by_hand():
    y, texture = torch.tensor([0, 0, 1, 2]*10), torch.tensor([1, 0, 2, 0]*10)
    images, cast = numbered(y, cues=dict(texture=texture)), a_cast(40)
    rows = shape_bias(cast, images, bs=7)
    nets = {(m.model, m.seed): m for m in cast.networks}
    assert rows.metric.unique().tolist() == ['shape bias', 'answered by a cue']
    assert set(rows.condition) == {'cue conflict'}
    assert sorted(rows['sample'].unique()) == [i for i in range(40) if i % 4 != 1]
    assert len(rows) == 2*30*6
    for (model, seed), part in rows.groupby(['model', 'seed']):
        kept = part[part.metric == 'shape bias']['sample'].tolist()
        a = [answer(nets[model, seed], i) for i in kept]
        shape, told = [int(v == y[i]) for v, i in zip(a, kept)], [int(v in (y[i], texture[i])) for v, i in zip(a, kept)]
        b, share = sum(shape)/sum(told), sum(told)/len(told)
        wanted = [b + (s - b*c)/share for s, c in zip(shape, told)]
        assert np.allclose(part[part.metric == 'shape bias'].value, wanted, atol=1e-6)
        assert part[part.metric == 'answered by a cue'].value.tolist() == told
        assert math.isclose(part[part.metric == 'shape bias'].value.mean(), b, abs_tol=1e-6)
    assert (estimate(rows).n == 30).all()


def test_where_the_cue_conflict_is_taken_from():
    cast, found = a_cast(12), numbered([0, 1, 2], cues=dict(texture=torch.tensor([1, 2, 0])))
    plain = numbered([0, 1, 2], start=3)
    rows = shape_bias(cast, found)
    for name in ('cue conflict', 'cue-conflict'):
        assert shape_bias(cast, plain, {'sketch': plain, name: found}).equals(rows)
    assert shape_bias(cast, found, {'sketch': plain}).equals(rows)
    says(lambda: shape_bias(cast, plain), 'cue conflict', 'textures')
    says(lambda: shape_bias(cast, plain, {'cue conflict': plain}), 'textures')
    says(lambda: shape_bias(cast, numbered([0, 1], cues=dict(texture=torch.tensor([0, 1])))), 'what the shape says')
    two = numbered([0, 1], vocab=['a', 'b'], cues=dict(texture=torch.tensor([1, 0])))
    says(lambda: shape_bias(cast, two), '2 classes', '3')


def test_the_cue_conflict_of_shapes():
    images = get_images('shapes', 'valid', n=30, domain='cue conflict')
    cues = images.y, images.cues['texture']
    shape, texture = (answering(v, 10) for v in cues)
    known = images.pixels(range(len(images))).flatten(1)
    for net in (shape, texture):
        net.forward = lambda x, net=net: net.logits[torch.cdist(F.interpolate(x, images.size).flatten(1), known).argmin(1)]
    cast = Cast(shape, dict(Ind=texture))
    value = summary(shape_bias(cast, images)).set_index(['metric', 'model']).value
    assert value.to_dict() == {('shape bias', 'T'): 1, ('shape bias', 'Ind'): 0,
                               ('answered by a cue', 'T'): 1, ('answered by a cue', 'Ind'): 1}


def test_a_network_that_never_answers_by_a_cue_has_no_shape_bias():
    images = numbered([0, 0, 0, 0], cues=dict(texture=torch.tensor([1, 1, 1, 1])))
    teacher, first, last, never = (answering(a) for a in ([0, 0, 1, 1], [0, 1, 2, 2], [2, 2, 0, 1], [2, 2, 2, 2]))
    students = dict(Ind=first, KL=first, Hint=last, CRD=[first, never])
    rows = shape_bias(Cast(teacher, students, dict(foreign=never)), images)
    assert rows[rows.metric == 'shape bias'].model.unique().tolist() == ['T', 'Ind', 'KL', 'Hint']
    assert set(rows[rows.metric == 'answered by a cue'].model) == {'T', 'Ind', 'KL', 'Hint', 'CRD', 'foreign'}
    found = estimate(rows)
    assert found[found.metric == 'shape bias'].student.tolist() == ['KL', 'Hint']
    assert found[found.metric == 'answered by a cue'].student.tolist() == ['KL', 'Hint', 'CRD']
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


def test_group_bias_by_hand():
    groups = torch.tensor([3, 0, 3, 1]*6)
    images, cast = numbered([0, 1, 2]*8, groups=groups, group_vocab=['a', 'b', 'nobody', 'd']), a_cast(24)
    rows, nets = group_bias(cast, images, bs=5), {(m.model, m.seed): m for m in cast.networks}
    assert rows.condition.unique().tolist() == ['all', 'a', 'b', 'd']
    assert set(rows.probe) == {'groups'} and set(rows.metric) == {'accuracy'}
    assert rows.groupby('condition').size().to_dict() == dict(all=24*6, a=6*6, b=6*6, d=12*6)
    for r in rows.itertuples():
        assert r.condition == 'all' or images.group_vocab[groups[r.sample]] == r.condition
        assert r.value == (answer(nets[r.model, r.seed], r.sample) == images.y[r.sample])


def test_groups_without_names_and_bad_ones():
    cast = a_cast(6)
    rows = group_bias(cast, numbered([0, 1, 2], groups=torch.tensor([11, 2, 11])))
    assert rows.condition.unique().tolist() == ['all', '2', '11']
    says(lambda: group_bias(cast, numbered([0, 1])), 'images', 'no groups')
    two = lambda *groups: numbered([0, 1], groups=torch.tensor(groups), group_vocab=['a', 'b'])
    says(lambda: group_bias(cast, two(0, 2)), 'group_vocab', '2 names')
    says(lambda: group_bias(cast, two(0, -1)), 'group_vocab')
    says(lambda: group_bias(cast, numbered([0, 1], groups=torch.tensor([0, 1]), group_vocab=['a', 'a'])), 'two groups')
    says(lambda: group_bias(cast, numbered([0, 1], groups=torch.tensor([0, 1]), group_vocab=['a', 'all'])), 'all')
    says(lambda: group_bias(cast, numbered([0, 1], vocab=['a', 'b'], groups=torch.tensor([0, 1]))), '2 classes')


def test_gaps_and_gains():
    images = numbered([0]*8, groups=torch.tensor([0]*4 + [1]*4), group_vocab=['first', 'second'])
    right = lambda a, b: answering([0]*a + [1]*(4 - a) + [0]*b + [1]*(4 - b))
    cast = Cast(right(4, 2), dict(Ind=[right(2, 2), right(1, 3)], KL=[right(4, 2), right(3, 2)]))
    rows = group_bias(cast, images)
    gaps = group_gap(rows)
    assert gaps.columns.tolist() == [
        'model', 'seed', 'worst group', 'worst accuracy', 'best group', 'best accuracy', 'gap']
    assert gaps[['model', 'seed', 'gap']].values.tolist() == [
        ['T', 0, .5], ['Ind', 0, 0.], ['Ind', 1, .5], ['KL', 0, .5], ['KL', 1, .25]]
    assert gaps['worst group'].tolist()[2:] == ['first', 'second', 'second']
    assert gaps['best accuracy'].tolist()[2] == .75
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
        assert [t.get_text() for t in ax.get_xticklabels()] == ['all', 'first', 'second']
        assert 'points' in ax.get_ylabel()
    plt.close('all')


def test_networks_are_left_as_they_were():
    "Modes, gradients and hooks; and the answers are kept for other probes."
    images = numbered([0, 1, 2]*4, cues=dict(texture=torch.tensor([1, 2, 0]*4)), groups=torch.arange(12) % 3)
    cast = a_cast(12)
    for m in cast.networks[::2]: m.net.train()
    before = [(m.net.training, m.net.logits.requires_grad, len(m.net._forward_hooks)) for m in cast.networks]
    consensus(cast, images, {})
    shape_bias(cast, images)
    group_bias(cast, images)
    assert before == [(m.net.training, m.net.logits.requires_grad, len(m.net._forward_hooks)) for m in cast.networks]
    assert len(cast._logits) == 1


def test_signatures():
    first = lambda f: list(inspect.signature(f).parameters)
    assert first(consensus) == ['cast', 'images', 'domains', 'bs', 'device'] == first(shape_bias)
    assert first(group_bias) == ['cast', 'images', 'bs', 'device']
    assert {'consensus', 'decisions', 'domain_table', 'plot_consensus'} == set(domains.__all__)
    assert set(bias.__all__) == {'shape_bias', 'group_bias', 'group_gap', 'group_table', 'plot_groups',
                                 'plot_shape_bias', 'shape_bias_by_class'}
