"What does not belong in the chapter on data: files of every kind, bad input, other processes, real data sets."
import gzip, hashlib, pickle, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import miniature
from tests.common import says
from kd_knowledge.core import KDError
from kd_knowledge.data import (
    DOMAINS, GROUPS, SIXTEEN, Augment, Images, colour_jitter, check_pixels, domain_images, domains, get_dls,
    get_images, hash_uniform, image_files, join, random_resized_crop, random_shift, read_image, shapes)

DEBIAN = Path('/usr/share/datasets/fashion-mnist')


def photographs(folder, classes=('china', 'flower'), n=6, splits=('',)):
    "Cut scikit-learn's photographs into a folder of JPEGs."
    from sklearn.datasets import load_sample_images
    for name, image in zip(classes, load_sample_images().images):
        for split in splits:
            (folder/split/name).mkdir(parents=True, exist_ok=True)
            for i in range(n): Image.fromarray(image[10 * i:10 * i + 90, 20 * i:20 * i + 120]).save(folder/split/name/f'{i}.jpg')
    return folder


# folders
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


@pytest.mark.parametrize('num_workers', [0, 2])
def test_loader_on_disk(tmp_path, num_workers):
    photographs(tmp_path)
    def batches(**kwargs):
        dls = get_dls(tmp_path, bs=4, size=24, augment=Augment(jitter=.2), device='cpu', **kwargs)
        return [b for _ in range(2) for b in dls.train]
    for a, b in zip(batches(memory=0, num_workers=num_workers), batches()): assert all(map(torch.equal, a, b))


# image files
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
    image = Image.new('RGB', (40, 20), 'black'); image.paste('white', (0, 0, 20, 20))
    exif = Image.Exif(); exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path/'a.jpg', exif=exif, quality=95)
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270).crop((0, 10, 20, 30)))
    assert abs(read_image(tmp_path/'a.jpg', 20).astype(int) - upright).max() < 20


def test_same_as_torchvision(tmp_path):
    from torchvision import transforms
    path = photographs(tmp_path, n=1)/'china'/'0.jpg'
    with Image.open(path) as image: expected = np.asarray(transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])(image))
    assert abs(read_image(path, 64).astype(float) - expected).mean() < 4


@pytest.mark.parametrize('broken', [b'', b'not an image', None])
@pytest.mark.parametrize('memory', [2e9, 0])
def test_broken_file_is_named(tmp_path, broken, memory):
    photographs(tmp_path)
    path = tmp_path/'china'/'3.jpg'
    path.write_bytes(path.read_bytes()[:700] if broken is None else broken)
    says(lambda: [None for split in ('train', 'valid') for _ in get_images(tmp_path, split, size=24, memory=memory).batches()], 'cannot read', '3.jpg')


def test_broken_file_in_a_worker_is_one_line(tmp_path):
    photographs(tmp_path)
    for path in (tmp_path/'china').iterdir(): path.write_bytes(b'')
    says(lambda: list(get_dls(tmp_path, bs=4, size=24, memory=0, num_workers=1, device='cpu').train), 'data: cannot read the image', '.jpg')


# bad input
@pytest.mark.parametrize('kwargs,text', [
    (dict(data='fashion'), 'did you mean fashion_mnist'), (dict(data='xyzzy'), 'Give one of shapes'), (dict(data='/no/folder'), 'no folder'),
    (dict(split='test'), 'split'), (dict(n=0), 'n: got 0'), (dict(n=-3), 'n: got -3'), (dict(n=2.5), 'n: got 2.5'), (dict(n=True), 'n: got True'),
    (dict(size=4), 'size: got 4'), (dict(size='32'), 'size'), (dict(cue=1.5), 'cue: got 1.5'), (dict(domain='fog'), 'domain'),
    (dict(seed=-1), 'seed: got -1'), (dict(colour=1), 'colour: shapes has no such option'), (dict(data='digits', root='.'), 'root'),
    (dict(data='digits', n=5000), 'Give at most 359'), (dict(n=10**8), 'Give at most')])
def test_bad_arguments(kwargs, text): says(lambda: get_images(**kwargs), text)


