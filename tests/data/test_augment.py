"Augmentation beside torchvision, and bad input."
import time

import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from tests.common import says
from kd_knowledge.data import Augment, check_pixels, colour_jitter, random_resized_crop, random_shift
from kd_knowledge.data.augment import _boxes


@pytest.mark.parametrize('function', [
    lambda x: colour_jitter(x, 2), lambda x: random_resized_crop(x, (.5, .2)), lambda x: Augment(crop=(2, 3)),
    lambda x: random_shift(x, -1), lambda x: random_shift(x, 99),
    lambda x: check_pixels(x * 2), lambda x: check_pixels(x[0]), lambda x: check_pixels(x.byte())])
def test_bad_transformations(function): says(lambda: function(torch.rand(2, 3, 16, 16).clamp_min(.6)))


def test_crop_distribution():
    "Area and aspect of our boxes are distributed as torchvision's."
    torch.manual_seed(0)
    image, scale, ratio = torch.zeros(3, 200, 200), (.08, 1.), (3 / 4, 4 / 3)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(3000)]) / 200.
    ours = _boxes(3000, (.08, 1.), (3 / 4, 4 / 3), None, 200, 200)
    areas = ours[:, 0] * ours[:, 1], theirs[:, 2] * theirs[:, 3]
    aspects = ours[:, 0] / ours[:, 1], theirs[:, 3] / theirs[:, 2]
    for a, b in (areas, aspects, (ours[:, 2], theirs[:, 1])):
        for q in (.1, .5, .9): assert abs(a.quantile(q) - b.quantile(q)) < .03


def test_shift_of_a_large_image_stays_in_its_centre():
    x = torch.zeros(200, 3, 40, 40)
    x[:, :, 10:30, 10:30] = 1
    assert all((crop == 1).all() for crop in random_shift(x, 4, size=16))


def test_a_batch_is_changed_at_once():
    "A loop over images would take as long as one call for each."
    x, augment = torch.rand(256, 3, 32, 32), Augment(jitter=.4)
    def seconds(batches):
        began = time.process_time()
        for batch in batches: augment(batch)
        return time.process_time() - began
    augment(x)
    assert seconds([x]) < .5 * seconds(x.split(1))
