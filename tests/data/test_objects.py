"Images that objects of other libraries hold: what lies in the files, whatever their transformations do."
import numpy as np
import pytest
import torch
from fastai.vision.all import (
    CategoryBlock, DataBlock, ImageBlock, ImageDataLoaders, IntToFloatTensor, MultiCategoryBlock, Normalize,
    RandomSplitter, Resize, aug_transforms, imagenet_stats)
from PIL import Image
from torch.utils import data as torch_data
from torchvision import transforms
from torchvision.datasets import CIFAR10, FakeData, ImageFolder

from tests import miniature
from tests.common import says
from tests.data.common import photographs
from kd_knowledge.data import Images, get_dls, get_images, shapes
from kd_knowledge.distillation import classifier_learner

NORMAL = transforms.Compose(
    [transforms.Resize((24, 24)), transforms.ToTensor(), transforms.Normalize([.5] * 3, [.2] * 3)])


@pytest.fixture
def home(tmp_path): return photographs(tmp_path, splits=('train', 'val'), n=5)


def same(images, folder, split='valid'):
    expected = get_images(folder, split, size=24)
    assert images.vocab == expected.vocab and len(images) == len(expected)
    order = sorted(range(len(images)), key=lambda i: (images.y[i], images.x[i].sum()))
    expected_order = sorted(range(len(images)), key=lambda i: (expected.y[i], expected.x[i].sum()))
    assert torch.equal(images.x[order], expected.x[expected_order])


def test_torchvision_folders_and_what_is_made_of_them(home):
    folder = ImageFolder(home/'val', transform=NORMAL)
    same(get_images(folder, size=24), home)
    same(get_images(torch_data.DataLoader(folder, batch_size=3, shuffle=True), 'train', size=24), home)
    halves = [torch_data.Subset(folder, part) for part in (range(5), range(5, 10))]
    same(get_images(torch_data.ConcatDataset(halves), size=24), home)
    assert get_images(halves[1], size=24).y.tolist() == [1] * 5
    same(get_images([(str(p), p.parent.name) for p in (home/'val').rglob('*.jpg')], size=24), home)
    images = get_images(folder, size=24, n=4)
    assert torch.equal(images.at(32).at(24).x, images.x) and images.ids[0].startswith('china/')
    assert images.source == 'valid is the ImageFolder that was given (10 images of 2 classes)'
    assert folder.transform is NORMAL


@pytest.mark.parametrize('batch_tfms', [
    None, [Normalize.from_stats(*imagenet_stats)],
    [IntToFloatTensor(), *aug_transforms(), Normalize.from_stats(*imagenet_stats)]])
def test_fastai_loaders_give_what_lies_in_their_files(home, batch_tfms):
    dls = ImageDataLoaders.from_folder(
        home, valid='val', bs=4, num_workers=0, device='cpu', item_tfms=Resize(20), batch_tfms=batch_tfms)
    for split in ('train', 'valid'): same(get_images(dls, split, size=24), home, split)
    ours = get_dls(dls, bs=4, size=24, device='cpu')
    same(ours.valid_ds, home)
    assert (ours.c, len(ours.train_ds), ours.vocab) == (2, 10, ['china', 'flower'])


def test_fastai_loaders_of_other_items(home):
    rows = sorted((home/'val').rglob('*.jpg'))
    block = DataBlock((ImageBlock, CategoryBlock), get_x=lambda i: rows[i], get_y=lambda i: rows[i].parent.name,
                      splitter=RandomSplitter(.5, seed=0), item_tfms=Resize(20))
    dls = block.dataloaders(range(10), bs=2, num_workers=0, device='cpu')
    images = get_images(dls, size=24)
    assert len(images) == 5 and images.vocab == ['china', 'flower']
    expected = get_images([(rows[i], rows[i].parent.name) for i in dls.valid_ds.items], size=24)
    assert torch.equal(images.x, expected.x) and torch.equal(images.y, expected.y)
    several = DataBlock(
        (ImageBlock, MultiCategoryBlock), get_x=lambda i: rows[i], get_y=lambda i: [rows[i].parent.name])
    says(lambda: get_images(several.dataloaders(range(10), bs=2, num_workers=0)), 'label of image 0 has 2 values')


def test_arrays_and_pictures_of_torchvision(tmp_path, monkeypatch):
    miniature.cifar(tmp_path)
    miniature.trust(monkeypatch, tmp_path)
    sets = [CIFAR10(tmp_path, train=train, transform=NORMAL) for train in (True, False)]
    dls, expected = get_dls(tuple(sets), size=32, device='cpu'), get_dls('cifar10', root=tmp_path, device='cpu')
    for ours, theirs in zip((dls.train_ds, dls.valid_ds), (expected.train_ds, expected.valid_ds)):
        assert torch.equal(ours.x, theirs.x) and torch.equal(ours.y, theirs.y) and ours.vocab == theirs.vocab
    some = get_images(torch_data.Subset(sets[1], [3, 1]), size=32)
    assert torch.equal(some.x, expected.valid_ds.x[[3, 1]]) and some.vocab == expected.vocab
    fake = FakeData(6, (3, 30, 40), 3, transform=NORMAL)
    assert (get_images(fake, size=16).x.shape, len(get_images(fake, vocab=list('abc')).vocab)) == ((6, 3, 16, 16), 3)


