"CKA: equal to a plain float64 implementation, free of the bias of small batches, streamed without a trace."
import gc, time

import numpy as np
import pytest
import torch
from torch import nn

from tests.common import Fails
from tests.probes.common import left_on
from kd_knowledge.core import KDError
from kd_knowledge.data import Images
from kd_knowledge.models import anatomy, create_model, taps
from kd_knowledge.probes import Cast, estimate, summary
from kd_knowledge.probes.representation import _batches, cka, cka_matrices, corresponding, plot_cka, representation


def hsic(x, y):
    "Song 2012, equation 5, written out on full float64 matrices."
    x, y = (v - v.mean(0) for v in (x.flatten(1).double(), y.flatten(1).double()))  # changes nothing but the rounding
    k, l = x @ x.T, y @ y.T
    n, one = len(k), torch.ones(len(k), dtype=torch.float64)
    k, l = k - k.diag().diag(), l - l.diag().diag()
    outer, inner = (one @ k @ one)*(one @ l @ one)/((n - 1)*(n - 2)), 2/(n - 2)*(one @ k @ l @ one)
    return ((k @ l).trace() + outer - inner)/(n*(n - 3))


def plain_cka(x, y): return (hsic(x, y)/(hsic(x, x)*hsic(y, y)).sqrt()).item()


def random(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_images(n=150, size=16):
    x = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0)).byte()
    return Images(x, torch.arange(n) % 4, list('abcd'), size)


def small(seed, width=4, stages=2): return create_model('resnet_small', 4, seed=seed, width=width, stages=stages)


def some_cast():
    return Cast(small(0, 6), dict(Ind=[small(1), small(2)], KL=[small(3), small(4)]), dict(random=small(9, 6)))