@pytest.mark.parametrize('kwargs,text', [
    (dict(bs=0), 'bs: got 0'), (dict(bs=-1), 'bs'), (dict(n_train=0), 'n_train: got 0'), (dict(n_valid=-1), 'n_valid'),
    (dict(data='digits', n_valid=5000), 'n_valid: 5000'), (dict(device='abacus', n_train=10, n_valid=10), 'device')])
def test_bad_loader_arguments(kwargs, text): says(lambda: get_dls(**kwargs), text)


def test_bad_folders(tmp_path):
    (tmp_path/'empty').mkdir()
    says(lambda: get_images(tmp_path/'empty'), 'no class folders')
    says(lambda: get_images(tmp_path/'empty', unlabeled=True), 'no image')
    photographs(tmp_path/'one', classes=('a',))
    says(lambda: get_images(tmp_path/'one'), 'one class only')
    photographs(tmp_path/'hole'); (tmp_path/'hole'/'c').mkdir()
    says(lambda: get_images(tmp_path/'hole'), 'no image in', 'hole/c')
    photographs(tmp_path/'single', n=1)
    says(lambda: get_images(tmp_path/'single'), 'none is left for valid')


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist', 'cifar10', 'cifar100', 'imagenette'])
def test_missing_data_set_says_how(tmp_path, name, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'fastai'))
    says(lambda: get_images(name, root=tmp_path), str(tmp_path), 'MB', 'python -c')


@pytest.mark.parametrize('function', [
    lambda x: colour_jitter(x, 2), lambda x: random_resized_crop(x, (.5, .2)), lambda x: random_shift(x, -1), lambda x: random_shift(x, 99),
    lambda x: Augment(crop=(2, 3)), lambda x: check_pixels(x * 2), lambda x: check_pixels(x[0]), lambda x: check_pixels(x.byte())])
def test_bad_transformations(function): says(lambda: function(torch.rand(2, 3, 16, 16).clamp_min(.6)))


def test_fastai_predictions():
    import fastai.callback.progress  # noqa: F401, it gives Learner its no_bar
    from fastai.learner import Learner
    dls = get_dls(bs=16, n_train=40, n_valid=24, device='cpu')
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    learn = Learner(dls, net, loss_func=lambda pred, label, index: torch.nn.functional.cross_entropy(pred, label))
    with learn.no_bar(): pred, (label, index) = learn.get_preds(ds_idx=0)
    assert index.tolist() == list(range(40)) and torch.equal(label, dls.train_ds.y)
    assert torch.allclose(pred, net(dls.train_ds.pixels(range(40))), atol=1e-5)


def test_loader_repeats_after_a_cut_epoch():
    "An epoch that is left early is still another epoch; a look changes nothing."
    one, two = (get_dls(bs=8, n_train=40, n_valid=8, device='cpu').train for _ in range(2))
    next(iter(one)); next(iter(two)); two.one_batch(); two.show_batch(max_n=2)
    assert torch.equal(next(iter(one))[2], next(iter(two))[2])
    assert not torch.equal(next(iter(one))[2], one.one_batch()[2])


def test_labels():
    images = shapes(4, size=8)
    says(lambda: images.with_labels([0, 1]), '2 labels for 4 images')
    says(lambda: images.with_labels([0, 1, 2, 10]), 'labels from 0 to 10')
    says(lambda: images.with_labels([0, 1, 2, -1]), 'labels from -1')
    says(lambda: images.subset(images.y > 99), 'no image')
    says(lambda: next(images.batches(0)), 'bs')
    assert images.with_labels([11] * 4, vocab=range(12)).y.tolist() == [11] * 4


# the same everywhere
def digest():
    "A fingerprint of two epochs of batches and of every domain."
    dls = get_dls(bs=16, n_train=40, n_valid=8, augment=Augment(jitter=.4), device='cpu')
    data = [t.numpy().tobytes() for dl in (dls.train, dls.train, dls.valid) for b in dl for t in b]
    return hashlib.sha256(b''.join(data + [domains(d, 5).x.numpy().tobytes() for d in DOMAINS])).hexdigest()


