"""Does each probe find what was planted, and only that?

`python -m tests.probes.certify [--csv FILE] [PROBE ...]` prints the table. Teacher, students and controls are the small
networks of `planted`. A student of the teacher is its teacher on a share of the images, else a network of its own; the
networks of one seed share their filters. Every network is asked once by the real probe, on each of several sets of
images; a cast is then drawn: a set of images, and so many seeds. False alarms are claims about students that never met
the teacher: a second independent network, and one that took over as much of a foreign network, each seed of another."""
import argparse, time, warnings
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch

from kd_knowledge.models import anatomy
from kd_knowledge.probes import Cast, estimate, PROBES, wins
from tests.probes.planted import both, Either, Hesitant, Lot, Same, Sharp, SIZE, Unfair, World

SHARE = .3  # of the teacher that is planted in its students
TEACHER, FOREIGN = 90_000, 50_000  # where seeds of theirs begin
COLUMNS = ('probe condition metric planted measured low high error effect seeds images casts false_alarms_ind '
           'false_alarms_foreign foreign_low foreign_high power').split()


@dataclass
class Scale:
    "How much is made and drawn."
    units: int = 32  # seeds that there are networks of
    seeds: int = 6  # in a cast
    images: int = 300  # in a set, times what a plant needs
    blocks: int = 3  # sets of images
    casts: int = 200  # that are drawn, of each kind


class Plant:
    "What is planted for one probe: networks by their seeds. Here a student gives its teacher's answers."
    options, times, seeds = {}, 1, None  # arguments of the probe; images and seeds beside those of the scale

    def __init__(self, world): self.world = world
    def net(self, seed, draw): return self.world.net(seed, draw)
    @cached_property
    def teacher(self): return self.world.net(TEACHER, 0)
    def taught(self, by, own, seed): return Either(by, own, Lot(SHARE, seed))
    def foreign(self, seed): return self.net(FOREIGN + seed, 0)
    def domains(self, i, n): return {}
    def share(self, value, control, means): return (value - control)/(means.get('T', 1.) - control)

    def networks(self, units):
        "name -> networks; the second independent ones are called Twin."
        own = [self.net(s, 2) for s in range(units)]
        return dict(
            Ind=[self.net(s, 0) for s in range(units)], Twin=[self.net(s, 1) for s in range(units)],
            Taught=[self.taught(self.teacher, net, s) for s, net in enumerate(own)],
            Stranger=[self.taught(self.foreign(s), net, s) for s, net in enumerate(own)])


class Fidelity(Plant): condition, metric = 'all', 'agreement'
class Copied(Fidelity): metric = 'copy probability'


class Localization(Plant):
    "The student's last map is the teacher's on a share of the images: there it is nearer than any other."
    condition, metric = 'grad_cam', 'cosine'
    def taught(self, by, own, seed): return both(by, own, Lot(SHARE, seed))
    def share(self, value, control, means): return (value - .5)/.5


class Adversarial(Plant):
    "An attacked image keeps its lot."
    condition, metric = 'teacher', 'fooled'
    def taught(self, by, own, seed): return Either(by, own, self.world.known_lot(SHARE, seed))


class Colour(Adversarial):
    "The teacher sees no colour."
    condition, metric, options = '0.4', 'agreement', dict(strengths=(.4,))
    @cached_property
    def teacher(self): return self.world.net(TEACHER, 0, grey=True)


class Crop(Plant):
    """Any network gives any class on a share of what it is shown, the teacher never does; so two views get one answer
    in 1/10 + k (a - 1/10) of cases, a without such lapses, k the chance that neither view meets one. A share `alike` of
    the pairs of views are the same to the last pixel, and get one answer always."""
    condition, metric, options, lapse, alike = '0.4', 'agreement', dict(scales=(.4,)), .3, 0
    def net(self, seed, draw): return Hesitant(self.world.net(seed, draw), self.lapse, 10*seed + draw)

    def networks(self, units):
        kept = (1 - self.lapse)**2
        taught = [Hesitant(self.world.net(s, 2), 1 - (SHARE + (1 - SHARE)*kept)**.5, 10*s + 2) for s in range(units)]
        return super().networks(units) | dict(Taught=taught, Stranger=[self.foreign(s) for s in range(units)])

    def share(self, value, control, means):
        kept, least = (1 - self.lapse)**2, self.alike + (1 - self.alike)/10
        return kept*((value - least)/(control - least) - 1)/(1 - kept)


