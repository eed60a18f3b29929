"""What makes distillation fail unseen: numbers that are not finite, a teacher who is not heard, students who differ in
company. All objectives that have a teacher are trained in one cohort."""
import math

import pytest
import torch

from kd_knowledge.core import KDError
from kd_knowledge.data import Augment, get_dls, image_loaders
from kd_knowledge.distillation import (AT, CATKD, DIST, DKD, E2KD, FSP, FT, KL, LSKD, NKD, NST, OBJECTIVES, OFA,
                                       OFD, RKD, RLD, SP, VID, WSLD, WTTM, Ghost, ReviewKD, distill_learner, last_layer)
from kd_knowledge.distillation.objectives import Batch
from kd_knowledge.models import create_model, load_model, save_model
from tests.distillation.common import student
from tests.distillation.test_sheet import dkd, draw, identity, linear, nkd, overhaul, ready, rld, same
from tests.models.common import hooks, mixed, state

### Numbers

def pulled(objective, seen, teacher, labels=None):
    "What it says of activations, and its gradient for each of them."
    seen = {k: v.clone().requires_grad_() for k, v in seen.items()}
    said = objective(seen, teacher, labels, None)
    return said, [g for g in torch.autograd.grad(said, list(seen.values()), allow_unused=True) if g is not None]


def is_finite(said, slopes): return bool(slopes) and all(v.isfinite().all() for v in (said, *slopes))


FAR = torch.tensor([[1., 0., .5, -.2], [1., 0., .5, -.2], [-1., 0., .5, -.2], [-1., .5, 0., -.2]])
FIRST = torch.zeros(4, dtype=torch.long)


def far_apart(gap, dtype):
    "Logits of students and teachers that are sure of the label, or that it is wrong: four pairs, of both kinds."
    return [dict(logits=(gap*z).to(dtype).float()) for z in (FAR, FAR[[0, 2, 1, 3]])]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('gap', [20., 110., 200., 1e4])
@pytest.mark.parametrize('kind', [DKD, NKD, RLD])
def test_sure_networks_have_finite_values(kind, gap, dtype):
    assert is_finite(*pulled(kind(), *far_apart(gap, dtype), FIRST))


@pytest.mark.parametrize('kind', [DKD, NKD, RLD])
def test_what_sure_networks_are_asked_grows_with_their_logits(kind):
    near, far = (kind()(*far_apart(gap, torch.float32), FIRST, None).item() for gap in (200., 1e4))
    assert far == pytest.approx(50*near, rel=1e-3)


@pytest.mark.parametrize('objective,formula', [
    (DKD(alpha=1.5, beta=6., tau=2.), dkd), (NKD(rest=3.5, tau=3.), nkd),
    (RLD(alpha=1.5, beta=6., tau=3., tau_sure=2.), rld)], ids=['DKD', 'NKD', 'RLD'])
def test_sure_networks_have_the_values_of_the_formula(objective, formula):
    "A probability of 1 - 2e-9, which float32 cannot hold."
    s, t = far_apart(40., torch.float32)
    known = formula(s['logits'].double().tolist(), t['logits'].double().tolist(), FIRST.tolist())
    assert objective(s, t, FIRST, None).item() == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize('kind', [DKD, NKD, RLD, WTTM, WSLD, OFA, KL, LSKD, DIST])
def test_a_teacher_may_be_as_sure_as_float32_can_be(kind):
    objective = ready(OFA(stages=False), 0, heads=[]) if kind is OFA else kind()
    s, t = draw(4, 5, seed=0).float(), 1000*torch.eye(5)[[0, 1, 2, 0]]
    assert (t.softmax(1).amax(1) == 1).all()
    assert is_finite(*pulled(objective, dict(logits=s), dict(logits=t), FIRST))


