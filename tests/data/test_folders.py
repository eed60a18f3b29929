"Folders of images in the shapes that people give them."
import pytest
import torch
from PIL import Image

from tests.common import says
from tests.data.common import photographs
from kd_knowledge.core import noted
from kd_knowledge.data import check_pixels, domain_images, get_images, image_files, join


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


def dots(folder, *names):
    "Small images, each of its own red: the place of its name in `names`."
    for i, name in enumerate(names):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (i, 0, 0)).save(folder/name)
    return folder


def reds(*args, **kwargs): return get_images(*args, size=8, **kwargs).x[:, 0, 0, 0].tolist()


@pytest.mark.parametrize('train,valid', [
    ('train', 'validation'), ('training', 'dev'), ('Train', 'VAL'), ('training_set', 'test_set'), ('train', 'testing'),
    ('images/train', 'images/val')])
@pytest.mark.parametrize('unlabeled', [False, True])
def test_splits_as_people_write_them(tmp_path, train, valid, unlabeled):
    dots(tmp_path, *(f'{part}/{k}/0.png' for part in (train, valid) for k in 'ab'))
    (tmp_path/'README.md').touch()
    (tmp_path/'labels'/'train').mkdir(parents=True)
    assert [reds(tmp_path, split, unlabeled=unlabeled) for split in ('train', 'valid')] == [[0, 1], [2, 3]]


def test_valid_is_taken_before_test(tmp_path):
    dots(tmp_path, *(f'{part}/{k}/0.png' for part in ('test', 'train', 'val') for k in 'ab'))
    assert reds(tmp_path) == [4, 5]


@pytest.mark.parametrize('names,text', [
    (('train/a/0.png', 'train/b/0.png', 'holdout/a/0.png'), 'beside them holdout with images'),
    (('train/a/0.png', 'val/a/0.png', 'validation/a/0.png'), 'val and validation, which mean the same split'),
    (('seg_train/a/0.png', 'seg_test/b/0.png'), 'seg_test and seg_train'),
    (('train/a/0.png', 'train/b/0.png', 'val/0.png'), 'no list tells the class'),
    (('train/0.png', 'val/0.png'), 'no class folders'),
    (('a/train/0.png', 'a/val/0.png', 'b/train/0.png', 'b/val/0.png'), 'has no splits, but')])
def test_what_is_not_understood_is_said(tmp_path, names, text): says(lambda: get_images(dots(tmp_path, *names)), text)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    dots(tmp_path, *(f'{k}/{i}.png' for k in ('bus', 'train') for i in range(2)))
    assert get_images(tmp_path).vocab == ['bus', 'train']


LISTS = {
    'labels.csv': 'file,label\n0.png,b\n1.png,a\n', 'val/list.csv': 'label;image\nb;val/0.png\na;./val/1.png\n',
    'LOC_val_solution.csv': 'ImageId,PredictionString\n1,a 1 2 3 4 b 5 6\n0,b 1 2 3 4\n',
    'val/val_annotations.txt': '0.png\tb\t1\t32\n1.png\ta\t5\t44\n',
    'val.txt': '/data/x/val/0.png b\n/data/x/val/1.png a\n'}


@pytest.mark.parametrize('name', LISTS)
@pytest.mark.parametrize('inside', ['', 'images/'])
def test_a_list_tells_the_classes_of_flat_images(tmp_path, name, inside):
    dots(tmp_path, 'train/a/0.png', 'train/b/0.png', *(f'val/{inside}{i}.png' for i in range(2)))
    (tmp_path/name).write_text(LISTS[name].replace('val/0', f'val/{inside}0').replace('val/1', f'val/{inside}1'))
    images = get_images(tmp_path)
    assert (images.y.tolist(), images.vocab, 'val (2 images' in images.source) == ([1, 0], ['a', 'b'], True)
    assert get_images(tmp_path, unlabeled=True).y.tolist() == [0, 0]


@pytest.mark.parametrize('name,text', [
    ('labels.csv', '0.png,1\n1.png,0\n'), ('labels.csv', '0.png,b\n'), ('train_labels.csv', LISTS['labels.csv']),
    ('labels.csv', '0.png,b,a\n1.png,a,a\n'), ('labels.csv', ''), ('labels.csv', '"'), ('labels.txt', '\0\n' * 9),
    ('labels.csv', '0.png,b\n1.png,a\n0.png,a\n')])
def test_a_list_that_cannot_tell_is_named(tmp_path, name, text):
    dots(tmp_path, 'train/a/0.png', 'train/b/0.png', 'val/0.png', 'val/1.png')
    (tmp_path/name).write_text(text)
    says(lambda: get_images(tmp_path), 'no .csv' if name == 'train_labels.csv' else name)


def test_links_are_followed_but_not_upwards(tmp_path):
    dots(tmp_path/'all', *(f'{k}/{i}.png' for k in 'abc' for i in range(2)))
    (tmp_path/'sub').mkdir()
    for k in 'ab': (tmp_path/'sub'/k).symlink_to(tmp_path/'all'/k)
    (tmp_path/'sub'/'loop').symlink_to(tmp_path/'sub')
    (tmp_path/'all'/'a'/'up').symlink_to(tmp_path/'all')
    (tmp_path/'all'/'b'/'c').symlink_to(tmp_path/'all'/'c')
    (tmp_path/'all'/'c'/'b').symlink_to(tmp_path/'all'/'b')
    assert reds(tmp_path/'sub', unlabeled=True) == [0, 1, 2, 3, 4, 5]
    assert len(get_images(tmp_path/'sub', 'train')) == 2 + 4 - 2 and get_images(tmp_path/'sub').vocab == ['a', 'b']
    (tmp_path/'all'/'a'/'gone.png').symlink_to(tmp_path/'nowhere.png')
    says(lambda: get_images(tmp_path/'sub', 'train'), 'cannot read', 'gone.png')


def test_what_each_split_is_made_of_is_said_once(tmp_path, capsys):
    dots(tmp_path, *(f'{k}/{i}.png' for k in 'ab' for i in range(5)))
    for _ in range(2): images = get_images(tmp_path)
    assert capsys.readouterr().out.count('data: valid is a fifth of') == 1
    assert images.source == f'valid is a fifth of {tmp_path} by seed 0 (2 of 10 images, 2 classes)'
    assert images.subset([0]).source == join(images, images).source == images.source


def test_numbers_and_loose_images_are_noted(tmp_path):
    dots(tmp_path, *(f'{k}/{i}.png' for k in (1, 2, 10) for i in range(2)), 'a.png')
    with noted() as notes: assert get_images(tmp_path).vocab == ['1', '10', '2']
    assert 'are taken in the order of text: 1, 10, 2' in notes[0] and 'left out: 1, for example a.png' in notes[1]
