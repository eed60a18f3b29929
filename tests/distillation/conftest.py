"A teacher and batches for the tests of distillation."
import pytest

from kd_knowledge.models import create_model
from tests.distillation.common import batches


@pytest.fixture(scope='module')
def teacher(): return create_model('resnet_small', 10, width=8, seed=1)


@pytest.fixture
def dls(): return batches()
