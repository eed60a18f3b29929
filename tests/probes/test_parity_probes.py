"Grad-CAM and FGSM against other implementations; agreement and fooling worked out image by image; nothing left on a network."
import gc
from functools import partial

import psutil
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn
from torchvision import models as tv

from tests.common import Fails
from kd_knowledge.probes.adversarial import adversarial, fgsm
from kd_knowledge.core import KDError
from kd_knowledge.data import Images, check_pixels, colour_jitter, get_images
from kd_knowledge.probes.invariance import BLOCK, colour_invariance, crop_invariance, invariance, shift_invariance, views
from kd_knowledge.probes.localization import attribute, cosine, grad_cam, localization, mask_scores
from kd_knowledge.models import anatomy, create_model, frozen
from kd_knowledge.probes import Cast, estimate


def small_cnn(seed, classes=4):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.5), nn.Linear(8, classes))
    x = F.interpolate(torch.rand(50, 3, 4, 4), 16, mode='bilinear')
    with frozen(net), torch.no_grad(): net[8].bias -= net(x).mean(0)  # so that it does not give one answer to everything
    return net


def some_images(n=50, size=16, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.rand(n, 3, 4, 4, generator=g), size, mode='bilinear').mul(255).byte()
    return Images(x, torch.arange(n) % classes, [str(i) for i in range(classes)], size, masks=torch.rand(n, size, size, generator=g) < .3)


def some_cast(make=small_cnn): return Cast(make(0), dict(Ind=[make(1), make(2)], KL=[make(3), make(4)]), dict(foreign=make(5)))


# Grad-CAM

@pytest.mark.parametrize('name', ['resnet18', 'vgg11', 'densenet121'])
def test_grad_cam_equals_captum(name):
    torch.manual_seed(0)
    net = getattr(tv, name)(num_classes=10).eval()
    x, y = torch.rand(6, 3, 64, 64), torch.arange(6)
    maps, logits = grad_cam(net, x, y)
    if name == 'densenet121': net.forward = lambda x: net.classifier(F.relu(net.features(x)).mean((2, 3)))  # captum cannot stand the in-place ReLU
    theirs = LayerGradCam(net, net.get_submodule(anatomy(net).last_map)).attribute(x, target=y)[:, 0].relu()
    assert theirs.max() > 0 and maps.shape == theirs.shape
    assert (maps - theirs).abs().max() < 1e-5
    assert (maps - theirs).abs().max() < 1e-4*theirs.max()
    assert torch.allclose(logits, net(x), atol=1e-5)


def test_grad_cam_of_tokens_equals_the_formula():
    "For a ViT: mean gradient over patches times activation, class token left out, written out with autograd over the whole network."
    torch.manual_seed(0)
    net = tv.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).eval()
    nn.init.normal_(net.heads.head.weight)
    x, y, kept = torch.rand(3, 3, 32, 32), torch.tensor([0, 2, 4]), []
    maps, _ = grad_cam(net, x, y)
    handle = net.get_submodule(anatomy(net).last_map).register_forward_hook(lambda m, a, out: kept.append(out))
    g, = torch.autograd.grad(net(x)[range(3), y].sum(), kept)
    handle.remove()
    want = (kept[0][:, 1:]*g[:, 1:].mean(1, keepdim=True)).sum(2).relu().view(3, 4, 4)
    assert want.max() > 0 and (maps - want).abs().max() < 1e-6


@pytest.mark.parametrize('method', ['Saliency', 'InputXGradient', 'IntegratedGradients', 'GuidedBackprop', 'Deconvolution', 'DeepLift', 'DeepLiftShap',
                                    'GradientShap', 'LayerGradCam', 'LayerActivation', 'LayerGradientXActivation', 'GuidedGradCam', 'Occlusion'])
def test_attributions_by_name(method):
    net, x, y = small_cnn(0).train(), torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 3])
    if method == 'LayerActivation':
        with pytest.raises(KDError): attribute(net, x, y, method)
        return
    before = left_on(net)
    maps = attribute(net, x, y, method)
    assert maps.ndim == 3 and len(maps) == 3 and maps.min() >= 0 and maps.isfinite().all() and not maps.requires_grad
    assert left_on(net) == before


