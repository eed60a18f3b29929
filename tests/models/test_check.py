"Each way in which a network can break the contracts: it is mended and noted, refused in one line, or only noted."
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, HealthCheck, settings, strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from tests.common import says
from tests.models.common import mixed, state
from kd_knowledge.core import KDError, noted
from kd_knowledge.data import Images
from kd_knowledge.models import anatomy, create_model, frozen, taps
from kd_knowledge.models.check import checked, look, note_scale
from kd_knowledge.probes import Cast

SIZES = 16, 24, 32


class Level(nn.Module):
    "Knows the grey level of an image: right about all of `levels`."
    def __init__(self, k=3):
        super().__init__()
        self.levels = nn.Parameter((torch.arange(k) + .5)/k)

    def grey(self, x): return x.mean((1, 2, 3))[:, None]
    def logits(self, x): return -20*(self.grey(x) - self.levels)**2
    def forward(self, x): return self.logits(x)


def levels(k=3, n=12, size=16):
    "Images whose class is their grey level, a little brighter or darker, from left to right as well."
    y = torch.arange(n) % k
    x = (255*((y + .5)/k + .1/k*torch.linspace(-1, 1, n))).round().byte()[:, None, None, None]
    x = x.repeat(1, 3, size, size)
    x[..., 0] -= 9
    x[..., -1] += 9
    return Images(x, y, [f'level {i}' for i in range(k)], size)


def giving(function, kind=Level):
    "A `Level` that gives `function(logits, pixels)`."
    class Gives(kind):
        def forward(self, x): return function(self.logits(x), x)
    return Gives


def taking(function):
    "A `Level` that gives the logits of `function(self, pixels)`."
    class Takes(Level):
        def forward(self, x): return self.logits(function(self, x))
    return Takes


Pair = namedtuple('Pair', 'features logits')


@dataclass
class Output: logits: torch.Tensor


class InOwnType(Level):
    "As compiled kernels do, it takes nothing but what its weights are."
    def forward(self, x):
        if x.dtype != self.levels.dtype: raise RuntimeError(f'expected {self.levels.dtype}, got {x.dtype}')
        return self.logits(x)


class Grey(Level):
    def __init__(self, k=3):
        super().__init__(k)
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.conv.weight.data.fill_(1.)
    def forward(self, x): return self.logits(self.conv(x))


class Four(Grey):
    def __init__(self, k=3):
        super().__init__(k)
        self.conv = nn.Conv2d(4, 1, 1)


class Crowd(Level):
    def __init__(self, k=3):
        super().__init__(k)
        self.norm = nn.BatchNorm1d(1, track_running_stats=False)
    def grey(self, x): return self.norm(super().grey(x))


class Counts(Level):
    "Counts its calls; `drift` adds what it counts to its answers."
    drift = 0
    def __init__(self, k=3):
        super().__init__(k)
        self.register_buffer('calls', torch.zeros(()))
    def forward(self, x):
        self.calls += 1
        z = self.logits(x)
        return torch.cat([z[:, :1] + self.drift*self.calls, z[:, 1:]], 1)


class Drifts(Counts): drift = 1.


class Learns(Level):
    def forward(self, x):
        self.levels.data.add_(0).mul_(1)
        self.levels.add_(.01)
        return self.logits(x)


class Bare(Level):
    "Has no parameters."
    def __init__(self, k=3):
        super().__init__(k)
        kept = self.levels.data
        del self.levels
        self.register_buffer('levels', kept)


class Silent(Level):
    "Says nothing when it is told to train or not, and counts on it."
    def train(self, mode=True): self.training = mode
    def eval(self): self.train(False)


class Stubborn(Level):
    "Cannot be told to stop training."
    def __init__(self, k=3):
        super().__init__(k)
        self.drop = nn.Dropout(.5)
    def eval(self): return self
    def forward(self, x): return self.logits(self.drop(x))


class Recipe(Level):
    def __init__(self, k=3):
        super().__init__(k)
        self.recipe = dict(n_classes=k + 1)


def lazy(k=3): return nn.Sequential(nn.Flatten(), nn.LazyLinear(k))
def meta(k=3): return nn.Sequential(nn.Flatten(), nn.Linear(3*16*16, k, device='meta'))
def one(z): return z[:, 1:2] - z[:, :1]
def shaken(z): return z + .1*torch.randn_like(z)
def only(n):
    def function(net, x):
        if len(x) != n: raise RuntimeError(f'batches of {n} only')
        return x
    return function


