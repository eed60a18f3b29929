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
