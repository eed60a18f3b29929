"Every named study of the paper builds its networks, reads a miniature of its data in the real layout, trains a step of each objective and runs its probes."
import gc
import gzip
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.optimizer import OptimWrapper

from kd_knowledge import data, probes
from kd_knowledge.core import KDError
from kd_knowledge.distillation import distill_learner
from kd_knowledge.study.config import config_of, Study
from kd_knowledge.study.presets import load_preset, NEEDS, PRESETS, read_preset
from kd_knowledge.study.probing import try_probes
from kd_knowledge.study.run import untrained_learners
from kd_knowledge.study.steps import check_names, objectives_of
from kd_knowledge.study.training import new_network, study_dls
from tests import miniature

SIDE = 48  # pixels of what has 224; 64 where a network or a shift needs them
FEW = dict(colour=dict(strengths=[.4]), crop=dict(scales=[.4]), shift=dict(shifts=[2]))  # where a preset says nothing
LARGE = 50_000_000  # parameters of a student that is trained with one objective at a time, so that memory holds it


def mnist(folder, n=40):
    "Digits of scikit-learn at 28 pixels, in the files of MNIST."
    images = data.get_images('digits', 'train', size=28, n=n)
    for stem in ('train', 't10k'):
        for kind, values in {'images-idx3': images.x[:, 0].numpy(),
                             'labels-idx1': images.y.numpy().astype(np.uint8)}.items():
            path = folder/'MNIST'/'raw'/f'{stem}-{kind}-ubyte.gz'
            path.parent.mkdir(parents=True, exist_ok=True)
            sizes = b''.join(s.to_bytes(4, 'big') for s in values.shape)
            path.write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes
                                           + np.ascontiguousarray(values).tobytes()))


@pytest.fixture(scope='session')
def root(tmp_path_factory):
    "All data sets in miniature, under one root; ImageNet has its thousand classes, and so has its stylized copy."
    root = tmp_path_factory.mktemp('data')
    miniature.imagenet(root, [f'n{i:08d}' for i in range(1000)], n=1, size=16)
    (root/'stylized').symlink_to(root/'imagenet')
    for make in (miniature.cifar, miniature.pacs, miniature.vlcs, miniature.fairface, miniature.model_vs_human):
        make(root)
    mnist(root)
    return root


def smaller(name, given):
    "A preset's config at the size of a test: a few small images, teachers with random weights."
    given |= dict(teacher_weights='', bs=4, n_train=12, n_probe=5, workers=1, device='cpu')
    wide, large = given['probe_args'].get('shift', {}).get('wide'), given['size'] == 224
    given['probe_args'] = FEW | given['probe_args']
    if large or name in ('pacs', 'vlcs'): given['size'] = SIDE
    if wide and large: given |= dict(size=64, probe_args=dict(shift=dict(shifts=[2, 8], wide=True)))
    if given['teacher'] == 'vit_b_32': given |= dict(size=64, teacher_args=dict(image_size=64))
    for role in ('teacher', 'student'):
        if given[role] in ('vgg19', 'vgg11'): given[f'{role}_args'] = dict(init_weights=False)
    for k in ('data_args', 'teacher_data'):
        if 'train_groups' not in given[k]: continue
        given[k] = given[k] | dict(train_groups=[min(g, 2) for g in given[k]['train_groups']])
        given['n_train'] = None
    return given


@pytest.fixture
def small(root, monkeypatch):
    "A preset, as it is but for its size."
    monkeypatch.setenv('KD_DATA', str(root))
    miniature.trust(monkeypatch, root)

    def make(name):
        stylized = 'stylized_imagenet' in read_preset(name).get('needs', [])
        given = asdict(load_preset(name, **(dict(stylized_imagenet=root/'stylized') if stylized else {})))
        return check_names(Study(**smaller(name, given)).check()).filled()

    return make


def learners(asked):
    "A Learner of all students together; of large ones, one after another with one network for all."
    student = new_network(asked, 'Ind', SimpleNamespace(vocab='ab'))
    if sum(p.numel() for p in student.parameters()) < LARGE:
        with redirect_stdout(StringIO()): teacher, learn = untrained_learners(asked)
        assert learn.dls.c == teacher.dls.c and set(learn.students) == {'Ind', *asked.objectives}
        del teacher  # it holds a copy of T
        gc.collect()
        yield learn
        return
    dls = study_dls(asked, '', asked.seed)
    teacher, student = new_network(asked, 'T', dls.train_ds), new_network(asked, 'Ind', dls.train_ds)
    for name, objective in dict(Ind=None, **objectives_of(asked)).items():
        with redirect_stdout(StringIO()):
            yield distill_learner(dls, teacher, {name: objective}, student=lambda: student)


