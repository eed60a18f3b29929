"Run folders of studies that never were, as the tests of the report use them."
import json
from functools import cache

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from kd_knowledge.core import write_json
from kd_knowledge.data.images import Images
from kd_knowledge.probes.core import Member, summary, table
from kd_knowledge.probes.evidence import estimate
from kd_knowledge.report.findings import write_images
from kd_knowledge.report.figures import write_extremes

CONDITIONS = dict(localization=['Grad-CAM'], adversarial=['teacher', 'foreign'], colour=['0.2', '0.4', '0.6'],
                  crop=['0.3', '0.5'], shift=['2', '4', '8'])
METRICS = dict(localization='closer', adversarial='fooled')
VERDICTS = ['inherited', "inherited, not from this teacher's images", 'opposite', 'absent',
            'undecided (9 seeds would decide)', 'undecided (more seeds alone would not decide)',
            'undecided (clear alone, not among all headlines)', 'undecided (its teacher cannot be told from Ind)',
            'undecided (one network of each)', 'control']
EVIL = '<script>alert("x")</script>&'


def members(students, seeds, independent):
    return ([Member('T', 'teacher', 0, None)] + [Member('Ind', 'control', s, None) for s in range(independent)]
            + [Member(m, 'student', s, None) for m in students for s in range(seeds)])


@cache
def tables(*args, **kwargs):
    rows = long_table(*args, **kwargs)
    return estimate(rows), summary(rows)


def long_table(students, seeds=2, independent=3, n=60):
    rng, rows = np.random.default_rng(0), []
    for probe, conditions in CONDITIONS.items():
        for condition in conditions:
            for m in members(students, seeds, independent):
                if probe == 'localization' and m.role == 'teacher': continue
                values = rng.random(n) < .4 + .5*(m.model in ('T', students[0]))*(condition != 'foreign')
                rows.append(table(probe, condition, METRICS.get(probe, 'agreement'), m, range(n), values))
    return pd.concat(rows)


def make_run(folder, students=('KL', 'CRD', 'KL*'), config=None, notes=None, step='teacher', **kwargs):
    "The tables, config, notes and a step of a finished study."
    estimates, values = tables(students, **kwargs)
    estimates.to_csv(folder/'estimates.csv', index=False)
    values.to_csv(folder/'values.csv', index=False)
    networks = values[values.probe == 'colour'].drop_duplicates(['model', 'seed'])
    accuracy = networks[['model', 'role', 'seed']].rename(columns=dict(model='network'))
    accuracy = accuracy.assign(accuracy=np.where(networks.role == 'teacher', .93, .9))
    accuracy.to_csv(folder/'accuracy.csv', index=False)
    config = config or dict(data='shapes', teacher='resnet_small', student='resnet_small')
    (folder/'config.yaml').write_text(yaml.safe_dump(config), encoding='utf-8')
    if notes: (folder/'notes.json').write_text(json.dumps(notes), encoding='utf-8')
    write_json(folder/'steps'/'0.json', dict(step=step, key='0', files=[], versions=dict(torch='2.8'),
                                             finished='2026-01-01 00:00:00', seconds=75., device='cpu'))
    return folder


def many_images(n=60, size=32, vocab=('disc', 'ring', 'bar'), groups=True):
    x = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(n) % len(vocab), vocab, size, groups=torch.arange(n) % 4 if groups else None,
                  group_vocab=['a', 'b', 'c', 'd'])


def make_full_run(folder, students=('KL', 'CRD', 'KL*'), vocab=('disc', 'ring', 'bar'), size=32, **kwargs):
    "As `make_run`, with what a study leaves of images and networks."
    make_run(folder, students, **kwargs)
    rows, images = long_table(students), many_images(size=size, vocab=vocab)
    (folder/'probes').mkdir()
    for probe, part in rows.groupby('probe'): part.to_parquet(folder/'probes'/f'{probe}.parquet')
    write_images(folder, dict(seen=images))
    write_extremes(folder, rows, dict(seen=images))
    recipe = dict(name='resnet18', n_classes=3, kwargs=dict(width=8))
    objectives = dict(student=dict(objective='KL', weight=.5))
    write_json(folder/'networks.json', [
        dict(network=m.model, role=m.role, seed=m.seed, parameters=1234567, recipe=recipe,
             objective=objectives.get(m.role, {})) for m in members(students, 2, 3)])
    return folder


def write_picture(path, size=32):
    noise = np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def row(**changes):
    "A row of estimates."
    known = dict(probe='adversarial', condition='teacher', metric='fooled', student='KL', value=.41, control=.06,
                 difference=.35, low=.28, high=.42, paired=True, null_low=-.03, null_high=.03, control_difference=.34,
                 control_low=.25, control_high=.43, p=.001, q=.002, direction=1, n=500, seeds=2, spread=.01, decides=3,
                 verdict='inherited')
    return pd.Series({**known, **changes})


def plain(text): return text.replace('\u00a0', ' ')