@pytest.mark.parametrize('offset', [0, 10, 100])
@pytest.mark.parametrize('shape', [(16, 40), (64, 8, 5, 5), (100, 3000)])
def test_equals_plain_float64(shape, offset):
    "Far from the origin too, where products in single precision would be lost without centring."
    x = random(*shape) + offset
    y = torch.relu(x.flatten(1)[:, ::2]) + random(shape[0], x[0].numel()//2, seed=1) + offset
    y = y[:, :y.shape[1]//2]
    assert abs(cka(x, y) - plain_cka(x, y)) < 1e-6


def test_independent_features_are_near_zero():
    pairs = [cka(random(64, 500, seed=2*i), random(64, 300, seed=2*i + 1)) for i in range(24)]
    assert abs(np.mean(pairs)) < .02
    assert max(map(abs, pairs)) < .12


class Deaf(nn.Module):
    "A network whose features are noise of its own for each image, which it knows by its first two pixels."
    def __init__(self, seed):
        super().__init__()
        self.noise, self.fc, self.recipe = nn.Embedding(2048, 50), nn.Linear(50, 4), dict(n_classes=4)
        self.noise.weight.data = random(2048, 50, seed=seed)
    def forward(self, x): return self.fc(self.noise((x[:, 0, 0, :2]*255).round().long() @ torch.tensor([8, 1])))


def test_streamed_independent_features_are_near_zero():
    images, number = some_images(2048, 8), torch.arange(2048)
    images.x[:, 0, 0, :2] = torch.stack((number//8, number % 8), 1).byte()
    layers = dict(T=['fc:input'], Ind=['fc:input'])
    found = cka_matrices(Cast(Deaf(0), dict(Ind=Deaf(1))), images, layers, bs=64, batches=32)
    assert abs(found['Ind', 0].iloc[0, 0]) < .02 and abs(found['T', 0].iloc[0, 0] - 1) < 1e-6


def test_invariances():
    x, turn = random(64, 30), torch.linalg.qr(random(30, 30, seed=1))[0]
    y = x @ random(30, 10, seed=2)
    assert abs(cka(x, x) - 1) < 1e-9 and abs(cka(x, y) - cka(y, x)) < 1e-12
    for z in (x @ turn, 1e-3*x, -50*x, x + 20, x[:, torch.randperm(30)]): assert abs(cka(z, y) - cka(x, y)) < 1e-5
    order = torch.randperm(64)
    assert abs(cka(x[order], y[order]) - cka(x, y)) < 1e-6
    assert cka(x, torch.full((64, 5), .1)) == 0


def test_streaming_equals_a_plain_loop_over_the_same_batches():
    cast, images = some_cast(), some_images(210)
    found, rows = cka_matrices(cast, images), representation(cast, images)
    batches = _batches(210, 256, 12, 0)
    assert [len(b) for b in batches] == [70]*3
    with cast.run(), torch.no_grad():
        def read(net, idxs):
            with taps(net, *anatomy(net).layers.values()) as seen:
                net(images.pixels(idxs))
                return list(seen.values())
        for m in cast.networks:
            cross = own = mine = 0
            for idxs in batches:
                a, b = read(cast.teacher, idxs), read(m.net, idxs)
                cross = cross + torch.stack([torch.stack([hsic(x, y) for y in b]) for x in a])
                own, mine = own + torch.stack([hsic(x, x) for x in a]), mine + torch.stack([hsic(y, y) for y in b])
            want = (cross/(own[:, None]*mine).sqrt()).numpy()
            assert abs(found[m.model, m.seed].to_numpy() - want).max() < 1e-6
            if m.model == 'T': continue
            diagonal = summary(rows[(rows.model == m.model) & (rows.seed == m.seed)]).value
            assert abs(diagonal.to_numpy() - np.diag(want)).max() < 1e-6


def test_own_copy_is_one():
    teacher = small(0)
    cast = Cast(teacher, dict(Ind=small(1), copy=teacher))
    rows = representation(cast, some_images())
    assert np.allclose(summary(rows[rows.model == 'copy']).value, 1, atol=1e-6)
    own = cka_matrices(cast, some_images())['T', 0].to_numpy()
    assert np.allclose(np.diag(own), 1) and np.allclose(own, own.T)


def test_rows():
    cast, images = some_cast(), some_images(210)
    rows = representation(cast, images)
    assert set(rows.probe) == {'representation'} and set(rows.metric) == {'CKA'} and 'T' not in set(rows.model)
    assert list(rows.condition.unique()) == ['F1', 'F2', 'F3', 'F4', 'F5']
    assert set(rows['sample']) == {0, 1, 2} and rows.value.notna().all()
    assert len(rows) == 5*5*3 and len(estimate(rows)) == 5
    assert rows.equals(representation(cast, images)) and not rows.equals(representation(cast, images, seed=1))


@pytest.mark.parametrize('n', [4, 5, 63, 64, 127, 128, 300, 1000, 3001])
@pytest.mark.parametrize('bs', [4, 7, 64, 256])
def test_no_batch_is_too_small(n, bs):
    parts = _batches(n, bs, 12, 0)
    sizes = [len(p) for p in parts]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    assert min(sizes) >= min(4, n) and max(sizes) - min(sizes) <= 1
    if n >= 64 <= bs: assert min(sizes) >= 64
    if n == 1000 and bs >= 64: assert 10 <= len(parts) <= 16


def test_corresponding_layers():
    assert corresponding('abcdefg', 'ABCDEFG') == dict(zip('abcdefg', 'ABCDEFG'))
    for a in range(3, 15):
        for b in range(3, 15):
            pairs = corresponding(range(a), range(b))
            assert list(pairs) == list(range(a)) and pairs[0] == 0 and (pairs[a - 2], pairs[a - 1]) == (b - 2, b - 1)
            assert list(pairs.values()) == sorted(pairs.values())
            if a > 3: assert pairs[a - 3] == b - 3


def test_networks_of_other_depths():
    cast = Cast(small(0, stages=3), dict(Ind=small(1, stages=2), KL=create_model('mnist_cnn', 4, seed=0)))
    rows, images = representation(cast, some_images(80, 28)), some_images(80, 28)
    assert list(rows.condition.unique()) == [f'F{i + 1}' for i in range(6)]
    found = cka_matrices(cast, images)
    assert {k: v.shape for k, v in found.items()} == {('T', 0): (6, 6), ('Ind', 0): (6, 5), ('KL', 0): (6, 4)}
    kl = rows[rows.model == 'KL'].set_index('condition').value
    pairs = corresponding(found['KL', 0].index, found['KL', 0].columns)
    assert all(abs(kl[t] - found['KL', 0].loc[t, o]) < 1e-6 for t, o in pairs.items())


def test_named_layers():
    cast = some_cast()
    named = cka_matrices(cast, some_images(), layers=dict(KL=['net.layer1', 'net.fc']))
    assert named['KL', 0].shape == (5, 2) and named['Ind', 0].shape == (5, 5)
    assert np.allclose(named['KL', 0], cka_matrices(cast, some_images())['KL', 0][['F2', 'F5']])


def test_bad_input():
    cast, images, x = some_cast(), some_images(), random(8, 3)
    for call, name in ((lambda: cka(x[:3], x[:3]), 'x'), (lambda: cka(x, x[:4]), 'y'),
                       (lambda: representation(cast, images, bs=3), 'bs'),
                       (lambda: representation(cast, images.subset(range(3))), 'images'),
                       (lambda: representation(cast, images, batches=0), 'batches'),
                       (lambda: cka_matrices(cast, images, layers=dict(Kl=['fc'])), 'layers'),
                       (lambda: plot_cka(cast, images, ['Kl']), 'models')):
        with pytest.raises(KDError) as e: call()
        assert str(e.value).startswith(f'{name}:') and '\n' not in str(e.value)


# Nothing is left behind

@pytest.mark.parametrize('error', [None, RuntimeError('broken'), KeyboardInterrupt()],
                         ids=['success', 'error', 'interrupt'])
def test_nothing_is_left(error):
    students = dict(Ind=[Fails(small(1), None, -1)], KL=[Fails(small(2), None, -1)])
    cast = Cast(Fails(small(0), None, -1), students)
    if error: cast.of('KL')[0].net.error, cast.of('KL')[0].net.at = error, 3
    cast.networks[1].net.eval()
    next(cast.networks[2].net.parameters()).requires_grad_(False)
    before, images = [left_on(m.net) for m in cast.networks], some_images(200)
    if error is None: representation(cast, images)
    else:
        with pytest.raises(type(error)): representation(cast, images)
    assert [left_on(m.net) for m in cast.networks] == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_memory_does_not_grow_with_the_images():
    "What is alive at the second and at the last batch: nothing but the few numbers of each batch between."
    cast, images, alive, calls = some_cast(), some_images(64*12), [], []
    pixels = images.pixels
    def counted(*args):
        calls.append(args)
        if len(calls) in (2, 12):
            gc.collect()
            alive.append(sum(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor))
        return pixels(*args)
    images.pixels = counted
    cka_matrices(cast, images)
    assert len(calls) == 12 and alive[1] - alive[0] <= 10*6*(5*5 + 5)


def test_picture():
    axes = plot_cka(some_cast(), some_images(80))
    assert [ax.get_xlabel() for ax in axes] == ['layers of Ind', 'layers of KL', 'layers of random']
    assert all(ax.images[0].get_clim() == (0, 1) for ax in axes)
    assert len(plot_cka(some_cast(), some_images(80), ['Ind', 'KL'])) == 2


def test_costs_little_beside_the_forward_passes(capsys):
    "Printed, and bounded loosely: other work on the machine disturbs it."
    cast, images = Cast(small(0, 32, 3), dict(Ind=small(1, 16, 3), KL=small(2, 16, 3))), some_images(168, 32)
    def forwards():
        with cast.run(), torch.inference_mode():
            for idxs in _batches(len(images), 256, 12, 0):
                x = images.pixels(idxs)
                for m in cast.networks: m.net(x)
    def seconds(f):
        start = time.process_time()
        f()
        return time.process_time() - start
    plain, ours = (min(seconds(f) for _ in range(3)) for f in (forwards, lambda: representation(cast, images)))
    with capsys.disabled(): print(f'\nCKA of three networks: {ours/plain:.2f} x the forward passes alone')
    assert ours < 2.5*plain