def test_localization_by_hand():
    "Every score of the table, worked out for one image at a time."
    cast, images = some_cast(), some_images(12)
    rows = localization(cast, images, bs=5)
    get = lambda model, seed, metric, i: rows[(rows.model == model) & (rows.seed == seed) & (rows.metric == metric) & (rows['sample'] == i)].value.item()
    for x, y, i in images.batches(1):
        maps = {(m.model, m.seed): grad_cam(m.net, x, y)[0] for m in cast.networks}
        like = {k: cosine(v, maps['T', 0]).item() for k, v in maps.items()}
        for key in maps:
            if key[0] != 'T': assert abs(get(*key, 'cosine', i.item()) - like[key]) < 1e-4
            assert get(*key, 'all-zero map', i.item()) == (maps[key].sum() == 0)
            for metric, v in mask_scores(maps[key], images.masks[i]).items(): assert abs(get(*key, metric, i.item()) - v.item()) < 1e-4
        won = sum((like['KL', 0] > like['Ind', s]) + .5*(like['KL', 0] == like['Ind', s]) for s in (0, 1))/2
        assert get('KL', 0, 'closer', i.item()) == won


# Iterative FGSM

def written_out(net, x, y, eps, steps, alpha):
    "One image, one pixel at a time where it matters, as in the paper."
    out = []
    for image, label in zip(x, y):
        moved = image.clone()
        for _ in range(steps):
            leaf = moved.clone().requires_grad_(True)
            z = net(leaf[None])[0]
            (z.exp().sum().log() - z[label]).backward()
            moved = moved + alpha*torch.where(leaf.grad > 0, 1., torch.where(leaf.grad < 0, -1., 0.)).double()
            moved = torch.stack([moved, image - eps]).amax(0); moved = torch.stack([moved, image + eps]).amin(0)
            moved = torch.where(moved < 0, 0., torch.where(moved > 1, 1., moved))
        out.append(moved.detach())
    return torch.stack(out)


@pytest.mark.parametrize('make', [small_cnn, lambda seed: tv.resnet18(num_classes=4)], ids=['small', 'resnet18'])
@pytest.mark.parametrize('eps, steps, alpha', [(4/255, 5, None), (.1, 3, .06)])
def test_fgsm_equals_a_written_out_loop(make, eps, steps, alpha):
    torch.manual_seed(0)
    net = make(0).double().eval()
    x, y = torch.rand(3, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 3])
    ours = fgsm(net, x, y, eps, steps, alpha)
    assert (ours - written_out(net, x, y, eps, steps, alpha or eps/steps)).abs().max() < 1e-9
    assert F.cross_entropy(net(ours), y) > F.cross_entropy(net(x), y)


@pytest.mark.parametrize('eps', [1/255, 8/255, .5, 1.])
def test_fgsm_stays_in_its_bounds(eps):
    x = torch.cat([torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16), torch.rand(4, 3, 16, 16)])
    moved = fgsm(small_cnn(0), x, torch.tensor([0, 1, 2, 3, 0, 1]), eps, alpha=eps)
    assert (moved - x).abs().max() <= eps + 1e-6 and moved.min() >= 0 and moved.max() <= 1
    check_pixels(moved)


@pytest.mark.parametrize('bad', [dict(eps=8), dict(eps=0), dict(eps=-.1), dict(eps=float('nan')), dict(steps=0), dict(alpha=-1.)])
def test_bad_attacks_are_told(bad):
    with pytest.raises(KDError) as e: adversarial(some_cast(), some_images(), **bad)
    assert str(e.value).startswith(next(iter(bad))) and '\n' not in str(e.value)


def test_images_that_are_none():
    x = torch.rand(1, 3, 16, 16); x[0, 0, 0, 0] = torch.nan
    for bad in (x, torch.rand(1, 3, 16, 16)*255):
        for call in (grad_cam, fgsm):
            with pytest.raises(KDError): call(small_cnn(0), bad, torch.tensor([0]))
    for y in ([4], [-1], [0, 1]):
        with pytest.raises(KDError): grad_cam(small_cnn(0), torch.rand(1, 3, 16, 16), torch.tensor(y))
    with pytest.raises(KDError, match='8/255'): fgsm(small_cnn(0), torch.rand(1, 3, 16, 16), torch.tensor([0]), eps=8)


# Fooling and agreement, image by image

