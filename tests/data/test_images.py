"Image files of every kind, and sets of images."
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from tests.common import says
from tests.data.common import photographs
from kd_knowledge.data import GROUPS, Images, domains, get_images, join, read_image, shapes


MODES = ['RGB', 'L', 'CMYK', 'P', 'RGBA', 'LA', '1', 'I;16']


@pytest.mark.parametrize('mode', MODES)
def test_every_mode(tmp_path, mode):
    path = tmp_path/('a.tif' if mode == 'CMYK' else 'a.png')
    if mode == 'I;16': Image.fromarray(np.full((40, 50), 65535, 'uint16')).save(path)
    else: Image.new('RGB', (50, 40), 'white').convert(mode).save(path)
    seen = read_image(path, 16)
    assert seen.shape == (16, 16, 3) and seen.dtype == np.uint8 and seen.min() > 250


def test_cmyk_and_grey_jpeg(tmp_path):
    for mode in ('CMYK', 'L'):
        Image.new('RGB', (50, 40), (128, 128, 128)).convert(mode).save(tmp_path/f'{mode}.jpg')
        assert abs(read_image(tmp_path/f'{mode}.jpg', 16).astype(int) - 128).max() < 6


def test_transparent_is_white(tmp_path):
    Image.new('RGBA', (20, 20), (255, 0, 0, 0)).save(tmp_path/'a.png')
    assert read_image(tmp_path/'a.png', 16).min() == 255
    palette = Image.new('P', (20, 20), 0)
    palette.save(tmp_path/'b.png', transparency=0)
    assert read_image(tmp_path/'b.png', 16).min() == 255


def test_exif_rotation(tmp_path):
    image = Image.new('RGB', (40, 20), 'black')
    image.paste('white', (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path/'a.jpg', exif=exif, quality=95)
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270).crop((0, 10, 20, 30)))
    assert abs(read_image(tmp_path/'a.jpg', 20).astype(int) - upright).max() < 20


def test_same_as_torchvision(tmp_path):
    path = photographs(tmp_path, n=1)/'china'/'0.jpg'
    change = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    with Image.open(path) as image: expected = np.asarray(change(image))
    assert abs(read_image(path, 64).astype(float) - expected).mean() < 4


def test_labels():
    images = shapes(4, size=8)
    says(lambda: images.with_labels([0, 1]), '2 labels for 4 images')
    says(lambda: images.with_labels([0, 1, 2, 10]), 'labels from 0 to 10')
    says(lambda: images.with_labels([0, 1, 2, -1]), 'labels from -1')
    says(lambda: images.subset(images.y > 99), 'no image')
    says(lambda: next(images.batches(0)), 'bs')
    assert images.with_labels([11] * 4, vocab=range(12)).y.tolist() == [11] * 4


def test_join(tmp_path):
    one, two = shapes(5, size=8), domains('sketch', 4, size=8)
    both = join(one, two)
    assert len(both) == 9 and both.name == 'shapes + sketch' and both.group_vocab == GROUPS
    for name in ('x', 'y', 'masks', 'groups'):
        assert torch.equal(getattr(both, name), torch.cat([getattr(one, name), getattr(two, name)]))
    assert torch.equal(both.cues['hue'][5:], two.cues['hue']) and torch.equal(both.at(16).x[5:], two.at(16).x)
    bare = Images(one.x, one.y, one.vocab, 8)
    mixed = join(one, bare)
    assert mixed.masks is mixed.groups is mixed.group_vocab is mixed.maker is None and mixed.cues == {}
    says(lambda: join(), 'nothing to join')
    says(lambda: join(one, shapes(5, size=16)), 'differ in their classes or size')
    photographs(tmp_path)
    disk, memory = (get_images(tmp_path, size=8, memory=m) for m in (0, 2e9))
    assert not join(disk, disk).in_memory and torch.equal(join(disk, memory).x, join(memory, memory).x)
    assert torch.equal(join(disk, disk).pixels(range(4)), join(memory, memory).pixels(range(4)))


def ramp(folder, **whites):
    "Grey ramps from 0 to the number that stands for white, of the type that holds it."
    folder.mkdir(parents=True, exist_ok=True)
    for name, white in whites.items():
        x = np.linspace(0, white, 256).reshape(16, 16)
        x = x.astype('float32' if isinstance(white, float) else 'int32' if 'int' in name else 'uint16')
        Image.fromarray(x).save(folder/f'{name}.tif')


@pytest.mark.parametrize('whites,expected', [
    (dict(a=255, dark=30), [127, 15]), (dict(a=4095, dark=30), [127, .9]), (dict(a=65535, dark=4095), [127, 7.5]),
    (dict(a=1., dark=.1), [127, 12.5]), (dict(a=255., dark=.5), [127, .2]), (dict(int_a=255, int_dark=20), [127, 10])])
def test_one_white_for_all_grey_images_of_a_folder(tmp_path, whites, expected):
    for part in ('train', 'val'):
        for name, white in whites.items():  # the brightest lie in one class of train
            ramp(tmp_path/'x', **{name: white})
            (tmp_path/part/name).mkdir(parents=True)
            (tmp_path/'x'/f'{name}.tif').rename(tmp_path/part/name/'0.tif')
    (tmp_path/'val'/next(iter(whites))/'0.tif').unlink()
    for unlabeled in (False, True):
        Image.new('L', (16, 16), 9).save(tmp_path/'val'/next(iter(whites))/'0.png')
        ordinary, dark = get_images(tmp_path, size=16, unlabeled=unlabeled).pixels([0, 1]).mean((1, 2, 3)) * 255
        assert (ordinary - 9).abs() < .1 and (dark - expected[1]).abs() < 1
    means = get_images(tmp_path, 'train', size=16).pixels([0, 1]).mean((1, 2, 3)) * 255
    assert (means - torch.tensor(expected)).abs().max() < 1


