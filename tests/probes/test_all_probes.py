"What holds of every probe of maps and pixels: batches, twins, memory, and nothing left on a network."
import gc
from functools import partial

import psutil
import pytest
import torch
from torch import nn
from torchvision import models as tv

from tests.common import Fails
from tests.probes.common import left_on, small_cnn, some_cast, some_images
from kd_knowledge.core import KDError
from kd_knowledge.models import create_model
from kd_knowledge.probes import Cast, estimate
from kd_knowledge.probes.adversarial import adversarial
from kd_knowledge.probes.invariance import colour_invariance, crop_invariance, invariance, shift_invariance
from kd_knowledge.probes.localization import localization

PROBES = dict(
    localization=localization, integrated=partial(localization, method='IntegratedGradients', n_steps=3),
    adversarial=partial(adversarial, eps=16/255), colour=colour_invariance, crop=crop_invariance,
    shift=shift_invariance)


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


@pytest.mark.parametrize('probe', PROBES)
def test_batch_size_changes_nothing(probe):
    cast, images = some_cast(), some_images(70)
    students = {k: [m.net for m in cast.of(k)] for k in ('Ind', 'KL')}
    cast = Cast(cast.teacher, students, dict(foreign=cast.of('foreign')[0].net))
    order = ['condition', 'metric', 'model', 'seed', 'sample']
    tables = [PROBES[probe](cast, images, bs=bs).sort_values(order, ignore_index=True) for bs in (7, 33, 256)]
    for other in tables[1:]:
        assert tables[0].drop(columns='value').equals(other.drop(columns='value'))
        a, b = (torch.tensor(t.value.to_numpy()) for t in (tables[0], other))
        assert torch.allclose(a, b, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize('error', [None, RuntimeError('broken'), KeyboardInterrupt()],
                         ids=['success', 'error', 'interrupt'])
@pytest.mark.parametrize('probe', PROBES)
def test_nothing_is_left(probe, error):
    cast, images = some_cast(lambda seed: Fails(small_cnn(seed), error, -1)), some_images(70)
    if error: cast.of('KL')[1].net.at = 4  # after the cast has looked at it
    cast.networks[1].net.eval()
    cast.networks[2].net.net[8].weight.requires_grad_(False)
    cast.teacher.net[1].eval()
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
    once()
    once()
    tensors, memory = alive(), psutil.Process().memory_info().rss
    for _ in range(8): once()
    assert alive() <= tensors
    assert psutil.Process().memory_info().rss - memory < 20e6


def test_transformers_and_cnns_in_one_cast():
    "Teacher and students of different make and map size: each probe gives a table that can be estimated."
    torch.manual_seed(0)
    vit = lambda: tv.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4)
    swin = lambda: tv.SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=[2, 2], num_classes=4)
    teacher, images = vit(), some_images(40, size=32)
    nn.init.normal_(teacher.heads.head.weight)
    foreign = create_model('resnet_small', 4, seed=0, width=8)
    cast = Cast(teacher, dict(Ind=[swin(), swin()], KL=[swin(), swin()]), dict(foreign=foreign))
    before = [left_on(m.net) for m in cast.networks]
    for rows in (localization(cast, images), adversarial(cast, images, eps=.2), invariance(cast, images)):
        assert len(estimate(rows)) > 0
    assert [left_on(m.net) for m in cast.networks] == before
    with pytest.raises(KDError, match='transformer'): localization(cast, images, method='LayerGradCam')
