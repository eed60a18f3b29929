"Decision boundaries worked out point by point in plain Python; the linear case against algebra; nothing left behind."
import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.probes.common import left_on
from kd_knowledge.core import KDError
from kd_knowledge.data import Images
from kd_knowledge.models import frozen
from kd_knowledge.probes import Cast, estimate
from kd_knowledge.probes.boundary import (boundary, linear_case, linear_student, plane, plot_linear, plot_plane,
                                          tangents, triplets)


def small_cnn(seed, classes=4):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Dropout(.5), nn.Linear(6, classes))
    x = F.interpolate(torch.rand(50, 3, 4, 4), 8, mode='bilinear')
    with frozen(net), torch.no_grad(): net[6].bias -= net(x).mean(0)  # lest it give one answer to everything
    return net.double()


class AsDouble(nn.Module):
    "A network in float64, whose answers do not hang on how a batch was cut; it remembers what it was shown."
    recipe = dict(n_classes=4)
    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []
        self.register_forward_pre_hook(lambda m, args: m.seen.append(args[0]))
    def forward(self, x): return self.net(x.double())


class Doubles(Images):
    "Images in float64, so that no point of a plane lies on a boundary by rounding."
    def pixels(self, idxs, device=None): return super().pixels(idxs, device).double()


def some_images(n=30, size=8, classes=4, seed=0):
    noise = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    x = F.interpolate(noise, size, mode='bilinear').mul(255).byte()
    return Doubles(x, torch.arange(n) % classes, [str(i) for i in range(classes)], size)


def some_cast():
    net = lambda seed: AsDouble(small_cnn(seed))
    return Cast(net(0), dict(Ind=[net(1), net(2)], KL=net(3)), {'T*': net(4)})


# The plane and its grid, in plain Python

def dot(a, b): return sum(p*q for p, q in zip(a, b))

def written_out(x, points, margin=.1):
    "Points of the plane as lists of numbers, and whether each lies in the triangle by the signs of three areas."
    a, b, c = (image.flatten().double().tolist() for image in x)
    first, second = [q - p for p, q in zip(a, b)], [q - p for p, q in zip(a, c)]
    width = math.sqrt(dot(first, first))
    e1 = [v/width for v in first]
    along = dot(e1, second)
    rest = [v - along*e for v, e in zip(second, e1)]
    height = math.sqrt(dot(rest, rest))
    e2 = [v/height for v in rest]
    corners = [(0., 0.), (width, 0.), (along, height)]
    ranges = [(min(v) - margin*(max(v) - min(v)), max(v) + margin*(max(v) - min(v))) for v in zip(*corners)]
    us, vs = ([low + i*(high - low)/(points - 1) for i in range(points)] for low, high in ranges)
    area = lambda p, q, r: (q[0] - p[0])*(r[1] - p[1]) - (q[1] - p[1])*(r[0] - p[0])
    for v, u in product(vs, us):
        sides = [area(p, q, (u, v)) for p, q in zip(corners, corners[1:] + corners[:1])]
        yield [p + u*s + v*t for p, s, t in zip(a, e1, e2)], all(s >= 0 for s in sides)


@pytest.mark.parametrize('points', [3, 4, 11])
def test_plane_and_triangle_by_hand(points):
    for seed in range(5):
        x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        here = plane(x, points)
        want, inside = zip(*written_out(x, points))
        got = torch.cat(list(here.batches(7)))
        assert got.shape == (points**2, 3, 4, 4) and max(len(b) for b in here.batches(7)) <= 7
        assert (got.flatten(1) - torch.tensor(want, dtype=torch.float64)).abs().max() < 1e-12
        assert here.inside.tolist() == list(inside)


def test_agreement_by_hand():
    "Three planes, one point and one network at a time."
    cast, images, points = some_cast(), some_images(), 7
    rows = boundary(cast, images, planes=3, points=points, bs=20)
    with cast.run(), torch.no_grad():
        for sample, three in enumerate(triplets(images, 3)):
            grid = list(written_out(images.pixels(three), points))
            pixels = [torch.tensor(p, dtype=torch.float64).view(1, 3, 8, 8) for p, _ in grid]
            answer = lambda m: [m.net(x).argmax().item() for x in pixels]
            teacher = answer(cast.networks[0])
            assert len(set(teacher)) > 1
            for m in cast.networks[1:]:
                same = [a == b for a, b in zip(teacher, answer(m))]
                within = [s for s, (_, inside) in zip(same, grid) if inside]
                mine = rows[(rows.model == m.model) & (rows.seed == m.seed) & (rows['sample'] == sample)]
                mine = mine.set_index('metric').value
                assert mine['agreement'] == pytest.approx(sum(same)/len(same), abs=1e-6)
                assert mine['agreement inside'] == pytest.approx(sum(within)/len(within), abs=1e-6)


