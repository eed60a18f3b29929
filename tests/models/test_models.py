"Networks, their anatomy on all families, and what is left behind: nothing."
import json, pickle, urllib.error

import pytest
import torch
from torch import nn

import torchvision.models._api as tv_api
from kd_knowledge import models
from kd_knowledge.core import KDError
from kd_knowledge.models import (
    Anatomy, anatomy, conv_names, create_model, find_module, frozen, load_model, model_names, n_classes, save_model,
    taps)

HIERARCHICAL = ['resnet18', 'resnet50', 'vgg11', 'vgg11_bn', 'densenet121', 'mobilenet_v2', 'mobilenet_v3_small',
                'mobilenet_v3_large', 'shufflenet_v2_x0_5', 'efficientnet_b0', 'convnext_tiny', 'swin_t', 'swin_v2_t', 'alexnet',
                'squeezenet1_1', 'googlenet', 'mnasnet0_5', 'regnet_y_400mf']
TIMM = ['resnet50d', 'vgg11', 'densenet121', 'mobilenetv2_050', 'mobilenetv3_small_050', 'efficientnet_b0', 'convnext_atto', 'regnety_002']


def pixels(size=64, n=2): return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
def quick(name): return dict(init_weights=False) if name.startswith('vgg') else {}
def hooks(net): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules())
def state(net): return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()], [p.grad is None for p in net.parameters()], hooks(net)


def mixed(net):
    "A state that a careless eval() or train() would lose."
    net.train()
    list(net.modules())[-1].eval()
    next(net.parameters()).requires_grad_(False)
    return state(net)


def check(name, size, decreasing=True, **kwargs):
    net = create_model(name, 7, seed=0, **kwargs)
    with torch.no_grad(): list(net.parameters())[-2].add_(.01 * torch.randn(list(net.parameters())[-2].shape))  # torchvision's ViT starts with a head of zeros
    before = mixed(net)
    found = anatomy(net)
    x, target = pixels(size), torch.tensor([1, 4])
    with frozen(net), taps(net, *found.layers.values()) as seen: logits = net(x)
    maps = [found.to_map(seen[stage]) for stage in found.stages]
    assert all(m.ndim == 4 and m.shape[0] == 2 and m.shape[2] == m.shape[3] for m in maps)
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(sides, reverse=True) and (not decreasing or len(maps) >= 3 and sides[-1] < sides[0])
    features = list(seen.values())[-2]
    assert torch.equal(seen[found.logits], logits) and features.shape[0] == 2
    head = net.get_submodule(found.head)
    if isinstance(head, nn.Linear): assert torch.allclose(head(features), logits, atol=1e-5)
    with frozen(net), taps(net, found.last_map, grad=True) as seen:
        g, = torch.autograd.grad(net(x).gather(1, target[:, None]).sum(), seen[found.last_map])
    assert found.to_map(g).abs().sum() > 0
    assert state(net) == before
    assert n_classes(net) == n_classes(net.net) == 7
    return found, sides


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
    with pytest.raises(KDError, match='head='): anatomy(create_model('timm:deit_tiny_distilled_patch16_224', 7, img_size=64))


@pytest.mark.parametrize('name', ['resnet18', 'vgg11', 'densenet121', 'mobilenet_v3_small', 'efficientnet_b0', 'convnext_tiny', 'swin_t'])
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
    vgg19, vgg11 = (create_model(n, 7, **quick(n)) for n in ('vgg19', 'vgg11'))
    for net, n, channels in (vgg11, 4, 256), (vgg19, 7, 256):
        name = conv_names(net)[n - 1]
        with frozen(net), taps(net, name) as seen: net(pixels(224, 1))
        assert seen[name].shape[1:] == (channels, 56, 56) and isinstance(net.get_submodule(name), nn.ReLU)
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


@pytest.mark.parametrize('name,layer', [('densenet121', 'features'), ('resnet18', 'layer2.0.bn2'), ('resnet18', 'layer2.0.bn1'), ('vgg11_bn', 'features.1')])
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
    with taps(net, 'layer1', 'layer1.0', 'layer2.0.bn1', 'fc:input'), taps(net, 'layer1') as seen: net(pixels(32)).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(plain, net.parameters()))
    net.zero_grad()
    with taps(net, 'layer2') as seen: net(pixels(32))
    seen['layer2'].sum().backward()
    assert net.net.stem[0].weight.grad.abs().sum() > 0 and net.net.fc.weight.grad is None


