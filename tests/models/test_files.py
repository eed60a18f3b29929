"From what a person types to a network: the same answers as the network that was saved, or one line."
import json
from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from kd_knowledge.core import KDError, noted
from kd_knowledge.models import create_model, load_model, load_network, save_model
from tests.models.common import pixels

X = pixels(32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope='module')
def net(): return create_model('resnet_small', 5, seed=1).eval()


def under(prefix, state): return {f'{prefix}{k}': v for k, v in state.items()}


def lightning(state):
    return dict(state_dict=under('model.', state) | {'criterion.weight': torch.ones(3)}, hyper_parameters=dict(lr=.1))


KINDS = {'resnet_small.pth': dict, 'resnet_small-f37072fd.pth': dict, 'resnet_small.bin': dict,
         'resnet_small.ckpt': lightning, 'resnet_small@lr=.1/w.pth': dict,
         'resnet_small@ddp.pth.tar': lambda s: dict(state_dict=under('module._orig_mod.', s)),
         'resnet_small@ema.pt': lambda s: dict(model=s, model_ema=s, epoch=3)}


@pytest.mark.parametrize('what', KINDS)
def test_a_state_dict_is_read_and_what_was_assumed_is_told(what, here, net):
    path = here/what.rpartition('@')[2]
    path.parent.mkdir(exist_ok=True)
    torch.save(KINDS[what](dict(net.net.state_dict())), path)
    with noted() as notes: found = load_network(what)
    assert torch.equal(found(X), net(X)) and found.recipe['n_classes'] == 5
    assert len(notes) == 1 and 'of 5 classes' in notes[0] and 'pixels normalised by mean' in notes[0]
    assert torch.equal(load_model(save_model(found, here/'kept'))(X), net(X))


@pytest.mark.parametrize('what', ['resnet18.pth', 'timm:resnet18@best.pt'])
def test_weights_of_known_architectures(what, here):
    net = create_model('resnet18', 5, seed=1).eval()
    torch.save(net.net.state_dict(), what.rpartition('@')[2])
    assert torch.equal(load_network(what)(X), net(X))


def test_own_weights_keep_their_statistics(here):
    net = create_model('resnet_small', 4, seed=0, mean=.25).eval()
    torch.save(net.state_dict(), 'w.pt')
    assert torch.equal(load_network('resnet_small@w.pt')(X), net(X))


def hub(net, folder, name='model.safetensors', **more):
    folder.mkdir()
    save = save_file if name.endswith('.safetensors') else torch.save
    save(net.net.state_dict(), folder/name)
    cfg = dict(mean=[.5]*3, std=[.25]*3, label_names=['a', 'b', 'c'])
    (folder/'config.json').write_text(json.dumps(dict(architecture='resnet18', num_classes=3, pretrained_cfg=cfg) | more))


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_a_folder_as_timm_writes_it(name, here):
    net = create_model('timm:resnet18', 3, seed=0, mean=.5, std=.25).eval()
    hub(net, here/'hub', name)
    for what in ('hub', 'hub/config.json', 'timm:local-dir:hub', 'local-dir:hub', 'hf:hub'):
        found = load_network(what)
        assert torch.equal(found(X), net(X)) and found.recipe['classes'] == ['a', 'b', 'c']


def test_a_folder_that_timm_wrote(here):
    net = timm.create_model('resnet18', num_classes=3).eval()
    timm.models.save_for_hf(net, here/'hub', model_config=dict(label_names=['x', 'y', 'z']))
    found = load_network('hub')
    mean, std = (torch.tensor(net.pretrained_cfg[k]).view(3, 1, 1) for k in ('mean', 'std'))
    assert torch.allclose(found(X), net((X - mean)/std), atol=1e-5) and found.recipe['classes'] == ['x', 'y', 'z']


def test_a_folder_that_transformers_wrote(here):
    transformers = pytest.importorskip('transformers', reason='make env brings it')
    options = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    labels = dict(id2label={0: 'cat', 1: 'dog', 2: 'cow'}, label2id=dict(cat=0, dog=1, cow=2))
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=3, **options, **labels)
    net = transformers.ViTForImageClassification(config).eval()
    net.save_pretrained('vit')
    with noted() as notes: found = load_network('hf:vit')
    want = net((X - .5)/.5).logits
    assert torch.equal(found(X), want) and found.recipe['classes'] == ['cat', 'dog', 'cow'] and 'the default' in notes[0]
    assert torch.equal(load_model(save_model(found, here/'kept'))(X), want)
    (here/'vit'/'preprocessor_config.json').write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    assert torch.equal(load_network('vit')(X), net(X).logits)
    net.vit.save_pretrained('half')
    with pytest.raises(KDError, match='2 are missing .classifier'): load_network('half')


WRONG = {'no/such.pth': 'there is no', 'resnet18@no.pth': 'there is no file', 'best.pth': 'ARCHITECTURE@FILE',
         'resnet50@best.pth': '165 are missing .layer1.0.conv3.weight', 'resnt18@best.pth': 'resnet18',
         'timm:local-dir:no': 'no folder', 'empty': 'no config.json', 'one.npz': 'answers:FILE', 'resnet_small@hp.ckpt': 'Namespace',
         'resnet18@torn.pth': 'can be read', 'resnet18@list.pt': 'a list', 'resnet18@one.pth': 'one logit'}


@pytest.fixture(scope='module')
def wrong(tmp_path_factory, net):
    folder = tmp_path_factory.mktemp('wrong')
    torch.save(timm.create_model('resnet18', num_classes=5).state_dict(), folder/'best.pth')
    torch.save(lightning(net.net.state_dict()) | dict(hyper_parameters=Namespace(lr=.1)), folder/'hp.ckpt')
    torch.save([1], folder/'list.pt')
    torch.save(timm.create_model('resnet18', num_classes=1).state_dict(), folder/'one.pth')
    (folder/'torn.pth').write_bytes((folder/'best.pth').read_bytes()[:5000])
    (folder/'one.npz').touch()
    (folder/'empty').mkdir()
    return folder


@pytest.mark.parametrize('what', WRONG)
def test_what_is_no_network_is_one_line(what, wrong, monkeypatch):
    monkeypatch.chdir(wrong)
    with pytest.raises(KDError, match=WRONG[what]) as e: load_network(what)
    assert '\n' not in str(e.value)
