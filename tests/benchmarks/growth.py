"Bar 8: does the cost of an image, or of a student, stay what it is as there are more?"
import time
from copy import deepcopy
from functools import cache, partial

from cohort import loaders
from common import network, noise
from fastai.callback.core import Callback
from harness import Case, at_most
from kd_knowledge.probes.adversarial import adversarial
from kd_knowledge.probes.bias import group_bias, shape_bias
from kd_knowledge.probes.boundary import boundary
from kd_knowledge.distillation import KL, distill_learner
from kd_knowledge.probes.domains import consensus
from kd_knowledge.probes.invariance import invariance
from kd_knowledge.probes.localization import localization
from kd_knowledge.probes import Cast, calibration, fidelity
from kd_knowledge.probes.representation import representation

FEW, MANY, SIZE = 1000, 16_000, 16

def known(images):
    "The images with groups, and with the cue of another class."
    images.groups, images.group_vocab, images.cues = images.y // 5, ['low', 'high'], dict(texture=(images.y + 1) % 10)
    return images

@cache
def images(n): return known(noise(n, SIZE))

def cast():
    "A new one each time: nothing is known yet of any image."
    teacher, student = (network('resnet_small', seed, width=4, stages=2) for seed in range(2))
    return Cast(teacher, dict(Ind=student))

PROBES = dict(fidelity=fidelity, calibration=calibration, localization=localization,
              adversarial=partial(adversarial, steps=2),
              invariance=partial(invariance, colours=(.4,), crops=(.4,), shifts=(4,)),
              domains=lambda who, what: consensus(who, what, dict(other=images(len(what)))),
              groups=group_bias, representation=representation)
PROBES['shape bias'] = lambda who, what: shape_bias(who, what, {'cue conflict': what})

def probe(name, n):
    what = images(n)
    return lambda: PROBES[name](cast(), what)
def planes(n): return lambda: boundary(cast(), images(FEW), planes=n, points=10)

def case(name, few, many, make, what='images'):
    few_many = {'ours': partial(make, many), f'{few:,} {what}': partial(make, few)}
    peer, text = f'{few:,} {what}', f'{name}, two small networks, {SIZE} px, {many:,} {what}'
    return [Case(f'growth {name}', 8, f'{text}: seconds each', few_many, [at_most(peer, 1.1)],
                 per={'ours': many, peer: few})]

def memory(name):
    peer = f'{FEW:,} images'
    return Case(f'growth {name} memory', 8, f'{name}, {MANY:,} images: peak memory, MB',
                {'ours': partial(probe, name, MANY), peer: partial(probe, name, FEW)},
                [at_most(peer, 1.1)], memory='peak')

class Shared(Callback):
    "Seconds of data and teacher in a fit: from the end of a batch to the next one, and in the teacher's forward."
    def before_train(self): self.seconds, self.since = 0., time.perf_counter()
    def before_batch(self): self.seconds += time.perf_counter() - self.since if self.training else 0
    def after_batch(self): self.since = time.perf_counter()
    def start(self, *_): self.began = time.perf_counter()
    def stop(self, *_): self.seconds += time.perf_counter() - self.began

def shared(n):
    "Seconds that a cohort of n students spends on what they share."
    dls, teacher, timer = loaders(512, 32, 64), deepcopy(network('resnet_small')), Shared()
    learn = distill_learner(dls, teacher, {f'KL{i}': KL() for i in range(n)}, lr=1e-3, cbs=timer)
    teacher.register_forward_pre_hook(timer.start)
    teacher.register_forward_hook(timer.stop)
    def run():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return timer.seconds
    return run

CASES = [*(c for name in PROBES for c in case(name, FEW, MANY, partial(probe, name))),
         *case('boundary', 5, 80, planes, 'planes'),
         *(memory(name) for name in ('localization', 'adversarial', 'representation')),
         Case('growth cohort', 8, 'cohort of 8, resnet_small, 32 px, 512 images: data and teacher, seconds',
              {'ours': partial(shared, 8), '1 student': partial(shared, 1)},
              [at_most('1 student', 1.1)])]