def test_taps_are_filled_anew():
    net = create_model('resnet_small', 5, seed=0).eval()
    with taps(net, 'layer1') as seen:
        net(pixels(32)); first = seen['layer1']
        net(1 - pixels(32))
        assert not torch.equal(first, seen['layer1'])
    net(pixels(32))
    assert list(seen) == ['layer1']


def test_a_tap_on_a_tuple_says_so():
    net = create_model('torchvision.models:VisionTransformer', 5, image_size=16, patch_size=8, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    with pytest.raises(KDError, match='not a tensor'), taps(net, 'encoder.layers.encoder_layer_0.self_attention'): net(pixels(16))


def test_anatomy_overrides():
    class Plain(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(3 * 16, 8), nn.Linear(8, 4)
        def forward(self, x): return self.b(self.a(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)))
    net = Plain()
    with pytest.raises(KDError, match='stages='): anatomy(net)
    assert anatomy(net, stages=['a']).layers == {'F1': 'a', 'F2': 'b:input', 'F3': 'b'}
    with pytest.raises(KDError, match='no module'): anatomy(net, stages=['c'])
    with pytest.raises(KDError, match='size'): anatomy(create_model('mnist_cnn', 10), size=33)
    with pytest.raises(KDError, match='classifier'): anatomy(nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize('name', ['resnet_small', 'mnist_cnn', 'resnet18', 'googlenet', 'timm:resnet18'])
def test_weights_are_a_function_of_the_seed(name):
    torch.manual_seed(1); a = torch.rand(1)
    torch.manual_seed(1); first = create_model(name, 5, seed=3); b = torch.rand(1)
    second = create_model(name, 5, seed=3)
    assert a == b
    assert all(torch.equal(u, v) for u, v in zip(first.state_dict().values(), second.state_dict().values()))
    third = create_model(name, 5, seed=4)
    assert any(not torch.equal(u, v) for u, v in zip(first.parameters(), third.parameters()))


def test_inception_gives_logits_while_it_trains():
    assert create_model('googlenet', 5, seed=0, init_weights=False).train()(pixels()).shape == (2, 5)
    assert create_model('inception_v3', 5, seed=0).train()(pixels(96)).shape == (2, 5)


def stored(monkeypatch, **nets):
    "Pretrained weights that need no network: those of the given networks."
    def load(url, *args, **kwargs): return next(net.state_dict() for name, net in nets.items() if name in url)
    monkeypatch.setattr(tv_api, 'load_state_dict_from_url', load)


def test_pretrained(monkeypatch, tmp_path):
    source = models.torchvision.models.resnet18(weights=None)
    stored(monkeypatch, resnet18=source)
    whole, cut = create_model('resnet18', pretrained='IMAGENET1K_V1'), create_model('resnet18', 5, pretrained=True, seed=0)
    assert whole.recipe['n_classes'] == 1000 and torch.equal(whole.net.fc.weight, source.fc.weight)
    assert cut(pixels()).shape == (2, 5) and torch.equal(cut.net.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    again = load_model(save_model(cut, tmp_path/'cut'))
    with frozen(cut): assert torch.equal(again(pixels()), cut(pixels()))
    with pytest.raises(KDError, match='IMAGENET1K_V1'): create_model('resnet18', pretrained='V9')


def test_pretrained_googlenet_sees_the_same_pixels(monkeypatch, tmp_path):
    source = models.torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True)
    stored(monkeypatch, googlenet=source)
    net, normal = create_model('googlenet', pretrained=True).eval(), models.Normalise(**models.IMAGENET)
    assert torch.allclose(net(pixels()), source.eval()(normal(pixels())), atol=1e-4)
    again = load_model(save_model(net, tmp_path/'net'))
    assert torch.equal(again(pixels()), net(pixels()))


def test_a_failed_download_says_which_file(monkeypatch):
    def fail(*args, **kwargs): raise urllib.error.URLError('no route')
    monkeypatch.setattr(tv_api, 'load_state_dict_from_url', fail)
    with pytest.raises(KDError, match=r'ResNet18_Weights.*no route.*checkpoints/resnet18-\w+\.pth') as e: create_model('resnet18', 5, pretrained=True)
    assert '\n' not in str(e.value)


BAD = [(dict(name='resnt18'), 'resnet18'), (dict(name='timm:resnt18'), 'resnet18'), (dict(name='resnet_small'), 'n_classes'),
       (dict(name='resnet18', n_classes=1), 'n_classes'), (dict(name='resnet18', n_classes=2.5), 'n_classes'),
       (dict(name='mnist_cnn', n_classes=5, width=3), 'kwargs'), (dict(name='resnet18', n_classes=5, widht=3), 'kwargs'),
       (dict(name='resnet_small', n_classes=5, depth=0), 'depth'), (dict(name='resnet_small', n_classes=5, std=0.), 'std'),
       (dict(name='mnist_cnn', n_classes=5, pretrained=True), 'pretrained'), (dict(name='no_such_package:f'), 'PYTHONPATH'),
       (dict(name='math:no_such'), 'not to be found'), (dict(name=':f'), 'not to be found'), (dict(name='builtins:dict'), 'nn.Module')]


@pytest.mark.parametrize('given,says', BAD, ids=lambda v: str(v)[:40])
def test_bad_input_is_one_line(given, says):
    with pytest.raises(KDError, match=says) as e: create_model(**given)
    assert '\n' not in str(e.value)


def test_layer_names():
    net = create_model('resnet18', 5)
    assert find_module(net, 'layer2') == find_module(net, 'net.layer2') == find_module(net, 'layer2:input') == 'net.layer2'
    with pytest.raises(KDError, match='net.layer2') as e: find_module(net, 'layr2')
    assert '\n' not in str(e.value)


def test_every_name_is_known(): assert {'resnet_small', 'mnist_cnn', 'resnet50', 'vit_b_32', 'swin_b'} <= set(model_names())


@pytest.mark.parametrize('name,size,kwargs', [('resnet_small', 32, dict(width=8, depth=2)), ('mnist_cnn', 28, {}), ('squeezenet1_1', 64, dict(mean=.4)),
                                              ('timm:convnext_atto', 64, {}), ('torchvision.models:shufflenet_v2_x0_5', 64, {})])
def test_saved_and_loaded(name, size, kwargs, tmp_path):
    net = create_model(name, 5, seed=1, **kwargs).to(memory_format=torch.channels_last).train()
    net(pixels(size))  # moves the running statistics
    save_model(net, tmp_path/'a'/'net.v1')
    rng = torch.get_rng_state()
    for path in ('net.v1', 'net.v1.safetensors', 'net.v1.json'):
        again = load_model(tmp_path/'a'/path)
        assert not any(m.training for m in again.modules())
        assert again.recipe == net.recipe
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert sorted(p.name for p in (tmp_path/'a').iterdir()) == ['net.v1.json', 'net.v1.safetensors']


def tied(n_classes=3):
    "Two layers that share a weight."
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.Linear(12, n_classes))
    net[3].weight = net[1].weight
    return net


def test_shared_weights(tmp_path):
    net = create_model(f'{__name__}:tied', 4)
    again = load_model(save_model(net, tmp_path/'tied'))
    assert again[3].weight is again[1].weight and torch.equal(again[1].weight, net[1].weight)


@pytest.fixture
def saved(tmp_path):
    save_model(create_model('resnet_small', 5, seed=0), tmp_path/'net')
    return tmp_path/'net.safetensors', tmp_path/'net.json'


def spoil_truncate(w, j): w.write_bytes(w.read_bytes()[:500])
def spoil_empty(w, j): w.write_bytes(b'')
def spoil_pickle(w, j): torch.save(create_model('resnet_small', 5).state_dict(), w)
def spoil_missing_json(w, j): j.unlink()
def spoil_missing_weights(w, j): w.unlink()
def spoil_json(w, j): j.write_text('{"recipe": ')
def spoil_json_list(w, j): j.write_text('[]')
def spoil_recipe(w, j): j.write_text(json.dumps(dict(recipe=dict(name='resnet_small'))))
def spoil_name(w, j): j.write_text(j.read_text().replace('resnet_small', 'resnet_smal'))
def spoil_keys(w, j): j.write_text(j.read_text().replace('resnet_small', 'mnist_cnn'))
def spoil_shapes(w, j): j.write_text(j.read_text().replace('"n_classes": 5', '"n_classes": 6'))
def spoil_swap(w, j): models._save_weights(create_model('resnet_small', 5, seed=9), str(w))


@pytest.mark.parametrize('spoil', [v for k, v in sorted(globals().items()) if k.startswith('spoil_')], ids=lambda f: f.__name__)
def test_a_spoiled_checkpoint_is_refused(spoil, saved, monkeypatch):
    spoil(*saved)
    def never(*args, **kwargs): raise AssertionError('unpickled')
    for where, name in (torch, 'load'), (pickle, 'load'), (pickle, 'loads'), (pickle, 'Unpickler'): monkeypatch.setattr(where, name, never)
    with pytest.raises(KDError, match='^path: .*net') as e: load_model(saved[0])
    assert '\n' not in str(e.value)


def test_a_pickled_checkpoint_is_not_opened(tmp_path):
    torch.save({}, tmp_path/'teacher.pth')
    with pytest.raises(KDError, match='pickled'): load_model(tmp_path/'teacher.pth')


def test_a_failed_save_harms_nothing(saved, monkeypatch, tmp_path):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def full(net, path): open(path, 'wb').write(b'half'); raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m, pytest.raises(KDError, match='No space left'):
        m.setattr(models, '_save_weights', full)
        save_model(create_model('resnet_small', 5, seed=1), saved[0])
    with pytest.raises(KDError, match='could not be written'): save_model(create_model('mnist_cnn', 5), saved[0]/'inside'/'a file')
    net = create_model('mnist_cnn', 5); net.recipe['kwargs']['f'] = print
    with pytest.raises(KDError, match='recipe'): save_model(net, tmp_path/'other')
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_to_map():
    four = torch.rand(2, 3, 4, 4)
    plain, last = Anatomy(['a'], 'a', 'h', 'h'), Anatomy(['a'], 'a', 'h', 'h', channels_last=True)
    assert plain.to_map(four) is four and last.to_map(four.permute(0, 2, 3, 1)).equal(four)
    assert plain.to_map(four.flatten(2).transpose(1, 2)).equal(four)
    assert plain.to_map(torch.zeros(2, 5, 3)).shape == (2, 3, 2, 2) and plain.to_map(four[:, :, 0, 0]).shape == (2, 3)
    with pytest.raises(KDError, match='square'): Anatomy(['a'], 'a', 'h', 'h', prefix=1).to_map(torch.zeros(2, 4, 3))
    with pytest.raises(KDError, match='activation'): plain.to_map(torch.zeros(3))


PUBLISHED = dict(wrn=(2.26, {}), vgg_small=(9.46, {}), vgg8=(3.96, dict(depth=8)), resnet_cifar=(.28, {}), shufflenet_v1=(.95, {}),
                 mobilenet_v2_small=(.81, {}), resnet50_small=(23.71, {})) # millions of parameters with 100 classes, as in RepDistiller
SLIM = dict(wrn=dict(depth=10, width=1), vgg_small=dict(depth=8, width=.1), resnet_cifar=dict(depth=8, width=4), shufflenet_v1=dict(groups=2),
            mobilenet_v2_small=dict(width=.25, expand=2), resnet50_small=dict(width=4), resnet_small=dict(width=4, blur=True))


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes(name):
    with torch.device('meta'): net = models.SMALL[dict(vgg8='vgg_small').get(name, name)](100, **PUBLISHED[name][1])
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


def test_the_layers_of_the_benchmark_are_the_middle_stages():
    "RepDistiller's hint layer 2, by its size."
    from kd_knowledge.distillation import HINT_LAYERS, layer_name
    given = dict(wrn=(64, 16), shufflenet_v1=(480, 8), vgg_small=(256, 8), resnet50_small=(512, 16), mobilenet_v2_small=(16, 8))
    for name, shape in given.items():
        net = create_model(name, 7)
        layer = layer_name(net, HINT_LAYERS['resnet50-mobilenet_v2'][0] if name == 'mobilenet_v2_small' else None)
        with frozen(net), torch.no_grad(), taps(net, layer) as seen: net(pixels(32, 1))
        assert tuple(seen[layer].shape[1:3]) == shape, name


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
    y, padded = models.BlurPool(4).double()(x), nn.functional.pad(x, (1, 2, 1, 2), mode='reflect')
    for c in range(2):
        for i in range(5):
            for j in range(5): assert abs(y[0, c, i, j] - row @ padded[0, c, 2*i:2*i + 4, 2*j:2*j + 4] @ row) < 1e-12


@pytest.mark.parametrize('name,kwargs,says', [('wrn', dict(depth=41), '6n'), ('resnet_cifar', dict(depth=2), '6n'), ('vgg_small', dict(depth=11), '8 or 13'),
                                              ('vgg_small', dict(width=.01), 'channels'), ('shufflenet_v1', dict(groups=8), 'groups'),
                                              ('mobilenet_v2_small', dict(width=0), 'width'), ('resnet50_small', dict(width=0), 'width')])
def test_sizes_that_cannot_be(name, kwargs, says):
    with pytest.raises(KDError, match=says): create_model(name, 7, **kwargs)
