"What a report may say, as data: every kind of verdict, shares, controls, parts, and folders that are not finished."
import numpy as np
import pandas as pd
import pytest

from kd_knowledge.core import KDError
from kd_knowledge.report.cards import cards
from kd_knowledge.report.findings import (
    accuracy_table, accuracy_warnings, away, compared, condition_warnings, controls, estimates_table, headline,
    headlines, metrics, part_tables, read_run, sentence, share, shares, sureness, tally, teacher_values, unstarred)
from kd_knowledge.report.html import run_facts, write_report
from tests.report.runs import CONDITIONS, VERDICTS, make_full_run, make_run, row

### Verdicts in words

@pytest.mark.parametrize('verdict,words', list(zip(VERDICTS, [
    'Inherited. Of this, +34 points (+25 to +43) are owed to this very teacher: ',
    "Inherited, not from this teacher's images: beyond its control it has +34 points", 'The opposite: it moved away',
    'Absent: ', 'Undecided: 9 seeds of each would', 'Undecided: even 200 seeds', 'Undecided: clear alone, but among',
    'Undecided: its teacher cannot be told from Ind',
    'These very networks differ: KL lies above Ind on such images. Undecided: ', 'This is a control.'])))
def test_verdict_in_words(verdict, words): assert f'). {words}' in sentence(row(verdict=verdict))

def test_sentence():
    assert sentence(row()) == ('KL was fooled by 41 % of the images that fool its teacher, Ind by 6 %: +35 points '
                               '(95 % interval over 2 pairs of networks +28 to +42; large: more than what one seed '
                               'changes, ±3). Inherited. Of this, +34 points (+25 to +43) are owed to this very '
                               'teacher: beyond what its control gives.')
    starred = row(student='KL*', difference=.12, low=.02, high=.2)
    foreign = row(condition='foreign', difference=-.2, low=-.3, high=-.1)
    assert sentence(row(), starred).endswith('its control gives (from T*: +12 points).')
    assert sentence(row(), foreign).endswith('(with images made for a foreign network: −20 points).')
    small = sentence(row(difference=.004, low=-.0001, high=.009))
    assert '+0.4 points (95 % interval over 2 pairs of networks 0.0 to +0.9; small beside what one seed' in small
    novel = row(probe='novel', metric='m', condition='c')
    assert sentence(novel).startswith('KL reached 41 % in novel (c), Ind 6 %: +35 points')

def test_headline_and_controls(written):
    estimates = read_run(written[0]).estimates
    assert {p: headline(estimates, p).condition.iloc[0] for p in CONDITIONS} == dict(
        localization='Grad-CAM', adversarial='teacher', colour='0.4', crop='0.3', shift='4')
    kl = headline(estimates, 'adversarial').iloc[0]
    assert controls(estimates, kl)[['condition', 'student']].values.tolist() == [['teacher', 'KL*'], ['foreign', 'KL']]
    assert not len(controls(estimates, headline(estimates, 'colour').query('student == "CRD"').iloc[0]))

def test_what_was_compared(written):
    run = read_run(written[0])
    assert compared(run) == (
        'KL and CRD (2 networks of each), distilled from a teacher, against 3 independent networks of the same '
        'architecture, trained without one (shapes; resnet_small → resnet_small).')
    assert unstarred(run.estimates).student.unique().tolist() == ['KL', 'CRD']

def test_tally_counts_each_kind(written):
    estimates = read_run(written[0]).estimates.iloc[:len(VERDICTS)].assign(verdict=VERDICTS)
    assert '8 verdicts were made: 2 inherited, 1 opposite, 1 absent, 4 undecided.' in tally(estimates)

def test_whoever_moved_away_is_named(written):
    estimates = read_run(written[0]).estimates
    assert away(estimates[estimates.verdict != 'opposite']) == []
    moved = (estimates.student == 'CRD') & (estimates.probe == 'shift') & (estimates.condition != '2')
    found = away(estimates.assign(verdict=np.where(moved, 'opposite', 'inherited'), difference=-.03))
    assert found == ['CRD moved away from its teacher in shift invariance (2 of 3 rows, at most −3.0 points).']

def test_how_sure_the_verdicts_are(written):
    run = read_run(written[0])
    assert '2 pairs that began with the same weights' in sureness(run) and 'The 10 headlines' in sureness(run)

### Shares

@pytest.mark.parametrize('changed,teacher,wanted', [
    ({}, .76, [.5, .4, .6]), (dict(control=.5, difference=-.1, low=-.2, high=.05), .3, [.5, -.25, 1.]),
    (dict(control=.3, difference=.7, low=.6, high=.8), 1., [1., .857, 1.143]),
    (dict(direction=0), .4, None),
    (dict(null_low=np.nan, null_high=np.nan), .065, None),
    ({}, np.nan, None)])
def test_share(changed, teacher, wanted):
    found = share(row(**changed), teacher)
    assert (found is None) == (wanted is None)
    if wanted and not changed:
        assert found.share == pytest.approx(.35/.7) and found.low == pytest.approx(.28/.7)
        assert found.null_high == pytest.approx(.03/.7)
    elif wanted: assert found[['share', 'low', 'high']].tolist() == pytest.approx(wanted, abs=1e-3)

def test_shares_of_a_run(written):
    folder, text = written
    run = read_run(folder)
    found, values = shares(run).set_index(['probe', 'student']), run.values
    assert found.teacher['localization', 'KL'] == 1
    teacher = values.query('probe == "colour" and role == "teacher" and condition == "0.4"').value.item()
    assert found.teacher['colour', 'KL'] == teacher
    stored = pd.read_csv(folder/'figures'/'inherited.csv')
    assert stored.share.tolist() == pytest.approx(found.share.tolist(), nan_ok=True)
    assert 'KL*' not in set(stored.student)
    assert f'<b>{100*found.share["colour", "KL"]:.0f}\u00a0%</b>' in text

