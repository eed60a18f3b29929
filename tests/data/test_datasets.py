"One function for all data sets: bad arguments, groups, sizes, domains."
import pickle

import pytest
import torch

from tests.common import says
from tests.data.common import photographs
from kd_knowledge.data import GROUPS, Images, domain_images, domains, get_dls, get_images, shapes


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
