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
from torch import nn
from torchvision.models import vgg

from kd_knowledge import data, distillation, models, probes
from kd_knowledge.probes.adversarial import adversarial
from kd_knowledge.probes.invariance import colour_invariance, crop_invariance, shift_invariance
from kd_knowledge.probes.localization import localization
from kd_knowledge.study.presets import load_preset
from tests.distillation.common import paper_objectives

PAIRS = ['resnet50-resnet18', 'vgg19-vgg11', 'vgg19-resnet18', 'vit_b_32-resnet18', 'swin_b-swin_t']
CLASSES, SIZE = ['cat', 'dog'], 64


class NarrowVGG(vgg.VGG):
    """torchvision's VGG, all of its convolutions as they are; its two hidden linear layers, in which nine tenths of its
    numbers lie, have 64 units instead of 4096."""
    def __init__(self, layers, n_classes):
        nn.Module.__init__(self)
        self.features, self.avgpool = vgg.make_layers(layers), nn.AdaptiveAvgPool2d(7)
        hidden = lambda n_in, n_out: (nn.Linear(n_in, n_out), nn.ReLU(True), nn.Dropout())
        self.classifier = nn.Sequential(*hidden(512*7*7, 64), *hidden(64, 64), nn.Linear(64, n_classes))
        for m in self.features:
            if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')


def vgg11(n_classes): return NarrowVGG(vgg.cfgs['A'], n_classes)
def vgg19(n_classes): return NarrowVGG(vgg.cfgs['E'], n_classes)


def network(name, seed=0):
    "A network with random weights, its head too: torchvision's ViT begins with zeros there."
    own = dict(name=f'{__name__}:{name}', **models.IMAGENET)
    if name.startswith('vgg'): return models.create_model(n_classes=len(CLASSES), seed=seed, **own)
    if not name.startswith('vit'): return models.create_model(name, len(CLASSES), seed=seed)
    net = models.create_model(name, len(CLASSES), seed=seed, image_size=SIZE)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.normal_(net.net.heads.head.weight, std=.1)
    return net


def centred(net, x):
    "The network with its mean logits on `x` taken from its head's bias: it does not give one answer to all images."
    with models.frozen(net), torch.no_grad(): net.get_submodule(models.anatomy(net).head).bias -= net(x).mean(0)
    return net


def hooks(net):
    kinds = '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks'
    return [len(getattr(m, kind)) for m in net.modules() for kind in kinds]


def state(net): return hooks(net), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
def no_gradient(net): return all(p.grad is None for p in net.parameters())
def marks(net): return [hash(p.detach().numpy().tobytes()) for p in net.parameters()]
def watched(net): return [next(net.parameters()), *net.buffers()]
def open_files():
    gc.collect()
    return sorted(f.path for f in psutil.Process().open_files())


def mixed(net):
    "Modes and flags as a careless eval() or train() would not leave them."
    net.train()
    list(net.modules())[-1].eval()
    next(net.parameters()).requires_grad_(False)
    return net


