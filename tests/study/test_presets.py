"Every named study of the paper builds its networks, reads a miniature of its data in the real layout, trains a step of each objective and runs its probes."
import gzip
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path

from tests import miniature
import numpy as np
import pytest

from kd_knowledge import data, probes, study
from kd_knowledge.core import KDError
from kd_knowledge.study.presets import NEEDS, PRESETS, load_preset
from kd_knowledge.study.config import Study

DEBIAN = Path('/usr/share/datasets/fashion-mnist')


def mnist(folder, n=40):
    "Digits of scikit-learn at 28 pixels, in the files of MNIST."
    images = data.get_images('digits', 'train', size=28, n=n)
    for stem in ('train', 't10k'):
        for kind, values in {'images-idx3': images.x[:, 0].numpy(), 'labels-idx1': images.y.numpy().astype(np.uint8)}.items():
            path = folder/'MNIST'/'raw'/f'{stem}-{kind}-ubyte.gz'
            path.parent.mkdir(parents=True, exist_ok=True)
            sizes = b''.join(s.to_bytes(4, 'big') for s in values.shape)
            path.write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + np.ascontiguousarray(values).tobytes()))


@pytest.fixture(scope='session')
def root(tmp_path_factory):
    "All data sets in miniature, under one root; ImageNet has its thousand classes, and so has its stylized copy."
    root = tmp_path_factory.mktemp('data')
    miniature.imagenet(root, [f'n{i:08d}' for i in range(1000)], n=1, size=16)
    (root/'stylized').symlink_to(root/'imagenet')
    for make in (miniature.cifar, miniature.pacs, miniature.vlcs, miniature.fairface, miniature.model_vs_human): make(root)
    mnist(root)
    return root


@pytest.fixture
def small(root, monkeypatch):
    "A preset, as it is but for its size: a few images, one epoch, teachers with random weights."
    monkeypatch.setenv('KD_DATA', str(root))
    miniature.trust(monkeypatch, root)
    def make(name):
        folders = dict(stylized_imagenet=root/'stylized') if 'stylized_imagenet' in study._needed(PRESETS[name]) else {}
        given = asdict(load_preset(name, **folders))
        given |= dict(teacher_weights='', bs=4, n_train=12, n_probe=5, workers=1, device='cpu')
        if given['size'] == 224:
            given['size'] = 64
            if given['probe_args'].get('shift', {}).get('wide'): given['probe_args'] = dict(shift=dict(shifts=[2, 8], wide=True))
        if given['teacher'] == 'vit_b_32': given['teacher_args'] = dict(image_size=64)
        for role in ('teacher', 'student'):
            if given[role] in ('vgg19', 'vgg11'): given[f'{role}_args'] = dict(init_weights=False)
        for k in ('data_args', 'teacher_data'):
            if 'train_groups' in given[k]: given[k] = given[k] | dict(train_groups=[min(g, 2) for g in given[k]['train_groups']])
        if any('train_groups' in given[k] for k in ('data_args', 'teacher_data')): given['n_train'] = None
        return Study(**given).check().filled()
    return make


@pytest.mark.parametrize('name', PRESETS)
def test_a_preset_works(small, name):
    asked = small(name)
    with redirect_stdout(StringIO()): teacher, learn = study._untrained(asked)
    assert learn.dls.c == teacher.dls.c and set(learn.students) == {'Ind', *asked.objectives}
    before = {k: [p.detach().clone() for p in net.parameters()] for k, net in learn.students.items()}
    learn.dls.train.n = 4
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert np.isfinite(learn.distill.log.value).all() and set(learn.distill.log.student) == set(learn.students)
    for k, net in learn.students.items(): assert any(not p.equal(q) for p, q in zip(net.parameters(), before[k])), k
    students = dict(Ind=learn.students['Ind'], S=list(learn.students.values())[-1])
    study._try_probes(asked, probes.Cast(learn.cohort.teacher, students), learn.dls.valid_ds)


def test_what_presets_need():
    for name, preset in PRESETS.items():
        needed = study._needed(preset)
        assert (not needed) == name.startswith('shapes'), name
        assert preset.about and all(n in NEEDS for n in needed)
        study._known(preset.study, list(asdict(Study())), name, 'a key of a study')


def test_a_preset_tells_what_it_needs_and_costs(tmp_path, fresh):
    command = 'import sys; from kd_knowledge.cli import kd_study; sys.exit(kd_study(sys.argv[1:]))'
    told = fresh(command, '--preset', 'shapes-nobody', '--n-train', 64, '--n-probe', 64, '--epochs', 1, '--teacher-epochs', 1, '--seeds', 1, '--independent-seeds', 1,
                 '--probes', 'fidelity', '--out', tmp_path/'run')
    assert told.returncode == 0, told.stderr
    first, plan = told.stdout.splitlines()[:2]
    assert first.startswith('shapes-nobody: E13') and plan.startswith('1 teacher x 1 epochs, 4 students x 1 epochs of 64 images: about ')


@pytest.mark.parametrize('call, said', [(lambda: load_preset('shape'), 'Did you mean shapes'), (lambda: load_preset('pacs', imagenet='x'), 'not a data set that pacs needs')])
def test_bad_presets(call, said):
    with pytest.raises(KDError, match=said): call()
