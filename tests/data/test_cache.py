"Resized images kept in a file: the same bytes, whole or absent, made once, read by all."
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.common import says
from kd_knowledge import models
from kd_knowledge.data import Augment, get_dls, get_images, join
from kd_knowledge.distillation import KL, distill_learner
from kd_knowledge.study.config import Study
from kd_knowledge.study import run  # noqa: F401, it gives Study its steps


def photographs(folder, n=10, side=(90, 120), links=0):
    "Two classes of JPEGs, `n` cut out of each photograph of scikit-learn, and `links` more names for the first ones."
    for name, image in zip(('china', 'flower'), load_sample_images().images):
        (folder/name).mkdir(parents=True)
        for i in range(n):
            picture = Image.fromarray(image[10 * i:][:60, :80]).resize(side[::-1], Image.BICUBIC)
            picture.save(folder/name/f'{i}.jpg')
        for i in range(links): os.link(folder/name/'0.jpg', folder/name/f'link{i:04d}.jpg')
    return folder


@pytest.fixture
def folder(tmp_path): return photographs(tmp_path/'photos')


@pytest.fixture
def many(tmp_path):
    "Large JPEGs, which take a second or more to decode."
    return photographs(tmp_path/'many', 1, (750, 1000), 160)


def kept(cache): return sorted(p.name for p in cache.glob('[!.]*.npy'))
def parts(cache): return list(cache.glob('.*.part*'))
def same(a, b): return all(map(torch.equal, a, b))
def batches(dls): return [b for _ in range(2) for b in dls.train] + list(dls.valid)


# the same bytes
@pytest.mark.parametrize('memory', [0, 2e9])
def test_bitwise_equal_to_decoding(folder, tmp_path, memory):
    decoded, images = (get_images(folder, 'train', size=40, memory=memory, cache=c) for c in (None, tmp_path/'cache'))
    assert decoded.in_memory == images.in_memory == bool(memory) and len(kept(tmp_path/'cache')) == 1
    for a, b in zip(images.batches(5), decoded.batches(5)): assert same(a, b)
    assert images.bytes_at(torch.arange(0)).shape == decoded.bytes_at(torch.arange(0)).shape == (0, 3, 40, 40)
    again = get_images(folder, 'train', size=40, memory=memory, cache=str(tmp_path/'cache'))
    assert torch.equal(again.pixels(range(16)), decoded.pixels(range(16))) and len(kept(tmp_path/'cache')) == 1


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'turned'])
def test_other_kinds_of_files(tmp_path, mode):
    for k in 'ab':
        (tmp_path/'photos'/k).mkdir(parents=True)
        image = Image.fromarray(np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3))
        image = image.convert('RGB' if mode == 'turned' else mode)
        exif = Image.Exif()
        exif[0x0112] = 6 if mode == 'turned' else 1
        for i in range(2): image.save(tmp_path/'photos'/k/f'{i}.jpg', exif=exif)
    decoded, images = (get_images(tmp_path/'photos', size=24, memory=0, cache=c) for c in (None, tmp_path/'cache'))
    assert torch.equal(decoded.bytes_at([0, 1]), images.bytes_at([0, 1])) and images.bytes_at([0]).float().std() > 10


@pytest.mark.parametrize('num_workers', [None, 2])
def test_loader(folder, tmp_path, num_workers):
    args = dict(bs=4, size=24, augment=Augment(jitter=.2), device='cpu')
    dls = get_dls(folder, memory=0, cache=tmp_path/'cache', num_workers=num_workers, **args)
    assert dls.train.fake_l.num_workers == (num_workers or 0)
    for a, b in zip(batches(dls), batches(get_dls(folder, **args)), strict=True): assert same(a, b)


