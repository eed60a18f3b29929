"One function for all data sets: bad arguments, groups, sizes, domains."
import pickle
from dataclasses import replace

import pytest
import torch

from tests.common import says
from tests.data.common import photographs
from kd_knowledge.data import (
    DATASETS, GROUPS, DataSet, Images, domain_images, domains, get_dls, get_images, offers, register_data, shapes)
from kd_knowledge.data.datasets import _record_of


@pytest.mark.parametrize('kwargs,text', [
    (dict(data='fashion'), 'Did you mean fashion_mnist'), (dict(data='xyzzy'), 'Give one of shapes'),
    (dict(data='xyzzy'), 'or a folder of class folders'), (dict(data='/no/folder'), 'no folder'),
    (dict(data='/no/folder'), 'or one of shapes, digits, mnist'), (dict(split='test'), 'split'),
    (dict(n=0), 'n: got 0'), (dict(n=-3), 'n: got -3'), (dict(n=2.5), 'n: got 2.5'), (dict(n=True), 'n: got True'),
    (dict(size=4), 'size: got 4'), (dict(size='32'), 'size'), (dict(cue=1.5), 'cue: got 1.5'),
    (dict(domain='fog'), 'domain'), (dict(seed=-1), 'seed: got -1'),
    (dict(colour=1), 'colour: shapes has no such option'), (dict(data='digits', root='.'), 'root'),
    (dict(data='digits', n=5000), 'Give at most 359'), (dict(n=10**8), 'Give at most')])
def test_bad_arguments(kwargs, text): says(lambda: get_images(**kwargs), text)


def test_train_groups_of_shapes_are_exact():
    counts = [60, 5, 200, 20, 0, 20, 80]
    dls = get_dls(train_groups=counts, size=8, n_valid=50, device='cpu')
    assert dls.train_ds.groups.bincount(minlength=7).tolist() == counts and dls.train_ds.group_vocab == GROUPS
    assert torch.equal(dls.valid_ds.x, get_images(size=8, n=50).x)
    world = shapes(2000, size=8)
    first = torch.cat([(world.groups == k).nonzero().flatten()[:c] for k, c in enumerate(counts)]).sort().values
    assert torch.equal(dls.train_ds.x, world.x[first])
    assert len(get_images('shapes', 'train', size=8, n=385, train_groups=counts)) == 385
    refusals = [
        (dict(n=384), 'n: 384 asked for'), (dict(train_groups=[1]), 'Give 7 numbers of images, for red'),
        (dict(train_groups='600,50'), 'Give 7 numbers'),
        (dict(train_groups=[-1] * 7), 'train_groups'), (dict(train_groups=[.5] * 7), 'train_groups')]
    for kwargs, text in refusals:
        says(lambda: get_images('shapes', 'train', **{'train_groups': counts, **kwargs}), text)
    says(lambda: get_dls(train_groups=counts, n_train=10, device='cpu'), 'n_train: 10 asked for')


def test_at_another_size(tmp_path):
    images = get_images(n=20, domain='sketch').subset([3, 1]).with_labels([0, 1])
    larger = images.at(48)
    assert torch.equal(larger.x, get_images(n=20, domain='sketch', size=48).x[[3, 1]]) and larger.y.tolist() == [0, 1]
    assert torch.equal(larger.at(32).x, images.x) and larger.masks.shape == (2, 48, 48)
    photographs(tmp_path)
    for memory in (2e9, 0):
        files = get_images(tmp_path, 'train', size=24, n=5, memory=memory).subset([4, 0])
        again = files.at(40)
        assert again.in_memory == files.in_memory
        assert torch.equal(again.pixels([0, 1]), get_images(tmp_path, 'train', size=40, n=5).pixels([4, 0]))
    again = pickle.loads(pickle.dumps(files))
    assert torch.equal(again.at(32).pixels([1]), files.at(32).pixels([1]))
    says(lambda: files.at(4), 'size: got 4')
    says(lambda: Images(images.x, images.y, images.vocab, 32).at(64), 'nobody knows how', 'maker')