FINE = dict(  # these are used as they are, without a word
    plain=Level, bare=Bare, silent=Silent, double=lambda k: Level(k).double(), parallel=lambda k: nn.DataParallel(Level(k)),
    no_grad=giving(lambda z, x: z.detach()), log_softmax=giving(lambda z, x: z.log_softmax(1)),
    shifted=giving(lambda z, x: z + 1000), scripted=lambda k: torch.jit.trace(Level(k), torch.rand(2, 3, 16, 16)))
MENDED = dict(  # and these are mended, with words of the note
    tuple_=(giving(lambda z, x: (x, z)), 'tuple (0: 2x3x64x64, 1: 2x3), of which 1 is taken'),
    list_=(giving(lambda z, x: [z]), 'list'), named=(giving(lambda z, x: Pair(x, z)), 'Pair'),
    dict_=(giving(lambda z, x: dict(logits=z, features=z)), "'logits' is taken"),
    other_key=(giving(lambda z, x: dict(out=z, maps=x)), "'out' is taken"),
    output=(giving(lambda z, x: Output(z)), 'it gives a Output, of which logits is taken'),
    token=(giving(lambda z, x: z[:, None]), 'made N x 3'),
    squeezed=(giving(lambda z, x: z[:, :, None].squeeze()), '3 for one, made N x 3'),
    softmax=(giving(lambda z, x: z.softmax(1)), 'probabilities, of which the logarithms'),
    sigmoid=(giving(lambda z, x: z.sigmoid()), 'sigmoid'),
    numpy=(giving(lambda z, x: z.detach().numpy()), 'numpy'),
    half=(lambda k: InOwnType(k).half(), 'its weights are float16'),
    bfloat=(lambda k: InOwnType(k).bfloat16(), 'its weights are bfloat16'),
    double_only=(lambda k: InOwnType(k).double(), 'its weights are float64'),
    half_answers=(giving(lambda z, x: z.half()), 'it gives float16'),
    in_place=(taking(lambda net, x: x.mul_(1.5).div_(1.5).clamp_(.01)), 'changes its pixels in place'),
    grey=(Grey, 'one channel and is given the grey'), counts=(Counts, 'it changes calls as it answers; its answers stay'))
TWO = dict(  # the same for networks of two classes
    one=(giving(lambda z, x: one(z)), 'it gives one number: a column of zeros'),
    one_squeezed=(giving(lambda z, x: one(z).squeeze()), 'it gives one number'),
    one_flat=(giving(lambda z, x: one(z)[:, 0]), 'the second class is the positive one'),
    one_sigmoid=(giving(lambda z, x: one(z).sigmoid()), 'probabilities (sigmoid)'))
REFUSED = dict(  # with words of the line
    random=(giving(lambda z, x: shaken(z)), 'random in eval mode'),
    dropout=(taking(lambda net, x: F.dropout(x, .5)), 'training=self.training'),
    stubborn=(Stubborn, 'random in eval mode'), drifts=(Drifts, 'call to call: it changes calls'), learns=(Learns, 'weights change'),
    crowd=(Crowd, 'no running statistics (norm)'),
    centred=(giving(lambda z, x: z - z.mean(0)), 'depends on the other images'),
    first=(giving(lambda z, x: z + torch.arange(len(z))[:, None]*torch.arange(z.shape[1])), 'depends on the other images'),
    alone=(taking(only(2)), 'it takes two images but not 3'), eight=(taking(only(8)), 'batches of 8 only'),
    ambiguous=(giving(lambda z, x: (z, z)), 'tuple (0: 2x3, 1: 2x3), of which 2 may be'),
    no_logits=(giving(lambda z, x: dict(a=x)), 'none may be'), nothing=(giving(lambda z, x: None), 'NoneType'),
    text=(giving(lambda z, x: 'cat'), 'gives a str'),
    map_=(giving(lambda z, x: z[:, :, None, None].expand(-1, -1, 4, 4)), '2x3x4x4 for 2 images: maps'),
    pixel=(giving(lambda z, x: z[:, :, None, None]), 'maps of one pixel. Put nn.Flatten() behind it'),
    tokens=(giving(lambda z, x: z[:, None].expand(-1, 5, -1)), '2x5x3'), indices=(giving(lambda z, x: z.argmax(1)), 'class indices'),
    turned=(giving(lambda z, x: z.T), '3x2 for 2 images'), summed=(giving(lambda z, x: z.sum(0)), '3 for 2 images'),
    complex_=(giving(lambda z, x: z + 1j), 'complex'), nan=(giving(lambda z, x: z/0), 'NaN or infinity'),
    inf=(giving(lambda z, x: z - torch.inf), 'NaN or infinity'),
    four=(Four, 'it takes 4 channels, images have 3'), lazy=(lazy, 'lazy'), meta=(meta, 'meta device'),
    recipe=(Recipe, 'it gives 3 numbers, its recipe says 4 classes'),
    clamped=(giving(lambda z, x: one(z).sigmoid().detach()), 'a logit or a probability?'),
    no_module=(lambda k: np.argmax, 'is no network'), class_=(lambda k: Level, 'is no network'))


