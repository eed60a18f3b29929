"Batches from disk and from workers, for fastai, and the same in every process."
import hashlib

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401, it gives Learner its no_bar
from fastai.learner import Learner
from torch.nn.functional import cross_entropy

from tests.common import says
from tests.data.common import photographs
from kd_knowledge.data import DOMAINS, Augment, domains, get_dls


@pytest.mark.parametrize('num_workers', [0, 2])
def test_loader_on_disk(tmp_path, num_workers):
    photographs(tmp_path)
    def batches(**kwargs):
        dls = get_dls(tmp_path, bs=4, size=24, augment=Augment(jitter=.2), device='cpu', **kwargs)
        return [b for _ in range(2) for b in dls.train]
    for a, b in zip(batches(memory=0, num_workers=num_workers), batches()): assert all(map(torch.equal, a, b))


def test_broken_file_in_a_worker_is_one_line(tmp_path):
    photographs(tmp_path)
    for path in (tmp_path/'china').iterdir(): path.write_bytes(b'')
    dls = get_dls(tmp_path, bs=4, size=24, memory=0, num_workers=1, device='cpu')
    says(lambda: list(dls.train), 'data: cannot read the image', '.jpg')


@pytest.mark.parametrize('kwargs,text', [
    (dict(bs=0), 'bs: got 0'), (dict(bs=-1), 'bs'), (dict(n_train=0), 'n_train: got 0'), (dict(n_valid=-1), 'n_valid'),
    (dict(data='digits', n_valid=5000), 'n_valid: 5000'), (dict(device='abacus', n_train=10, n_valid=10), 'device')])
def test_bad_loader_arguments(kwargs, text): says(lambda: get_dls(**kwargs), text)


def test_fastai_predictions():
    dls = get_dls(bs=16, n_train=40, n_valid=24, device='cpu')
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    learn = Learner(dls, net, loss_func=lambda pred, label, index: cross_entropy(pred, label))
    with learn.no_bar(): pred, (label, index) = learn.get_preds(ds_idx=0)
    assert index.tolist() == list(range(40)) and torch.equal(label, dls.train_ds.y)
    assert torch.allclose(pred, net(dls.train_ds.pixels(range(40))), atol=1e-5)


def test_loader_repeats_after_a_cut_epoch():
    "An epoch that is left early is still another epoch; a look changes nothing."
    one, two = (get_dls(bs=8, n_train=40, n_valid=8, device='cpu').train for _ in range(2))
    next(iter(one))
    next(iter(two))
    two.one_batch()
    two.show_batch(max_n=2)
    assert torch.equal(next(iter(one))[2], next(iter(two))[2])
    assert not torch.equal(next(iter(one))[2], one.one_batch()[2])


def digest():
    "A fingerprint of two epochs of batches and of every domain."
    dls = get_dls(bs=16, n_train=40, n_valid=8, augment=Augment(jitter=.4), device='cpu')
    data = [t.numpy().tobytes() for dl in (dls.train, dls.train, dls.valid) for b in dl for t in b]
    return hashlib.sha256(b''.join(data + [domains(d, 5).x.numpy().tobytes() for d in DOMAINS])).hexdigest()


def test_same_in_a_fresh_process(fresh, root):
    torch.rand(3)
    np.random.rand(3)
    there = fresh('from tests.data.test_loaders import digest; print(digest())', path=root)
    assert there.stdout.strip() == digest(), there.stderr
