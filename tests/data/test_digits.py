"Small grey images, as they are and in colour and on photographs."
import gzip

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from tests.common import FASHION, needs_fashion, says
from kd_knowledge.data import get_images, hash_uniform
from kd_knowledge.data.folders import _split_indices


def raw_digits(split):
    "The valid digits as the file has them, 8 x 8 bytes."
    data = load_digits()
    return (torch.from_numpy(data.images)[_split_indices(torch.from_numpy(data.target), split, 0)] * (255 / 16)).round()


@needs_fashion
def test_fashion_mnist():
    valid = get_images('fashion_mnist')
    assert (len(valid), valid.size, valid.x.shape[1:]) == (10000, 28, (3, 28, 28))
    assert valid.y.bincount().tolist() == [1000] * 10 and abs(valid.x[:, 0].float().mean() / 255 - .2868) < .001
    assert len(get_images('fashion_mnist', 'train', n=500, size=32)) == 500


@needs_fashion
def test_torchvision_layout_and_truncated_download(tmp_path):
    raw = tmp_path/'FashionMNIST'/'raw'
    raw.mkdir(parents=True)
    for name in ('images-idx3', 'labels-idx1'):
        (raw/f't10k-{name}-ubyte').write_bytes(gzip.decompress((FASHION/f't10k-{name}-ubyte.gz').read_bytes()))
    assert len(get_images('fashion_mnist', root=tmp_path)) == 10000
    for path in raw.iterdir(): path.write_bytes(path.read_bytes()[:5000])
    says(lambda: get_images('fashion_mnist', root=tmp_path), 'not a whole IDX file')


@pytest.mark.parametrize('split,start', [('train', 0), ('valid', 10_000_000)])
def test_digits_in_color_and_on_photographs(split, start):
    raw = raw_digits(split)
    orig, color, m = (get_images('digits', split, size=8, domain=d) for d in ('orig', 'color', 'm'))
    assert torch.equal(orig.x, get_images('digits', split, size=8).x) and torch.equal(orig.x[:, 1].float(), raw)
    assert (color.x.permute(0, 2, 3, 1)[raw == 255] == 255).all()
    i = 17
    c = torch.from_numpy(hash_uniform(0, start + i, np.arange(3)))[:, None, None]
    assert torch.equal(color.x[i].double(), (raw[i] + (255 - raw[i]) * c).round())
    u = hash_uniform(0, start + i, np.arange(3, 6))
    photograph = Image.fromarray(load_sample_images().images[int(2 * u[0])])
    scale = 128 / photograph.height
    small = np.asarray(photograph.resize((round(photograph.width * scale), 128), Image.BILINEAR)).astype(int)
    top, left = int(u[1] * (small.shape[0] - 7)), int(u[2] * (small.shape[1] - 7))
    expected = abs(small[top:top + 8, left:left + 8] - raw[i].numpy()[..., None])
    assert np.array_equal(m.x[i].permute(1, 2, 0).numpy(), expected)


def test_domains_of_digits_repeat_and_splits_differ():
    for domain in ('color', 'm'):
        which = ('valid', 0), ('valid', 0), ('train', 0), ('valid', 1)
        one, again, train, other = (get_images('digits', s, domain=domain, n=40, seed=seed) for s, seed in which)
        assert torch.equal(one.x, again.x) and not torch.equal(one.x, train.x) and not torch.equal(one.x, other.x)
        assert not set(map(bytes, one.x.numpy())) & set(map(bytes, train.x.numpy()))
        every = get_images('digits', domain=domain)
        # the choice of n comes before, the place in the split decides
        assert set(map(bytes, one.x.numpy())) <= set(map(bytes, every.x.numpy()))


def test_photographs_from_a_folder(tmp_path):
    Image.new('RGB', (50, 40), (10, 20, 30)).save(tmp_path/'a.png')
    Image.new('RGB', (5, 4), (10, 20, 30)).save(tmp_path/'small.png')
    images = get_images('digits', size=8, domain='m', photographs=tmp_path)
    expected = (torch.tensor([10, 20, 30]).view(3, 1, 1) - raw_digits('valid')[:, None]).abs()
    assert torch.equal(images.x.float(), expected)
    says(lambda: get_images('digits', domain='m', photographs=tmp_path/'none'), 'photographs', 'no image in')
    (tmp_path/'b.png').write_bytes(b'no image')
    says(lambda: get_images('digits', domain='m', photographs=tmp_path), 'cannot read', 'b.png')


@needs_fashion
def test_fashion_mnist_on_photographs():
    orig, m = (get_images('fashion_mnist', domain=d, n=50) for d in ('orig', 'm'))
    place = (get_images('fashion_mnist').x[:, 0] == orig.x[7, 0]).flatten(1).all(1).nonzero().item()
    u = hash_uniform(0, 10_000_000 + place, np.arange(3, 6))
    photograph = load_sample_images().images[int(2 * u[0])].astype(int)
    top, left = int(u[1] * (photograph.shape[0] - 27)), int(u[2] * (photograph.shape[1] - 27))
    patch = photograph[top:top + 28, left:left + 28].transpose(2, 0, 1)
    assert np.array_equal(m.x[7].numpy(), abs(patch - orig.x[7].numpy().astype(int)))
