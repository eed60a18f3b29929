"What a probing will cost, told before: passes that are counted, seconds that come, a budget that is kept."
from functools import partial

import pytest
import torch
from torch import nn

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
        assert told <= passes + unseen <= told + looked and gradients == with_gradients


def test_what_nobody_can_count():
    cast = Cast(unfolded(0), dict(Ind=unfolded(1)))
    assert PROBES['localization'].passes_of(cast, 16, dict(seen=9), method='Occlusion') is None