def test_fooling_by_hand():
    cast, images = some_cast(), some_images(40)
    rows, eps = adversarial(cast, images, bs=16, eps=16/255), 16/255
    answer = lambda m, x: m.net(x).argmax(1).item()
    with cast.run():
        for condition, attacked in dict(teacher=cast.of('T')[0], foreign=cast.of('foreign')[0]).items():
            here = rows[rows.condition == condition]
            for x, y, i in images.batches(1):
                i, moved = i.item(), fgsm(attacked.net, x, y, eps)
                fooled = answer(attacked, moved) != answer(attacked, x)
                assert here[(here.metric == 'fooling rate') & (here['sample'] == i)].value.tolist() == [fooled]
                for m in cast.networks:
                    mine = here[(here.model == m.model) & (here.seed == m.seed) & (here['sample'] == i)].set_index('metric').value
                    if m is attacked or not fooled: assert 'fooled' not in mine
                    else:
                        assert mine['fooled'] == (answer(m, moved) != answer(m, x))
                        if 'fooled, correct' in mine:
                            both = answer(m, x) == y and answer(cast.of('T')[0], x) == y
                            assert mine['fooled, correct'] == mine['fooled'] if both else mine['fooled, correct'] != mine['fooled, correct']


def test_agreement_by_hand():
    cast, images = some_cast(), some_images(50)
    rows = invariance(cast, images, colours=(.4,), crops=(.5,), shifts=(3,))
    with cast.run(), torch.no_grad():
        for probe, c in (('colour', .4), ('crop', .5), ('shift', 3)):
            for block in range(0, 50, BLOCK):
                x = images.pixels(torch.arange(50)[block:block + BLOCK])
                shown = views(probe, x, c, first=block)
                a, b = (x, *shown) if probe == 'colour' else shown
                for m in cast.networks:
                    want = [float(m.net(p[None]).argmax() == m.net(q[None]).argmax()) for p, q in zip(a, b)]
                    mine = rows[(rows.probe == probe) & (rows.model == m.model) & (rows.seed == m.seed)].value.tolist()
                    assert mine[block:block + BLOCK] == want


def test_wide_shifts_by_hand():
    "The paper's rule: windows of the images as read at 8/7 of their size, within the centre of size + m pixels."
    cast, images = some_cast(partial(small_cnn, classes=10)), get_images('shapes', 'valid', n=40)
    large = images.at(37).pixels(range(40))
    rows = shift_invariance(cast, images, shifts=(3, 5), wide=True)
    for m in (3, 5):
        windows = [torch.cat(v) for v in zip(*(views('shift', large[i:i + BLOCK], m, first=i, size=32) for i in range(0, 40, BLOCK)))]
        for v in windows:
            for one, whole in zip(v, large):
                edge = (37 - 32 - m)//2
                assert any(torch.equal(one, whole[:, edge + i:edge + i + 32, edge + j:edge + j + 32]) for i in range(m + 1) for j in range(m + 1))
        with cast.run(), torch.no_grad():
            for member in cast.networks:
                mine = rows[(rows.condition == str(m)) & (rows.model == member.model) & (rows.seed == member.seed)].value
                a, b = (member.net(v).argmax(1) for v in windows)
                assert mine.tolist() == (a == b).float().tolist()
    assert invariance(cast, images, bs=7, colours=(), crops=(), shifts=(3, 5), wide=True).value.tolist() == rows.value.tolist()
    mixed = invariance(cast, images, colours=(.4,), crops=(.5,), shifts=(3,), wide=True)
    assert mixed[mixed.probe == 'shift'].value.tolist() == rows[rows.condition == '3'].value.tolist()
    assert mixed[mixed.probe != 'shift'].value.tolist() == invariance(cast, images, colours=(.4,), crops=(.5,), shifts=()).value.tolist()
    with pytest.raises(KDError, match='margin of 5.*at most 5, or wide=False'): shift_invariance(cast, images, shifts=(6,), wide=True)
    with pytest.raises(KDError, match='nobody knows how'): shift_invariance(cast, some_images(), shifts=(1,), wide=True)