def test_what_is_done_with_images(folder, tmp_path):
    decoded, images = (get_images(folder, 'train', size=24, memory=0, cache=c) for c in (None, tmp_path/'cache'))
    changes = (lambda i: i.subset([5, 2]), lambda i: i.with_labels(1 - i.y), lambda i: join(i, i.subset([1])),
               lambda i: i.subset([3, 0]).at(32))
    for change in changes:
        a, b = change(decoded), change(images)
        assert not b.in_memory and torch.equal(a.y, b.y)
        assert torch.equal(a.pixels(range(len(a))), b.pixels(range(len(a))))
    mixed = join(images.subset([1]), decoded.subset([2]))
    assert torch.equal(mixed.bytes_at([0, 1]), decoded.bytes_at([1, 2]))
    assert torch.equal(join(images, get_images(folder, size=24)).x[:16], decoded.bytes_at(range(16)))


def test_domains_have_a_file_each(tmp_path):
    for name in ('photo', 'sketch'): photographs(tmp_path/'world'/name, 5)
    args = dict(size=24, memory=0, domain=['photo', 'sketch'])
    decoded, images = (get_images(tmp_path/'world', cache=c, **args) for c in (None, tmp_path/'cache'))
    assert torch.equal(images.bytes_at(range(4)), decoded.bytes_at(range(4))) and len(kept(tmp_path/'cache')) == 2


# made once
def test_training_reads_no_image_file(folder, tmp_path):
    "The files are gone, and two students learn the same as from files."
    def trained(cache):
        args = dict(bs=4, size=24, augment=Augment(jitter=.2), device='cpu', memory=0, num_workers=0)
        dls = get_dls(folder, cache=cache, **args)
        if cache: shutil.rmtree(folder)
        student = models.create_model('resnet_small', 2, seed=1, width=4)
        teacher = models.create_model('resnet_small', 2, seed=0, width=4)
        learn = distill_learner(dls, teacher, dict(Ind=None, KL=KL()), student=student)
        with learn.no_logging(), learn.no_bar(): learn.fit(2)
        return [p for net in learn.cohort.students.values() for p in net.parameters()]
    assert same(trained(None), trained(tmp_path/'cache'))


OPENED = '''
import sys
opened = []
sys.addaudithook(lambda event, args: event == 'open' and str(args[0]).endswith('.jpg') and opened.append(args[0]))
from kd_knowledge.data import get_dls
for memory in (0, 2e9):
    dls = get_dls(sys.argv[1], bs=4, size=24, device='cpu', memory=memory, num_workers=0, cache=sys.argv[2])
    for batch in dls.train: pass
    print(len(opened), 'opened')
'''


def test_a_later_run_opens_no_image_file(folder, tmp_path, fresh):
    first, later = (fresh(OPENED, folder, tmp_path/'cache').stdout for _ in range(2))
    assert '20 opened' in first and first.count(' are kept in ') == 2
    assert [line for line in later.splitlines() if not line.startswith('data: ')] == ['0 opened'] * 2


def test_a_changed_file_makes_another(folder, tmp_path):
    cache = tmp_path/'cache'
    def images(size=24, **kwargs): return get_images(folder, 'train', size=size, memory=0, cache=cache, **kwargs)
    first, path = images(), folder/'china'/'3.jpg'
    here, stat = [Path(p) for p in get_images(folder, 'train', size=24, memory=0).x].index(path), path.stat()
    Image.new('RGB', (90, 120), 'red').save(path)
    red = lambda images: images.bytes_at([here])[0, 0, 9, 9].item()
    assert red(images()) > 250 > red(first) and len(kept(cache)) == 2
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    images()
    path.rename(path.with_name('3a.jpg'))
    images()
    images(n=5)
    images(n=5, seed=1)
    images(size=32)
    assert len(kept(cache)) == 7
    images()
    images(size=32)
    assert len(kept(cache)) == 7