def test_same_in_a_fresh_process():
    torch.rand(3); np.random.rand(3)
    command = [sys.executable, '-c', 'import test_data; print(test_data.digest())']
    fresh = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()
    assert fresh == digest()


def test_world_is_fixed():
    "The bytes of a few images of the world, which must never change: stored results depend on them."
    images = [shapes(20, seed=3, start=5), *(domains(d, 6) for d in DOMAINS)]
    assert hashlib.sha256(b''.join(i.x.numpy().tobytes() for i in images)).hexdigest()[:16] == 'c49fe0c243f80875'


@pytest.mark.parametrize('name', ['photo', *DOMAINS])
def test_an_image_does_not_depend_on_its_batch(name):
    many = domains(name, 300, size=16)
    for i in (0, 255, 256, 299): assert torch.equal(domains(name, 1, size=16, start=10_000_000 + i).x[0], many.x[i])


def test_geometry_is_shared_by_domains_and_sizes():
    photo = domains('photo', 30)
    for name in DOMAINS:
        other = domains(name, 30)
        assert torch.equal(photo.masks, other.masks) and torch.equal(photo.y, other.y) and torch.equal(photo.groups, other.groups)
    large = domains('photo', 30, size=64).masks.float()
    assert ((torch.nn.functional.avg_pool2d(large[:, None], 2)[:, 0] > .5) == photo.masks).float().mean() > .985


def test_uncued_labels_are_independent():
    images = shapes(4000, size=8, cue=0)
    for cue in images.cues.values(): assert abs((cue == images.y).float().mean() - .1) < .02
    assert abs((images.cues['hue'] == images.cues['texture']).float().mean() - .1) < .02


def test_cues_agree_with_cue_one():
    images = shapes(50, size=8, cue=1)
    assert all(torch.equal(c, images.y) for c in images.cues.values())


# augmentation against torchvision
def test_crop_distribution():
    "Area and aspect of our boxes are distributed as torchvision's."
    from torchvision.transforms import RandomResizedCrop
    from kd_knowledge.data.augment import _boxes
    torch.manual_seed(0)
    theirs = torch.tensor([RandomResizedCrop.get_params(torch.zeros(3, 200, 200), (.08, 1.), (3 / 4, 4 / 3)) for _ in range(3000)]) / 200.
    ours = _boxes(3000, (.08, 1.), (3 / 4, 4 / 3), None, 200, 200)
    for a, b in ((ours[:, 0] * ours[:, 1], theirs[:, 2] * theirs[:, 3]), (ours[:, 0] / ours[:, 1], theirs[:, 3] / theirs[:, 2]), (ours[:, 2], theirs[:, 1])):
        for q in (.1, .5, .9): assert abs(a.quantile(q) - b.quantile(q)) < .03


def test_shift_of_a_large_image_stays_in_its_centre():
    x = torch.zeros(200, 3, 40, 40); x[:, :, 10:30, 10:30] = 1
    assert all((crop == 1).all() for crop in random_shift(x, 4, size=16))


# real data
@pytest.mark.skipif(not DEBIAN.exists(), reason='Fashion-MNIST is not on this machine')
def test_fashion_mnist():
    valid = get_images('fashion_mnist')
    assert (len(valid), valid.size, valid.x.shape[1:]) == (10000, 28, (3, 28, 28))
    assert valid.y.bincount().tolist() == [1000] * 10 and abs(valid.x[:, 0].float().mean() / 255 - .2868) < .001
    assert len(get_images('fashion_mnist', 'train', n=500, size=32)) == 500


@pytest.mark.skipif(not DEBIAN.exists(), reason='Fashion-MNIST is not on this machine')
def test_torchvision_layout_and_truncated_download(tmp_path):
    raw = tmp_path/'FashionMNIST'/'raw'; raw.mkdir(parents=True)
    for name in ('images-idx3', 'labels-idx1'):
        (raw/f't10k-{name}-ubyte').write_bytes(gzip.decompress((DEBIAN/f't10k-{name}-ubyte.gz').read_bytes()))
    assert len(get_images('fashion_mnist', root=tmp_path)) == 10000
    for path in raw.iterdir(): path.write_bytes(path.read_bytes()[:5000])
    says(lambda: get_images('fashion_mnist', root=tmp_path), 'not a whole IDX file')


