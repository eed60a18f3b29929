"A tiny finished study, its scene, and networks with random weights, which need no training."
import os

import pytest
from filelock import FileLock

from kd_knowledge.cli import kd_study
from kd_knowledge.data import get_images
from kd_knowledge.explorer import open_run, Scene
from kd_knowledge.models import create_model
from kd_knowledge.probes import Cast

TINY = [
    *'--probes localization colour boundary --n-train 128 --n-probe 64 --teacher-epochs 2 --epochs 2 --seeds 2'.split(),
    *'--independent-seeds 2 --bs 16 --lr .03 --device cpu --workers 1 --no-starred'.split(),
    '--teacher-args', '{width: 8}', '--student-args', '{width: 4}',
    '--probe-args', '{boundary: {points: 8, planes: 4}}']


@pytest.fixture(scope='session')
def run(tmp_path_factory):
    "The folder of a tiny finished study; processes that test side by side share it."
    home = tmp_path_factory.getbasetemp()
    folder = (home.parent if 'PYTEST_XDIST_WORKER' in os.environ else home)/'explorer'/'run'
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name('lock')):
        if not (folder/'report.html').exists(): assert kd_study([*TINY, '--out', str(folder)]) == 0
    return folder


@pytest.fixture(scope='session')
def scene(run): return open_run(run)


@pytest.fixture
def untrained():
    "A scene of networks with random weights: T, Ind and two seeds of KL; 24 images of 16 pixels."
    net = lambda seed: create_model('resnet_small', 10, width=4, seed=seed).eval()
    cast = Cast(net(0), dict(Ind=net(1), KL=[net(2), net(3)]))
    return Scene(cast, get_images('shapes', 'valid', n=24, size=16), few=8)
