"The world of shapes, which must never change: stored results depend on it."
import hashlib
import time

import pytest
import torch
import torch.nn.functional as F

from kd_knowledge.data import DOMAINS, domains, shapes


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
        for name in ('masks', 'y', 'groups'): assert torch.equal(getattr(photo, name), getattr(other, name))
    large = domains('photo', 30, size=64).masks.float()
    assert ((F.avg_pool2d(large[:, None], 2)[:, 0] > .5) == photo.masks).float().mean() > .985


def test_uncued_labels_are_independent():
    images = shapes(4000, size=8, cue=0)
    for cue in images.cues.values(): assert abs((cue == images.y).float().mean() - .1) < .02
    assert abs((images.cues['hue'] == images.cues['texture']).float().mean() - .1) < .02


def test_cues_agree_with_cue_one():
    images = shapes(50, size=8, cue=1)
    assert all(torch.equal(c, images.y) for c in images.cues.values())


def seconds(function):
    began = time.process_time()
    function()
    return time.process_time() - began


def test_many_images_are_painted_at_once():
    "A loop over images would take as long as one call for each."
    shapes(256)
    assert seconds(lambda: shapes(256)) < .5 * seconds(lambda: [shapes(1, start=i) for i in range(256)])
