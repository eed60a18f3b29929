"Model cards: one for each student, read by the hub's own library without a warning, with every verdict told."
import re
import warnings

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from kd_knowledge.report.findings import headlines, KINDS, read_run, sentence
from kd_knowledge.report.modelcard import _escape_markdown, model_card, model_card_path, write_model_cards
from tests.report.runs import EVIL, VERDICTS, make_full_run, make_run


@pytest.fixture
def load(caplog):
    "A function that reads a card as the hub does, and takes no warning, said or logged."
    def read(path):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            card = ModelCard.load(path)
        assert not caplog.records
        return card
    return read


def escaped(text): return str(_escape_markdown(text))

def test_the_hub_reads_a_card_for_each_student(full, load):
    folder, page = full
    run = read_run(folder)
    assert sorted(p.name for p in (folder/'cards').iterdir()) == ['CRD.md', 'KL.md']
    for student in ('KL', 'CRD'):
        card, rows = load(folder/model_card_path(student)), headlines(run).query('student == @student')
        assert f'<a href="cards/{student}.md">' in page
        assert (card.data.model_name, card.data.library_name, card.data.license) == (student, 'kd_knowledge', None)
        accuracy, *found = card.data.eval_results
        assert (accuracy.metric_type, accuracy.metric_value, accuracy.dataset_name) == ('accuracy', 90., 'shapes')
        assert [r.metric_type for r in found] == list(rows.probe)
        for result, row in zip(found, rows.itertuples()):
            assert result.metric_value == pytest.approx(100*row.difference, abs=.01)
            assert result.metric_args['verdict'] == row.verdict
            assert result.metric_args['low'] == pytest.approx(100*row.low, abs=.01)
            assert escaped(sentence(row)) in card.text

def test_a_card_says_what_is_known_of_the_network(full):
    text = (full[0]/'cards'/'KL.md').read_text(encoding='utf-8')
    known = ['KL 90.0 % (90.0 % to 90.0 %), T 93.0 %, Ind 90.0 %', '**Teacher**: resnet18 (width 8), 3 classes',
             'KL (weight 0.5) from T, and gamma times', '3,600 images', 'torch 2.8', '    jitter: 0.4',
             'Control from T\\*']
    for part in known: assert part in text
    assert 'load_network' not in text and 'CRD' not in text  # no file is there, and the other student has its own card

def test_every_verdict_is_told_and_what_there_is_none_of(tmp_path, load):
    make_run(tmp_path, notes=['CRD: another\'s note', 'Simulated.'])
    estimates = pd.read_csv(tmp_path/'estimates.csv', dtype=dict(condition=str))
    heads = headlines(read_run(tmp_path)).query('student == "KL"').index
    for verdicts in (VERDICTS[:5], VERDICTS[5:9]):
        estimates.loc[heads[:len(verdicts)], 'verdict'] = verdicts
        estimates.to_csv(tmp_path/'estimates.csv', index=False)
        run = read_run(tmp_path)
        text = model_card(run, 'KL')
        told = dict(re.findall(r'^\| (\w+) \| ([^|]+) \|', text, flags=re.M))
        for kind in KINDS: assert (told[kind] == 'none') == (not re.search(f'^### .*: {kind}$', text, flags=re.M))
        for row in headlines(run).query('student == "KL"').itertuples(): assert escaped(sentence(row)) in text
        assert 'KL moved away from its teacher' in text or verdicts != VERDICTS[:5]
        assert '> Simulated.' in text and 'another' not in text.split('## The network')[0]

def test_names_are_text_in_head_and_body(tmp_path, load):
    config = dict(data=EVIL, teacher=EVIL, epochs=1, objectives={EVIL: {}}, recipe='a\n# b\n---\n', out='/home/me')
    run = read_run(make_full_run(tmp_path, students=(EVIL, '../../_x_'), config=config, notes=[f'# {EVIL}\n---']))
    before = set(tmp_path.parent.iterdir())
    cards = [load(path) for path in write_model_cards(run)]
    assert [c.data.model_name for c in cards] == [EVIL, '../../_x_'] and set(tmp_path.parent.iterdir()) == before
    for card in cards:
        prose = re.sub('^    .*$', '', card.text, flags=re.M)
        assert EVIL.split('>')[0] in prose and not re.search(r'(?<!\\)<\w|^# b', prose, flags=re.M)
        assert '/home/me' not in card.content

def test_labels_that_the_teacher_gave_make_no_accuracy(tmp_path, load):
    make_run(tmp_path, config=dict(data='photographs', target='predicted'))
    card = load(write_model_cards(read_run(tmp_path))[0])
    assert card.data.eval_results[0].metric_type == 'agreement'
    assert 'accuracy is agreement with the teacher' in card.text

def test_how_to_load_it_is_told_where_there_is_a_file(tmp_path):
    folder = make_full_run(tmp_path)
    (folder/'models').mkdir()
    for seed in (0, 1): (folder/'models'/f'KL-{seed}.safetensors').touch()
    text = model_card(read_run(folder), 'KL')
    assert "    network = load_network('models/KL-0.safetensors')" in text and 'models/KL-1.safetensors' in text
    given = dict(teacher='t.pth', students=['KL=a.pth', 'CRD=answers:b.csv'], controls=['c.pth'], data='photos')
    (folder/'config.yaml').write_text(yaml.safe_dump(given))
    for path in (folder/'models').iterdir(): path.unlink()
    probed = read_run(folder)
    assert "load_network('a.pth')" in model_card(probed, 'KL') and 'load_network' not in model_card(probed, 'CRD')
    assert 'What it was trained on is not known here.' in model_card(probed, 'KL')
