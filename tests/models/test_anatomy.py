"The anatomy of all families, what is read half-way, and what is left behind: nothing."
from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
from torch import nn

from kd_knowledge.core import KDError, KDWarning, noted
from kd_knowledge.models import Anatomy, anatomy, conv_names, create_model, find_module, frozen, n_classes, name_layers, taps
from kd_knowledge.probes import grad_cam
from tests.models.common import check, mixed, pixels, quick, state
from tests.models.networks import table

HIERARCHICAL = ['resnet18', 'resnet50', 'vgg11', 'vgg11_bn', 'densenet121', 'mobilenet_v2', 'mobilenet_v3_small',
                'mobilenet_v3_large', 'shufflenet_v2_x0_5', 'efficientnet_b0', 'convnext_tiny', 'swin_t', 'swin_v2_t',
                'alexnet', 'squeezenet1_1', 'googlenet', 'mnasnet0_5', 'regnet_y_400mf']


TIMM = ['resnet50d', 'vgg11', 'densenet121', 'mobilenetv2_050', 'mobilenetv3_small_050', 'efficientnet_b0',
        'convnext_atto', 'regnety_002']


@pytest.mark.parametrize('name', HIERARCHICAL)
def test_torchvision_families(name): check(name, 64, **quick(name))


@pytest.mark.parametrize('name', TIMM)
def test_timm_families(name):
    pytest.importorskip('timm')
    check(f'timm:{name}', 64)


def test_vit_tokens():
    found, sides = check('vit_b_32', 224, decreasing=False)
    assert sides == [7] * 12 and found.last_map == 'net.encoder.layers.encoder_layer_11.ln_1'


def test_timm_transformers():
    pytest.importorskip('timm')
    found, sides = check('timm:vit_tiny_patch16_224', 64, decreasing=False, img_size=64)
    assert sides == [4] * 12 and found.last_map == 'net.blocks.11.norm1'
    found, sides = check('timm:vit_small_patch14_reg4_dinov2', 56, decreasing=False, img_size=56)
    assert found.prefix == 5 and sides == [4] * 12
    _, sides = check('timm:swin_tiny_patch4_window7_224', 112, img_size=112)
    assert sides == [28, 14, 7, 4]


def test_two_heads():
    pytest.importorskip('timm')
    net = create_model('timm:deit_tiny_distilled_patch16_224', 7, seed=0, img_size=64).eval()
    found = anatomy(net)
    assert found.last_map == 'net.blocks.11.norm1' and found.prefix == 2 and found.logits == 'net'
    assert found.penultimate == 'net.head:input+net.head_dist:input' == find_module(net, 'head+head_dist').replace(
        '+', ':input+') + ':input'
    with frozen(net), taps(net, found.penultimate, found.logits) as seen: logits = net(pixels(64))
    weight = torch.cat([net.net.head.weight, net.net.head_dist.weight], 1) / 2
    bias = (net.net.head.bias + net.net.head_dist.bias) / 2
    assert torch.allclose(seen[found.penultimate] @ weight.T + bias, logits, atol=1e-5)
    maps, _ = grad_cam(net, pixels(64), torch.tensor([1, 4]))
    assert maps.shape == (2, 4, 4) and maps.amax() > 0
    with pytest.raises(KDError, match='Name one layer'):
        with taps(net, found.penultimate, grad=True): net(pixels(64))


SIZED = ['resnet18', 'vgg11', 'densenet121', 'mobilenet_v3_small', 'efficientnet_b0', 'convnext_tiny', 'swin_t']


@pytest.mark.parametrize('name', SIZED)
def test_anatomy_does_not_hang_on_the_size(name):
    net = create_model(name, 7, seed=0, **quick(name))
    assert anatomy(net, size=64) == anatomy(net, size=224)