def test_hugging_face(home):
    datasets = pytest.importorskip('datasets')
    files = {k: sorted((home/k).rglob('*.jpg')) for k in ('train', 'val')}
    names = datasets.ClassLabel(names=['china', 'flower'])
    def made(part, **more):
        y = [p.parent.name for p in files[part]]
        columns = dict(photo=list(map(str, files[part])), kind=y, **{k: y for k in more})
        return datasets.Dataset.from_dict(columns, datasets.Features(
            photo=datasets.Image(), kind=names, **more))
    both = datasets.DatasetDict(train=made('train'), validation=made('val').with_format('torch'))
    for split in ('train', 'valid'): same(get_images(both, split, size=24), home, split)
    same(get_dls(both, size=24, device='cpu').valid_ds, home)
    words = made('val', label=datasets.Value('string'))
    same(get_images(words, size=24), home)
    same(get_images(words, size=24, label='label'), home)
    says(lambda: get_images(made('val', fine=names)), 'label: the columns are photo, kind, fine', 'label=COLUMN')
    says(lambda: get_images(both['train'], image='none'), 'image: the columns are')


class Own(torch_data.Dataset):
    "A data set of one's own, of three items."
    def __init__(self, give): self.give = give
    def __len__(self): return 3
    def __getitem__(self, i): return self.give(i)


def test_data_sets_of_ones_own():
    grey = np.arange(256, dtype='uint8').reshape(16, 16)
    gives = [lambda i: (Image.fromarray(grey), i), lambda i: (grey, np.int64(i)), lambda i: dict(image=grey, label=i),
             lambda i: (torch.tensor(grey)[None].expand(3, 16, 16) / 255, torch.tensor([i]))]
    for give in gives:
        images = get_images(Own(give), size=16)
        assert torch.equal(images.x, torch.tensor(grey).expand(3, 3, 16, 16)) and images.y.tolist() == [0, 1, 2]
        assert images.vocab == ['class 0', 'class 1', 'class 2'] and list(images.ids) == [0, 1, 2]
        assert get_images(Own(give), vocab=list('abcd'), n=2, size=8).vocab == list('abcd')


@pytest.mark.parametrize('give,text', [
    (lambda i: (torch.randn(3, 8, 8), i), 'outside [0, 1]'), (lambda i: (torch.rand(3, 8, 8), i), 'another image 0'),
    (lambda i: (torch.zeros(3, 8, 8), i - 1), 'labels from -1'), (lambda i: (torch.zeros(3, 8, 8), 'a'), "is 'a'"),
    (lambda i: (torch.zeros(3, 8, 8), [0, 1]), 'has 2 values'), (lambda i: torch.zeros(3, 8, 8), 'no pair'),
    (lambda i: (torch.zeros(7, 8, 8), i), 'shape'), (lambda i: ('a.png', i), 'image 0 is str'),
    (lambda i: (torch.zeros(3, 8, 8).long(), i), 'type int64'), (lambda i: 1 / 0, 'cannot be read (ZeroDivisionError'),
    (lambda i: (torch.zeros(3, 8, 8), .5), 'no class index'),
    (lambda i: (torch.zeros(3, 8, 8), None), 'no class index')])
def test_data_sets_that_are_refused(give, text): says(lambda: get_images(Own(give)), text)


@pytest.mark.parametrize('obj,text', [
    (7, 'int is no set'), (torch.zeros(2, 3, 8, 8), 'Give Images('), (np.zeros((2, 8, 8, 3)), 'Give Images('),
    ([], 'list of'),
    ([1, 2], 'not a list of (path, class)'), (('a', 'b'), 'str is no set'), ({}, 'has no valid part'),
    ({'extra': []}, 'has no valid part, but extra'), (None, 'NoneType is no set'), ([('no.png', 'a')], 'cannot read')])
def test_objects_that_are_no_images(obj, text): says(lambda: get_images(obj), text)


def test_images_and_loaders_of_ours(home):
    train, valid = shapes(6, size=16), shapes(4, size=16, start=9)
    dls = get_dls((train, valid), size=16, bs=2, device='cpu')
    assert dls.train_ds is train and get_images(dls, size=16) is valid and len(get_images(valid, size=16, n=2)) == 2
    assert torch.equal(get_images(dls, size=24).x, shapes(4, size=24, start=9).x)
    assert get_images(valid) is valid
    says(lambda: get_images(valid, n=5), 'n: 5 asked for')
    says(lambda: get_dls(valid), 'one set of images', 'get_dls((train, valid)')
    says(lambda: get_dls(ImageFolder(home/'val')), 'one set of images')
    bare = Images(valid.x, valid.y, valid.vocab, 16)
    says(lambda: get_images(bare, size=32), 'nobody knows how')
    says(lambda: get_images(
        Own(lambda i: (torch.zeros(3, 8, 8), i)), cache=home.parent/'cache'), 'are no files')


def test_a_learner_takes_loaders_with_an_index_only(home):
    dls = ImageDataLoaders.from_folder(home, valid='val', bs=4, num_workers=0, item_tfms=Resize(20), device='cpu')
    says(lambda: classifier_learner(dls), 'dls: the batches of DataLoaders have no index', 'get_dls(dls, size=64)')
    says(lambda: classifier_learner(torch_data.DataLoader([1])), 'dls: the batches of DataLoader')
    classifier_learner(get_dls(dls, bs=4, size=16, device='cpu')).fit(1)
