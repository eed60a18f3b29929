"Consensus and decisions among 16 classes, each worked out one image at a time."
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from tests.common import says
from tests.probes.common import a_cast, answer, numbered
from kd_knowledge.data import SIXTEEN
from kd_knowledge.probes import Cast, COLUMNS, estimate, summary
from kd_knowledge.probes.domains import consensus, decisions, domain_table, plot_consensus


def loop(logits, vocab):
    "Geirhos 2018, one image and one class at a time."
    out = []
    for z in logits.double():
        p = (z - z.max()).exp()
        p = p/p.sum()
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


@pytest.mark.parametrize('n, vocab', [
    (10, list(SIXTEEN)), (1000, list(SIXTEEN)[:15]), (1000, list(SIXTEEN)[:15] + ['zebra']), (3, ['unlabelled'])])
def test_classes_that_fit_nothing_are_told(n, vocab):
    says(lambda: decisions(torch.randn(2, n), numbered([0, 0], vocab=vocab)), 'images', f'{len(vocab)} classes', str(n))


def test_consensus_by_hand():
    "Every value of the table, worked out for one image at a time."
    seen, sketch = numbered([0, 1, 2]*4), numbered([2, 1, 0]*3, start=12)
    cast = a_cast(21)
    rows = consensus(cast, seen, {'sketch': sketch}, bs=5)
    assert list(rows.columns) == COLUMNS and set(rows.probe) == {'domains'}
    assert list(rows.condition.unique()) == ['seen', 'sketch']
    assert list(rows.metric.unique()) == ['consensus', 'accuracy']
    assert len(rows) == 21*(5 + 6)
    nets, start = {(m.model, m.seed): m for m in cast.networks}, dict(seen=0, sketch=12)
    for r in rows.itertuples():
        i = start[r.condition] + r.sample
        label = dict(seen=seen, sketch=sketch)[r.condition].y[r.sample]
        told = answer(nets['T', 0], i) if r.metric == 'consensus' else label
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
    twin = Cast(cast.teacher, dict(Ind=cast.of('Ind')[0].net, twin=cast.teacher))
    rows = consensus(twin, numbered([0]*10), {'x': numbered([0]*4, start=6)})
    assert rows[(rows.model == 'twin') & (rows.metric == 'consensus')].value.eq(1).all()


def test_domains_with_other_classes():
    "Consensus on the networks' own 1000 classes, accuracy among the 16, and no accuracy without labels."
    cast = a_cast(20, logits=1000)
    seen, broad = numbered(range(8), classes=1000), numbered(range(8), start=8, vocab=list(SIXTEEN))
    blank = numbered([0]*4, start=16, vocab=['unlabelled'])
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
            [('orig', 'T', 0, .5), ('orig', 'KL', 0, .7), ('orig', 'KL', 1, .8),
             ('Color', 'T', 0, .25), ('Color', 'KL', 0, .1), ('Color', 'KL', 1, .1)]]
    found = domain_table(pd.DataFrame(rows, columns=[*COLUMNS[:6], 'value', 'n']))
    assert found.to_dict() == dict(orig=dict(T='50.00', KL='75.00 ± 5.00'), Color=dict(T='25.00', KL='10.00 ± 0.00'))
    values = pd.DataFrame(rows, columns=[*COLUMNS[:6], 'value', 'n'])
    says(lambda: domain_table(values, 'consensus'), 'metric', 'consensus')


def test_the_picture_of_rows_and_of_estimates():
    rows = consensus(a_cast(30), numbered([0, 1, 2]*5), dict(sketch=numbered([0, 1, 2]*5, start=15)))
    for given in (rows, estimate(rows)):
        ax = plt.subplots()[1]
        assert plot_consensus(given, ax=ax) is ax
        assert [t.get_text() for t in ax.get_xticklabels()] == ['seen', 'sketch'] and 'consensus' in ax.get_ylabel()
    says(lambda: plot_consensus(estimate(rows), 'kappa'), 'metric')
    plt.close('all')