def test_the_papers_depths():
    for name, sides in dict(resnet50=[56, 56, 28, 14, 7], vgg19=[224, 112, 56, 28, 14], swin_t=[56, 28, 14, 7]).items():
        net = create_model(name, 10, **quick(name))
        found = anatomy(net)
        with frozen(net), torch.no_grad(), taps(net, *found.stages) as seen: net(pixels(224, 1))
        assert [found.to_map(seen[s]).shape[-1] for s in found.stages] == sides, name


def test_after_the_nth_convolution():
    for vgg, n, channels in ('vgg11', 4, 256), ('vgg19', 7, 256):
        net = create_model(vgg, 7, **quick(vgg))
        name = conv_names(net)[n - 1]
        with frozen(net), taps(net, name) as seen: net(pixels(224, 1))
        assert seen[name].shape[1:] == (channels, 56, 56) and isinstance(net.get_submodule(name), nn.ReLU)
        del net  # one at a time
    names = conv_names(create_model('resnet18', 7))
    assert len(names) == 20 and names[0] == 'net.relu' and all('downsample' not in n or n.endswith('.1') for n in names)


STOPS = [RuntimeError('broken'), KeyboardInterrupt(), SystemExit(1)]


@pytest.mark.parametrize('stop', STOPS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize('where', ['block', 'forward'])
def test_nothing_is_left_behind(stop, where):
    net = create_model('resnet_small', 5, seed=0)
    before = mixed(net)
    def fail(*_): raise stop
    with pytest.raises(type(stop)):
        with frozen(net), taps(net, 'layer1', 'fc:input'), taps(net, 'layer2', grad=True):
            if where == 'block': fail()
            handle = net.net.layer3.register_forward_hook(fail)
            try: net(pixels(32))
            finally: handle.remove()
    assert state(net) == before


@pytest.mark.parametrize('look', [anatomy, conv_names])
def test_an_interrupted_search_leaves_nothing(look):
    class Stop(nn.Module):
        def forward(self, x): raise KeyboardInterrupt
    net = create_model('resnet_small', 5, seed=0)
    net.net.layer3 = Stop()
    before = mixed(net)
    with pytest.raises(KeyboardInterrupt): look(net)
    assert state(net) == before


def test_the_search_draws_no_random_numbers_and_changes_no_statistics():
    net = create_model('mobilenet_v2', 5, seed=0)
    buffers, rng = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    anatomy(net), conv_names(net)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())


OVERWRITTEN = [('densenet121', 'features'), ('resnet18', 'layer2.0.bn2'), ('resnet18', 'layer2.0.bn1'),
               ('vgg11_bn', 'features.1')]


@pytest.mark.parametrize('name,layer', OVERWRITTEN)
def test_what_was_read_is_not_overwritten(name, layer):
    net = create_model(name, 5, seed=0, **quick(name))
    with frozen(net), taps(net, layer) as seen: logits = net(pixels())
    assert seen[layer].min() < 0
    with frozen(net): assert torch.equal(net(pixels()), logits)


def test_inputs_are_not_overwritten():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    with taps(net, '0', '1:input') as seen: net(pixels(8))
    assert torch.equal(seen['0'], seen['1:input']) and seen['0'].min() < 0


def test_gradients_pass_through_taps():
    net = create_model('resnet_small', 5, seed=0).eval()
    net(pixels(32)).sum().backward()
    plain = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with taps(net, 'layer1', 'layer1.0', 'layer2.0.bn1', 'fc:input'), taps(net, 'layer1'):
        net(pixels(32)).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(plain, net.parameters()))
    net.zero_grad()
    with taps(net, 'layer2') as seen: net(pixels(32))
    seen['layer2'].sum().backward()
    assert net.net.stem[0].weight.grad.abs().sum() > 0 and net.net.fc.weight.grad is None


def test_taps_are_filled_anew():
    net = create_model('resnet_small', 5, seed=0).eval()
    with taps(net, 'layer1') as seen:
        net(pixels(32))
        first = seen['layer1']
        net(1 - pixels(32))
        assert not torch.equal(first, seen['layer1'])
    net(pixels(32))
    assert list(seen) == ['layer1']