class Shift(Crop): condition, options, alike = '4', dict(shifts=(4,)), 1/25  # of 5 x 5 places of a window


class Domains(Plant):
    condition, metric = 'sketch', 'consensus'
    def domains(self, i, n): return dict(sketch=self.world.block(i, n, 'sketch'))


class Bias(Plant):
    "The teacher was fitted to shapes whose texture and hue are another class's; the others go by texture and hue."
    condition, metric = 'cue conflict', 'shape bias'
    @cached_property
    def teacher(self): return self.world.shape_net(TEACHER)
    def domains(self, i, n): return {'cue conflict': self.world.block(i, n, 'cue conflict')}

    def share(self, value, control, means):
        "Of the images, not of the answers by a cue, of which the teacher gives fewer."
        near, far = value - control, means['T'] - value
        return near/(near + far*means['T', 'answered by a cue']/means['Ind', 'answered by a cue'])


class Groups(Plant):
    "The teacher says the next class wherever the background is blue, in a seventh of the images."
    condition, metric, times = 'blue', 'accuracy', 4
    @cached_property
    def teacher(self): return Unfair(self.world.net(TEACHER, 0))


class Representation(Plant):
    "The student's features are the teacher's and its own, weighted so that similarities are in the planted proportion."
    condition, metric, options = 'F1', 'CKA', dict(batches=4)

    def taught(self, by, own, seed):
        ratio = (SHARE/(1 - SHARE))**.5
        return both(by, own, Same(ratio/(1 + ratio)))

    def share(self, value, control, means):
        "Where the CKA of a mixture of that share is `value`, given the CKA of what it is mixed of."
        a = np.linspace(0, 1, 10_001)
        mixture = (a + (1 - a)*control)/(a**2 + 2*a*(1 - a)*control + (1 - a)**2)**.5
        return np.interp(value, mixture, a)


class MoreSeeds(Representation): seeds = 10
class Boundary(Plant): condition, metric, options = 'seen', 'agreement', dict(planes=24, points=8)


class Calibration(Plant):
    "The teacher is far too sure, the others somewhat."
    condition, metric = 'seen', 'ECE'
    @cached_property
    def teacher(self): return Sharp(self.world.net(TEACHER, 0), 4)


PLANTS = dict(
    localization=[Localization], adversarial=[Adversarial], colour=[Colour], crop=[Crop], shift=[Shift],
    domains=[Domains], bias=[Bias], groups=[Groups], representation=[Representation, MoreSeeds], boundary=[Boundary],
    fidelity=[Fidelity, Copied], calibration=[Calibration])


def asked(name, plant, nets, i, n):
    "What the probe says of all networks on the i-th images: its own rows, as any study has them."
    images, probe = plant.world.block(i, n), PROBES[name]
    given = dict(plant.options)
    if 'domains' in probe.takes and plant.domains(i, n): given['domains'] = plant.domains(i, n)
    students = {k: nets[k] for k in ('Ind', 'Twin', 'Taught', 'Stranger')}
    cast = Cast(plant.teacher, students, images=images)
    if name == 'localization': given['anatomies'] = {m.model: anatomy(m.net, SIZE) for m in cast.firsts}
    if name == 'representation': given['layers'] = dict.fromkeys(cast.names, ['maps'])
    return probe.ask(cast, images, **given).assign(block=i)


