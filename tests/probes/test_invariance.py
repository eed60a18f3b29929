"Agreement worked out image by image, and the windows of wide shifts."
from functools import partial

import pytest
import torch

from tests.probes.common import small_cnn, some_cast, some_images
from kd_knowledge.core import KDError
from kd_knowledge.data import get_images
from kd_knowledge.probes.invariance import BLOCK, invariance, shift_invariance, views


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
        shown = (views('shift', large[i:i + BLOCK], m, first=i, size=32) for i in range(0, 40, BLOCK))
        windows = [torch.cat(v) for v in zip(*shown)]
        for v in windows:
            for one, whole in zip(v, large):
                edge = (37 - 32 - m)//2
                at = [(edge + i, edge + j) for i in range(m + 1) for j in range(m + 1)]
                assert any(torch.equal(one, whole[:, i:i + 32, j:j + 32]) for i, j in at)
        with cast.run(), torch.no_grad():
            for member in cast.networks:
                there = (rows.condition == str(m)) & (rows.model == member.model) & (rows.seed == member.seed)
                mine = rows[there].value
                a, b = (member.net(v).argmax(1) for v in windows)
                assert mine.tolist() == (a == b).float().tolist()
    alone = invariance(cast, images, bs=7, colours=(), crops=(), shifts=(3, 5), wide=True)
    assert alone.value.tolist() == rows.value.tolist()
    mixed = invariance(cast, images, colours=(.4,), crops=(.5,), shifts=(3,), wide=True)
    assert mixed[mixed.probe == 'shift'].value.tolist() == rows[rows.condition == '3'].value.tolist()
    others = invariance(cast, images, colours=(.4,), crops=(.5,), shifts=())
    assert mixed[mixed.probe != 'shift'].value.tolist() == others.value.tolist()
    with pytest.raises(KDError, match='margin of 5.*at most 5, or wide=False'):
        shift_invariance(cast, images, shifts=(6,), wide=True)
    with pytest.raises(KDError, match='nobody knows how'): shift_invariance(cast, some_images(), shifts=(1,), wide=True)