def test_own_student_and_order():
    "A teacher that is its own student agrees in everything; other conditions do not change what an image becomes."
    teacher, images = small_cnn(0), some_images()
    cast = Cast(teacher, dict(Ind=small_cnn(1), twin=teacher))
    rows = adversarial(cast, images, eps=16/255)
    assert (rows[(rows.model == 'twin') & (rows.metric == 'fooled')].value == 1).all()
    near = localization(cast, images)
    seen = near[(near.model == 'T') & (near.metric == 'all-zero map')].value.to_numpy() == 0
    assert abs(near[(near.model == 'twin') & (near.metric == 'cosine')].value.to_numpy() - seen).max() < 1e-5
    assert colour_invariance(cast, images, strengths=(.4,)).value.tolist() == \
        (lambda r: r[r.condition == '0.4'].value.tolist())(colour_invariance(cast, images, strengths=(.6, .4)))


PROBES = dict(localization=localization, integrated=lambda *a, **k: localization(*a, method='IntegratedGradients', n_steps=3, **k),
              adversarial=lambda *a, **k: adversarial(*a, eps=16/255, **k), colour=colour_invariance, crop=crop_invariance, shift=shift_invariance)


@pytest.mark.parametrize('probe', PROBES)
def test_batch_size_changes_nothing(probe):
    cast, images = some_cast(), some_images(70)
    cast = Cast(cast.teacher, {k: [m.net for m in cast.of(k)] for k in ('Ind', 'KL')}, dict(foreign=cast.of('foreign')[0].net))
    tables = [PROBES[probe](cast, images, bs=bs).sort_values(['condition', 'metric', 'model', 'seed', 'sample'], ignore_index=True) for bs in (7, 33, 256)]
    for other in tables[1:]:
        assert tables[0].drop(columns='value').equals(other.drop(columns='value'))
        a, b = (torch.tensor(t.value.to_numpy()) for t in (tables[0], other))
        assert torch.allclose(a, b, atol=1e-4, equal_nan=True)


# Nothing is left behind

def left_on(net):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) + len(m._backward_pre_hooks) for m in net.modules()]
    return hooks, [(m.training, getattr(m, 'inplace', None)) for m in net.modules()], [(p.requires_grad, p.grad is None, p._version) for p in net.parameters()], \
        [b.clone().tolist() for b in net.buffers()]


@pytest.mark.parametrize('error', [None, RuntimeError('broken'), KeyboardInterrupt()], ids=['success', 'error', 'interrupt'])
@pytest.mark.parametrize('probe', PROBES)
def test_nothing_is_left(probe, error):
    make = lambda seed: Fails(small_cnn(seed), error, 4 if seed == 4 and error else -1)
    cast, images = some_cast(make), some_images(70)
    cast.networks[1].net.eval(); cast.networks[2].net.net[8].weight.requires_grad_(False); cast.teacher.net[1].eval()
    before = [left_on(m.net) for m in cast.networks]
    if error is None: PROBES[probe](cast, images, bs=32)
    else:
        with pytest.raises(type(error)): PROBES[probe](cast, images, bs=32)
    assert [left_on(m.net) for m in cast.networks] == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_memory_does_not_grow():
    cast, images = some_cast(), some_images(32)
    alive = lambda: sum(torch.is_tensor(o) for o in gc.get_objects())
    def once():
        for probe in PROBES.values(): probe(cast, images)
        gc.collect()
    once(); once()
    tensors, memory = alive(), psutil.Process().memory_info().rss
    for _ in range(8): once()
    assert alive() <= tensors
    assert psutil.Process().memory_info().rss - memory < 20e6


# Other families

def test_transformers_and_cnns_in_one_cast():
    "Teacher and students of different make and map size: each probe gives a table that can be estimated."
    torch.manual_seed(0)
    vit = lambda: tv.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4)
    swin = lambda: tv.SwinTransformer(patch_size=[4, 4], embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=[2, 2], num_classes=4)
    teacher, images = vit(), some_images(40, size=32)
    nn.init.normal_(teacher.heads.head.weight)
    cast = Cast(teacher, dict(Ind=[swin(), swin()], KL=[swin(), swin()]), dict(foreign=create_model('resnet_small', 4, seed=0, width=8)))
    before = [left_on(m.net) for m in cast.networks]
    for rows in (localization(cast, images), adversarial(cast, images, eps=.2), invariance(cast, images)): assert len(estimate(rows)) > 0
    assert [left_on(m.net) for m in cast.networks] == before
    with pytest.raises(KDError, match='transformer'): localization(cast, images, method='LayerGradCam')