def same_beliefs(found, expected, tolerance=1e-3):
    "Do logits mean the same, apart from a constant?"
    return torch.allclose(found.float().log_softmax(1), expected.log_softmax(1), atol=tolerance, rtol=1e-3)


def truth(k, images):
    with torch.no_grad(): return Level(k)(images.pixels(range(len(images))))


def close(name):
    "How far from the truth a network may be that computes with few digits, or whose beliefs are not all told."
    return .5 if 'half' in name or 'bfloat' in name else 1e-3


@pytest.mark.parametrize('name', FINE)
def test_what_is_fine_is_used_as_it_is(name):
    net, images = FINE[name](3), levels()
    with noted() as notes: assert checked(net) is net
    assert notes == []
    with frozen(net): assert same_beliefs(net(images.pixels(range(12))), truth(3, images))


@pytest.mark.parametrize('k,name', [(3, n) for n in MENDED] + [(2, n) for n in TWO])
def test_what_can_be_mended_is_mended_and_noted(k, name):
    make, words = (MENDED | TWO)[name]
    net, images = make(k), levels(k)
    with noted() as notes: mended = checked(net, 'KL')
    assert any(words in n for n in notes) and all(n.startswith('KL: ') and '\n' not in n for n in notes), notes
    with noted() as again, frozen(mended): z = mended(images.pixels(range(12)))
    assert z.dtype in (torch.float32, torch.float64) and z.shape == (12, k) and not again
    if name == 'sigmoid': assert torch.allclose(z, truth(k, images), atol=1e-3)
    else: assert same_beliefs(z, truth(k, images), close(name))
    with noted() as more: assert checked(mended) is mended
    assert not [n for n in more if 'stay the same' not in n]


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_mended_is_refused_in_one_line(name):
    make, words = REFUSED[name]
    says(lambda: checked(make(3), 'KL'), words)
    with pytest.raises(KDError, match='^KL: '): Cast(Level(), dict(Ind=Level(), KL=make(3)))


@pytest.mark.parametrize('name', [*FINE, *MENDED, 'crowd', 'drifts', 'random'])
def test_a_look_leaves_nothing(name):
    make = FINE.get(name) or (MENDED | REFUSED)[name][0]
    net = make(3)
    before, random = [b.clone() for b in net.buffers()], torch.get_rng_state()
    flags = [(m.training, len(m._forward_hooks)) for m in net.modules()], [p.requires_grad for p in net.parameters()]
    try: checked(net)
    except KDError: pass
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers())) and torch.equal(random, torch.get_rng_state())
    assert flags == ([(m.training, len(m._forward_hooks)) for m in net.modules()], [p.requires_grad for p in net.parameters()])
    assert all(p.grad is None for p in net.parameters()) and torch.is_grad_enabled()


def test_a_real_network_keeps_its_state():
    net = create_model('resnet_small', 5, seed=0, width=4)
    before = mixed(net)
    assert checked(net) is net and state(net) == before


def test_constant_and_hard_answers_are_told():
    with noted() as notes:
        checked(giving(lambda z, x: 0*z + torch.arange(3.))(3), 'a')
        checked(giving(lambda z, x: F.one_hot(z.argmax(1), 3).float())(3), 'b')
        checked(giving(lambda z, x: .5 + z.tanh()/4)(3), 'c')
    assert [n[:1] for n in notes] == ['a', 'b', 'c'] and 'whatever the image' in notes[0]
    assert 'one class and nothing else' in notes[1] and 'between 0 and 1' in notes[2]


def test_sizes_that_are_taken_are_named():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3*24*24, 3))
    says(lambda: checked(flat, 'KL', levels(size=16)), 'it does not take images of 16 pixels')
    small = nn.Sequential(nn.Flatten(), nn.Linear(3*28*28, 3))
    says(lambda: checked(small, 'KL', levels(size=16)), 'It takes 28')
    assert checked(flat, 'KL', levels(size=24)) is flat
    cast = Cast(small, dict(Ind=Level(), KL=Level()))
    says(lambda: cast.logits(levels(size=16)), 'T: it does not take images of 16 pixels')


def test_gradients_are_known():
    looks = {name: look(make(3)).gradients for name, make in dict(
        plain=Level, detached=giving(lambda z, x: z.detach()), rounded=taking(lambda net, x: (255*x).round()/255),
        constant=giving(lambda z, x: 0*z), numpy=MENDED['numpy'][0], half=MENDED['half'][0]).items()}
    assert looks == dict(plain=True, detached=False, rounded=False, constant=True, numpy=False, half=True)


