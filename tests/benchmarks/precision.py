"""What bfloat16 changes in networks that are trained: their answers to clean images, and how often they are fooled.
And how much faster it trains, where the processor has it."""
from functools import cache, partial

import torch
from crd_effect import fit
from harness import Case, Missing, at_most, exact
from kd_knowledge.probes.adversarial import fgsm
from kd_knowledge.data import get_dls
from kd_knowledge.distillation import KL, classifier_learner, distill_learner
from kd_knowledge.models import create_model
from kd_knowledge.study.config import Study
from kd_knowledge.study.run import untrained_learners
from kd_knowledge.study.training import _fit, has_bfloat16

@cache
def subject(n_valid):
    "A teacher and two students, trained as in the default study; the images that they did not see."
    asked = Study().filled()
    dls = get_dls(asked.data, bs=asked.bs, size=asked.size, n_train=asked.n_train, n_valid=n_valid, augment=None,
                  **asked.data_args)
    teacher = fit(classifier_learner(dls, partial(create_model, asked.teacher, 10, seed=0, **asked.teacher_args)),
                  asked.teacher_epochs)['T']
    student = partial(create_model, asked.student, 10, seed=1, **asked.student_args)
    nets = [teacher, *fit(distill_learner(dls, teacher, dict(Ind=None, KL=KL()), student=student),
                          asked.epochs).values()]
    return [net.eval() for net in nets], dls.valid_ds.pixels(range(n_valid)), dls.valid_ds.y

def answers(net, x, bfloat16=False):
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=bfloat16): return net(x).argmax(1)

def changed(n):
    "The largest share of a network's answers that half precision changes."
    nets, x, _ = subject(n)
    return lambda: max((answers(net, x) != answers(net, x, True)).double().mean().item() for net in nets)

def fooled(net, x, y, bfloat16):
    return (answers(net, fgsm(net, x, y, 8/255, bfloat16=bfloat16)) != y).double().mean().item()

def rates(n):
    "The largest difference of a network's fooling rate, both attacks' images shown to it in float32."
    nets, x, y = subject(n)
    return lambda: max(abs(fooled(net, x, y, True) - fooled(net, x, y, False)) for net in nets)

def case(key, n, text, run, limit):
    return Case(f'precision {key}', 2, f'bfloat16, three trained networks of the default study, {n:,} images',
                {text: partial(run, n)}, [exact(text, limit)], once=True)

IMAGES = 512

def epoch(bs, dtype):
    "One epoch of a cohort of the default study."
    if dtype == 'bfloat16' and not has_bfloat16(torch.device('cpu')): raise Missing('no instructions for bfloat16')
    study = Study(n_train=IMAGES, n_probe=64, bs=bs, dtype=dtype, device='cpu').filled()
    learn = untrained_learners(study)[1]
    return lambda: _fit(learn, study, 1, dtype)

def training(bs, limit):
    return Case(f'precision training {bs}', 2, f'seconds an image of training a cohort of the default study, batches of {bs}',
                {dtype: partial(epoch, bs, dtype) for dtype in ('bfloat16', 'float32')},
                [at_most('float32', limit, 'bfloat16')], per=dict(bfloat16=IMAGES, float32=IMAGES))

CASES = [training(64, .9), training(256, .9), case('answers', 2000, 'clean answers that change, largest share', changed, .001),
         case('rate', 500, 'fooling rate, largest difference', rates, .005)]