@pytest.mark.parametrize('who', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('objective', [LSKD(), DIST(), DKD(), NKD(), RLD()], ids=lambda o: type(o).__name__)
def test_answers_may_be_all_alike(objective, who):
    s, t = draw(4, 5, seed=0).float(), draw(4, 5, seed=1).float()
    if who != 'teacher': s = torch.ones_like(s)
    if who != 'student': t = torch.ones_like(t)
    assert is_finite(*pulled(objective, dict(logits=s), dict(logits=t), FIRST))


def test_an_image_may_stand_twice_in_a_batch():
    rkd, v = ready(RKD()), draw(8, 5, seed=0).float()
    for seen in (torch.cat((v[:4], v[:4])), v[:1].repeat(8, 1)):
        for s, t in ((seen, v), (v, seen), (seen, seen)):
            said, slopes = pulled(rkd, {'layer 0': s}, {'layer 0': t})
            assert is_finite(said, slopes) and slopes[0].abs().max() < 1e3


def test_distances_are_true_far_from_zero():
    rkd, seen = ready(RKD()), [{'layer 0': draw(16, 8, seed=k) + 100} for k in (0, 1)]
    coarse, exact = rkd(*({k: v.float() for k, v in a.items()} for a in seen), None, None), rkd(*seen, None, None)
    assert coarse.item() == pytest.approx(exact.item(), rel=1e-3)


@pytest.mark.parametrize('raw', [-1e4, -100., 100., 1e4])
def test_variances_may_be_large_and_small(raw):
    raw = torch.full((3, 1, 1), raw, requires_grad=True)
    vid = ready(VID(), guesses=identity(), raw=[raw])
    s, t = ({'layer 0': draw(2, 3, 4, 4, seed=k).float()} for k in (0, 1))
    said, slopes = pulled(vid, s, t)
    assert is_finite(said, [*slopes, torch.autograd.grad(vid(s, t, None, None), raw)[0]])


def test_a_teachers_channel_may_be_dead():
    "A batch norm that multiplies by nothing has the margin which it has with next to nothing."
    s, t = ({'layer 0': draw(2, 3, 4, 4, seed=k)} for k in (0, 1))
    means = torch.tensor([[0., -1., 1.]], dtype=torch.float64)
    dead, nearly = (overhaul(means, means*0 + std) for std in (0., 1e-6))
    assert dead(s, t, None, None).item() == pytest.approx(nearly(s, t, None, None).item(), rel=1e-4)


def reviewing(channels):
    review = ready(ReviewKD(), 2)
    review.connect([channels]*2)
    return review


HEADS = [linear(torch.eye(3), torch.ones(3)).float()]*2
ON_MAPS = dict(
    AT=ready(AT(), 2), SP=ready(SP(), 2), NST=ready(NST(), 2), FSP=ready(FSP(), 2, connectors=identity(2)),
    FT=ready(FT(), translate=same, paraphrase=same), CATKD=ready(CATKD(), heads=HEADS), E2KD=ready(E2KD(), heads=HEADS),
    ReviewKD=reviewing((3, 3)))


@pytest.mark.parametrize('who', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('name', ON_MAPS)
def test_maps_may_be_all_zero(name, who):
    objective = ON_MAPS[name]
    s, t = ({layer: draw(4, 3, 4, 4, seed=k).relu().float() for layer in objective.student_layers} for k in (0, 1))
    if who != 'teacher': s = {k: torch.zeros_like(v) for k, v in s.items()}
    if who != 'student': t = {k: torch.zeros_like(v) for k, v in t.items()}
    seen = [dict(a, logits=draw(4, 3, seed=k).float()) for k, a in enumerate((s, t))]
    assert is_finite(*pulled(objective, *seen, FIRST))


@pytest.mark.parametrize('kind', [DKD, NKD, RLD])
def test_two_classes_are_refused(kind, dls):
    two = [images.with_labels(images.y % 2, ['even', 'odd']) for images in (dls.train_ds, dls.valid_ds)]
    nets = [create_model('resnet_small', 2, width=4, seed=seed) for seed in (0, 1)]
    dls = image_loaders(*two, bs=16)
    def made(objective): return distill_learner(dls, nets[1], dict(one=objective), student=nets[0])
    with pytest.raises(KDError, match=f'{kind.__name__}.*of 2 classes'): made(kind())
    made(KL())

### One cohort of all objectives

TAUGHT = {k: o for k, o in OBJECTIVES.items() if o.needs_teacher and o.__module__.startswith('kd_knowledge.')}


def untrained(teacher, students):
    dls = get_dls('shapes', bs=16, size=24, n_train=160, n_valid=32, augment=Augment())
    return distill_learner(dls, teacher, students, student=student)


def trained(teacher, students):
    "A cohort after two epochs of ten steps."
    learn = untrained(teacher, students)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    return learn


def made(name): return Ghost(start='own', head='own') if name == 'Ghost' else TAUGHT[name]()  # networks of two sizes
def all_of_them(): return dict({k: made(k) for k in TAUGHT}, Ind=None)


def weights(net):
    "What it learned: without the last layer that SimKD copies."
    return torch.cat([p.detach().flatten() for p in net.parameters() if p.requires_grad])


def taught_by(seed): return create_model('resnet_small', 10, width=8, seed=seed)


@pytest.fixture(scope='module')
def one(): return taught_by(1)


@pytest.fixture(scope='module')
def cohort(one):
    "All objectives' students, and what was true of the teacher before and after."
    mixed(one)
    before = state(one), {k: v.clone() for k, v in one.state_dict().items()}
    return trained(one, all_of_them()), before, (state(one), one.state_dict())


@pytest.fixture(scope='module')
def other(): return trained(taught_by(2), all_of_them()).students


def test_all_objectives_train(cohort):
    log = cohort[0].distill.log
    assert log.value.map(math.isfinite).all() and not cohort[0].distill.skipped
    assert set(log.term) == {*TAUGHT, 'cross-entropy'} and len(log) == 2*(2*len(TAUGHT) + 1)


def test_nothing_of_the_teacher_is_changed(cohort, one):
    _, (before, held), (after, holds) = cohort
    assert not [k for k, p in one.named_parameters() if p.grad is not None], 'gradients on the teacher'
    assert before == after
    assert all(torch.equal(v, holds[k]) for k, v in held.items())


@pytest.mark.parametrize('name', TAUGHT)
def test_another_teacher_makes_another_student(name, cohort, other):
    assert (weights(cohort[0].students[name]) - weights(other[name])).abs().max() > 1e-6


def test_another_teacher_is_nothing_to_the_independent_student(cohort, other):
    assert torch.equal(weights(cohort[0].students['Ind']), weights(other['Ind']))


@pytest.mark.parametrize('name', TAUGHT)
def test_company_changes_no_student(name, cohort, one):
    alone = trained(one, {name: made(name)}).students[name]
    assert (weights(cohort[0].students[name]) - weights(alone)).abs().max() <= 1e-5


def test_students_are_plain_but_for_what_they_keep(cohort):
    keys = {k: net.state_dict().keys() for k, net in cohort[0].students.items()}
    plain = student().state_dict().keys()
    assert {k for k, found in keys.items() if found != plain} == {'SimKD', 'Compressed'}
    assert any('projector' in k for k in keys['SimKD'])
    assert not any(hooks(net) for net in cohort[0].students.values())


def test_what_is_kept_is_saved_and_loaded_without_trust(cohort, one, tmp_path):
    net, x = cohort[0].students['SimKD'].eval(), cohort[0].dls.valid.one_batch()[0]
    again = load_model(save_model(net, tmp_path/'kept'))
    assert torch.equal(last_layer(again).weight, last_layer(one).weight)
    with torch.no_grad(): assert torch.equal(again(x), net(x))


@pytest.fixture(scope='module')
def batch(one):
    "A cohort that has looked at a batch, with two views of it."
    learn = untrained(one, all_of_them())
    x, labels, index = learn.dls.one_batch()
    model = learn.cohort.train()
    model.batch = Batch(x, labels, index, learn.dls.train, model.teacher)
    model(x)
    return model, labels, index


@pytest.mark.parametrize('name', [k for k, o in TAUGHT.items() if not o.whole_batch])
@torch.no_grad()
def test_what_is_shown_parts_of_a_batch_is_a_mean_over_them(name, batch):
    "Otherwise processes that share a batch would train another student than one process."
    model, labels, index = batch
    seen = model.seen['students'][name], model._told(name)
    def said(part):
        parts = [{k: v[part] for k, v in activations.items()} for activations in seen]
        return model.objectives[name][0](*parts, labels[part], index[part]).item()
    assert (said(slice(8)) + said(slice(8, 16)))/2 == pytest.approx(said(slice(16)), rel=1e-4)
