"""Objectives against known values: numbers of the authors' files on a fixed input, and formulas in plain loops.

The first were computed in float64 from the authors' released files; the second are written from the formulas."""
import math
from statistics import fmean, stdev

import pytest
import torch
from torch import nn

from kd_knowledge.distillation import (AB, AT, CATKD, CC, CTKD, DIST, DKD, E2KD, FSP, FT, KL, LSKD, MLLD, NKD, NST, OFA,
                                       OFD, PKT, RKD, RLD, SP, SRRL, VID, WSLD, WTTM, FeatureMSE, ReviewKD, SimKD)

### What an objective answers to tensors that are given by hand

def same(a): return a


class Unchanged(nn.Module):
    "In the place of a fusion module: the map as it is, for the comparison and for the next one."
    def forward(self, x, below=None): return x, x


def ready(objective, n=1, **parts):
    "An objective that reads `n` layers, with these parts in the place of trained ones."
    objective.student_layers = objective.teacher_layers = [f'layer {k}' for k in range(n)]
    objective.maps, objective.map = (same, same), same
    for name, part in parts.items(): setattr(objective, name, part)
    return objective


def value(objective, student, teacher, labels=None, logits=(None, None)):
    "What it says of activations, one for each layer."
    seen = [dict(zip(objective.student_layers, read), logits=z) for read, z in zip((student, teacher), logits)]
    return objective(*seen, labels, None).item()


def answer(objective, student, teacher, labels=None):
    "What it says of logits."
    return value(objective, [], [], labels, (student, teacher))


def identity(n=1): return nn.ModuleList(nn.Identity() for _ in range(n))


def linear(weight, bias=None):
    "A layer with these numbers."
    layer = nn.Linear(*weight.shape[::-1], bias=bias is not None).double()
    layer.weight.data = weight
    if bias is not None: layer.bias.data = bias
    return layer


def overhaul(means, stds):
    "OFD with the margins of a teacher's batch norms of these means and deviations."
    norms = [nn.BatchNorm2d(len(m)).double() for m in means]
    for norm, m, s in zip(norms, means, stds): norm.bias.data, norm.weight.data = m, s
    objective = ready(OFD(), len(means), connectors=identity(len(means)))
    objective.take_margins(norms)
    return objective

### Known values

def wave(*shape, a, b=0.):
    numbers = [math.sin(a*k**1.1 + b) for k in range(1, math.prod(shape) + 1)]
    return torch.tensor(numbers, dtype=torch.float64).view(shape)


Y = torch.tensor([0, 1, 2, 3, 4, 1])
ZS, ZT = 2*wave(6, 5, a=.37), 3*wave(6, 5, a=.91, b=.5)
PS, PT = wave(6, 4, 4, 4, a=.53), wave(6, 4, 4, 4, a=.29, b=1.)
MS, MT = PS.relu(), PT.relu()
MS2, MT2 = wave(6, 3, 4, 4, a=.77).relu(), wave(6, 3, 4, 4, a=.19).relu()
VS, VT = wave(6, 7, a=.61), wave(6, 7, a=.43, b=.2)
EYE = linear(torch.eye(4, dtype=torch.float64))


def soft_labels(tau): return answer(KL(tau=tau), ZS, ZT) - answer(KL(tau=tau), ZT, ZT)


def relations():
    "What is left of MLLD at one temperature without its soft labels."
    mlld, seen = MLLD(taus=(4.,)), [{'logits': z, 'second logits': z} for z in (ZS, ZT)]
    return mlld(*seen, Y, None).item() - 2*soft_labels(4.)


def curriculum():
    "CTKD while its temperature is 4."
    ctkd = CTKD().double()
    ctkd.theta.data.fill_(math.log(3/17))
    return answer(ctkd, ZS, ZT)


def reads_teacher():
    "SRRL where the teacher's last layer answers to VS with ZS."
    srrl = ready(SRRL(), connector=nn.Identity(), head=linear(torch.linalg.lstsq(VS, ZS).solution.T))
    return value(srrl, [VS[:, :, None, None]], [VT], logits=(None, ZT))


def overhauled():
    "OFD, whose margin -.5 is that of channels which are never below zero."
    one = torch.ones(4, dtype=torch.float64)
    return value(overhaul([one], [one/6]), [PS], [PT])