def test_the_same_network_twice_is_told():
    net = Level()
    with noted() as notes: Cast(net, dict(Ind=giving(lambda z, x: 2*z)(), KL=net, CRD=Level()))
    assert [n.partition(':')[0] for n in notes] == ['KL', 'CRD'] and 'those of T' in notes[0]


def test_layers_of_a_mended_network_are_found():
    bare = create_model('resnet_small', 5, seed=0, width=4)
    net = checked(nn.Sequential(bare.half(), nn.Unflatten(1, (1, 5))), 'KL', levels(size=32))
    found, x = anatomy(net, 32), torch.rand(2, 3, 32, 32)
    with frozen(net), taps(net, found.last_map, found.penultimate) as seen: net(x)
    assert seen[found.last_map].ndim == 4 and seen[found.penultimate].ndim == 2


def test_scales():
    class Bytes(Level):
        def forward(self, x): return -abs(self.grey(x)[:, :1]/255 - self.levels)
    with noted() as notes:
        note_scale(Bytes(), 'KL', levels(n=24))
        note_scale(Level(), 'T', levels(n=24))
    assert len(notes) == 1 and notes[0].startswith('KL: 33% of its answers are right, and 100% are where pixels are from 0')


# Networks at random

HARMLESS = dict(none=lambda net: net, inside=lambda net: nn.Sequential(net), hooked=lambda net: net, named=lambda net: net,
                parallel=lambda net: nn.DataParallel(net))


def dressed(net, how):
    "The network with something around it that breaks nothing."
    if not isinstance(net, nn.Module): return net
    if how == 'hooked': net.register_forward_hook(lambda m, args, out: None)
    if how == 'named' and not hasattr(net, 'recipe'): net.recipe = dict(name='mine')
    return HARMLESS[how](net)


@settings(max_examples=240, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([*FINE, *MENDED, *TWO, *REFUSED]), st.sampled_from(list(HARMLESS)), st.integers(2, 5),
       st.sampled_from(SIZES), st.sampled_from(['T', 'Ind', 'KL', 'foreign']), st.booleans(), st.integers(1, 13))
def test_a_network_at_random_is_right_or_refused(name, how, k, size, role, shown, bs):
    "Whatever a network is like: the right logits, or one line that names it."
    k = 2 if name in TWO else k
    if name in ('stubborn', 'recipe') and how in ('inside', 'parallel'): how = 'none'  # what hides the break
    make = FINE.get(name) or (MENDED | TWO | REFUSED)[name][0]
    nets = {r: Level(k) for r in ('T', 'Ind', 'KL', 'foreign')} | {role: dressed(make(k), how)}
    images = levels(k, size=size)
    try:
        cast = Cast(nets['T'], dict(Ind=nets['Ind'], KL=nets['KL']), dict(foreign=nets['foreign']),
                    images=images if shown else None)
        z = cast.logits(images, bs=bs)[role, 0]
    except KDError as e:
        assert name in REFUSED and str(e).startswith(f'{role}: ') and '\n' not in str(e), e
        return
    assert name not in REFUSED
    assert (z.argmax(1) == images.y).all() and cast.accuracy(images).accuracy.eq(1).all()
    if name != 'sigmoid': assert same_beliefs(z, truth(k, images), close(name))


# Compressed networks

def each(change):
    "A change of every convolution of a network."
    def changed(net):
        for m in [m for m in net.modules() if isinstance(m, nn.Conv2d)]: change(m)
        return net
    return changed


COMPRESSED = dict(
    pruned=each(lambda m: prune.l1_unstructured(m, 'weight', amount=.3)),
    pruned_channels=each(lambda m: prune.ln_structured(m, 'weight', amount=.3, n=2, dim=0)),
    spectral=each(spectral_norm), spectral_parametrised=each(parametrizations.spectral_norm), weight_norm=each(weight_norm),
    half=lambda net: net.half(), bfloat=lambda net: net.bfloat16(), scripted=torch.jit.script,
    quantised=lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}))


@pytest.mark.parametrize('name', COMPRESSED)
@pytest.mark.filterwarnings('ignore')
def test_a_compressed_network_answers_inside_a_cast_as_outside(name):
    make = lambda seed: create_model('resnet_small', 5, seed=seed, width=4).eval()
    student, images = COMPRESSED[name](make(2)), levels(5, size=16)
    cast = Cast(make(0), dict(Ind=make(1), KL=student))
    own = next((p.dtype for p in student.parameters()), torch.float32)
    with torch.no_grad(): plain = student(images.pixels(range(12)).to(own)).float()
    assert torch.allclose(cast.logits(images)['KL', 0], plain, atol=1e-4 if own == torch.float32 else .05)