def test_a_tap_on_a_tuple_says_so():
    tiny = dict(image_size=16, patch_size=8, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    net = create_model('torchvision.models:VisionTransformer', 5, **tiny)
    with pytest.raises(KDError, match='not a tensor'):
        with taps(net, 'encoder.layers.encoder_layer_0.self_attention'): net(pixels(16))


def test_anatomy_overrides():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3 * 16, 8), nn.Linear(8, 4)
        def forward(self, x): return self.b(self.a(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)))
    net = Plain()
    with pytest.raises(KDError, match='stages='): anatomy(nn.Sequential(nn.Flatten(), nn.Linear(3*64**2, 4)))
    assert anatomy(net).layers == anatomy(net, stages=['a']).layers == {'F1': 'a', 'F2': 'b:input', 'F3': 'b'}
    with pytest.raises(KDError, match='not a module'): anatomy(net, stages=['c'])
    with pytest.raises(KDError, match='size'): anatomy(create_model('mnist_cnn', 10), size=33)
    with pytest.raises(KDError, match='classifier'): anatomy(nn.Conv2d(3, 4, 3))


def test_layer_names():
    net = create_model('resnet18', 5)
    for name in ('layer2', 'net.layer2', 'layer2:input'): assert find_module(net, name) == 'net.layer2'
    with pytest.raises(KDError, match='net.layer2') as e: find_module(net, 'layr2')
    assert '\n' not in str(e.value)


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x): return self.function(x)


def around(net, pixels, logits):
    return nn.Sequential(OrderedDict(pixels=Apply(pixels), net=net, logits=Apply(logits)))


WRAPPERS = {'rows': (lambda x: x, lambda z: z.reshape(2, -1), nn.Unflatten(1, (5, 1, 1))),
            'one channel': (lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1), lambda z: z[:, :, 0, 0],
                            Apply(lambda z: z[:, :, None, None])),
            'some classes': (lambda x: x, lambda z: z[:, [4, 1, 2]], nn.Identity()),
            'half': (lambda x: x.bfloat16(), lambda z: z.float(), nn.Identity()),
            'tuple': (lambda x: x, lambda z: z[0], Apply(lambda z: (z, z)))}


@pytest.mark.parametrize('pixels_in,logits_out,end', WRAPPERS.values(), ids=WRAPPERS)
def test_mended_networks(pixels_in, logits_out, end):
    net = create_model('resnet_small', 5, seed=0)
    own, convs = anatomy(net), conv_names(net)
    net.net.append(end)
    if pixels_in is WRAPPERS['half'][0]: net.bfloat16()
    mended = around(net, pixels_in, logits_out).eval()
    found = anatomy(mended)
    assert found.stages == [f'net.{name}' for name in own.stages] and found.last_map == 'net.net.layer3'
    assert found.head == 'net.net.fc' and conv_names(mended) == [f'net.{name}' for name in convs]
    assert find_module(mended, 'layer3') == find_module(mended, 'net.layer3') == 'net.net.layer3'
    x = pixels(32)
    with frozen(mended), taps(mended, 'layer3', *found.layers.values()) as seen: logits = mended(x)
    assert torch.equal(seen[found.logits], logits) and n_classes(mended) == logits.shape[1]


def test_to_map():
    four = torch.rand(2, 3, 4, 4)
    plain, last = Anatomy(['a'], 'a', 'h', 'h'), Anatomy(['a'], 'a', 'h', 'h', channels_last=True)
    assert plain.to_map(four) is four and last.to_map(four.permute(0, 2, 3, 1)).equal(four)
    assert plain.to_map(four.flatten(2).transpose(1, 2)).equal(four)
    assert plain.to_map(torch.zeros(2, 5, 3)).shape == (2, 3, 2, 2) and plain.to_map(four[:, :, 0, 0]).shape == (2, 3)
    with pytest.raises(KDError, match='square'): Anatomy(['a'], 'a', 'h', 'h', prefix=1).to_map(torch.zeros(2, 4, 3))
    with pytest.raises(KDError, match='activation'): plain.to_map(torch.zeros(3))