def guessed():
    "VID with a variance of 5."
    raw = torch.tensor(math.log(math.expm1(5 - 1e-5)), dtype=torch.float64)
    return value(ready(VID(), guesses=identity(), raw=[raw]), [MS], [MT])


SHEET = [
    ('KD', 2.614508622488, lambda: soft_labels(4.)),
    ('DKD', 21.071059796033, lambda: answer(DKD(), ZS, ZT, Y)),
    ('NKD', 3.071307549775, lambda: answer(NKD(), ZS, ZT, Y)),
    ('DIST at 1', 2.442839423906, lambda: answer(DIST(tau=1.), ZS, ZT)),
    ('DIST at 4', 37.458108324457, lambda: answer(DIST(), ZS, ZT)),
    ('LSKD', .890284805164, lambda: answer(LSKD(), ZS, ZT)),
    ('TTM', .444666961794, lambda: answer(WTTM(weighted=False), ZS, ZT)),
    ('WTTM', 1.659608434350, lambda: answer(WTTM(), ZS, ZT)),
    ('WSLD', 32.706889798972, lambda: WSLD().weight*answer(WSLD(), ZS, ZT, Y)),
    ('MLLD, classes and batch', .113801484599 + .010402413914, relations),
    ('CTKD at 4', 2.614508622488, curriculum),
    ('OFA', 1.957408032669, lambda: answer(ready(OFA(stages=False), 0, heads=[]), ZS, ZT, Y)),
    ('RLD', 5.470915453765, lambda: answer(RLD(), ZS, ZT, Y)),
    ('RKD', 13.484696789668, lambda: value(ready(RKD()), [VS], [VT])),
    ('PKT', .051476661923, lambda: value(ready(PKT()), [VS], [VT])),
    ('CC', 4.433772905836, lambda: value(ready(CC(), embed_student=same, embed_teacher=same), [VS], [VT])),
    ('SRRL', 7.912903625584, reads_teacher),
    ('AT', .028240034174, lambda: value(ready(AT()), [MS], [MT])),
    ('SP', .043244250587, lambda: value(ready(SP()), [MS], [MT])),
    ('NST', .438951687825, lambda: value(ready(NST()), [MS], [MT])),
    ('FSP', .004226750952, lambda: value(ready(FSP(), 2, connectors=identity(2)), [MS, MS2], [MT, MT2])),
    ('VID', .834462529886, guessed),
    ('FT', .139375857597, lambda: value(ready(FT(), translate=same, paraphrase=same), [MS], [MT])),
    ('AB', .282248627996, lambda: value(ready(AB(), connectors=identity()), [PS], [PT])),
    ('OFD', 52.040233837798, overhauled),
    ('ReviewKD', .185990191024, lambda: value(ready(ReviewKD(), reviews=[Unchanged()]), [MS], [MT])),
    ('CATKD', .097629330688, lambda: value(ready(CATKD(), heads=(EYE, EYE)), [MS], [MT])),
]


@pytest.mark.parametrize('name,known,computed', SHEET, ids=[name for name, *_ in SHEET])
def test_value_is_that_of_the_authors_file(name, known, computed):
    assert computed() == pytest.approx(known, rel=1e-9, abs=0)

### The formulas again, in plain Python

def draw(*shape, seed): return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def soft(z, tau=1.):
    exps = [math.exp(v/tau) for v in z]
    return [e/sum(exps) for e in exps]


def kl(p, q): return sum(a*math.log(a/b) for a, b in zip(p, q))
def crossed(p, q): return -sum(a*math.log(b) for a, b in zip(p, q))
def dot(a, b): return sum(x*y for x, y in zip(a, b))
def unit(a): return [x/math.sqrt(dot(a, a)) for x in a]
def mse(a, b): return fmean((x - y)**2 for x, y in zip(a, b, strict=True))
def without(p, k): return [v for c, v in enumerate(p) if c != k]
def shares(p): return [v/sum(p) for v in p]
def columns(rows): return [list(column) for column in zip(*rows)]
def flat(a): return [x for part in a for x in flat(part)] if isinstance(a, list) else [a]


def each(f):
    "The mean over images of what is said of one."
    return lambda s, t, y: fmean(f(*image) for image in zip(s, t, y, strict=True))