def test_cifar_and_imagenette_in_their_layouts(tmp_path, monkeypatch):
    miniature.cifar(tmp_path)
    says(lambda: get_images('cifar10', root=tmp_path), 'was not found')
    miniature.trust(monkeypatch, tmp_path)
    assert [len(get_images('cifar10', split, root=tmp_path)) for split in ('train', 'valid')] == [100, 100]
    assert get_images('cifar100', root=tmp_path).y.tolist() == list(range(100))
    photographs(tmp_path/'imagenette2-160', splits=('train', 'val'), n=2)
    assert get_images('imagenette', root=tmp_path).x.shape == (4, 3, 128, 128)


# digits in three domains
def raw_digits(split):
    "The valid digits as the file has them, 8 x 8 bytes."
    from sklearn.datasets import load_digits
    data = load_digits()
    from kd_knowledge.data.datasets import _split
    return (torch.from_numpy(data.images)[_split(torch.from_numpy(data.target), split, 0)] * (255 / 16)).round()


@pytest.mark.parametrize('split,start', [('train', 0), ('valid', 10_000_000)])
def test_digits_in_color_and_on_photographs(split, start):
    from sklearn.datasets import load_sample_images
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
        one, again, train, other = (get_images('digits', split, domain=domain, n=40, seed=seed) for split, seed in (('valid', 0), ('valid', 0), ('train', 0), ('valid', 1)))
        assert torch.equal(one.x, again.x) and not torch.equal(one.x, train.x) and not torch.equal(one.x, other.x)
        assert not set(map(bytes, one.x.numpy())) & set(map(bytes, train.x.numpy()))
        every = get_images('digits', domain=domain)
        assert set(map(bytes, one.x.numpy())) <= set(map(bytes, every.x.numpy()))  # the choice of n comes before, the place in the split decides


def test_photographs_from_a_folder(tmp_path):
    Image.new('RGB', (50, 40), (10, 20, 30)).save(tmp_path/'a.png')
    Image.new('RGB', (5, 4), (10, 20, 30)).save(tmp_path/'small.png')
    images = get_images('digits', size=8, domain='m', photographs=tmp_path)
    expected = (torch.tensor([10, 20, 30]).view(3, 1, 1) - raw_digits('valid')[:, None]).abs()
    assert torch.equal(images.x.float(), expected)
    says(lambda: get_images('digits', domain='m', photographs=tmp_path/'none'), 'photographs', 'no image in')
    (tmp_path/'b.png').write_bytes(b'no image')
    says(lambda: get_images('digits', domain='m', photographs=tmp_path), 'cannot read', 'b.png')


@pytest.mark.skipif(not DEBIAN.exists(), reason='Fashion-MNIST is not on this machine')
def test_fashion_mnist_on_photographs():
    from sklearn.datasets import load_sample_images
    orig, m = (get_images('fashion_mnist', domain=d, n=50) for d in ('orig', 'm'))
    place = (get_images('fashion_mnist').x[:, 0] == orig.x[7, 0]).flatten(1).all(1).nonzero().item()
    u = hash_uniform(0, 10_000_000 + place, np.arange(3, 6))
    photograph = load_sample_images().images[int(2 * u[0])].astype(int)
    top, left = int(u[1] * (photograph.shape[0] - 27)), int(u[2] * (photograph.shape[1] - 27))
    assert np.array_equal(m.x[7].numpy(), abs(photograph[top:top + 28, left:left + 28].transpose(2, 0, 1) - orig.x[7].numpy().astype(int)))


