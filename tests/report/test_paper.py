"The paper's printed figures: each has a counterpart here, and stands beside runs that are like it, and no others."
from dataclasses import asdict

import pandas as pd
import pytest

import kd_knowledge.study.steps # brings Study.filled
from kd_knowledge.core import KDError
from kd_knowledge.probes import PROBES
from kd_knowledge.report.paper import (
    AGREEMENT, PAPER_CSV, PRINTED, TEACHERS, WAYS, agreement, beside, counterparts, printed_pair, read_printed,
    write_agreement)
from kd_knowledge.study.presets import PRESETS, load_preset
from tests.report.runs import row

CASES = [
    ('shapes', 'adversarial', 'fooled', 'ResNet50 -> ResNet18'), ('shapes', 'crop', 'agreement', None),
    ('shapes', 'bias', 'shape bias', None), ('shapes-vgg13-vgg8', 'localization', 'closer', 'VGG19 -> VGG11'),
    ('shapes-crops', 'crop', 'agreement', 'ResNet50 -> ResNet18, students without crops'),
    ('shapes-shift', 'shift', 'agreement', 'anti-aliased ResNet50 -> ResNet18'),
    ('shapes-vit-resnet', 'adversarial', 'fooled', 'ViT-B/32 -> ResNet18'),
    ('shapes-vit-resnet', 'bias', 'shape bias', 'ViT-B/32 -> ResNet18'),
    ('shapes-swin-resnet', 'colour', 'agreement', 'Swin-T -> ResNet18'),
    ('shapes-swin-swin', 'domains', 'consensus', 'Swin-Base -> Swin-Tiny'),
    ('shapes-stylized-lower', 'bias', 'shape bias', 'stylized ResNet50 -> ResNet18, lower weight'),
    ('shapes-stylized-higher', 'bias', 'shape bias', 'stylized ResNet50 -> ResNet18, higher weight'),
    ('digits-domains', 'boundary', 'agreement', 'MNIST CNN -> same'),
    ('digits-domains', 'domains', 'accuracy', 'MNIST CNN -> same')]
LAPTOP = dict(data='shapes', teacher='resnet_small', student='resnet_small', objectives={}, jitter=.4)

### Two files

def test_every_setting_of_the_paper_has_a_counterpart_and_none_has_two():
    printed = read_printed()
    settings = printed[['experiment', 'table', 'setting']].drop_duplicates()
    assert list(counterparts()) == list(settings.itertuples(index=False, name=None))
    assert not printed.duplicated(['experiment', 'table', 'setting', 'student', 'condition']).any()

def test_counterparts_name_what_there_is():
    for c in counterparts().values():
        assert c.study in PRESETS or c.way == 'linear networks', c
        assert c.probe in PROBES or c.way in ('accuracy', 'linear networks'), c
        assert c.way in WAYS and set(c.comparable) <= set(TEACHERS), c
        assert not c.probe or c.metric in PROBES[c.probe].metrics, c

def test_a_file_that_is_missing_or_lacks_a_column_is_told(tmp_path):
    with pytest.raises(KDError, match='there is no'): read_printed(tmp_path/'nowhere.csv')
    for column in PRINTED:
        pd.read_csv(PAPER_CSV).drop(columns=column).to_csv(tmp_path/'x.csv', index=False)
        with pytest.raises(KDError, match=f'has no column {column}'): read_printed(tmp_path/'x.csv')

### Beside a run

def test_the_figures_beside_a_run_are_those_of_the_file():
    printed = read_printed().query('value != "rises"')
    effects = printed.set_index(['table', 'setting', 'student', 'condition']).effect.to_dict()
    shown = [c for c in counterparts().values() if c.comparable]
    assert len(shown) == 20
    for c in shown:
        config = dict(LAPTOP, teacher=c.setting.split(' -> ')[0], student=c.setting.split(' -> ')[-1], teacher_crop=.3,
                      teacher_args=dict(blur=True), data='photographs')
        if 'stylized' in c.comparable: config['teacher_data'] = dict(domain='stylized')
        if 'KL from .5' in c.comparable: config['objectives'] = dict(KL=dict(weight=.9))
        found = beside(config, c.probe, c.metric)
        for (condition, student), (independent, value) in found.values.items():
            name = dict(grad_cam='Grad-CAM').get(condition, condition)
            assert value - independent == pytest.approx(effects[found.table, found.pair, student, name])

@pytest.mark.parametrize('preset,probe,metric,pair', CASES)
def test_a_preset_stands_beside_its_own_figures(preset, probe, metric, pair):
    assert getattr(beside(asdict(load_preset(preset).filled()), probe, metric), 'pair', None) == pair

def test_a_shift_of_the_drawn_world_is_eight_of_the_papers_pixels():
    config = dict(LAPTOP, teacher_args=dict(blur=True))
    two, sixteen = (row(probe='shift', metric='agreement', condition=c) for c in ('2', '16'))
    assert printed_pair(config, two)[:2] == (87, 88) and printed_pair(config, sixteen) is None
    photographs = dict(config, data='photographs')
    assert printed_pair(photographs, sixteen)[:2] == (87, 88) and printed_pair(photographs, two) is None

def test_finished_studies_of_other_networks_or_none_have_no_figure():
    assert beside({}, 'adversarial', 'fooled') is None and beside(dict(objectives={}), 'calibration', 'ECE') is None

### The table of all figures

def test_the_stored_table_is_what_the_stored_results_give(root, tmp_path, capsys):
    write_agreement(root/'nbs'/'results', tmp_path/'agreement.csv')
    assert (tmp_path/'agreement.csv').read_bytes() == (root/'nbs'/'studies'/'agreement.csv').read_bytes()
    assert '204 of 204 figures' in capsys.readouterr().out

def test_studies_that_are_not_stored_are_named(root, tmp_path, capsys):
    (tmp_path/'results').mkdir()
    (tmp_path/'results'/'shapes-shift').symlink_to(root/'nbs'/'results'/'shapes-shift')
    write_agreement(tmp_path/'results', tmp_path/'agreement.csv')
    found, words = pd.read_csv(tmp_path/'agreement.csv'), capsys.readouterr().out
    assert found.columns.tolist() == AGREEMENT and set(found.experiment.str.split(',').str[0]) == {'E6', 'E10'}
    assert 'not stored yet: kd_study --preset shapes-depth' in words and '--preset shapes-shift' not in words

def test_results_that_are_missing_are_told(tmp_path):
    fix = 'Run `make studies`, or kd_study --preset shapes '
    with pytest.raises(KDError, match=fix): agreement(read_printed(), tmp_path)
