"The paper's data sets in miniature, in the layouts in which they are handed out."
import pytest
import torch

from tests import miniature
from tests.common import says
from tests.data.common import photographs
from kd_knowledge.data import SIXTEEN, domain_images, get_dls, get_images, image_files


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist', 'cifar10', 'cifar100', 'imagenette'])
def test_missing_data_set_says_how(tmp_path, name, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'fastai'))
    says(lambda: get_images(name, root=tmp_path), str(tmp_path), 'MB', 'python -c')


@pytest.mark.parametrize('name', ['imagenet', 'pacs', 'vlcs', 'model_vs_human', 'fairface'])
def test_missing_set_says_where_and_how(tmp_path, name):
    says(lambda: get_images(name, root=tmp_path), f'{name} was not found in {tmp_path}', 'Get it (')


def test_cifar_and_imagenette_in_their_layouts(tmp_path, monkeypatch):
    miniature.cifar(tmp_path)
    says(lambda: get_images('cifar10', root=tmp_path), 'was not found')
    miniature.trust(monkeypatch, tmp_path)
    assert [len(get_images('cifar10', split, root=tmp_path)) for split in ('train', 'valid')] == [100, 100]
    assert get_images('cifar100', root=tmp_path).y.tolist() == list(range(100))
    photographs(tmp_path/'imagenette2-160', splits=('train', 'val'), n=2)
    assert get_images('imagenette', root=tmp_path).x.shape == (4, 3, 128, 128)


@pytest.mark.parametrize('name,make,facts', [
    ('pacs', miniature.pacs, miniature.PACS), ('vlcs', miniature.vlcs, miniature.VLCS)])
def test_pacs_and_vlcs(tmp_path, name, make, facts):
    (domains, classes), root = facts, make(tmp_path)
    train, valid = (get_images(name, split, size=16, domain=domains[:3], root=root) for split in ('train', 'valid'))
    assert train.vocab == sorted(classes) and train.y.bincount().tolist() == [12] * len(classes)
    assert len(valid) == 3 * len(classes)
    inside = get_images(name, size=16, domain=domains[3].upper(), root=next(p for p in tmp_path.iterdir()))
    assert torch.equal(inside.x, get_images(name, size=16, domain=domains[3], root=root).x)
    assert len(get_images(name, size=16, root=root)) == 4 * len(classes)
    assert sorted(domain_images(name, size=16, root=root, n=3)) == sorted(domains)
    dls = get_dls(name, bs=4, size=16, domain=domains[:2], root=root, n_train=10, n_valid=5, device='cpu')
    assert (len(dls.train_ds), len(dls.valid_ds)) == (20, 10)
    says(lambda: get_images(name, domain=domains[0][:-1] + 'x', root=root), 'domain', f'Did you mean {domains[0]}')


def test_domains_that_disagree(tmp_path):
    root = miniature.pacs(tmp_path, n=2)
    (tmp_path/'PACS'/'cartoon'/'dog').rename(tmp_path/'PACS'/'cartoon'/'cat')
    says(lambda: get_images('pacs', domain='photo', root=root), 'cartoon lacks dog', 'photo lacks cat')


def test_imagenet(tmp_path):
    root = miniature.imagenet(tmp_path)
    train, valid = (get_images('imagenet', split, root=root) for split in ('train', 'valid'))
    assert (len(train), len(valid), train.size, train.vocab) == (18, 6, 224, valid.vocab)
    assert torch.equal(get_images('imagenet', root=tmp_path/'imagenet').x, valid.x)
    flat = tmp_path/'imagenet'/'val'
    for p in image_files(flat): p.rename(flat/p.name)
    for p in list(flat.iterdir()): p.is_dir() and p.rmdir()
    says(lambda: get_images('imagenet', root=root), 'no class folders', 'Sort')


def test_model_vs_human(tmp_path):
    root = miniature.model_vs_human(tmp_path)
    every = domain_images('model_vs_human', root=root, size=16)
    assert set(every) == {'sketch', 'stylized', 'silhouette', 'edge', 'cue conflict'}
    for name, images in every.items():
        assert images.vocab == list(SIXTEEN) and sorted(images.y.tolist()) == list(range(16))
        assert images.cues.keys() == ({'texture'} if name == 'cue conflict' else set())
    conflict = get_images('model_vs_human', domain='cue-conflict', root=root, size=16)
    assert torch.equal(conflict.cues['texture'], (conflict.y + 3) % 16)
    says(lambda: get_images('model_vs_human', 'train', root=root, domain='sketch'), 'split', 'no train split')
    session = tmp_path/'model-vs-human'/'datasets'/'sketch'/'dnn'/'session-1'
    (session/'0099_ske_dnn_0_unicorn_00_unicorn-1.png').write_bytes(b'')
    says(lambda: get_images('model_vs_human', domain='sketch', root=root), 'no class in the name', 'unicorn')


def test_cue_conflict_with_sessions(tmp_path):
    folder = tmp_path/'cue-conflict'
    miniature.save(folder/'dnn'/'session-1'/'0001_cue_dnn_0_airplane_00_airplane1-bicycle2.png', 0, 0, 32)
    miniature.save(folder/'dnn'/'session-1'/'0002_cue_dnn_0_cat_00_cat7-bird1.png', 0, 0, 32)
    images = get_images('model_vs_human', domain='cue conflict', root=tmp_path)
    names = [[images.vocab[k] for k in v] for v in (images.y, images.cues['texture'])]
    assert names == [['airplane', 'cat'], ['bicycle', 'bird']]


def test_fairface(tmp_path):
    root = miniature.fairface(tmp_path)
    train, valid = (get_images('fairface', split, root=root) for split in ('train', 'valid'))
    assert (len(train), len(valid), train.size, train.vocab) == (42, 21, 64, ['Female', 'Male'])
    assert train.group_vocab == sorted(miniature.RACES) and train.groups.bincount().tolist() == [6] * 7
    assert [train.group_vocab[k] for k in train.groups[:7]] == miniature.RACES
    assert get_images('fairface', root=root, label='Age').vocab[1] == '3-9'
    assert torch.equal(get_images('fairface', root=root, label='race').y, valid.groups)
    says(lambda: get_images('fairface', root=root, label='name'), 'label', 'Give one of gender, age, race')
    counts = [6, 1, 2, 0, 3, 0, 4]
    chosen = get_dls('fairface', bs=4, root=root, train_groups=counts, size=16, device='cpu')
    assert chosen.train_ds.groups.bincount(minlength=7).tolist() == counts and len(chosen.valid_ds) == 21
    assert torch.equal(chosen.train_ds.at(64).at(16).x, chosen.train_ds.x)
    refusals = [
        (dict(train_groups=[7] * 7), '7 of Black asked for'), (dict(train_groups=[1, 2]), 'Give 7 numbers'),
        (dict(train_groups=counts, n=9), 'train_groups are 16'), (dict(train_groups=[0] * 7), 'train_groups: got')]
    for kwargs, text in refusals:
        says(lambda: get_images('fairface', 'train', root=root, **kwargs), text)
    (tmp_path/'fairface'/'fairface_label_val.csv').write_text('file,age,gender,race\nval/1.jpg,0-2,Robot,White\n')
    says(lambda: get_images('fairface', root=root), 'Robot')
