"What is planted is found by the real probes, on a small scale; the whole table is made by `tests.probes.certify`."
import pytest
import torch

from kd_knowledge.data import colour_jitter
from kd_knowledge.probes import PROBES
from tests.probes.certify import certify, PLANTS, Scale, SHARE
from tests.probes.planted import both, Either, Hesitant, is_blue, Lot, World


def test_every_probe_is_certified():
    assert set(PLANTS) == set(PROBES)
    for name, plants in PLANTS.items():
        for plant in plants: assert plant.metric in PROBES[name].metrics


@pytest.fixture(scope='module')
def world(): return World(1500)


def test_a_lot_takes_its_share_and_stays(world):
    x, lot = world.x, Lot(SHARE, 0)
    assert lot(x).float().mean().item() == pytest.approx(SHARE, abs=.04)
    assert torch.equal(lot(x[:50]), lot(x)[:50])
    x, steady = world.x_known, world.known_lot(SHARE, 0)
    random = torch.Generator().manual_seed(0)
    attacked = (x + 8/255*torch.randn(x.shape, generator=random).sign()).clamp(0, 1)
    assert torch.equal(steady(x), steady(attacked))
    assert (steady(x) == steady(colour_jitter(x, .4, random))).float().mean() > .95  # white that is cut off moves some


def test_planted_networks_are_what_they_say(world):
    first, second, x = world.net(0, 0), world.net(1, 0), world.x[:300]
    lot = Lot(SHARE, 0)
    with torch.no_grad():
        one, other = first(x), second(x)
        expected = torch.where(lot(x)[:, None], one, other)
        assert torch.equal(Either(first, second, lot)(x), expected)
        assert torch.allclose(both(first, second, lot)(x), expected, atol=1e-4)
        differ = (Hesitant(first, .5, 0)(x).argmax(1) != one.argmax(1)).float().mean().item()
        assert differ == pytest.approx(.45, abs=.09)
        blue = world.seen.groups == world.seen.group_vocab.index('blue')
        assert (is_blue(world.x) == blue).float().mean() > .9


@pytest.mark.parametrize('name', ['fidelity', 'representation'])
def test_certified_on_a_small_scale(name):
    for line in certify(name, Scale(units=10, seeds=6, images=200, blocks=1, casts=8)):
        assert line['measured'] == pytest.approx(SHARE, abs=.06) and line['low'] < SHARE < line['high']
        assert line['power'] > .8 and line['false_alarms_ind'] < .3