@each
def dkd(s, t, k, alpha=1.5, beta=6., tau=2.):
    p, q = soft(t, tau), soft(s, tau)
    target = kl([p[k], 1 - p[k]], [q[k], 1 - q[k]])
    return tau**2*(alpha*target + beta*kl(shares(without(p, k)), shares(without(q, k))))


@each
def nkd(s, t, k, rest=3.5, tau=3.):
    p, q = (shares(without(soft(z, tau), k)) for z in (t, s))
    return -soft(t)[k]*math.log(soft(s)[k]) + rest*tau**2*crossed(p, q)


@each
def rld(s, t, k, alpha=1.5, beta=6., tau=3., tau_sure=2.):
    sure, q = max(soft(t, tau_sure)), soft(s, tau_sure)[k]
    below = [c for c in range(len(t)) if t[c] < t[k]]
    rest = kl(*(soft([z[c] for c in below], tau) for z in (t, s)))
    return alpha*tau_sure**2*kl([sure, 1 - sure], [q, 1 - q]) + beta*tau**2*rest


def correlation(a, b):
    a, b = ([x - fmean(v) for x in v] for v in (a, b))
    return dot(a, b)/(math.sqrt(dot(a, a)*dot(b, b)) + 1e-8)


def dist(s, t, y, inter=2., intra=.5, tau=2.):
    p, q = ([soft(z, tau) for z in zs] for zs in (t, s))
    images, classes = (fmean(map(correlation, a, b)) for a, b in ((p, q), (columns(p), columns(q))))
    return tau**2*(inter*(1 - images) + intra*(1 - classes))


@each
def lskd(s, t, k, tau=3.):
    p, q = (soft([(v - fmean(z))/(stdev(z) + 1e-7) for v in z], tau) for z in (t, s))
    return tau**2*kl(p, q)


def powers(t, power): return [p**power for p in soft(t)]


@each
def ttm(s, t, k, power=.3): return kl(shares(powers(t, power)), soft(s))


@each
def wttm(s, t, k, power=.3): return sum(powers(t, power))*kl(shares(powers(t, power)), soft(s))


@each
def wsld(s, t, k, tau=3.):
    behind = math.log(soft(s)[k])/(math.log(soft(t)[k]) - 1e-7)
    return tau**2*(1 - math.exp(-behind))*crossed(soft(t, tau), soft(s, tau))


@each
def ofa(s, t, k, epsilon=1.3):
    asked = [(p + (c == k))**epsilon - (c == k) for c, p in enumerate(soft(t))]
    return crossed(asked, soft(s))


def products(rows): return [[dot(a, b) for b in rows] for a in rows]


LOGITS = dict(
    DKD=(DKD(alpha=1.5, beta=6., tau=2.), dkd), NKD=(NKD(rest=3.5, tau=3.), nkd),
    RLD=(RLD(alpha=1.5, beta=6., tau=3., tau_sure=2.), rld), DIST=(DIST(inter=2., intra=.5, tau=2.), dist),
    LSKD=(LSKD(tau=3.), lskd), TTM=(WTTM(power=.3, weighted=False), ttm), WTTM=(WTTM(power=.3), wttm),
    WSLD=(WSLD(tau=3.), wsld), OFA=(ready(OFA(epsilon=1.3, stages=False), 0, heads=[]), ofa))


@pytest.mark.parametrize('name', LOGITS)
def test_logits_are_compared_as_the_formula_says(name):
    objective, formula = LOGITS[name]
    s, t, labels = 2*draw(5, 4, seed=0), 2*draw(5, 4, seed=1), torch.tensor([0, 2, 1, 3, 0])
    t[4, 0] = -9.  # for this image the teacher ranks the label last
    known = formula(s.tolist(), t.tolist(), labels.tolist())
    assert answer(objective, s, t, labels) == pytest.approx(known, rel=1e-9, abs=0)


def mlld(s, t, second_s, second_t, tau):
    p, q, second_p, second_q = ([soft(z, tau) for z in zs] for zs in (t, s, second_t, second_s))
    answers = tau**2*fmean([*map(kl, p, q), *map(kl, second_p, second_q)])*2
    images, classes = (mse(flat(products(a)), flat(products(b))) for a, b in ((p, q), (columns(p), columns(q))))
    return answers + images*len(s) + classes*len(s[0])


