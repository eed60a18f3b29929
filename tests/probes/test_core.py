"The cast, the table, and a probe's record: four fields are enough, and mistakes are told when it is registered."
import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm

from tests.common import says
from tests.probes.common import a_cast, answering, numbered, small_cnn, some_cast
from kd_knowledge.data import domain_images, get_images
from kd_knowledge.models import create_model, read_answers
from kd_knowledge.probes.core import answers, Cast, Member, Probe, PROBES, probe_of, register_probe, summary, table
from kd_knowledge.probes.evidence import estimate, headline

NAMES = ('localization adversarial colour crop shift domains bias groups representation boundary fidelity '
         'calibration').split()


def echo(cast, images, bs=8):
    "Does a network answer as the teacher does?"
    top = {k: z.argmax(1) for k, z in cast.logits(images, bs).items()}
    return pd.concat([table('echo', 'all', 'same', m, range(len(images)), top[m.key] == top['T', 0])
                      for m in cast.networks if m.role != 'teacher'])


@pytest.fixture
def record():
    "A probe of four fields, known while a test runs."
    yield register_probe(Probe('echo', echo, 'Echo', 'Does the student answer as its teacher does?'))
    PROBES.pop('echo')


def test_keys_names_and_firsts():
    cast = some_cast()
    assert [m.key for m in cast.networks] == [(m.model, m.seed) for m in cast.networks]
    assert cast.names == ['T', 'Ind', 'KL', 'foreign'] and cast.compared == ['Ind', 'KL']
    assert [m.key for m in cast.firsts] == [('T', 0), ('Ind', 0), ('KL', 0), ('foreign', 0)]
    odd = Cast(cast.teacher, dict(Ind={5: cast.teacher, 2: cast.teacher}))
    assert odd.firsts[1].key == ('Ind', 5) and odd.of('Ind')[1].key == ('Ind', 2)


def test_answers_are_the_logits_top_classes():
    cast, images = a_cast(12), numbered([0, 1, 2]*4)
    with cast.run():
        for m in cast.networks:
            assert answers(m.net, images.pixels(range(12))).equal(cast.logits(images)[m.key].argmax(1))


def test_the_records_come_in_the_order_of_the_chapters_and_are_whole():
    assert list(PROBES) == NAMES
    for name, probe in PROBES.items():
        assert probe_of(name) is probe and probe.takes[:2] == ['cast', 'images']
        assert probe.question.endswith('?') and probe.measured.endswith('.') and probe.control.endswith('.')
        assert set(probe.likeness) | set(probe.units) | {probe.headline[1]} <= set(probe.metrics)
        text = probe.phrase.format(student='KL', value='60 %', control='50 %', condition='c', teacher='T', probe=name)
        assert '{' not in text and text.count('60 %') == text.count('50 %') == 1


def test_four_fields_are_a_probe(record):
    cast, images = a_cast(60), numbered([0, 1, 2]*20)
    assert record.takes == ['cast', 'images', 'bs']
    rows = record.ask(cast, images)
    found = headline(estimate(rows), 'echo')
    assert found.student.tolist() == ['KL'] and found.n.item() == 60 and len(summary(rows)) == 5
    text = record.phrase.format(student='KL', value='1 %', control='2 %', condition='all', teacher='T', probe='echo')
    assert text == 'KL reached 1 % in echo (all), Ind 2 %'


def test_a_probe_that_is_not_registered_has_plain_words():
    far = probe_of('smell')
    assert (far.title, far.metrics, far.units, far.samples) == ('Smell', {}, {}, 'image') and 'smell' in far.question


def test_mistakes_in_a_record_are_told(record):
    says(lambda: register_probe(replace(record, samples='pixel')), 'samples: got', 'pixel', 'plane')
    says(lambda: register_probe(replace(record, phrase='{students} reached {value}')), 'phrase: got', 'student')
    assert PROBES['echo'] is record
    assert replace(record, title='Again') == register_probe(replace(record, title='Again'))


def test_a_headline_falls_back_to_what_there_is(record):
    def rows(condition, metric):
        return [table('echo', condition, metric, Member(m, r, s, None), range(30), [s, 1, m == 'KL']*10)
                for m, r in (('Ind', 'control'), ('KL', 'student')) for s in range(2)]
    found = estimate(pd.concat([t for c in 'abc' for metric in ('one', 'two') for t in rows(c, metric)]))
    cases = {('first', None): ('a', 'one'), ('middle', 'two'): ('b', 'two'), ('last', 'no'): ('c', 'one'),
             ('b', 'one'): ('b', 'one'), ('0.4', 'two'): ('a', 'two')}
    for wanted, there in cases.items():
        register_probe(replace(record, headline=wanted))
        assert tuple(headline(found, 'echo')[['condition', 'metric']].iloc[0]) == there
    assert list(inspect.signature(headline).parameters) == ['estimates', 'probe']


# Networks that cannot be asked everything

COMPRESSED = dict(
    pruned=lambda net: [prune.l1_unstructured(m, 'weight', amount=.3) for m in net.modules() if isinstance(m, nn.Conv2d)],
    spectral=lambda net: [spectral_norm(m) for m in net.modules() if isinstance(m, nn.Conv2d)],
    half=lambda net: net.half(), quantised=lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, inplace=True))