# domains on disk
@pytest.mark.parametrize('name,make,facts', [('pacs', miniature.pacs, miniature.PACS), ('vlcs', miniature.vlcs, miniature.VLCS)])
def test_pacs_and_vlcs(tmp_path, name, make, facts):
    (domains, classes), root = facts, make(tmp_path)
    train, valid = (get_images(name, split, size=16, domain=domains[:3], root=root) for split in ('train', 'valid'))
    assert train.vocab == sorted(classes) and train.y.bincount().tolist() == [12] * len(classes) and len(valid) == 3 * len(classes)
    inside = get_images(name, size=16, domain=domains[3].upper(), root=next(p for p in tmp_path.iterdir()))
    assert torch.equal(inside.x, get_images(name, size=16, domain=domains[3], root=root).x)
    assert len(get_images(name, size=16, root=root)) == 4 * len(classes)
    assert sorted(domain_images(name, size=16, root=root, n=3)) == sorted(domains)
    dls = get_dls(name, bs=4, size=16, domain=domains[:2], root=root, n_train=10, n_valid=5, device='cpu')
    assert (len(dls.train_ds), len(dls.valid_ds)) == (20, 10)
    says(lambda: get_images(name, domain=domains[0][:-1] + 'x', root=root), 'domain', f'did you mean {domains[0]}')


def test_domains_that_disagree(tmp_path):
    root = miniature.pacs(tmp_path, n=2)
    (tmp_path/'PACS'/'cartoon'/'dog').rename(tmp_path/'PACS'/'cartoon'/'cat')
    says(lambda: get_images('pacs', domain='photo', root=root), 'cartoon lacks dog', 'photo lacks cat')


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
    (tmp_path/'model-vs-human'/'datasets'/'sketch'/'dnn'/'session-1'/'0099_ske_dnn_0_unicorn_00_unicorn-1.png').write_bytes(b'')
    says(lambda: get_images('model_vs_human', domain='sketch', root=root), 'no class in the name', 'unicorn')


def test_cue_conflict_with_sessions(tmp_path):
    folder = tmp_path/'cue-conflict'
    miniature.save(folder/'dnn'/'session-1'/'0001_cue_dnn_0_airplane_00_airplane1-bicycle2.png', 0, 0, 32)
    miniature.save(folder/'dnn'/'session-1'/'0002_cue_dnn_0_cat_00_cat7-bird1.png', 0, 0, 32)
    images = get_images('model_vs_human', domain='cue conflict', root=tmp_path)
    assert [[images.vocab[k] for k in v] for v in (images.y, images.cues['texture'])] == [['airplane', 'cat'], ['bicycle', 'bird']]


def test_fairface(tmp_path):
    root = miniature.fairface(tmp_path)
    train, valid = (get_images('fairface', split, root=root) for split in ('train', 'valid'))
    assert (len(train), len(valid), train.size, train.vocab, train.group_vocab) == (42, 21, 64, ['Female', 'Male'], sorted(miniature.RACES))
    assert train.groups.bincount().tolist() == [6] * 7 and [train.group_vocab[k] for k in train.groups[:7]] == miniature.RACES
    assert get_images('fairface', root=root, label='Age').vocab[1] == '3-9'
    assert torch.equal(get_images('fairface', root=root, label='race').y, valid.groups)
    says(lambda: get_images('fairface', root=root, label='name'), 'label', 'Give one of gender, age, race')
    counts = [6, 1, 2, 0, 3, 0, 4]
    chosen = get_dls('fairface', bs=4, root=root, train_groups=counts, size=16, device='cpu')
    assert chosen.train_ds.groups.bincount(minlength=7).tolist() == counts and len(chosen.valid_ds) == 21
    assert torch.equal(chosen.train_ds.at(64).at(16).x, chosen.train_ds.x)
    for kwargs, text in [(dict(train_groups=[7] * 7), '7 of Black asked for'), (dict(train_groups=[1, 2]), 'Give 7 numbers'),
                         (dict(train_groups=counts, n=9), 'train_groups are 16'), (dict(train_groups=[0] * 7), 'train_groups: got')]:
        says(lambda: get_images('fairface', 'train', root=root, **kwargs), text)
    (tmp_path/'fairface'/'fairface_label_val.csv').write_text('file,age,gender,race\nval/1.jpg,0-2,Robot,White\n')
    says(lambda: get_images('fairface', root=root), 'Robot')


@pytest.mark.parametrize('name', ['imagenet', 'pacs', 'vlcs', 'model_vs_human', 'fairface'])
def test_missing_set_says_where_and_how(tmp_path, name):
    says(lambda: get_images(name, root=tmp_path), f'{name} was not found in {tmp_path}', 'Get it (')