class Heads(nn.Module):
    "Two networks, or one network twice, whose mean is the answer."
    def __init__(self, *nets):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x): return torch.stack([net(v) for net, v in zip(self.nets, (x, x.flip(3)))]).mean(0)


class Skip(nn.Module):
    "A head that reads an earlier map beside the last."
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(14, 5)

    def forward(self, x):
        early = self.first(x).relu()
        return self.head(torch.cat([self.pool(v).flatten(1) for v in (early, self.second(early).relu())], 1))


def test_a_layer_that_is_not_all_is_refused_for_grad_cam_alone():
    a, b = (create_model('resnet_small', 5, seed=s, width=4).eval() for s in (0, 1))
    for net, line in ((Heads(a, b), 'nets.0.net.layer3, nets.1.net.layer3 do so together'),
                      (Heads(a, a), 'no single run of nets.0.net.layer3'), (Skip(), 'first, second do so together')):
        with noted() as notes: found = anatomy(net.eval(), 32)
        assert found.last_map is None and len(found.layers) >= 3 and len(notes) == isinstance(net, Heads)
        with pytest.raises(KDError, match=line): grad_cam(net, pixels(32), torch.tensor([0, 1]))
    with pytest.warns(KDWarning, match='a part of what the network sees'): found = anatomy(Skip(), last_map='second')
    assert found.cam == 'second' and grad_cam(Skip(), pixels(32), torch.tensor([0, 1]), found)[0].shape == (2, 8, 8)


def test_no_gradient_no_proof_and_no_crash():
    class Still(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net
        def forward(self, x): return self.net(x).detach()
    small = create_model('resnet_small', 5, seed=0, width=4).eval()
    quantised = torch.ao.quantization.quantize_dynamic(deepcopy(small), {nn.Linear})
    for net in Still(small), quantised:
        found = anatomy(net)
        assert [s.rpartition('.')[2] for s in found.stages] == ['stem', 'layer1', 'layer2', 'layer3']
        with pytest.raises(KDError, match='layers: no gradient comes from its answers'): found.cam
    half = anatomy(deepcopy(small).half())
    assert half.last_map == 'net.layer3'


def test_named_layers_stay_with_the_network():
    net = create_model('resnet_small', 5, seed=0, width=4)
    name_layers(net, last_map='layer2', stages=['layer1', 'layer2'])
    for kept in net, around(net, lambda x: x, lambda z: z):
        found = anatomy(kept)
        assert [s.rpartition('.')[2] for s in (*found.stages, found.cam)] == ['layer1', 'layer2', 'layer2']
    assert anatomy(net, last_map='layer3').cam == 'net.layer3'
    with pytest.raises(KDError, match='Did you mean net.layer3'): name_layers(net, last_map='layr3')


QUICK = ['resnet18', 'squeezenet1_1', 'timm:hrnet_w18_small', 'timm:mambaout_femto', 'timm:pit_ti_distilled_224',
         'timm:xcit_nano_12_p16_224', 'timm:crossvit_tiny_240', 'timm:shvit_s1']


def test_a_handful_of_the_table():
    "The whole of it: `python -m tests.models.networks`."
    pytest.importorskip('timm')
    found = table(QUICK).set_index('network')
    assert dict(found.last_map.dropna()) == {
        'resnet18': 'net.layer4', 'squeezenet1_1': 'net.features', 'timm:hrnet_w18_small': 'net.final_layer',
        'timm:mambaout_femto': 'net.stages', 'timm:pit_ti_distilled_224': 'net.transformers.2.blocks.3.norm1',
        'timm:xcit_nano_12_p16_224': 'net.blocks.11', 'timm:shvit_s1': 'net.stages'}
    assert 'do so together' in found.proof['timm:crossvit_tiny_240']
    assert found.proof['resnet18'] == 'all' and found.proof['timm:pit_ti_distilled_224'] == 'patches'