@pytest.fixture(autouse=True)
def freed():
    "The networks of a test, which hold each other, are gone before the next."
    yield
    gc.collect()


def few(net): return [p.detach().flatten()[:1000].clone() for p in net.parameters()]


def check_training(learn):
    "One step moves every student, and each term of its loss is a number."
    before = {k: few(net) for k, net in learn.students.items()}
    for p in learn.cohort.teacher.parameters() if learn.cohort.teacher else (): p.data.mul_(1.01)  # no longer as it began
    learn.dls.train.n = 4
    # Without the two further copies of the weights that Adam keeps.
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert np.isfinite(learn.distill.log.value).all() and set(learn.distill.log.student) == set(learn.students)
    for k, net in learn.students.items(): assert any(not p.equal(q) for p, q in zip(few(net), before[k])), k
    for p in learn.cohort.parameters(): p.grad = None


@pytest.mark.parametrize('name', PRESETS)
def test_a_preset_works(small, name):
    asked, trained = small(name), set()
    for learn in learners(asked):
        check_training(learn)
        trained |= set(learn.students)
        teacher, students, images = learn.cohort.teacher, list(learn.students.values()), learn.dls.valid_ds
    assert trained == {'Ind', *asked.objectives}
    try_probes(asked, probes.Cast(teacher or students[0], dict(Ind=students[0], S=students[-1])), images)


def test_what_presets_need():
    for name in PRESETS:
        settings = read_preset(name)
        needed = settings.get('needs', [])
        assert (not needed) == (load_preset(name).data in ('shapes', 'digits')), name
        assert settings['about'] and all(n in NEEDS for n in needed)
        assert set(config_of(settings)) <= set(asdict(Study()))
        read = {v for v in (settings.get('data'), settings.get('domain_data')) if v in NEEDS}
        assert read <= set(needed) and set(needed) - read <= {'stylized_imagenet'}, name


def test_a_copied_preset_runs(tmp_path, fresh):
    "With its base, its needs and a folder for them, as a config of one's own."
    from kd_knowledge.study.config import SETTINGS
    (tmp_path/'mine.yaml').write_text((SETTINGS/'vgg19-vgg11-imagenet.yaml').read_text())
    command = 'import sys; from kd_knowledge.cli import kd_study; sys.exit(kd_study(sys.argv[1:]))'
    told = fresh(command, '--config', tmp_path/'mine.yaml', '--imagenet', tmp_path/'nowhere', '--out', tmp_path/'run')
    assert told.returncode == 2 and told.stdout.startswith(f'{tmp_path/"mine.yaml"}: E1, E2') and 'needs ImageNet' in told.stdout
    assert told.stderr.startswith('kd_study: data: ') and str(tmp_path/'nowhere') in told.stderr and len(told.stderr.splitlines()) == 1


def test_the_list_of_presets(fresh):
    told = fresh('from kd_knowledge.cli import kd_study; kd_study(["--list"])')
    assert told.stderr == '' and all(f'{name}: ' in told.stdout for name in PRESETS)
    assert told.stdout.count('    costs ') == len(PRESETS) and 'needs ImageNet-1k (150 GB)' in told.stdout


def test_a_preset_tells_what_it_needs_and_costs(tmp_path, fresh):
    command = 'import sys; from kd_knowledge.cli import kd_study; sys.exit(kd_study(sys.argv[1:]))'
    told = fresh(command, '--preset', 'shapes-nobody', '--n-train', 64, '--n-probe', 64, '--epochs', 1,
                 '--teacher-epochs', 1,
                 '--seeds', 1, '--independent-seeds', 1, '--probes', 'fidelity', '--workers', 1, '--out',
                 tmp_path/'run')
    assert told.returncode == 0, told.stderr
    first, plan = told.stdout.splitlines()[:2]
    assert first.startswith('shapes-nobody: E13') and plan.startswith('1 teacher x 1 epochs, 4 students x 1 epochs of 64 images: about ')


@pytest.mark.parametrize('call, said', [
    (lambda: load_preset('shape'), 'Did you mean shapes'),
    (lambda: load_preset('pacs', imagenet='x'), 'not a data set that pacs needs')])
def test_bad_presets(call, said):
    with pytest.raises(KDError, match=said): call()
