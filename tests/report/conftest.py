"Two reports that many tests look at, each drawn once."
import shutil

import pytest

from kd_knowledge.report.html import write_report
from tests.report.runs import make_full_run, make_run


@pytest.fixture(scope='session')
def written(tmp_path_factory):
    "A run folder without images and networks, and its report."
    notes = ["Labels are the teacher's own answers (--target predicted)."]
    folder = make_run(tmp_path_factory.mktemp('run'), notes=notes)
    return folder, write_report(folder).read_text(encoding='utf-8')


@pytest.fixture(scope='session')
def full(tmp_path_factory):
    "A run folder with all that a study leaves, and its report."
    config = dict(data='shapes', teacher='resnet18', epochs=3, n_train=3600, jitter=.4)
    folder = make_full_run(tmp_path_factory.mktemp('full'), config=config)
    return folder, write_report(folder).read_text(encoding='utf-8')


@pytest.fixture
def report(written):
    "A function that writes the report of a folder with figures that are drawn already, and gives its text."
    def page(folder, **kwargs):
        (folder/'figures').mkdir(exist_ok=True)
        for path in (written[0]/'figures').glob('*-*.png'): shutil.copy(path, folder/'figures'/path.name)
        return write_report(folder, redraw=False, **kwargs).read_text(encoding='utf-8')
    return page
