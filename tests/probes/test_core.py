"The cast, the table, and a probe's record: four fields are enough, and mistakes are told when it is registered."
import inspect
from dataclasses import replace

import pandas as pd
import pytest

from tests.common import says
from tests.probes.common import a_cast, numbered, some_cast
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
