"Networks by name, on disk and back; what is refused."
import json
import pickle
import urllib.error

import pytest
import torch
import torchvision
import torchvision.models._api as tv_api
from torch import nn

from kd_knowledge.core import KDError
from kd_knowledge.models import IMAGENET, Normalise, core, create_model, frozen, load_model, model_names, save_model
from tests.models.common import pixels


@pytest.mark.parametrize('name', ['resnet_small', 'mnist_cnn', 'resnet18', 'googlenet', 'timm:resnet18'])
def test_weights_are_a_function_of_the_seed(name):
    torch.manual_seed(1)
    a = torch.rand(1)
    torch.manual_seed(1)
    first = create_model(name, 5, seed=3)
    b = torch.rand(1)
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
    source = torchvision.models.resnet18(weights=None)
    stored(monkeypatch, resnet18=source)
    whole = create_model('resnet18', pretrained='IMAGENET1K_V1')
    cut = create_model('resnet18', 5, pretrained=True, seed=0)
    assert whole.recipe['n_classes'] == 1000 and torch.equal(whole.net.fc.weight, source.fc.weight)
    assert cut.recipe['new_head'] and 'new_head' not in whole.recipe
    assert cut(pixels()).shape == (2, 5) and torch.equal(cut.net.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    again = load_model(save_model(cut, tmp_path/'cut'))
    with frozen(cut): assert torch.equal(again(pixels()), cut(pixels()))
    with pytest.raises(KDError, match='IMAGENET1K_V1'): create_model('resnet18', pretrained='V9')


def test_pretrained_googlenet_sees_the_same_pixels(monkeypatch, tmp_path):
    source = torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True)
    stored(monkeypatch, googlenet=source)
    net, normal = create_model('googlenet', pretrained=True).eval(), Normalise(**IMAGENET)
    assert torch.allclose(net(pixels()), source.eval()(normal(pixels())), atol=1e-4)
    again = load_model(save_model(net, tmp_path/'net'))
    assert torch.equal(again(pixels()), net(pixels()))


def test_a_failed_download_says_which_file(monkeypatch):
    def fail(*args, **kwargs): raise urllib.error.URLError('no route')
    monkeypatch.setattr(tv_api, 'load_state_dict_from_url', fail)
    file = r'ResNet18_Weights.*no route.*checkpoints/resnet18-\w+\.pth'
    with pytest.raises(KDError, match=file) as e: create_model('resnet18', 5, pretrained=True)
    assert '\n' not in str(e.value)


BAD = [(dict(name='resnt18'), 'resnet18'), (dict(name='timm:resnt18'), 'resnet18'),
       (dict(name='resnet_small'), 'n_classes'), (dict(name='resnet18', n_classes=1), 'n_classes'),
       (dict(name='resnet18', n_classes=2.5), 'n_classes'), (dict(name='mnist_cnn', n_classes=5, width=3), 'kwargs'),
       (dict(name='resnet18', n_classes=5, widht=3), 'kwargs'),
       (dict(name='resnet_small', n_classes=5, depth=0), 'depth'),
       (dict(name='resnet_small', n_classes=5, std=0.), 'std'),
       (dict(name='mnist_cnn', n_classes=5, pretrained=True), 'pretrained'),
       (dict(name='no_such_package:f'), 'PYTHONPATH'), (dict(name='math:no_such'), 'not to be found'),
       (dict(name=':f'), 'not to be found'), (dict(name='builtins:dict'), 'nn.Module')]


@pytest.mark.parametrize('given,says', BAD, ids=lambda v: str(v)[:40])
def test_bad_input_is_one_line(given, says):
    with pytest.raises(KDError, match=says) as e: create_model(**given)
    assert '\n' not in str(e.value)


def test_every_name_is_known():
    assert {'resnet_small', 'mnist_cnn', 'resnet50', 'vit_b_32', 'swin_b'} <= set(model_names())


SAVED = [('resnet_small', 32, dict(width=8, depth=2)), ('mnist_cnn', 28, {}), ('squeezenet1_1', 64, dict(mean=.4)),
         ('timm:convnext_atto', 64, {}), ('torchvision.models:shufflenet_v2_x0_5', 64, {})]


@pytest.mark.parametrize('name,size,kwargs', SAVED)
def test_saved_and_loaded(name, size, kwargs, tmp_path):
    net = create_model(name, 5, seed=1, **kwargs).to(memory_format=torch.channels_last).train()
    net(pixels(size))  # moves the running statistics
    save_model(net, tmp_path/'a'/'net.v1')
    rng = torch.get_rng_state()
    for path in ('net.v1', 'net.v1.safetensors', 'net.v1.json'):
        again = load_model(tmp_path/'a'/path, trust=[name])
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
    saved = save_model(net, tmp_path/'tied')
    with pytest.raises(KDError, match='trust=True'): load_model(saved)
    again = load_model(saved, trust=True)
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


def spoil_swap(w, j): core._save_weights(create_model('resnet_small', 5, seed=9), str(w))


SPOILS = [v for k, v in sorted(globals().items()) if k.startswith('spoil_')]


@pytest.mark.parametrize('spoil', SPOILS, ids=lambda f: f.__name__)
def test_a_spoiled_checkpoint_is_refused(spoil, saved, monkeypatch):
    spoil(*saved)
    def never(*args, **kwargs): raise AssertionError('unpickled')
    for where, name in (torch, 'load'), (pickle, 'load'), (pickle, 'loads'), (pickle, 'Unpickler'):
        monkeypatch.setattr(where, name, never)
    with pytest.raises(KDError, match='^path: .*net') as e: load_model(saved[0])
    assert '\n' not in str(e.value)


def test_a_pickled_checkpoint_is_not_opened(tmp_path):
    torch.save({}, tmp_path/'teacher.pth')
    with pytest.raises(KDError, match='pickled'): load_model(tmp_path/'teacher.pth')


def test_a_failed_save_harms_nothing(saved, monkeypatch, tmp_path):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def full(net, path):
        open(path, 'wb').write(b'half')
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m, pytest.raises(KDError, match='No space left'):
        m.setattr(core, '_save_weights', full)
        save_model(create_model('resnet_small', 5, seed=1), saved[0])
    inside = saved[0]/'inside'/'a file'
    with pytest.raises(KDError, match='could not be written'): save_model(create_model('mnist_cnn', 5), inside)
    net = create_model('mnist_cnn', 5)
    net.recipe['kwargs']['f'] = print
    with pytest.raises(KDError, match='recipe'): save_model(net, tmp_path/'other')
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