CANNOT = dict(quantised={'localization', 'representation'})


@pytest.fixture(scope='module')
def shapes():
    "Images and domains, few and small."
    return get_images('shapes', 'valid', size=24, n=30), domain_images('shapes', size=24, n=30)


@pytest.mark.parametrize('name', COMPRESSED)
@pytest.mark.filterwarnings('ignore')
def test_a_compressed_student_is_asked_by_every_probe_that_can(name, shapes):
    make = lambda seed: create_model('resnet_small', 10, seed=seed, width=4).eval()
    student, (images, domains) = make(2), shapes
    COMPRESSED[name](student)
    cast, cannot = Cast(make(0), dict(Ind=make(1), KL=student)), set()
    few = dict(boundary=dict(planes=1, points=3), adversarial=dict(eps=.4, steps=2), representation=dict(bs=15))
    for probe in map(PROBES.get, NAMES):
        sets = dict(domains=domains) if 'domains' in probe.takes else {}
        if cast.unable(probe, **sets): cannot.add(probe.name)
        elif probe.needs != 'groups': assert len(probe.ask(cast, images, **sets, **few.get(probe.name, {})))
    assert cannot == CANNOT.get(name, set())


def test_a_network_without_one_last_map_is_left_out_of_grad_cam_alone(shapes):
    class Two(nn.Module):
        "Two networks, whose answers are added."
        def __init__(self):
            super().__init__()
            self.one, self.other = (create_model('resnet_small', 10, seed=seed, width=4) for seed in (5, 6))
        def forward(self, x): return self.one(x) + self.other(x)
    net = lambda seed: create_model('resnet_small', 10, seed=seed, width=4)
    cast = Cast(net(0), dict(Ind=net(1), KL=Two()), images=shapes[0])
    assert 'KL: ' in cast.unable(PROBES['localization']) and 'layers' in cast.unable(PROBES['localization'])
    assert not any(cast.unable(PROBES[name]) for name in ('colour', 'adversarial', 'boundary'))


def test_answers_of_a_table_are_those_of_the_network(shapes, tmp_path):
    make = lambda seed: create_model('resnet_small', 10, seed=seed, width=4).eval()
    nets, (images, domains) = [make(seed) for seed in range(3)], shapes
    full = Cast(nets[0], dict(Ind=nets[1], KL=nets[2]))
    z = full.logits(images)['KL', 0].numpy()
    np.savez(tmp_path/'a.npz', sample=range(30), logits=z)
    shuffled = pd.DataFrame(z, columns=images.vocab).assign(sample=range(30)).iloc[::-1]
    shuffled[['sample', *images.vocab[::-1]]].to_parquet(tmp_path/'b.parquet')
    for file in ('a.npz', 'b.parquet'):
        cast = Cast(nets[0], dict(Ind=nets[1], KL=read_answers(tmp_path/file)), classes=images.vocab)
        assert cast.logits(images)['KL', 0].equal(full.logits(images)['KL', 0])
        able = {p.name for p in PROBES.values() if not cast.unable(p, domains if 'domains' in p.takes else None)}
        assert able == {'groups', 'fidelity', 'calibration'}
        for probe in ('fidelity', 'calibration'):
            assert PROBES[probe].ask(cast, images).equals(PROBES[probe].ask(full, images))
        says(lambda: PROBES['colour'].ask(cast, images), 'cannot look at pixels')
        says(lambda: cast.logits(domains['cue conflict']), 'KL: its numbered samples are those of')


def test_classes_that_networks_know_are_put_in_order():
    images = numbered([0, 1, 2, 2], vocab=list('abc'))
    teacher, student = answering([0, 1, 2, 2]), answering([2, 1, 0, 0])
    teacher.recipe['classes'], student.recipe['classes'] = list('abc'), list('cba')
    cast = Cast(teacher, dict(Ind=answering([0, 0, 1, 1]), KL=student), images=images)
    assert cast.classes == list('abc') and cast.accuracy(images).accuracy.tolist() == [1, .25, 1]
    says(lambda: cast.logits(numbered([0, 1, 2], vocab=list('cab'))), 'images: their classes are c, a, b', 'classes=images.vocab')
    says(lambda: cast.logits(numbered([0, 1, 2], vocab=list('xyz'))), 'x, y, z')
    says(lambda: Cast(teacher, dict(Ind=student), classes=list('xyz'), images=images), 'none is called x')
    assert Cast(teacher, dict(Ind=student), classes=list('cab'), images=numbered([1, 2, 0, 0], vocab=list('cab'))).classes == list('cab')


@pytest.mark.parametrize('bad,words', [
    (dict(students=small_cnn(1)), 'students: got a Sequential'), (dict(students=dict(Ind=[])), "'Ind' has no network"),
    (dict(students=dict(Ind=max)), 'Ind: a builtin_function_or_method is no network'),
    (dict(students=dict(Ind=small_cnn(1), T=small_cnn(2))), "'T' is a role"),
    (dict(images=[1]), 'images: got a list'), (dict(classes=list('abc')), 'T: it has 4 classes, classes 3')])
def test_what_is_no_cast_is_refused(bad, words):
    says(lambda: Cast(**dict(teacher=small_cnn(0), students=dict(Ind=small_cnn(1))) | bad), words)
