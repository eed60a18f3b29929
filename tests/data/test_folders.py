"Folders of images in the shapes that people give them."
import pytest
import torch
from PIL import Image

from tests.common import says
from tests.data.common import photographs
from kd_knowledge.data import check_pixels, domain_images, get_images, image_files


def test_folder_of_jpegs(tmp_path):
    photographs(tmp_path)
    valid, train = (get_images(tmp_path, split, size=24) for split in ('valid', 'train'))
    assert (len(valid), len(train), valid.vocab, valid.in_memory) == (2, 10, ['china', 'flower'], True)
    assert valid.y.tolist() == [0, 1] and valid.x.shape == (2, 3, 24, 24)
    check_pixels(train.pixels(range(10)))
    assert get_images(str(tmp_path), 'train', n=3, seed=1).y.shape == (3,)


@pytest.mark.parametrize('name', ['valid', 'val', 'test'])
def test_split_folders(tmp_path, name):
    photographs(tmp_path, splits=('train', name), n=3)
    assert [len(get_images(tmp_path, split)) for split in ('train', 'valid')] == [6, 6]


def test_train_folder_alone_is_split(tmp_path):
    photographs(tmp_path, splits=('train',), n=5)
    assert [len(get_images(tmp_path, split)) for split in ('train', 'valid')] == [8, 2]


def test_valid_folder_alone_serves_probes(tmp_path):
    photographs(tmp_path, splits=('val',), n=2)
    assert len(get_images(tmp_path)) == 4
    says(lambda: get_images(tmp_path, 'train'), 'no train folder')


def test_valid_keeps_the_indices_of_train(tmp_path):
    photographs(tmp_path, ('a', 'b'), 2, ('train',))
    photographs(tmp_path, ('b',), 2, ('valid',))
    assert get_images(tmp_path).y.tolist() == [1, 1]
    photographs(tmp_path, ('z',), 1, ('valid',))
    says(lambda: get_images(tmp_path), 'classes that train has not: z')


def test_flat_folder(tmp_path):
    for i in range(3): Image.new('RGB', (20, 30), (i, 0, 0)).save(tmp_path/f'{i}.png')
    images = get_images(tmp_path, unlabeled=True, size=16)
    assert images.vocab == ['unlabelled'] and images.y.tolist() == [0, 0, 0]
    assert images.x[:, 0, 0, 0].tolist() == [0, 1, 2]
    says(lambda: get_images(tmp_path), 'no class folders', 'unlabeled=True')


def test_hidden_files_are_left_out(tmp_path):
    photographs(tmp_path, n=2)
    (tmp_path/'china'/'._0.jpg').write_bytes(b'not an image')
    (tmp_path/'.ipynb_checkpoints').mkdir()
    assert len(image_files(tmp_path)) == 4 and len(get_images(tmp_path, unlabeled=True)) == 4


def test_on_disk_equals_in_memory(tmp_path):
    photographs(tmp_path)
    disk, memory = (get_images(tmp_path, 'train', size=24, memory=m) for m in (0, 2e9))
    assert not disk.in_memory
    for a, b in zip(disk.batches(4), memory.batches(4)): assert all(map(torch.equal, a, b))
    assert disk.subset([3, 1]).x == [disk.x[3], disk.x[1]]


@pytest.mark.parametrize('broken', [b'', b'not an image', None])
@pytest.mark.parametrize('memory', [2e9, 0])
def test_broken_file_is_named(tmp_path, broken, memory):
    photographs(tmp_path)
    path = tmp_path/'china'/'3.jpg'
    path.write_bytes(path.read_bytes()[:700] if broken is None else broken)
    def read():
        for split in ('train', 'valid'): list(get_images(tmp_path, split, size=24, memory=memory).batches())
    says(read, 'cannot read', '3.jpg')


def test_bad_folders(tmp_path):
    (tmp_path/'empty').mkdir()
    says(lambda: get_images(tmp_path/'empty'), 'no class folders')
    says(lambda: get_images(tmp_path/'empty', unlabeled=True), 'no image')
    photographs(tmp_path/'one', classes=('a',))
    says(lambda: get_images(tmp_path/'one'), 'one class only')
    photographs(tmp_path/'hole')
    (tmp_path/'hole'/'c').mkdir()
    says(lambda: get_images(tmp_path/'hole'), 'no image in', 'hole/c')
    photographs(tmp_path/'single', n=1)
    says(lambda: get_images(tmp_path/'single'), 'none is left for valid')


def test_a_folder_of_split_domains(tmp_path):
    for domain in ('CALTECH', 'SUN'):
        photographs(tmp_path/domain, splits=('train', 'crossval', 'test', 'full'), n=4)
    photographs(tmp_path/'PASCAL', splits=('full',), n=5)
    assert [len(get_images(tmp_path, split, domain='sun')) for split in ('train', 'valid')] == [8, 8]
    assert [len(get_images(tmp_path, split, domain='pascal')) for split in ('train', 'valid')] == [8, 2]
    assert {k: len(v) for k, v in domain_images(tmp_path).items()} == {'CALTECH': 8, 'PASCAL': 2, 'SUN': 8}
    assert len(get_images(tmp_path, unlabeled=True, domain='PASCAL')) == 10
    photographs(tmp_path/'plain')
    assert domain_images(tmp_path/'plain') == {}
    says(lambda: get_images(tmp_path/'plain', domain='sun'), 'holds no domains')
