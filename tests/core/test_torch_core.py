"Seeds and devices: streams that depend on their keys alone, and an outer stream that notices nothing."
import random

import numpy as np
import pytest
import torch

from tests.common import says
from kd_knowledge.torch_core import default_device, generator, seeded


def draw(): return random.random(), np.random.rand(), torch.rand(1).item()


def test_an_error_inside_restores_the_streams():
    with seeded(1):
        expected = draw(), draw()
    with seeded(1):
        first = draw()
        with pytest.raises(ZeroDivisionError):
            with seeded(2): draw() and 1 / 0
        assert (first, draw()) == expected


def test_deterministic_kernels_are_asked_for_inside_alone():
    before = torch.are_deterministic_algorithms_enabled()
    with seeded(0): assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_stream_is_the_same_in_every_process(fresh):
    "Python's own hash of a text differs from process to process."
    code = "from kd_knowledge.torch_core import generator; print(generator('crop', 3, (1, 'a')).initial_seed())"
    there = fresh(code, PYTHONHASHSEED='1')
    assert int(there.stdout) == generator('crop', 3, (1, 'a')).initial_seed() >= 0


@pytest.mark.parametrize('name', ['abacus', 'cuda:x:y', '', 'tpu'])
def test_a_device_that_is_not_there(name):
    if name.startswith('cuda') and torch.cuda.is_available(): pytest.skip('CUDA is here')
    says(lambda: default_device(name), 'device:', 'is not available here', 'cpu')