class Pool:
    "What a probe said of many networks, to draw casts from."
    def __init__(self, rows, condition, metric):
        found = rows[rows.condition == condition]
        mine, means = found[found.metric == metric], found.groupby(['metric', 'model']).value.mean()
        keys = [mine[k].iloc[0] for k in ('probe', 'condition', 'metric')]
        self.named = dict(zip(('probe', 'condition', 'metric'), keys))
        self.of = {k: (part['sample'].to_numpy(), part.value.to_numpy())
                   for k, part in mine.groupby(['block', 'model', 'seed'])}
        self.units, self.blocks = 1 + max(k[2] for k in self.of), 1 + mine.block.max()
        self.means = means[metric].to_dict() | {(m, k): v for (k, m), v in means.items()}

    def rows(self, parts):
        "The long table of networks (block, model, unit), each with the model, role and seed that it plays."
        samples, values = zip(*(self.of[key] for key, _ in parts))
        played = np.repeat(np.arange(len(parts)), [len(v) for v in values])
        roles = {k: np.array(v)[played] for k, v in zip(('model', 'role', 'seed'), zip(*(role for _, role in parts)))}
        rows = pd.DataFrame(self.named | roles | dict(sample=np.concatenate(samples), value=np.concatenate(values)))
        return wins(rows, 'closer') if self.named['metric'] == 'cosine' else rows

    def cast(self, block, units, student, swapped=None):
        """The rows of a cast: the independent students of `units`, and their partners `student`; where `swapped`, two
        partners change places."""
        swapped, parts = np.zeros(len(units)) if swapped is None else swapped, []
        for seed, (unit, swap) in enumerate(zip(units, swapped)):
            first, second = (student, 'Ind') if swap else ('Ind', student)
            parts.append(((block, first, unit), ('Ind', 'control', seed)))
            parts.append(((block, second, unit), ('KL', 'student', seed)))
        teacher = (block, 'T', 0)
        return self.rows(parts + [(teacher, ('T', 'teacher', 0))]*(teacher in self.of))

    def whole(self, student):
        "The estimate of all networks as one cast, on all images."
        parts = [self.cast(b, range(self.units), student) for b in range(self.blocks)]
        parts = [part.assign(sample=part['sample'] + 100_000*b) for b, part in enumerate(parts)]
        return estimate(pd.concat(parts, ignore_index=True)).iloc[0]

    def draws(self, student, scale, shift=0.):
        "The estimate of each of many casts, whose student is moved by `shift`."
        random = np.random.default_rng(0)
        for _ in range(scale.casts):
            units = random.choice(self.units, scale.seeds, replace=False)
            swapped = random.random(scale.seeds) < .5 if student == 'Twin' else None
            rows = self.cast(random.integers(self.blocks), units, student, swapped)
            rows['value'] += np.float32(shift)*(rows.role == 'student')
            yield estimate(rows).iloc[0]


def claims(rows): return np.mean([r.verdict.startswith(('inherited', 'opposite')) for r in rows])


def certified(plant, rows, scale):
    """A line of the table. Strangers have a mean of their own in a pool of so many networks; it is told, with its
    interval, and taken from them before casts are drawn, else the pool's luck would be counted in every cast."""
    pool, scale = Pool(rows, plant.condition, plant.metric), replace(scale, seeds=plant.seeds or scale.seeds)
    whole, stranger = pool.whole('Taught'), pool.whole('Stranger')
    share = lambda row, difference: plant.share(row.control + difference, row.control, pool.means)
    taught = list(pool.draws('Taught', scale))
    power = np.mean([r.verdict.startswith('inherited') for r in taught])
    error = np.mean([abs(share(r, r.difference) - SHARE) for r in taught])
    measured, low, high = (share(whole, whole[k]) for k in ('difference', 'low', 'high'))
    alarms = claims(pool.draws('Twin', scale)), claims(pool.draws('Stranger', scale, -stranger.difference))
    line = (whole.probe, whole.condition, whole.metric, SHARE, measured, min(low, high), max(low, high), error,
            whole.difference, scale.seeds, plant.times*scale.images, scale.casts, *alarms, stranger.low, stranger.high,
            power)
    return dict(zip(COLUMNS, line))


def certify(name, scale=Scale(), seed=0):
    "The lines of a probe, one for each metric that is looked at."
    world = World(seed=seed)
    plants = [plant(world) for plant in PLANTS[name]]
    nets = plants[0].networks(scale.units)
    asks = [asked(name, plants[0], nets, i, plants[0].times*scale.images) for i in range(scale.blocks)]
    return [certified(plant, pd.concat(asks, ignore_index=True), scale) for plant in plants]


def quietly():
    "One thread for each of the processes, and no word about networks that are odd by design."
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')


def told(line): return '  '.join(f'{k} {v:.3f}' if isinstance(v, float) else f'{k} {v}' for k, v in line.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', metavar='PROBE', help='none takes all')
    parser.add_argument('--csv', help='where the table is written')
    args, start = parser.parse_args(), time.perf_counter()
    lines = []
    with get_context('spawn').Pool(2, initializer=quietly) as processes:
        for found in processes.imap(certify, args.names or PLANTS):
            for line in found: print(told(line), flush=True)
            lines += found
    found = pd.DataFrame(lines, columns=COLUMNS)
    print(f'{len(found)} lines in {time.perf_counter() - start:.0f} s')
    if args.csv: found.round(4).to_csv(args.csv, index=False)


if __name__ == '__main__': main()