def test_every_network_sees_the_same_points_once():
    cast, images = some_cast(), some_images()
    boundary(cast, images, dict(other=some_images(seed=1)), planes=4, points=5, bs=10)
    # networks and the folding of batch norms are tried on three images and on two
    seen = [torch.cat([x for x in m.net.seen if len(x) > 3]) for m in cast.networks]
    assert len(seen[0]) == 2*4*25 and all(torch.equal(s, seen[0]) for s in seen)
    assert all(len(x) <= 10 for x in cast.teacher.seen)


def test_triplets():
    images = some_images()
    drawn = triplets(images, 40)
    assert drawn.shape == (40, 3) and all(len(set(images.y[t].tolist())) == 3 for t in drawn)
    assert torch.equal(drawn, triplets(some_images(seed=5), 40)) and torch.equal(drawn[:7], triplets(images, 7))
    assert not torch.equal(drawn, triplets(images, 40, seed=1))
    for few in (1, 2): assert all(len(set(t.tolist())) == 3 for t in triplets(some_images(classes=few), 40))
    assert len(set(drawn.flatten().tolist())) > 20


# The table

def test_table():
    cast, images = some_cast(), some_images()
    domains = dict(sketch=some_images(seed=1), edge=some_images(12, seed=2))
    rows = boundary(cast, images, domains, planes=5, points=6)
    assert list(rows.condition.unique()) == ['seen', 'sketch', 'edge'] and set(rows.probe) == {'boundary'}
    assert set(rows.metric) == {'agreement', 'agreement inside'}
    assert 'T' not in set(rows.model) and 'T*' in set(rows.model)
    assert len(rows) == 3*2*4*5 and rows.value.between(0, 1).all() and set(rows['sample']) == set(range(5))
    assert len(estimate(rows)) == 3*2
    alone = boundary(cast, domains['edge'], planes=5, points=6)
    assert alone.value.tolist() == rows[rows.condition == 'edge'].value.tolist()
    other = boundary(cast, images, planes=5, points=6, bs=11, seed=0)
    assert other.value.tolist() == rows[rows.condition == 'seen'].value.tolist()
    assert boundary(cast, images, planes=5, points=6, seed=1).value.tolist() != other.value.tolist()


def test_a_copy_agrees_everywhere():
    net, images = AsDouble(small_cnn(0)), some_images()
    rows = boundary(Cast(net, dict(Ind=AsDouble(small_cnn(1)), copy=net)), images, planes=4, points=5)
    assert (rows[rows.model == 'copy'].value == 1).all() and (rows[rows.model == 'Ind'].value < 1).any()


class Fails(AsDouble):
    def forward(self, x): raise RuntimeError('broken')


def test_nothing_is_left(monkeypatch):
    import matplotlib.pyplot as plt
    cast, images = some_cast(), some_images()
    cast.networks[1].net.eval()
    cast.networks[2].net.net[6].weight.requires_grad_(False)
    cast.teacher.net[1].eval()
    before = [left_on(m.net) for m in cast.networks]
    boundary(cast, images, planes=2, points=3)
    axes = plot_plane(cast, images, (3, 4, 5), points=5, models=['KL'])
    titles = [ax.get_title() for ax in axes]
    assert titles[:2] == ['3, 0, 1', 'T'] and titles[2].startswith('KL: ') and len(axes) == 3
    assert len(plot_plane(cast, images, points=5)) == 5 and len(plot_linear()) == 4
    plt.close('all')
    cast.networks[-1].net.__class__ = Fails
    with pytest.raises(RuntimeError): boundary(cast, images, planes=2, points=3)
    assert [left_on(m.net) for m in cast.networks] == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize('bad', [
    dict(planes=0), dict(points=0), dict(points=1), dict(points=2), dict(bs=0), dict(domains=[1]),
    dict(domains=dict(seen=some_images())), dict(images=some_images(2)),
    dict(triplet=some_images(6).subset([1, 1, 1]))], ids=str)
def test_bad_input(bad):
    (name, value), = bad.items()
    call = dict(images=value) if name in ('images', 'triplet') else dict(images=some_images(), **bad)
    with pytest.raises(KDError) as e: boundary(some_cast(), **call)
    assert str(e.value).startswith(name) and '\n' not in str(e.value)


def test_small_domain_is_told_before_any_forward():
    cast = some_cast()
    cast.teacher.seen.clear()
    with pytest.raises(KDError, match='images: images has 2'):
        boundary(cast, some_images(), dict(sketch=some_images(2)))
    assert not cast.teacher.seen
    with pytest.raises(KDError, match='models'): plot_plane(cast, some_images(), models=['nobody'])