def test_headlines_hold_what_a_card_draws(written):
    rows = headlines(read_run(written[0]))
    assert rows.groupby('probe', sort=False).size().to_dict() == {p: 2 for p in CONDITIONS}
    told = rows[rows.share.notna()]
    gaps = told.teacher - told.control
    names = dict(share='difference', share_low='low', share_high='high', share_null_high='null_high')
    for ours, theirs in names.items():
        assert told[ours].tolist() == pytest.approx((told[theirs]/gaps).tolist())

### Accuracy, tables, parts

@pytest.mark.parametrize('changed,words', [
    ({}, []), (dict(T=.9), ['not better']), (dict(KL=.8), ['clearly worse']), (dict(KL=.895), []),
    (dict(T=.5, KL=.8), ['not better', 'clearly worse'])])
def test_accuracy_warnings(changed, words, tmp_path):
    accuracy = read_run(make_run(tmp_path)).accuracy
    values = [changed.get(n, a) for n, a in zip(accuracy.network, accuracy.accuracy)]
    found = accuracy_warnings(accuracy.assign(accuracy=values))
    assert len(found) == len(words) and all(w in f for w, f in zip(words, found))

def test_agreement_with_the_teacher_is_not_taken_for_accuracy(tmp_path):
    run = read_run(make_run(tmp_path, config=dict(data='photographs', target='predicted')))
    assert len(condition_warnings(run)) == 1 and 'accuracy is agreement with the teacher' in condition_warnings(run)[0]

def test_tables_in_words(written):
    run = read_run(written[0])
    found = estimates_table(run, 'shift', 'agreement')
    assert found.columns.tolist() == ['student', 'largest shift (pixels)', 'value', 'Ind', 'effect', '95 % interval',
                                      'q', 'one seed changes', 'networks', 'images', 'accuracy', 'verdict']
    owed = estimates_table(run, 'adversarial', 'fooled')[['owed to this teacher', 'its interval']]
    assert len(owed) == 6 and (owed['owed to this teacher'] != '–').sum() == 3
    assert set(found.networks) == {'2 pairs'}
    assert len(found) == 9 and set(found.accuracy) == {'90.0 %'}
    assert accuracy_table(run.accuracy).iloc[0].tolist() == ['T', 'teacher', '93.0 %', '93.0 %', '–', '–']
    assert run_facts(run) == dict(Steps='1, 1 min 15 s in all', Versions='torch 2.8', Device='cpu')
    assert metrics(run, 'shift') == ['agreement'] and len(teacher_values(run, 'shift', 'agreement')) == 3
    assert teacher_values(run, 'localization', 'closer') is None

def test_parts_are_the_means_of_their_images(full):
    folder, _ = full
    found = part_tables(read_run(folder), 'colour')
    assert list(found) == ['class', 'group'] and len(found['group']) == 4
    rows = pd.read_parquet(folder/'probes'/'colour.parquet').query('condition == "0.4"')
    for part, k in dict(disc=0, ring=1, bar=2).items():
        mean = rows[rows['sample'] % 3 == k].groupby(['model', 'seed']).value.mean()
        line = found['class'].loc[part]
        assert line.images == 20 and line['T'] == pytest.approx(mean['T'].mean())
        assert line['luck of the seed'] == pytest.approx(1.96*2**.5*mean['Ind'].std(), rel=1e-3)
        assert line['KL'] == pytest.approx(mean['KL'].mean() - mean['Ind'].mean())

def test_an_older_folder_has_no_parts_and_no_cards(written):
    run = read_run(written[0])
    assert part_tables(run, 'colour') == {} and cards(run) == []

def test_cards_say_what_is_known(full):
    found = {c.name: c for c in cards(read_run(full[0]))}
    assert list(found) == ['T', 'Ind', 'KL', 'CRD', 'KL*']
    assert found['KL*'].facts['Intended use'] == 'A control: a student of T*.'
    assert found['KL'].facts['Architecture'] == 'resnet18 (width 8), 3 classes' and found['T'].role == 'teacher'
    assert found['T'].facts['Data'] == 'shapes: 3,600 images, no crops, colour jitter 0.4'
    assert 'File' not in found['T'].facts

def test_a_part_of_a_probe_from_elsewhere_is_not_guessed(tmp_path):
    run = read_run(make_full_run(tmp_path))
    (tmp_path/'probes'/'colour.parquet').rename(tmp_path/'probes'/'novel.parquet')
    run.estimates = run.estimates.replace(dict(probe=dict(colour='novel')))
    assert part_tables(run, 'novel') == {}

### Folders that are not finished

@pytest.mark.parametrize('name', ['config.yaml', 'accuracy.csv', 'estimates.csv', 'values.csv'])
@pytest.mark.parametrize('content', [None, '', 'a,b\n1,2\n', '{'])
def test_an_unfinished_folder_says_how_to_finish_it(name, content, tmp_path):
    make_run(tmp_path)
    if name == 'config.yaml' and content == '': return
    if content is None: (tmp_path/name).unlink()
    else: (tmp_path/name).write_text(content)
    with pytest.raises(KDError) as e: write_report(tmp_path)
    assert f'kd_study --out {tmp_path}' in str(e.value) and '\n' not in str(e.value)
    assert not (tmp_path/'report.html').exists() and not (tmp_path/'figures').exists()

def test_no_folder(tmp_path):
    with pytest.raises(KDError, match='kd_study --out'): write_report(tmp_path/'nowhere')
    assert not (tmp_path/'nowhere').exists()
