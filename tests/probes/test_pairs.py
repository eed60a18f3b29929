"The paper's pairs of networks: every objective trains, every probe gives a table, and nothing is left behind."
import gc
from copy import deepcopy
from functools import cached_property, partial

import numpy as np
import psutil
import pytest
import torch
from fastai.optimizer import OptimWrapper
from PIL import Image

from kd_knowledge import data, distillation, models, probes
from kd_knowledge.probes.adversarial import adversarial
from kd_knowledge.probes.invariance import colour_invariance, crop_invariance, shift_invariance
from kd_knowledge.probes.localization import localization

PAIRS = ['resnet50-resnet18', 'vgg19-vgg11', 'vgg19-resnet18', 'vit_b_32-resnet18', 'swin_b-swin_t']
CLASSES, SIZE = ['cat', 'dog'], 64


def network(name, seed=0, size=SIZE, **kwargs):
    "A network with random weights, its head too: torchvision's ViT begins with zeros there."
    net = models.create_model(name, len(CLASSES), seed=seed, **kwargs, **(dict(image_size=size) if name.startswith('vit') else {}))
    if name.startswith('vit'):
        with torch.random.fork_rng(): torch.manual_seed(seed); torch.nn.init.normal_(net.net.heads.head.weight, std=.1)
    return net


def centred(net, x):
    "The network with its mean logits on `x` taken from its head's bias, so that it does not give one answer to all images."
    with models.frozen(net), torch.no_grad(): net.get_submodule(models.anatomy(net).head).bias -= net(x).mean(0)
    return net


def hooks(net): return [len(h) for m in net.modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)]
def state(net): return hooks(net), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
def no_gradient(net): return all(p.grad is None for p in net.parameters())
def watched(net): return [next(net.parameters()), *net.buffers()]
def open_files(): gc.collect(); return sorted(f.path for f in psutil.Process().open_files())


def mixed(net):
    "Modes and flags as a careless eval() or train() would not leave them."
    net.train(); list(net.modules())[-1].eval(); next(net.parameters()).requires_grad_(False)
    return net


@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    "Two batches of two photographs on disk, which are read anew for each batch."
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for split, n in dict(train=2, valid=2).items():
        for name in CLASSES:
            (folder/split/name).mkdir(parents=True)
            for i in range(n): Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((80, 70), Image.BICUBIC).save(folder/split/name/f'{i}.jpg')
    return data.get_dls(folder, bs=2, size=SIZE, device='cpu', num_workers=0, memory=0)


class Pair:
    def __init__(self, name, images):
        self.images, x = images, images.pixels(range(4))
        teacher, student = name.split('-')
        self.student = network(student, seed=1)
        self.name, self.teacher, self.trained = name, mixed(centred(network(teacher), x)), {}
        self.foreign = centred(network('resnet_small', 3), x)

    def learner(self, dls, name, objective):
        return distillation.distill_learner(dls, self.teacher, {name: objective}, student=self.student,
                                            opt_func=partial(OptimWrapper, opt=torch.optim.SGD), train_bn=True)

    @cached_property
    def cast(self):
        "Teacher, the students trained before (untrained ones where this test runs alone), and a foreign network."
        students = {name: self.trained.get(name) or deepcopy(self.student) for name in ('Ind', 'KL')}
        return probes.Cast(self.teacher, students, dict(foreign=self.foreign))


@pytest.fixture(scope='module', params=PAIRS)
def pair(request, dls):
    yield (made := Pair(request.param, dls.valid_ds.subset(range(4))))
    made.__dict__.clear(); gc.collect()


def untouched(pair, before, files):
    assert state(pair.teacher) == before and no_gradient(pair.teacher) and open_files() == files


@pytest.mark.parametrize('name', ['Ind', 'KL', 'Hint', 'CRD'])
def test_an_objective_trains(pair, dls, name):
    before, files = state(pair.teacher), open_files()
    weights = [p.detach().clone() for p in watched(pair.teacher)]
    learn = pair.learner(dls, name, distillation.paper_objectives(pair.name)[name])
    student = learn.students[name]
    first, modes = [p.detach().clone() for p in student.parameters()], state(student)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    terms = learn.distill.log
    assert set(terms.term) == {'cross-entropy'} | ({name} if name != 'Ind' else set()) and np.isfinite(terms.value).all()
    changed = [not p.equal(q) for p, q in zip(student.parameters(), first)]
    assert sum(changed) > len(changed)/2 and all(p.isfinite().all() for p in student.parameters())
    assert hooks(student) == modes[0] and state(student)[2] == modes[2]
    assert all(p.equal(q) for p, q in zip(watched(pair.teacher), weights))
    untouched(pair, before, files)
    if name in ('Ind', 'KL'): pair.trained[name] = student