def test_a_moved_folder_keeps_its_file(folder, tmp_path, monkeypatch):
    first = get_images(folder, size=24, memory=0, cache=tmp_path/'cache')
    shutil.copytree(folder, tmp_path/'elsewhere'/'photos')
    monkeypatch.chdir(tmp_path/'elsewhere')
    for place in (tmp_path/'elsewhere'/'photos', 'photos', './photos'):
        assert get_images(place, size=24, memory=0, cache=tmp_path/'cache').x == first.x


def test_default_place(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('KD_CACHE', str(tmp_path/'mine'))
    get_images(folder, size=24, cache=True)
    place = tmp_path/'mine'/kept(tmp_path/'mine')[0]
    assert capsys.readouterr().out.splitlines()[1:] == [f'4 images of 24 px are kept in {place} (0.0 MB)']
    monkeypatch.delenv('KD_CACHE')
    monkeypatch.setenv('HOME', str(tmp_path))
    get_images(folder, size=24, cache=True)
    assert len(kept(tmp_path/'.cache'/'kd_knowledge'/'resized')) == 1
    get_images(folder, size=24, cache=False)
    get_images(folder, size=24)
    assert sum(len(kept(p)) for p in (tmp_path/'mine', tmp_path/'.cache'/'kd_knowledge'/'resized')) == 2


# whole or absent
MAKE = '''
import hashlib, sys, time
from pathlib import Path
from kd_knowledge.data import get_images
print('ready', flush=True)
while not Path(sys.argv[3]).exists(): time.sleep(.005)
images = get_images(sys.argv[1], 'train', size=64, memory=0, cache=sys.argv[2])
print(hashlib.sha256(images.bytes_at(range(len(images))).numpy().tobytes()).hexdigest(), flush=True)
'''


def start(*args):
    "A process that is about to make the cache, and will as soon as the third argument is there."
    process = subprocess.Popen([sys.executable, '-c', MAKE, *map(str, args)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    return process


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(.002)


def test_a_killed_process_leaves_nothing_half_made(many, tmp_path):
    cache, go = tmp_path/'cache', tmp_path/'go'
    process = start(many, cache, go)
    go.touch()
    until(lambda: any(p.stat().st_size > 0 for p in parts(cache)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not kept(cache) and len(parts(cache)) == 1
    decoded, images = (get_images(many, 'train', size=64, memory=0, cache=c) for c in (None, cache))
    some = range(0, len(images), 9)
    assert len(kept(cache)) == 1 and not parts(cache)
    assert torch.equal(images.bytes_at(some), decoded.bytes_at(some))


def test_two_processes_make_one_file(many, tmp_path):
    cache, go = tmp_path/'cache', tmp_path/'go'
    both = [start(many, cache, go) for _ in range(2)]
    go.touch()
    outputs = [p.communicate(timeout=100)[0].splitlines()[1:] for p in both]  # the first line is the split's
    second, first = sorted(outputs, key=lambda lines: ' are kept in ' in lines[0])
    assert second[0].startswith('waiting for another process') and ' are kept in ' in first[0]
    assert second[1:] == first[1:] and len(first) == 2
    assert len(kept(cache)) == 1 and not parts(cache)


def test_a_broken_image_is_named_and_nothing_is_kept(folder, tmp_path):
    read = lambda: [get_images(folder, split, size=24, cache=tmp_path/'cache') for split in ('train', 'valid')]
    (folder/'flower'/'4.jpg').write_bytes(b'not an image')
    says(read, 'data: cannot read', '4.jpg')
    assert not parts(tmp_path/'cache') and len(kept(tmp_path/'cache')) < 2
    os.remove(folder/'flower'/'4.jpg')
    (folder/'flower'/'4.jpg').symlink_to('nowhere')
    says(read, 'data: cannot read', '4.jpg')


@pytest.mark.parametrize('damage', [lambda p: p.unlink(), lambda p: os.truncate(p, 2000), lambda p: os.truncate(p, 0)])
def test_a_damaged_file_is_named(folder, tmp_path, damage):
    images = get_images(folder, 'train', size=24, memory=0, cache=tmp_path/'cache')
    name = kept(tmp_path/'cache')[0]
    damage(tmp_path/'cache'/name)
    says(lambda: images.bytes_at([0]), 'cache:', name, 'Remove it')


# a disk that will not have it
@pytest.fixture
def disk(tmp_path):
    "A disk of 1 MB."
    path = tmp_path/'disk'
    path.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', path]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('only root can mount a small disk')
    try: yield path
    finally: subprocess.run(['umount', path], check=True)


def test_room_is_asked_for_first(folder, tmp_path, disk):
    says(lambda: get_images(folder, 'train', size=200, cache=disk),
         'cache: ', '1,048,576 bytes free', '1,920,000 are needed', 'cache=FOLDER')
    assert not kept(disk) and not parts(disk)
    get_images(folder, 'train', size=80, cache=disk)
    assert len(kept(disk)) == 1


def test_more_than_any_disk_is_told_before_anything_is_read(folder, tmp_path):
    says(lambda: get_images(folder, 'train', size=10**6, memory=0, cache=tmp_path/'cache'),
         'cache: ', '48,000,000,000,000 are needed')


def test_a_disk_that_fills_up_meanwhile(many, disk):
    def fill():
        until(lambda: parts(disk))
        try: (disk/'filler').write_bytes(bytes(2**20))
        except OSError: pass
    other = Thread(target=fill)
    other.start()
    says(lambda: get_images(many, 'train', size=36, cache=disk), 'cache: cannot write', 'No space left', 'KD_CACHE')
    other.join()
    assert not kept(disk) and not parts(disk)


def test_a_read_only_disk(folder, disk):
    first = get_images(folder, size=24, memory=0, cache=disk)
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    says(lambda: get_images(folder, 'train', size=24, cache=disk),
         'cache: cannot write to', 'Read-only', 'cache=FOLDER')
    assert get_images(folder, size=24, memory=0, cache=disk).x == first.x


@pytest.mark.parametrize('cache,texts', [
    (3, ('cache: got 3', 'Give true, or a folder')),
    ('photos/china/0.jpg', ('cache: cannot write to', 'Give a folder'))])
def test_a_place_that_is_none(folder, tmp_path, monkeypatch, cache, texts):
    monkeypatch.chdir(tmp_path)
    says(lambda: get_images(folder, size=24, cache=cache), *texts)


def test_data_without_files_have_no_cache(tmp_path):
    says(lambda: get_images('shapes', n=2, cache=True), 'cache: shapes has no such option')


# memory
PEAK = '''
import resource, sys
from kd_knowledge.data import get_dls
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def epoch(folder, cache):
    dls = get_dls(folder, bs=32, size=128, device='cpu', memory=0, num_workers=0, cache=cache)
    return sum(len(b[0]) for b in dls.train)
epoch(*sys.argv[1:3])
before = peak()
n = epoch(*sys.argv[3:])
print(n * 3 * 128 * 128 / 2**20, peak() - before)
'''


def test_memory_is_flat(tmp_path, fresh):
    "A set of many times the limit is written and read."
    small, large = photographs(tmp_path/'small', 1, links=80), photographs(tmp_path/'large', 1, links=1500)
    output = fresh(PEAK, small, tmp_path/'cache', large, tmp_path/'cache').stdout
    size, grown = map(float, output.splitlines()[-1].split())
    assert size > 100 and grown < 16, f'{grown:.0f} MB more for {size:.0f} MB of images'


def test_a_study_goes_on_with_a_cache(folder, tmp_path):
    "How images are read is no part of what a step depends on: a run begun without a cache is finished with one."
    study = lambda **args: Study(data=str(folder), data_args=args, out=str(tmp_path/'run')).filled()
    assert [s.key for s in study().steps()] == [s.key for s in study(cache=str(tmp_path/'pix'), memory=0).steps()]
    assert [s.key for s in study().steps()] != [s.key for s in study(unlabeled=True).steps()]