def test_both_views_are_compared_as_the_formula_says():
    s, t, second_s, second_t = (2*draw(4, 3, seed=k) for k in range(4))
    known = sum(mlld(*(z.tolist() for z in (s, t, second_s, second_t)), tau) for tau in (2., 5.))
    seen = [{'logits': z, 'second logits': second} for z, second in ((s, second_s), (t, second_t))]
    assert MLLD(taus=(2., 5.))(*seen, None, None).item() == pytest.approx(known, rel=1e-9, abs=0)


def softened(s, t, tau): return tau**2*fmean(kl(soft(b, tau), soft(a, tau)) for a, b in zip(s.tolist(), t.tolist()))


@pytest.mark.parametrize('progress,share', [(0., 0.), (1/48, .5), (1/24, 1.), (.7, 1.)])
def test_temperature_climbs_while_the_rest_falls(progress, share):
    s, t, ctkd = 2*draw(4, 3, seed=0), 2*draw(4, 3, seed=1), CTKD(start=.3).double()
    ctkd.progress = progress
    ctkd(dict(logits=s), dict(logits=t), None, None).backward()
    theta, step = ctkd.theta.item(), 1e-4
    low, high = (softened(s, t, 1 + 20/(1 + math.exp(-theta - k))) for k in (-step, step))
    assert ctkd.theta.grad.item() == pytest.approx(-share*(high - low)/(2*step), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize('kind', [DKD, RLD, ReviewKD])
def test_term_grows_over_the_first_twelfth(kind):
    objective, asked = ready(kind(), reviews=[Unchanged()]), ([MS], [MT], Y, (ZS, ZT))
    whole = value(objective, *asked)
    for progress, share in ((0., 0.), (1/48, .25), (1/12, 1.), (.5, 1.)):
        objective.progress = progress
        assert value(objective, *asked) == pytest.approx(share*whole, rel=1e-9, abs=0)

### Vectors

def smooth(a, b): return fmean((x - y)**2/2 if abs(x - y) < 1 else abs(x - y) - .5 for x, y in zip(a, b, strict=True))


def lengths(vs):
    apart = [math.dist(a, b) for a in vs for b in vs]
    return [d/fmean(x for x in apart if x > 0) for d in apart]


def angle(a, b, c):
    "The cosine at `a`; 0 where two of them are one."
    b, c = ([x - y for x, y in zip(v, a)] for v in (b, c))
    return dot(unit(b), unit(c)) if any(b) and any(c) else 0.


def angles(vs): return [angle(a, b, c) for a in vs for b in vs for c in vs]
def rkd(s, t): return 25*smooth(lengths(s), lengths(t)) + 50*smooth(angles(s), angles(t))


def near(vs):
    units = [[x/(math.sqrt(dot(v, v)) + 1e-7) for x in v] for v in vs]
    return flat([shares([(dot(a, b) + 1)/2 for b in units]) for a in units])


def pkt(s, t): return fmean(p*math.log((p + 1e-7)/(q + 1e-7)) for p, q in zip(near(t), near(s)))


WIDE, TALL, BIAS = draw(4, 3, seed=5), draw(4, 5, seed=6), draw(4, seed=7)  # layers from 3 and 5 numbers to 4


def layer(weight, bias, v): return [dot(row, v) + b for row, b in zip(weight.tolist(), bias.tolist(), strict=True)]


def cc(s, t):
    embedded = zip((layer(WIDE, BIAS, v) for v in s), (layer(TALL, -BIAS, v) for v in t))
    apart = [[abs(x - y) for x, y in zip(a, b)] for a, b in embedded]
    return fmean(map(dot, apart, apart[1:]))


def feature_mse(s, t): return mse(flat([layer(TALL.T, torch.zeros(5), v) for v in s]), flat(t))


VECTORS = dict(
    RKD=(ready(RKD()), rkd, 3, 5), PKT=(ready(PKT()), pkt, 3, 5),
    CC=(ready(CC(), embed_student=linear(WIDE, BIAS), embed_teacher=linear(TALL, -BIAS)), cc, 3, 5),
    FeatureMSE=(ready(FeatureMSE(), regressor=linear(TALL.T)), feature_mse, 4, 5))


@pytest.mark.parametrize('name', VECTORS)
def test_vectors_are_compared_as_the_formula_says(name):
    objective, formula, *widths = VECTORS[name]
    s, t = (draw(4, width, seed=k) for k, width in enumerate(widths))
    assert value(objective, [s], [t]) == pytest.approx(formula(s.tolist(), t.tolist()), rel=1e-9, abs=0)


def test_teacher_reads_features_as_the_formula_says():
    s, t, logits = draw(3, 3, 2, 2, seed=0), draw(3, 3, seed=1), draw(3, 4, seed=2)
    pooled = [[fmean(flat(channel)) for channel in image] for image in s.tolist()]
    read = [layer(WIDE, BIAS, v) for v in pooled]
    known = mse(flat(pooled), flat(t.tolist())) + 5*mse(flat(read), flat(logits.tolist()))
    srrl = ready(SRRL(regression=5.), connector=nn.Identity(), head=linear(WIDE, BIAS))
    assert value(srrl, [s], [t], logits=(None, logits)) == pytest.approx(known, rel=1e-9, abs=0)

### Maps: image after image, channel after channel, row after row

def pictures(image): return [flat(channel) for channel in image]
def attention(image): return unit([dot(place, place) for place in columns(pictures(image))])


def layers(f):
    "The sum over layers of what is said of one."
    return lambda s, t: sum(f(*pair) for pair in zip(s, t, strict=True))


def images(f):
    "The mean over images of what is said of one."
    return layers(lambda s, t: fmean(map(f, s, t)))


@images
def at(s, t): return mse(attention(s), attention(t))


@images
def ft(s, t): return fmean(abs(a - b) for a, b in zip(attention(s), attention(t)))


def alike(maps): return flat([unit(row) for row in products([flat(image) for image in maps])])


@layers
def sp(s, t): return mse(alike(s), alike(t))


@images
def nst(s, t):
    s, t = ([unit(a) for a in pictures(image)] for image in (s, t))
    def kernel(x, y): return fmean(dot(a, b)**2 for a in x for b in y)
    return kernel(t, t) + kernel(s, s) - 2*kernel(s, t)


def pool(picture, size):
    "Means of squares, `size` in each direction."
    n = len(picture)//size
    places = [[(n*i + a, n*j + b) for a in range(n) for b in range(n)] for i in range(size) for j in range(size)]
    return [fmean(picture[i][j] for i, j in square) for square in places]


def flows(first, second):
    "The larger map comes first."
    size = len(second[0][0])
    pairs = [[[pool(a, size) for a in image] for image in maps] for maps in (first, second)]
    return [dot(a, b)/size**2 for one, two in zip(*pairs) for a in one for b in two]


def fsp(s, t): return mse(flows(*s), flows(*t))


RAW = draw(3, seed=8)


@images
def vid(s, t):
    variances = [math.log(1 + math.exp(raw)) + 1e-5 for raw in RAW.tolist()]
    found = zip(pictures(s), pictures(t), variances, strict=True)
    return fmean(((x - y)**2/v + math.log(v))/2 for a, b, v in found for x, y in zip(a, b))


@layers
def review(s, t):
    factor, weights, total = 1., 1., mse(flat(s), flat(t))
    for size in (k for k in (4, 2, 1) if k < len(s[0][0])):
        factor /= 2
        weights += factor
        s_pooled, t_pooled = ([pool(a, size) for image in maps for a in image] for maps in (s, t))
        total += factor*mse(flat(s_pooled), flat(t_pooled))
    return total/weights


def deeper_counts_twice(f):
    "The mean over images, summed over layers, of which the last counts whole and each before it half as much."
    return lambda s, t: sum(2.**-(len(s) - 1 - k)*fmean(map(f, [k]*len(a), a, b)) for k, (a, b) in enumerate(zip(s, t)))


@deeper_counts_twice
def ab(k, s, t):
    off = sum((x + 1)**2 for x, y in zip(flat(s), flat(t)) if x > -1 and y <= 0)
    return 3/1000*(off + sum((x - 1)**2 for x, y in zip(flat(s), flat(t)) if x <= 1 and y > 0))


MEANS = torch.tensor([[-1., .5, 4.], [.2, -.3, 2.8]], dtype=torch.float64)  # of two layers' channels
STDS = torch.tensor([[.5, -1., 1.], [.3, .6, 1.]], dtype=torch.float64)


def margin(mean, std):
    "The expected value below zero of a normal number; the third channel of the first layer is hardly ever there."
    z, std = mean/abs(std), abs(std)
    below = (1 + math.erf(-z/math.sqrt(2)))/2
    return mean - std*math.exp(-z*z/2)/math.sqrt(2*math.pi)/below if below > .001 else -3*std


def excess(x, y, m):
    if y <= m: return (x - m)**2 if x > m else 0.
    return (x - y)**2 if y > 0 or x > y else 0.


@deeper_counts_twice
def ofd(k, s, t):
    margins = [margin(*pair) for pair in zip(MEANS[k].tolist(), STDS[k].tolist())]
    channels = zip(pictures(s), pictures(t), margins, strict=True)
    return sum(excess(x, y, m) for a, b, m in channels for x, y in zip(a, b, strict=True))


def simkd(s, t): return mse(flat(s), flat(t))


SIZES = {1: [4], 2: [4, 2], 4: [8, 4, 2, 1]}  # of the maps of so many layers
MAPS = dict(
    AT=(ready(AT(), 2), at), SP=(ready(SP(), 2), sp), NST=(ready(NST(), 2), nst),
    FSP=(ready(FSP(), 2, connectors=identity(2)), fsp), FT=(ready(FT(), translate=same, paraphrase=same), ft),
    VID=(ready(VID(), 2, guesses=identity(2), raw=[RAW[:, None, None]]*2), vid),
    ReviewKD=(ready(ReviewKD(), 4, reviews=[Unchanged()]*4), review),
    AB=(ready(AB(), 2, connectors=identity(2)), ab),
    OFD=(overhaul(MEANS, STDS), ofd),
    SimKD=(ready(SimKD()), simkd))


@pytest.mark.parametrize('name', MAPS)
def test_maps_are_compared_as_the_formula_says(name):
    objective, formula = MAPS[name]
    sizes = SIZES[len(objective.student_layers)]
    s, t = ([draw(3, 3, size, size, seed=size + more) for size in sizes] for more in (0, 100))
    t[0][:, 0, 0, 0] = 0.  # neither on nor off
    known = formula([a.tolist() for a in s], [a.tolist() for a in t])
    assert value(objective, s, t) == pytest.approx(known, rel=1e-9, abs=0)

### Maps that a last layer reads

HEADS = WIDE, draw(4, 3, seed=9)


def class_maps(image, weight):
    "For each class the rows of what it gets at each place."
    across = range(len(image[0]))
    return [[[sum(w*a[i][j] for w, a in zip(row, image)) for j in across] for i in across] for row in weight.tolist()]


@images
def catkd(s, t):
    s, t = ([unit(pool(a, 2)) for a in class_maps(*o)] for o in zip((s, t), HEADS))
    return mse(flat(s), flat(t))


def reasons(image, weight, k): return unit([max(0., x) for x in flat(class_maps(image, weight)[k])])


def e2kd(s, t, logits):
    first = [z.index(max(z)) for z in logits[1].tolist()]
    cosines = [dot(reasons(a, HEADS[0], k), reasons(b, HEADS[1], k)) for a, b, k in zip(s, t, first)]
    return softened(*logits, 3.) + 2*(1 - fmean(cosines))


def test_class_maps_are_compared_as_the_formula_says():
    s, t, logits = draw(3, 3, 4, 4, seed=0), draw(3, 3, 4, 4, seed=1), (draw(3, 4, seed=2), draw(3, 4, seed=3))
    heads = [linear(weight, BIAS) for weight in HEADS]
    maps = s.tolist(), t.tolist()
    attended = value(ready(CATKD(), heads=heads), [s], [t])
    assert attended == pytest.approx(catkd([maps[0]], [maps[1]]), rel=1e-9, abs=0)
    explained = value(ready(E2KD(explain=2., tau=3.), heads=heads), [s], [t], logits=logits)
    assert explained == pytest.approx(e2kd(*maps, logits), rel=1e-9, abs=0)