# groups, sizes, several sets
def test_train_groups_of_shapes_are_exact():
    counts = [60, 5, 200, 20, 0, 20, 80]
    dls = get_dls(train_groups=counts, size=8, n_valid=50, device='cpu')
    assert dls.train_ds.groups.bincount(minlength=7).tolist() == counts and dls.train_ds.group_vocab == GROUPS
    assert torch.equal(dls.valid_ds.x, get_images(size=8, n=50).x)
    world = shapes(2000, size=8)
    first = torch.cat([(world.groups == k).nonzero().flatten()[:c] for k, c in enumerate(counts)]).sort().values
    assert torch.equal(dls.train_ds.x, world.x[first])
    assert len(get_images('shapes', 'train', size=8, n=385, train_groups=counts)) == 385
    for kwargs, text in [(dict(n=384), 'n: 384 asked for'), (dict(train_groups=[1]), 'Give 7 numbers of images, for red'), (dict(train_groups='600,50'), 'Give 7 numbers'),
                         (dict(train_groups=[-1] * 7), 'train_groups'), (dict(train_groups=[.5] * 7), 'train_groups')]:
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
        assert again.in_memory == files.in_memory and torch.equal(again.pixels([0, 1]), get_images(tmp_path, 'train', size=40, n=5).pixels([4, 0]))
    again = pickle.loads(pickle.dumps(files))
    assert torch.equal(again.at(32).pixels([1]), files.at(32).pixels([1]))
    says(lambda: files.at(4), 'size: got 4')
    says(lambda: Images(images.x, images.y, images.vocab, 32).at(64), 'nobody knows how', 'maker')


def test_join(tmp_path):
    one, two = shapes(5, size=8), domains('sketch', 4, size=8)
    both = join(one, two)
    assert len(both) == 9 and both.name == 'shapes + sketch' and both.group_vocab == GROUPS
    for name in ('x', 'y', 'masks', 'groups'): assert torch.equal(getattr(both, name), torch.cat([getattr(one, name), getattr(two, name)]))
    assert torch.equal(both.cues['hue'][5:], two.cues['hue']) and torch.equal(both.at(16).x[5:], two.at(16).x)
    bare = Images(one.x, one.y, one.vocab, 8)
    mixed = join(one, bare)
    assert mixed.masks is mixed.groups is mixed.group_vocab is mixed.maker is None and mixed.cues == {}
    says(lambda: join(), 'nothing to join'); says(lambda: join(one, shapes(5, size=16)), 'differ in their classes or size')
    photographs(tmp_path)
    disk, memory = (get_images(tmp_path, size=8, memory=m) for m in (0, 2e9))
    assert not join(disk, disk).in_memory and torch.equal(join(disk, memory).x, join(memory, memory).x)
    assert torch.equal(join(disk, disk).pixels(range(4)), join(memory, memory).pixels(range(4)))


def test_several_domains_of_shapes():
    both = get_images(n=6, size=8, domain=['photo', 'sketch'])
    assert torch.equal(both.x[6:], domains('sketch', 6, size=8).x) and torch.equal(both.y[:6], both.y[6:])
    every = domain_images(n=6, size=8, cue=1., domain='photo', train_groups=[1] * 7)
    assert list(every) == ['sketch', 'stylized', 'silhouette', 'edge', 'cue conflict']
    assert torch.equal(every['edge'].x, domains('edge', 6, size=8, cue=1.).x)
    assert domain_images('fairface') == domain_images('imagenet') == {}
    says(lambda: domain_images('shaps'), 'did you mean shapes')
    says(lambda: domain_images('digits', 'colour'), 'did you mean color')
    says(lambda: get_images(domain=[]), 'domain: an empty list')
    says(lambda: get_images('cifar10', domain='sketch', root='.'), 'domain: cifar10 has no such option')


# speed, generous bounds: a slow machine passes, a loop over images does not
def test_speed():
    import time
    began = time.process_time(); shapes(2000); assert time.process_time() - began < 6
    x = torch.rand(256, 3, 32, 32); augment = Augment(jitter=.4); augment(x)
    began = time.process_time(); augment(x); assert time.process_time() - began < .5