def test_white_of_one_image(tmp_path):
    ramp(tmp_path, a=255, b=4095, c=65535, d=1., e=255.)
    for name in 'abe': says(lambda: read_image(tmp_path/f'{name}.tif', 16), 'white', 'get_images the folder')
    whites = dict(a=255, b=4095, c=None, d=None, e=255)
    for name, white in whites.items(): assert abs(read_image(tmp_path/f'{name}.tif', 16, white).mean() - 127) < 1
    says(lambda: read_image(tmp_path/'c.tif', 16, 4095), 'white: the numbers of', '0 to 65535')
    for value in (-1., np.nan, np.inf):
        Image.fromarray(np.full((8, 8), value, 'float32')).save(tmp_path/'odd.tif')
        says(lambda: read_image(tmp_path/'odd.tif', 8), 'odd.tif run from')
    ramp(tmp_path, black=0)
    assert read_image(tmp_path/'black.tif', 8).max() == 0


def test_white_can_be_told(tmp_path):
    home = tmp_path/'home'
    for k in 'ab': ramp(home/k, **{f'{i}': 255 for i in range(4)})
    images = get_images(home, size=8, memory=0, cache=tmp_path/'cache')
    assert images.pixels([0]).max() > .9
    assert get_images(home, size=8, white=65535, memory=0, cache=tmp_path/'cache').pixels([0]).max() < .01
    says(lambda: get_images(home, size=8, white=100), 'white: the numbers of', 'white=65535')
    ramp(home/'b', float=1.)
    says(lambda: get_images(home, size=8), 'some floating point')


X, Y = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize('change,text', [
    (dict(x=X.float()), 'x: floating point pixels'), (dict(x=X.float() - 300), 'x: floating point pixels'),
    (dict(x=X.permute(0, 2, 3, 1)), 'permute'), (dict(x=X[:, :1]), 'expand'), (dict(x=X[0]), 'not N x 3 x H x W'),
    (dict(x=X.long()), 'the pixels are int64'), (dict(size=16), 'Give size=8'), (dict(x=X[..., :6]), 'size: 8, but'),
    (dict(x=X[:3]), '4 labels for 3 images'), (dict(x=X[:0], y=Y[:0]), 'no image'), (dict(y=Y + 1), 'Give y - 1'),
    (dict(y=Y - 1), 'labels from -1 to 0'), (dict(y=Y * 7), 'labels from 0 to 7'), (dict(y=Y + .5), 'no whole numbers'),
    (dict(y=Y[:, None]), '2 dimensions'), (dict(y=list('abab')), 'the labels are no numbers'),
    (dict(vocab='aa'), 'twice'),
    (dict(masks=torch.ones(4, 8, 8)), 'BoolTensor 4 x 8 x 8'), (dict(masks=torch.ones(3, 8, 8) > 0), 'BoolTensor'),
    (dict(cues=dict(hue=Y[:3])), 'cues hue: no tensor of 4'), (dict(groups=Y[:3]), 'groups: no tensor of 4'),
    (dict(groups=Y, group_vocab=['one']), 'group_vocab: 1 names for groups from 0 to 1'),
    (dict(x=['a.png']), '4 labels for 1')])
def test_images_of_ones_own_are_checked(change, text):
    says(lambda: Images(**{**dict(x=X, y=Y, vocab=['a', 'b'], size=8), **change}), text)


def test_images_of_ones_own_are_taken():
    images = Images((X / 255).double().numpy(), Y.float().tolist(), 'ab', 8)
    assert torch.equal(images.x, X) and torch.equal(images.y, Y) and images.vocab == ['a', 'b']
    assert torch.equal(Images(X.numpy(), Y.numpy().astype('uint8'), 'ab', 8).x, X)


def test_ids_stay_with_their_images(tmp_path):
    photographs(tmp_path, n=10)
    every = get_images(tmp_path, 'train', size=8)
    assert every.ids[0] == 'china/' + every.ids[0][6:] and len(set(every.ids)) == 16
    for cache in (None, tmp_path/'cache'):
        some = get_images(tmp_path, 'train', size=8, n=5, memory=0, cache=cache)
        assert [every.ids.index(k) for k in some.subset([4, 0]).ids] == [every.ids.index(some.ids[k]) for k in (4, 0)]
        assert all(torch.equal(every.x[every.ids.index(k)], x) for k, x in zip(some.ids, some.bytes_at(range(5))))
    assert get_images(n=5, size=8).subset([3, 1]).with_labels([0, 1]).at(16).ids == [3, 1]
    digits = get_images('digits', n=5)
    assert torch.equal(get_images('digits').x[list(digits.ids)], digits.x)
    assert join(some, shapes(5, size=8).with_labels([0] * 5, some.vocab)).ids == [*some.ids, 0, 1, 2, 3, 4]
    assert join(shapes(1, size=8), domains('sketch', 1, size=8)).ids == ['shapes/0', 'sketch/0']