PROBES = dict(localization=localization, adversarial=partial(adversarial, eps=.5, steps=2), colour=partial(colour_invariance, strengths=(.4,)),
              crop=partial(crop_invariance, scales=(.5,)), shift=partial(shift_invariance, shifts=(4,)))


@pytest.mark.parametrize('name', PROBES)
def test_a_probe_gives_a_table(pair, name):
    cast, files = pair.cast, open_files()
    before = [state(mixed(m.net)) for m in cast.networks]
    rows = PROBES[name](cast, pair.images, bs=2)
    assert list(rows.columns) == probes.COLUMNS and set(rows.probe) == {name} and set(rows.model) >= {'Ind', 'KL'}
    assert rows['sample'].between(0, 3).all() and rows.value.dropna().between(0, 1 + 1e-5).all() and rows.value.notna().any()
    assert [state(m.net) for m in cast.networks] == before and all(no_gradient(m.net) for m in cast.networks if m.model != 'KL' and m.model != 'Ind')
    assert open_files() == files


STOPS = [RuntimeError('broken'), KeyboardInterrupt()]


class Breaks(distillation.Hint):
    "A hint whose forward calls `stop`, if there is one."
    stop = None
    def forward(self, *given): self.stop and self.stop(); return super().forward(*given)


def test_a_training_that_stops(pair, dls):
    "In the objective, or in the middle of a network, while its activations are read; by an error or by the user."
    before, files = state(pair.teacher), open_files()
    objective = distillation.paper_objectives(pair.name)['Hint']
    objective.__class__ = Breaks
    learn = pair.learner(dls, 'Hint', objective)
    student, objective = learn.students['Hint'], learn.cohort.objectives['Hint'][0]
    wanted, heads = hooks(student), {k: net.get_submodule(models.anatomy(net).head) for k, net in dict(student=student, teacher=pair.teacher).items()}
    for where in 'objective', 'student', 'teacher':
        for stop in STOPS:
            def fail(*_): raise stop
            objective.stop = fail if where == 'objective' else None
            handle = heads[where].register_forward_hook(fail) if where in heads else None
            try:
                with learn.no_bar(), learn.no_logging(), pytest.raises(type(stop)): learn.fit(1, 1e-3)
            finally: handle and handle.remove()
            assert hooks(student) == wanted, (where, stop)
            untouched(pair, before, files)


def test_probes_that_stop(pair):
    "In a student, in the second batch or the second view; by an error or by the user."
    cast, files = pair.cast, open_files()
    before = [state(mixed(m.net)) for m in cast.networks]
    student, where = cast.of('KL')[0].net, {m.model: models.anatomy(m.net) for m in cast.networks}
    calls = dict(localization=lambda: localization(cast, pair.images, bs=2, anatomies=where), crop=lambda: crop_invariance(cast, pair.images, scales=(.5,)),
                 adversarial=lambda: adversarial(cast, pair.images, bs=2, eps=.5, steps=1))
    cast.logits(pair.images)
    for (name, call), stop in zip([*calls.items(), ('localization', calls['localization'])], STOPS*2):
        runs = []
        def fail(*_):
            runs.append(name)
            if len(runs) == 2: raise stop
        handle = student.get_submodule(where['KL'].head).register_forward_hook(fail)
        try:
            with pytest.raises(type(stop)): call()
        finally: handle.remove()
        assert [state(m.net) for m in cast.networks] == before, (name, stop)
        assert no_gradient(cast.teacher) and open_files() == files


WANTED = { # pair -> channels and side of the student's and of the teacher's map at 224 pixels (28 for the digits)
    'resnet50-resnet18': ((128, 28), (512, 28)),
    'vgg19-vgg11': ((256, 56), (256, 56)),
    'vgg19-resnet18': ((128, 28), (256, 56)),
    'vit_b_32-resnet18': ((512, 7), (768, 7)),
    'swin_b-swin_t': ((192, 28), (256, 28)),
    'mnist_cnn-mnist_cnn': ((64, 24), (64, 24)),
}


@pytest.mark.parametrize('name', WANTED)
def test_the_papers_hint_layers(name):
    size = 28 if name.startswith('mnist') else 224
    teacher, student = (network(n, size=size, **(dict(init_weights=False) if n.startswith('vgg') else {})) for n in name.split('-'))
    hint = distillation.paper_objectives(name)['Hint']
    hint.choose_layers(student, teacher)
    for net, layers, to_map, wanted in zip((student, teacher), (hint.student_layers, hint.teacher_layers), hint.maps, WANTED[name]):
        with models.frozen(net), torch.no_grad(), models.taps(net, *layers) as seen: net(torch.rand(1, 3, size, size))
        assert tuple(to_map(seen[layers[0]]).shape[1:]) == (wanted[0], wanted[1], wanted[1])
    if name == 'vgg19-vgg11': assert hint.student_layers == [models.conv_names(student)[3]] and hint.teacher_layers == [models.conv_names(teacher)[6]]
