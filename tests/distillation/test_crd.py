"CRD against its formula and RepDistiller, whichever way a bank is read; what a step needs of memory; what is drawn."
import importlib
import os
import sys
from pathlib import Path
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from PIL import Image

from tests.common import says
from tests.distillation.common import Labelled, batches, fit, student
from kd_knowledge.torch_core import generator
from kd_knowledge.data import Augment, Images, get_dls, image_loaders
from kd_knowledge.distillation import CRD, KL, distill_learner
from kd_knowledge.distillation.objectives import _GatherDot
from kd_knowledge.models import frozen, taps

LARGE = 100_001 # the smallest bank that is never multiplied as a whole, if few rows are drawn
WAYS = dict(whole=lambda student, bank, drawn: (student@bank.T).gather(1, drawn), gathered=_GatherDot.apply)


def case(n, batch=8, n_classes=10, dim=16, negatives='bank', **kwargs):
    "An objective for `n` images, and what it is given of a batch, all in float64."
    draw = generator('crd case', n, batch)
    student, teacher = (torch.randn(batch, width, generator=draw, dtype=torch.float64) for width in (6, 12))
    y = torch.randint(n_classes, (n,), generator=draw)
    index = torch.randperm(n, generator=draw)[:batch]
    crd = CRD(dim=dim, negatives=negatives, **kwargs)
    crd.student_layers, crd.teacher_layers = ['s'], ['t']
    crd.build(dict(s=student), dict(t=teacher), Labelled(y))
    if crd.surveys: crd.survey(dict(t=torch.randn(n, 12, generator=draw)), torch.arange(n))
    return crd.double(), (dict(s=student.requires_grad_()), dict(t=teacher), y[index], index), y


def in_float32(crd, batch):
    "The objective becomes float32; gives the batch likewise."
    crd.float()
    return [dict(s=batch[0]['s'].detach().float().requires_grad_()), dict(t=batch[1]['t'].float()), *batch[2:]]


def fix_draws(crd, labels):
    "From now on the objective draws the same negatives; gives them."
    drawn = crd._draw(labels)
    crd._draw = lambda labels: drawn
    return drawn


def by_hand(crd, batch, rows, counts=None):
    "The formula as printed, with h as a fraction, for negatives N x K x dim of which those in `counts` count."
    s, t = crd._embed(*batch[:2])
    counts = torch.ones(rows.shape[:2], dtype=torch.bool) if counts is None else counts
    noise = counts.sum(1)/crd.n_images
    def h(a, b, noise):
        e = (a*b).sum(-1).div(crd.tau).exp()/crd.log_z.exp()
        return e/(e + noise)
    return (-h(s, t, noise).log() - ((1 - h(s[:, None], rows, noise[:, None])).log()*counts).sum(1)).mean()


def gradients(loss, crd, batch):
    "With respect to the student's features and both embeddings' weights."
    wanted = [batch[0]['s'], crd.embed_student.weight, crd.embed_teacher.weight]
    return torch.autograd.grad(loss, wanted, retain_graph=True)


def differ(found, expected):
    "The largest difference as a share of the largest expected number."
    return max(((a - b).abs().max()/b.abs().max()).item() for a, b in zip(found, expected))