@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    "Two batches of two photographs on disk, which are read anew for each batch."
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for split, n in dict(train=2, valid=2).items():
        for name in CLASSES:
            (folder/split/name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((80, 70), Image.BICUBIC).save(folder/split/name/f'{i}.jpg')
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
    made.__dict__.clear()
    gc.collect()


def untouched(pair, before, files):
    assert state(pair.teacher) == before and no_gradient(pair.teacher) and open_files() == files


@pytest.mark.parametrize('name', ['Ind', 'KL', 'Hint', 'CRD'])
def test_an_objective_trains(pair, dls, name):
    before, files = state(pair.teacher), open_files()
    weights = [p.detach().clone() for p in watched(pair.teacher)]
    learn = pair.learner(dls, name, paper_objectives(f'{pair.name}-imagenet')[name])
    student = learn.students[name]
    first, modes = marks(student), state(student)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    terms = learn.distill.log
    assert set(terms.term) == {'cross-entropy', name} - {'Ind'} and np.isfinite(terms.value).all()
    changed = [a != b for a, b in zip(marks(student), first)]
    assert sum(changed) > len(changed)/2 and all(p.isfinite().all() for p in student.parameters())
    assert hooks(student) == modes[0] and state(student)[2] == modes[2]
    assert all(p.equal(q) for p, q in zip(watched(pair.teacher), weights))
    untouched(pair, before, files)
    if name in ('Ind', 'KL'): pair.trained[name] = student


PROBES = dict(localization=localization, adversarial=partial(adversarial, eps=.5, steps=2),
              colour=partial(colour_invariance, strengths=(.4,)), crop=partial(crop_invariance, scales=(.5,)),
              shift=partial(shift_invariance, shifts=(4,)))


@pytest.mark.parametrize('name', PROBES)
def test_a_probe_gives_a_table(pair, name):
    cast, files = pair.cast, open_files()
    before = [state(mixed(m.net)) for m in cast.networks]
    rows = PROBES[name](cast, pair.images, bs=2)
    assert list(rows.columns) == probes.COLUMNS and set(rows.probe) == {name} and set(rows.model) >= {'Ind', 'KL'}
    assert rows['sample'].between(0, 3).all() and rows.value.notna().any()
    assert rows.value.dropna().between(0, 1 + 1e-5).all()
    assert [state(m.net) for m in cast.networks] == before
    assert all(no_gradient(m.net) for m in cast.networks if m.model not in ('KL', 'Ind'))
    assert open_files() == files


# classes, raised anew each time: an exception that was raised keeps its frames, and all networks in them
STOPS = RuntimeError, KeyboardInterrupt


class Breaks(distillation.Hint):
    "A hint whose forward calls `stop`, if there is one."
    stop = None
    def forward(self, *args):
        if self.stop: self.stop()
        return super().forward(*args)


def test_a_training_that_stops(pair, dls):
    "In the objective, or in the middle of a network, while its activations are read; by an error or by the user."
    before, files = state(pair.teacher), open_files()
    objective = paper_objectives(f'{pair.name}-imagenet')['Hint']
    objective.__class__ = Breaks
    learn = pair.learner(dls, 'Hint', objective)
    student, objective = learn.students['Hint'], learn.cohort.objectives['Hint'][0]
    nets, wanted = dict(student=student, teacher=pair.teacher), hooks(student)
    heads = {k: net.get_submodule(models.anatomy(net).head) for k, net in nets.items()}
    for where in 'objective', 'student', 'teacher':
        for stop in STOPS:
            def fail(*_): raise stop('broken')
            objective.stop = fail if where == 'objective' else None
            handle = heads[where].register_forward_hook(fail) if where in heads else None
            try:
                with learn.no_bar(), learn.no_logging(), pytest.raises(stop): learn.fit(1, 1e-3)
            finally:
                if handle: handle.remove()
            assert hooks(student) == wanted, (where, stop)
            untouched(pair, before, files)


def test_probes_that_stop(pair):
    "In a student, in the second batch or the second view; by an error or by the user."
    cast, files = pair.cast, open_files()
    before = [state(mixed(m.net)) for m in cast.networks]
    student, where = cast.of('KL')[0].net, {m.model: models.anatomy(m.net) for m in cast.networks}
    calls = dict(localization=lambda: localization(cast, pair.images, bs=2, anatomies=where),
                 crop=lambda: crop_invariance(cast, pair.images, scales=(.5,)),
                 adversarial=lambda: adversarial(cast, pair.images, bs=2, eps=.5, steps=1))
    cast.logits(pair.images)
    for (name, call), stop in zip([*calls.items(), ('localization', calls['localization'])], STOPS*2):
        runs = []
        def fail(*_):
            runs.append(name)
            if len(runs) == 2: raise stop('broken')
        handle = student.get_submodule(where['KL'].head).register_forward_hook(fail)
        try:
            with pytest.raises(stop): call()
        finally: handle.remove()
        assert [state(m.net) for m in cast.networks] == before, (name, stop)
        assert no_gradient(cast.teacher) and open_files() == files


WANTED = { # preset -> channels and side of the student's and of the teacher's map at 224 pixels (28 for the digits)
    'resnet50-resnet18-imagenet': ((128, 28), (512, 28)),
    'vgg19-vgg11-imagenet': ((256, 56), (256, 56)),
    'vgg19-resnet18-imagenet': ((128, 28), (256, 56)),
    'vit_b_32-resnet18-imagenet': ((512, 7), (768, 7)),
    'swin_b-swin_t-imagenet': ((192, 28), (256, 28)),
    'mnist-domains': ((64, 24), (64, 24)),
}


def whole(name):
    "A network of the paper as it is; a VGG without weights of its own, which take long and are not looked at."
    with torch.device('meta' if name.startswith('vgg') else 'cpu'): net = models.create_model(name, len(CLASSES))
    return net.to_empty(device='cpu') if name.startswith('vgg') else net


@pytest.mark.parametrize('preset', WANTED)
def test_the_papers_hint_layers(preset):
    "One network at a time: what `Hint` looks at, and how large it is."
    study, hint = load_preset(preset), paper_objectives(preset)['Hint']
    size = 28 if preset.startswith('mnist') else 224
    for role, name, wanted in zip(('student', 'teacher'), (study.student, study.teacher), WANTED[preset]):
        net = whole(name)
        layer, to_map = distillation.layer_name(net, getattr(hint, f'{role}_layer')), models.anatomy(net).to_map
        with models.frozen(net), torch.no_grad(), models.taps(net, layer) as seen: net(torch.rand(1, 3, size, size))
        assert tuple(to_map(seen[layer]).shape[1:]) == (wanted[0], wanted[1], wanted[1])
        if preset == 'vgg19-vgg11-imagenet': assert layer == models.conv_names(net)[dict(student=3, teacher=6)[role]]
        del net, seen
        gc.collect()
