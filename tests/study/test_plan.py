"What a probing will cost, told before: passes that are counted, seconds that come, a budget that is kept."
from functools import partial

import pytest
import torch
from torch import nn

from kd_knowledge.cli import kd_probe
from kd_knowledge.models import create_model, save_model
from kd_knowledge.probes import Cast
from kd_knowledge.probes.core import PROBES
from tests.probes.common import some_images


def unfolded(seed, classes=4):
    "A network of which nothing is folded, so that nothing is tried beside what a probe asks."
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding='same'), nn.ReLU(), nn.Conv2d(6, 8, 3, padding='same'), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    with torch.no_grad(): net[6].bias -= net(torch.rand(20, 3, 16, 16)).mean(0)
    return net


def counting(member, found, net, inputs, logits):
    passes, gradients = found[member.key]
    found[member.key] = passes + len(logits), gradients + len(logits)*logits.requires_grad


def spared(cast, rows):
    "`member.key` -> the images made for another network that nobody was asked about, as they did not fool that one."
    missed = rows[(rows.metric == 'fooling rate') & (rows.value == 0)].model.value_counts()
    return {m.key: sum(n for name, n in missed.items() if name != m.model) for m in cast.networks}


@pytest.mark.parametrize('name, args', [
    ('localization', {}), ('localization', dict(n=5)), ('adversarial', dict(eps=.1, steps=3)), ('colour', {}),
    ('crop', dict(scales=[.5])), ('shift', {}), ('domains', {}), ('bias', {}), ('groups', {}), ('representation', {}),
    ('boundary', dict(planes=2, points=4)), ('fidelity', {}), ('calibration', {})])
def test_passes_are_those_that_come(name, args):
    "The formula of each probe, beside what goes through tiny networks while it asks and draws its picture."
    n, probe = 40, PROBES[name]
    images, other = some_images(n), some_images(7, seed=1)
    images.groups, other.cues = images.y, dict(texture=(other.y + 1) % 4)
    domains = {'cue conflict': other} if 'domains' in probe.takes else {}
    cast = Cast(unfolded(0), dict(Ind=[unfolded(1), unfolded(2)], KL=unfolded(3)), dict(foreign=unfolded(4)))
    cast.logits(images)
    expected = probe.passes_of(cast, images.size, dict(seen=n, **{k: len(v) for k, v in domains.items()}), **args)
    found = {m.key: (0, 0) for m in cast.networks}
    for m in cast.networks: m.net.register_forward_hook(partial(counting, m, found))
    rows = probe.ask(cast, images, **args | (dict(domains=domains) if domains else {}))
    if probe.picture: probe.picture(cast, images, domains, rows)
    looked = 16*(name in ('localization', 'representation'))  # by `anatomy`, which looks for the layers first
    for key, unseen in spared(cast, rows).items():
        (passes, gradients), (told, with_gradients) = found[key], expected[key]
        assert told <= passes + unseen <= told + looked
        assert with_gradients <= gradients <= with_gradients + looked


def test_what_nobody_can_count():
    cast = Cast(unfolded(0), dict(Ind=unfolded(1)))
    assert PROBES['localization'].passes_of(cast, 16, dict(seen=9), method='Occlusion') is None


def test_a_budget_is_kept_and_found_again(tmp_path, capsys):
    "A probing that is told before, fitted into a few seconds, and found finished by the same command."
    nets = []
    for seed in range(3):
        nets.append(str(tmp_path/f'net{seed}'))
        save_model(create_model('resnet_small', 10, seed=seed, width=4), nets[-1])
    argv = ['--teacher', nets[0], '--students', f'KL={nets[1]}', '--controls', nets[2], '--data', 'shapes', '--size',
            '24', '--n', '40', '--probes', 'boundary', 'fidelity', '--out', str(tmp_path/'run'), '--minutes']
    assert kd_probe([*argv, '.0001']) == 2
    least = capsys.readouterr().err
    assert 'minutes: nothing fits into 0.0001. Give ' in least and not (tmp_path/'run').exists()
    assert kd_probe([*argv, '30']) == 0
    shown = capsys.readouterr().out
    assert '50 planes of 20 x 20 points' in shown and 'Planned: ' in shown
    files = {p: p.read_bytes() for p in (tmp_path/'run').rglob('*') if p.is_file() and p.name != '.lock'}
    assert kd_probe([*argv, '30']) == 0 and 'with gradients' not in capsys.readouterr().out
    assert all(p.read_bytes() == before for p, before in files.items())