# The linear case

@pytest.mark.parametrize('dims', [1, 2, 10, 50])
def test_one_point_more_than_dimensions(dims):
    draw = np.random.default_rng(dims)
    W, b, x = draw.standard_normal((3, dims)), draw.standard_normal(3), draw.standard_normal((dims + 1, dims))
    w, c = linear_student(W, b, x)
    assert abs(w - W).max() < 1e-10 and abs(c - b).max() < 1e-10
    w, c = linear_student(W, b, x[:dims])
    assert abs(x[:dims] @ w.T + c - x[:dims] @ W.T - b).max() < 1e-10
    assert abs(w - W).max() > 1e-3


def test_points_in_a_plane_are_not_enough():
    draw = np.random.default_rng(0)
    W, x = draw.standard_normal(4), draw.standard_normal((30, 4))
    x[:, 3] = x[:, 0] - 2*x[:, 1] + 1
    assert abs(linear_student(W, .5, x)[0] - W).max() > 1e-3


def test_noise_adds_error_in_proportion():
    draw = np.random.default_rng(0)
    W, b, x = draw.standard_normal(6), .2, draw.standard_normal((40, 6))
    error = lambda noise, seed: np.append(*linear_student(W, b, x, noise, seed)) - np.append(W, b)
    for seed in range(3):
        assert np.allclose(error(.6, seed), 3*error(.2, seed), atol=1e-10)
        assert abs(error(.2, seed)).max() > 1e-3
    A = np.column_stack([x, np.ones(40)])
    spread = np.mean([error(1., seed)**2 for seed in range(3000)], axis=0)
    assert np.allclose(spread, np.diag(np.linalg.inv(A.T @ A)), rtol=.12)


def test_linear_case(recwarn):
    table = linear_case(4, points=(2, 4, 5, 30), noises=(0., .1, .2), seeds=3)
    assert list(table.columns) == 'points noise seed student weights bias angle agreement'.split()
    assert len(table) == 4*3*(3 + 3)
    fitted = table[table.student == 'logits'].set_index(['noise', 'points', 'seed']).sort_index()
    enough = fitted.loc[0.].loc[[5, 30]]
    assert (enough[['weights', 'bias']] < 1e-10).all(axis=None) and (enough.agreement == 1).all()
    assert (fitted.loc[0.].loc[[2, 4]].weights > 1e-3).all()
    assert np.allclose(fitted.loc[.2].loc[[5, 30]].weights, 2*fitted.loc[.1].loc[[5, 30]].weights, rtol=1e-6)
    assert (table[table.student != 'logits'].angle > 1e-3).all()
    assert table.equals(linear_case(4, points=(2, 4, 5, 30), noises=(0., .1, .2), seeds=3))
    assert not [w for w in recwarn if 'onvergence' in str(w.category)]


def test_tangents():
    draw = np.random.default_rng(0)
    for _ in range(20):
        x, line = draw.standard_normal((2, 2)), draw.standard_normal(3)
        line /= np.hypot(*line[:2])
        d = x @ line[:2] + line[2]
        signed, every = tangents(x, d), tangents(x, d, signed=False)
        assert len(signed) == 2 and len(every) in (2, 4)
        assert np.allclose(signed[:, :2] @ x.T + signed[:, 2:], d)
        assert np.allclose(abs(every[:, :2] @ x.T + every[:, 2:]), abs(d))
        assert min(abs(signed - line).max(1)) < 1e-8
        assert min(np.r_[abs(every - line).max(1), abs(every + line).max(1)]) < 1e-8
        third = draw.standard_normal(2)
        left = [s for s in signed if abs(third @ s[:2] + s[2] - third @ line[:2] - line[2]) < 1e-8]
        assert len(left) == 1


@pytest.mark.parametrize('call, named', [
    (lambda: linear_student([1., 2.], 0., np.zeros((3, 2)), noise=-1), 'noise'),
    (lambda: linear_student([1., 2.], 0., np.zeros((3, 3))), 'x'),
    (lambda: linear_case(points=(1,)), 'points'), (lambda: linear_case(points=()), 'points'),
    (lambda: linear_case(0), 'dims'), (lambda: linear_case(seeds=0), 'seeds'),
    (lambda: tangents([[1, 1], [1, 1]], [1, 2]), 'x'), (lambda: plot_linear(x=[[1., 1.], [2., 1.]]), 'x'),
    (lambda: plot_linear(bias=100), 'x'),
    (lambda: plane(torch.rand(2, 3, 4, 4)), 'triplet')])
def test_bad_linear_input(call, named):
    with pytest.raises(KDError) as e: call()
    assert str(e.value).startswith(f'{named}: ') and '\n' not in str(e.value)
