"The small networks: their published sizes, their layers, and that they stay what they were."
import pytest
import torch
from torch import nn

from kd_knowledge.core import KDError
from kd_knowledge.models import BlurPool, SMALL, anatomy, create_model, find_module, frozen, load_model, save_model
from tests.models.common import check, pixels

# millions of parameters with 100 classes, as in RepDistiller
PUBLISHED = dict(wrn=(2.26, {}), vgg_small=(9.46, {}), vgg8=(3.96, dict(depth=8)), resnet_cifar=(.28, {}),
                 shufflenet_v1=(.95, {}), mobilenet_v2_small=(.81, {}), resnet50_small=(23.71, {}))


SLIM = dict(wrn=dict(depth=10, width=1), vgg_small=dict(depth=8, width=.1), resnet_cifar=dict(depth=8, width=4),
            shufflenet_v1=dict(groups=2), mobilenet_v2_small=dict(width=.25, expand=2), resnet50_small=dict(width=4),
            resnet_small=dict(width=4, blur=True))


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes(name):
    with torch.device('meta'): net = SMALL[dict(vgg8='vgg_small').get(name, name)](100, **PUBLISHED[name][1])
    millions = sum(p.numel() for p in net.parameters())/1e6
    assert abs(millions - PUBLISHED[name][0]) < .0051


@pytest.mark.parametrize('name', SLIM)
def test_small_networks(name, tmp_path):
    found, sides = check(name, 32, **SLIM[name])
    assert find_module(create_model(name, 7, **SLIM[name]), found.last_map) == found.stages[-1]
    net = create_model(name, 7, seed=1, **SLIM[name]).train()
    net(pixels(32))
    again = load_model(save_model(net, tmp_path/'net'))
    with frozen(net): assert torch.equal(again(pixels(32)), net(pixels(32)))


def test_resnet_small_is_what_it_was():
    "Weights that were saved, and studies that were run, with earlier versions stay what they are."
    net = create_model('resnet_small', 10, seed=0, width=8).eval()
    logits = net(torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32).flip(2))
    assert list(net.state_dict())[2:5] == ['net.stem.0.weight', 'net.stem.1.weight', 'net.stem.1.bias']
    assert torch.allclose(logits[0, :4], torch.tensor([-.171817, .156521, -.078371, -.039571]), atol=1e-5)


def test_blur():
    plain, blurred = (create_model('resnet_small', 5, seed=0, width=4, blur=blur).eval() for blur in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), blurred.parameters(), strict=True))
    assert anatomy(plain).stages == anatomy(blurred).stages
    row = torch.tensor([1., 3., 3., 1.], dtype=torch.float64)/8
    x = torch.rand(1, 2, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, padded = BlurPool(4).double()(x), nn.functional.pad(x, (1, 2, 1, 2), mode='reflect')
    for c in range(2):
        for i in range(5):
            for j in range(5): assert abs(y[0, c, i, j] - row @ padded[0, c, 2*i:2*i + 4, 2*j:2*j + 4] @ row) < 1e-12


IMPOSSIBLE = [('wrn', dict(depth=41), '6n'), ('resnet_cifar', dict(depth=2), '6n'),
              ('vgg_small', dict(depth=11), '8 or 13'), ('vgg_small', dict(width=.01), 'channels'),
              ('shufflenet_v1', dict(groups=8), 'groups'), ('mobilenet_v2_small', dict(width=0), 'width'),
              ('resnet50_small', dict(width=0), 'width')]


@pytest.mark.parametrize('name,kwargs,says', IMPOSSIBLE)
def test_sizes_that_cannot_be(name, kwargs, says):
    with pytest.raises(KDError, match=says): create_model(name, 7, **kwargs)