@pytest.mark.parametrize('dtype,limit', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize('way', WAYS)
def test_both_ways_are_the_plain_gather_and_its_gradient(way, dtype, limit):
    student, bank = (torch.randn(n, 24, generator=generator(way, n), dtype=torch.float64) for n in (7, 50))
    drawn = torch.randint(50, (7, 200), generator=generator('rows')) # each row several times
    weight = torch.randn(7, 200, generator=generator('weight'), dtype=torch.float64)
    def run(score, dtype):
        given = student.to(dtype).requires_grad_()
        scores = score(given, bank.to(dtype), drawn)
        return scores.double(), torch.autograd.grad(scores, given, weight.to(dtype))[0].double()
    expected = run(lambda student, bank, drawn: (bank[drawn]*student[:, None]).sum(2), torch.float64)
    assert differ(run(WAYS[way], dtype), expected) < limit


def test_the_gradient_of_a_gathered_product_is_that_of_small_steps():
    student, bank = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(9, 4, dtype=torch.float64)
    drawn = torch.randint(9, (3, 5), generator=generator('check'))
    assert torch.autograd.gradcheck(lambda student: _GatherDot.apply(student, bank, drawn), student)


@pytest.mark.parametrize('n,n_negatives,way', [(3600, 32, 'Gather'), (100_000, 32, 'Gather'), (LARGE, 32, '_GatherDot'),
                                               (LARGE, 10_001, 'Gather'), (120_000, 11_999, '_GatherDot')])
def test_the_bank_decides_the_way(n, n_negatives, way):
    crd, batch, _ = case(n, dim=1, n_negatives=n_negatives)
    scores = crd._bank_scores(crd._embed(*batch[:2])[0], crd._draw(batch[2]))
    assert type(scores.grad_fn).__name__.startswith(f'{way}Backward')


@pytest.mark.parametrize('partition', [1., 5e4, None])
@pytest.mark.parametrize('n', [600, LARGE])
def test_loss_and_gradient_are_the_written_out_formula(n, partition):
    crd, batch, _ = case(n, n_negatives=64, partition=partition)
    drawn = fix_draws(crd, batch[2])
    ours = crd(*batch)
    loss = by_hand(crd, batch, crd.bank[drawn])
    expected = [loss, *gradients(loss, crd, batch)]
    assert differ([ours, *gradients(ours, crd, batch)], expected) < 1e-6 # log N/M is taken in float32
    low = in_float32(crd, batch)
    crd.pending = None
    found = crd(*low)
    assert differ([found, *gradients(found, crd, low)], expected) < 1e-4


def test_both_ways_give_the_same_loss_and_gradient():
    crd, batch, _ = case(LARGE, n_negatives=64)
    fix_draws(crd, batch[2])
    gathered = crd(*batch)
    crd.pending = None
    crd._bank_scores = lambda student, drawn: WAYS['whole'](student, crd.bank, drawn)
    whole = crd(*batch)
    assert differ([gathered, *gradients(gathered, crd, batch)], [whole, *gradients(whole, crd, batch)]) < 1e-12


def test_a_small_bank_gives_the_very_bits_of_a_product_with_all_of_it():
    crd, batch, y = case(600, n_negatives=64, partition=1e3, seed=3)
    batch, bank = in_float32(crd, batch), crd.bank.clone()
    order, count = y.argsort(stable=True), y.bincount()
    own, start = count[batch[2]][:, None], (count.cumsum(0) - count)[batch[2]][:, None]
    place = (torch.rand(8, 64, generator=generator('crd draws', 3))*(600 - own)).long().clamp_(max=599 - own)
    drawn = order[place + own*(place >= start)]
    s, t = crd._embed(*batch[:2])
    negative, shift = (s@bank.T).gather(1, drawn)/crd.tau, crd.log_z + torch.tensor(64/600).log()
    positive = (s*t).sum(1, keepdim=True)/crd.tau
    expected = (-F.logsigmoid(positive - shift).sum(1) - F.logsigmoid(shift - negative).sum(1)).mean()
    ours = crd(*batch)
    assert torch.equal(ours, expected)
    assert all(map(torch.equal, gradients(ours, crd, batch), gradients(expected, crd, batch)))


@pytest.fixture(scope='module')
def repdistiller():
    "RepDistiller's modules `crd.memory` and `crd.criterion`, from the clone that REPDISTILLER names."
    folder = os.environ.get('REPDISTILLER')
    if not folder: pytest.skip('REPDISTILLER does not name a clone of RepDistiller')
    assert (Path(folder)/'crd'/'memory.py').is_file(), f'REPDISTILLER: there is no crd/memory.py in {folder}'
    sys.path.insert(0, folder)
    try: yield importlib.import_module('crd.memory'), importlib.import_module('crd.criterion')
    finally: sys.path.remove(folder)


@pytest.mark.parametrize('n', [600, LARGE])
def test_the_gradient_is_repdistillers(repdistiller, n, monkeypatch):
    """Its half that has the student as anchor. Its positives are old rows of the bank: here they are further rows,
    which hold the teacher's new embeddings."""
    crd, batch, _ = case(n, n_negatives=2048)
    drawn = fix_draws(crd, batch[2])
    ours = crd(*batch)
    # it draws only where no negatives are given
    monkeypatch.setattr(repdistiller[0], 'AliasMethod', lambda weights: torch.nn.Module())
    memory = repdistiller[0].ContrastMemory(16, n + 8, drawn.shape[1], crd.tau).double()
    criterion = repdistiller[1].ContrastLoss(n)
    s, t = crd._embed(*batch[:2])
    memory.memory_v2.copy_(torch.cat([crd.bank, t.detach()]))
    memory.params[2:4] = crd.log_z.exp()
    mine, _ = memory(s, t, batch[3], torch.cat([n + torch.arange(8)[:, None], drawn], 1))
    theirs, wanted = criterion(mine), (batch[0]['s'], crd.embed_student.weight)
    found, expected = (torch.autograd.grad(loss.sum(), wanted, retain_graph=True) for loss in (ours, theirs))
    assert differ(found, expected) < 1e-4
    # it adds an epsilon of 1e-7 to N/M, which lifts the loss of each negative by epsilon M/N
    assert differ([ours + 1e-7*n], [theirs]) < 1e-4


STEP = '''
import sys, torch
from kd_knowledge.distillation import CRD
n = int(sys.argv[1])
class Labelled:
    y = torch.arange(n) % 1000
    def __len__(self): return n
def peak(): return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM'))/2**10
student, teacher, index = torch.randn(64, 512, requires_grad=True), torch.randn(64, 2048), torch.arange(64)
crd = CRD(negatives='bank')
crd.student_layers, crd.teacher_layers = ['s'], ['t']
found = [peak()]
crd.build(dict(s=student), dict(t=teacher), Labelled())
crd.bank.fill_(.1)
crd.filled.fill_(n)
found.append(peak())
for _ in range(3): crd(dict(s=student), dict(t=teacher), Labelled.y[index], index).backward()
found.append(peak())
rows = crd.bank[crd._draw(Labelled.y[index])]
(rows@crd._embed(dict(s=student), dict(t=teacher))[0][..., None]).sum().backward()
found.append(peak())
print(*(b - a for a, b in zip(found, found[1:])))
'''

@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the largest size of a process is read from /proc')
@pytest.mark.parametrize('n,limit', [(160_000, 200), (200_000, 100)])
def test_a_step_needs_little_memory(fresh, root, n, limit):
    """MB by which the largest size of a fresh process grows: the bank when it is built, three steps, and to compare the
    rows of one plain gather."""
    done = fresh(STEP, n, path=root)
    assert done.returncode == 0, done.stderr
    built, step, gathered = map(float, done.stdout.splitlines()[-1].split())
    bank = n*128*4/2**20
    assert .9*bank < built < 1.4*bank, built
    assert 10 < step < limit, step
    assert gathered > 300, gathered


def test_shared_negatives_are_one_draw_without_the_own_class():
    crd, batch, y = case(600, n_classes=3, n_negatives=40, negatives='shared')
    state = crd._stream_on('crd draws', torch.device('cpu')).get_state()
    drawn = torch.randint(600, (40,), generator=crd.random)
    crd.random.set_state(state)
    ours = crd(*batch)
    counts = batch[2][:, None] != y[drawn]
    assert counts.any(1).all() and not counts.all(1).any()
    assert len(counts.sum(1).unique()) > 1, 'N differs from image to image'
    expected = by_hand(crd, batch, crd.bank[drawn].expand(8, 40, 16), counts)
    assert differ([ours, *gradients(ours, crd, batch)], [expected, *gradients(expected, crd, batch)]) < 1e-6


def test_shared_negatives_are_new_for_each_batch_and_come_from_the_seed():
    drawn = [case(600, n_negatives=40, negatives='shared', seed=seed)[0] for seed in (1, 1, 2)]
    first, again, other = ([crd._draw_shared(torch.device('cpu'))[1] for _ in range(2)] for crd in drawn)
    assert all(map(torch.equal, first, again)) and not torch.equal(*first) and not torch.equal(first[0], other[0])


@pytest.mark.parametrize('y', [[0]*90 + [1] + [3]*9, [3, 0]*20 + [1]*60], ids=['a class without images', 'mixed up'])
def test_an_image_of_the_own_class_is_never_drawn_and_all_others_are(y):
    y = torch.tensor(y)
    crd = CRD(dim=2, negatives='bank')
    crd.student_layers = crd.teacher_layers = ['f']
    crd.build(dict(f=torch.ones(1, 2)), dict(f=torch.ones(1, 2)), Labelled(y))
    for label in y.unique():
        assert crd._draw(label.repeat(500)).unique().tolist() == (y != label).nonzero().flatten().tolist()


@pytest.mark.parametrize('negatives', ['bank', 'shared'])
def test_the_bank_moves_one_batch_later_towards_the_teacher(negatives):
    crd, batch, _ = case(600, n_negatives=40, negatives=negatives, momentum=.25)
    before, theirs = crd.bank.clone(), crd._embed(*batch[:2])[1].detach()
    crd(*batch).backward()
    assert torch.equal(crd.bank, before), 'the backward pass needs the bank as it was'
    crd(*batch)
    expected = before.clone()
    expected[batch[3]] = F.normalize(.25*before[batch[3]] + .75*theirs, dim=1)
    assert torch.allclose(crd.bank, expected, atol=1e-12)


def learner_on(dls, teacher, path=None, **students):
    return distill_learner(dls, teacher, students, student=student, path=path)


def fit_with(learn, callback):
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(callback): learn.fit(1, 1e-2)


def parameters(learn): return torch.cat([p.detach().flatten() for p in learn.students['CRD'].parameters()])


class Stop(Callback):
    "Ends the fit before its n-th step."
    def __init__(self, at): self.at = at
    def before_batch(self):
        if self.training and self.iter == self.at: raise KeyboardInterrupt


def test_the_first_bank_is_what_the_teacher_makes_of_the_plain_images(teacher):
    dls = get_dls('shapes', bs=16, n_train=40, n_valid=16, augment=Augment(crop=(.5, 1), jitter=.4))
    learn = learner_on(dls, teacher, a=CRD(negatives='bank'), b=CRD(negatives='bank', seed=3))
    with pytest.raises(KeyboardInterrupt): fit_with(learn, Stop(0))
    for terms in learn.cohort.objectives.values():
        with frozen(teacher), torch.no_grad(), taps(teacher, terms[0].teacher_layers[0]) as seen:
            teacher(dls.train_ds.pixels(range(40)))
        w, b = terms[0].embed_teacher.weight, terms[0].embed_teacher.bias
        rows = [v@w.T + b for v in seen[terms[0].teacher_layers[0]].flatten(1)]
        assert torch.allclose(terms[0].bank, torch.stack([r/r.norm() for r in rows]), atol=1e-6)


def test_a_fit_that_goes_on_keeps_its_bank(dls, teacher, tmp_path):
    learn = fit(learner_on(dls, teacher, tmp_path, CRD=CRD(negatives='bank')))
    moved = learn.cohort.objectives['CRD'][0].bank.clone()
    learn.save('one')
    again = learner_on(batches(), teacher, tmp_path, CRD=CRD(negatives='bank')).load('one')
    with pytest.raises(KeyboardInterrupt): fit_with(again, Stop(0))
    assert torch.equal(again.cohort.objectives['CRD'][0].bank, moved)


@pytest.mark.parametrize('negatives', ['bank', 'batch'])
def test_after_a_kill_the_same_weights_come_from_a_new_start(teacher, negatives):
    def weights(at):
        learn = learner_on(batches(), teacher, CRD=CRD(negatives=negatives, n_negatives=20))
        if at is None: return parameters(fit(learn, 2))
        with pytest.raises(KeyboardInterrupt): fit_with(learn, Stop(at))
        return weights(None)
    assert torch.equal(weights(None), weights(2))


@pytest.mark.parametrize('negatives', ['bank', 'shared', 'batch'])
def test_a_student_with_crd_trains_in_a_cohort_as_alone(teacher, negatives):
    def weights(**others):
        students = dict(CRD=CRD(negatives=negatives, n_negatives=20), **others)
        return parameters(fit(learner_on(batches(), teacher, **students)))
    together = weights(Ind=None, KL=KL(), other=CRD(negatives='bank', seed=4))
    assert torch.allclose(weights(), together, atol=1e-5)


def test_a_teacher_of_images_on_disk_fills_the_bank_too(teacher, tmp_path):
    dls = batches()
    for i, (x, y) in enumerate(zip(dls.train_ds.x, dls.train_ds.y)):
        place = tmp_path/'train'/str(int(y))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(place/f'{i:03}.png')
    files = sorted((tmp_path/'train').rglob('*.png'))
    labels = torch.tensor([int(f.parent.name) for f in files])
    lazy = Images(files, labels, dls.train_ds.vocab, dls.train_ds.size)
    assert not lazy.in_memory
    learn = fit(learner_on(image_loaders(lazy, dls.valid_ds, bs=16), teacher, CRD=CRD(negatives='bank')))
    assert int(learn.cohort.objectives['CRD'][0].filled) == 64


def test_a_student_trains_with_shared_negatives_and_its_bank_is_saved(dls, teacher, tmp_path):
    def learner(**kwargs):
        students = dict(CRD=CRD(n_negatives=32, negatives='shared', **kwargs))
        return distill_learner(dls, teacher, students, student=student, path=tmp_path)
    learn, other = learner(), learner(seed=7)
    fit(learn, 2)
    assert learn.distill.log.value.isna().sum() == 0
    learn.save('done')
    other.load('done')
    for key, value in learn.cohort.state_dict().items(): assert torch.equal(value, other.cohort.state_dict()[key]), key


def test_errors_name_the_argument_and_the_fix():
    says(lambda: CRD(negatives='queue'), 'negatives', "'queue'", 'batch, bank or shared')
    says(lambda: CRD(n_negatives=0), 'n_negatives', '16384')
    for negatives in ('bank', 'shared'):
        crd, batch, _ = case(60, n_negatives=5, negatives=negatives)
        says(lambda: crd(*batch[:3], torch.tensor([60])), 'index', '60 is outside the 60 training images')
    for negatives in ('bank', 'shared', 'batch'):
        says(lambda: case(60, n_classes=1, negatives=negatives), 'labels', 'one class')
    crd, batch, _ = case(60, batch=1, negatives='batch')
    says(lambda: crd(*batch), 'bs', 'one image', "negatives='bank'")


def test_a_bank_that_was_not_filled_is_refused():
    crd, batch, _ = case(60, n_negatives=5)
    crd.filled.zero_()
    says(lambda: crd(*batch), 'negatives', 'the bank is empty', 'survey')


def test_the_batch_is_the_written_out_formula_of_its_other_classes():
    crd, batch, _ = case(600, n_classes=3, negatives='batch')
    ours, theirs = crd(*batch), crd._embed(*batch[:2])[1]
    counts = batch[2][:, None] != batch[2]
    assert 0 < counts.sum(1).min() < counts.sum(1).max()
    expected = by_hand(crd, batch, theirs.expand(8, 8, 16), counts)
    assert differ([ours, *gradients(ours, crd, batch)], [expected, *gradients(expected, crd, batch)]) < 1e-6


def test_an_image_without_another_class_in_its_batch_adds_nothing():
    crd, batch, _ = case(600, n_classes=3, negatives='batch')
    student, teacher, labels, index = batch
    assert crd(student, teacher, torch.zeros_like(labels), index).item() == 0
    assert crd.log_z.isnan(), 'Z waits for the first batch that has a negative'
    first = gradients(crd(student, teacher, torch.arange(8), index), crd, batch)
    assert all(g.isfinite().all() for g in first) and crd.log_z.isfinite()
    one = gradients(crd(student, teacher, torch.zeros_like(labels), index), crd, batch)
    assert all((g == 0).all() for g in one)


def crd_case(**kwargs):
    y = torch.arange(12) % 3
    crd = CRD(dim=4, negatives='bank', n_negatives=5, tau=.2, **kwargs)
    crd.student_layers = crd.teacher_layers = ['f']
    features = torch.randn(3, 6), torch.randn(3, 6)
    crd.build(dict(f=features[0]), dict(f=features[1]), Labelled(y))
    crd.survey(dict(f=torch.randn(12, 6)), torch.arange(12))
    return crd.double(), [f.double() for f in features], torch.tensor([0, 1, 2]), torch.tensor([0, 4, 8])


def crd_by_hand(crd, features, labels, drawn, z):
    s, t = crd._embed(dict(f=features[0]), dict(f=features[1]))
    def h(a, b):
        e = (sum(x*y for x, y in zip(a, b))/crd.tau).exp()/z
        return e/(e + drawn.shape[1]/crd.n_images)
    return sum(-h(s[i], t[i]).log() - sum((1 - h(s[i], crd.bank[j])).log() for j in drawn[i]) for i in range(3))/3


@pytest.mark.parametrize('partition', [1., 37.])
def test_crd_is_the_written_out_formula_with_its_gradient(partition):
    crd, features, labels, index = crd_case(partition=partition)
    drawn = crd._draw(labels)
    crd._draw = lambda labels: drawn
    features[0].requires_grad_()
    ours = crd(dict(f=features[0]), dict(f=features[1]), labels, index)
    theirs = crd_by_hand(crd, features, labels, drawn, partition)
    assert abs(ours.item() - theirs.item()) < 1e-6
    grads = [torch.autograd.grad(l, features[0])[0] for l in (ours, theirs)]
    assert torch.allclose(*grads, atol=1e-6)


def test_crd_estimates_the_partition_on_the_first_batch_and_keeps_it():
    crd, features, labels, index = crd_case()
    drawn = crd._draw(labels)
    crd._draw = lambda labels: drawn
    s = crd._embed(dict(f=features[0]), dict(f=features[1]))[0].detach()
    expected = 12*torch.stack([(s[i]@crd.bank[j]/crd.tau).exp() for i in range(3) for j in drawn[i]]).mean()
    crd(dict(f=features[0]), dict(f=features[1]), labels, index)
    assert abs(crd.log_z.exp().item()/expected.item() - 1) < 1e-5
    before = crd.log_z.clone()
    crd(dict(f=2*features[1]), dict(f=features[0]), labels, index)
    assert torch.equal(before, crd.log_z)


def test_negatives_never_share_the_class():
    y = torch.tensor([0]*50 + [1]*3 + [2]*47)
    crd = CRD(dim=2, negatives='bank', n_negatives=10_000)
    crd.student_layers = crd.teacher_layers = ['f']
    crd.build(dict(f=torch.ones(1, 2)), dict(f=torch.ones(1, 2)), Labelled(y))
    assert crd.n_drawn == 50
    for label in range(3):
        drawn = crd._draw(torch.full((40,), label))
        others = {i for i in range(100) if y[i] != label}
        assert not (y[drawn] == label).any() and set(drawn.flatten().tolist()) == others