def test_several_domains_of_shapes():
    both = get_images(n=6, size=8, domain=['photo', 'sketch'])
    assert torch.equal(both.x[6:], domains('sketch', 6, size=8).x) and torch.equal(both.y[:6], both.y[6:])
    every = domain_images(n=6, size=8, cue=1., domain='photo', train_groups=[1] * 7)
    assert list(every) == ['sketch', 'stylized', 'silhouette', 'edge', 'cue conflict']
    assert torch.equal(every['edge'].x, domains('edge', 6, size=8, cue=1.).x)
    assert domain_images('fairface') == domain_images('imagenet') == {}
    says(lambda: domain_images('shaps'), 'Did you mean shapes')
    says(lambda: domain_images('digits', 'colour'), 'Did you mean color')
    says(lambda: get_images(domain=[]), 'domain: an empty list')
    says(lambda: get_images('cifar10', domain='sketch', root='.'), 'domain: cifar10 has no such option')


# a data set of one's own
def read_bars(split, seed, root=None, domain='orig', thick=2):
    "Grey bars, upright or level; in domain `dim` half as bright; on disk nowhere, so `root` moves nothing."
    y = torch.arange(30 if split == 'train' else 10) % 2
    x = torch.zeros(len(y), 8, 8, dtype=torch.uint8)
    x[y == 0, :, 3:3 + thick], x[y == 1, 3:3 + thick] = 200, 200
    dim = lambda x, idxs: x // 2 if domain == 'dim' else x
    return x, y, ['upright', 'level'], dict(groups=y, group_vocab=['a', 'b'], paint=dim)


@pytest.fixture
def bars():
    "The record of a data set that is known while a test lasts."
    yield register_data(DataSet('bars', 8, read_bars, domains=lambda root: ['orig', 'dim'], knows=('groups',)))
    del DATASETS['bars']


def test_a_registered_data_set_is_one_like_any_other(bars):
    assert offers('bars') == {'domains', 'groups'} and _record_of('BARS') is bars
    images = get_images('bars', n=4, seed=1)
    assert (len(images), images.size, images.vocab, images.group_vocab) == (4, 8, ['upright', 'level'], ['a', 'b'])
    assert torch.equal(images.groups, images.y) and images.x.max() == 200
    assert torch.equal(pickle.loads(pickle.dumps(images)).at(16).x, get_images('bars', n=4, seed=1, size=16).x)
    assert {k: v.x.max().item() for k, v in domain_images('bars').items()} == dict(orig=200, dim=100)
    dls = get_dls('bars', bs=6, device='cpu', domain=['orig', 'dim'], thick=3)
    assert (len(dls.train_ds), len(dls.valid_ds), dls.c) == (60, 20, 2)
    assert dls.valid_ds.x[0].count_nonzero() == 3 * 3 * 8
    says(lambda: get_images('bars', n=11), 'n: 11 asked for, valid of bars has 10')
    says(lambda: get_images('bars', thin=1), 'thin: bars has no such option', 'root, domain, thick')
    says(lambda: get_images('bers'), 'Did you mean bars')


def test_sets_of_which_all_domains_are_meant(bars):
    register_data(replace(bars, joined=True))
    assert [len(get_images('bars', **args)) for args in (dict(), dict(n=3), dict(domain='dim'))] == [20, 6, 10]


@pytest.mark.parametrize('change,text', [
    (dict(draw=read_bars), 'Give either read or draw'), (dict(read=None), 'Give either read or draw'),
    (dict(size=4), 'size: got 4'), (dict(knows=('group',)), 'Did you mean groups')])
def test_records_that_contradict_themselves(bars, change, text):
    says(lambda: register_data(replace(bars, **change)), text)


def test_what_was_removed_is_unknown(): says(lambda: get_images('bars'), "data: 'bars' is unknown")


def test_a_folder_with_a_data_sets_name_is_no_riddle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path/'digits', n=2)
    says(lambda: get_images('digits'), 'Give ./digits for the folder')
    assert get_images('./digits').vocab == get_images(tmp_path/'digits').vocab == ['china', 'flower']
    (tmp_path/'digits'/'steps').mkdir()  # a run folder of ours
    assert len(get_images('digits', n=3)) == 3
