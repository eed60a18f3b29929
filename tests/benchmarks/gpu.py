#!/usr/bin/env python3
"""Bar 10, on a GPU: training a cohort, all probes, and the default study.

    python tests/benchmarks/gpu.py [--repeats 5] [--out gpu.csv]

Writes tests/benchmarks/gpu.csv and gpu.json beside it. Without a GPU it says so and writes nothing."""
import argparse, json, os, sys, tempfile, time, warnings
from copy import deepcopy
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import torch
from cohort import objectives
from common import network, noise
from growth import known
from harness import HERE, Case, Rule, exact, machine, measure, merged
from kd_knowledge.probes.adversarial import adversarial
from kd_knowledge.probes.bias import group_bias, shape_bias
from kd_knowledge.probes.boundary import boundary
from kd_knowledge.data import image_loaders
from kd_knowledge.distillation import distill_learner
from kd_knowledge.probes.domains import consensus
from kd_knowledge.probes.invariance import invariance
from kd_knowledge.probes.localization import localization
from kd_knowledge.probes import Cast, calibration, fidelity
from kd_knowledge.probes.representation import representation

DEVICE, SIZE, BATCH, BATCHES, N_PROBED = 'cuda', 224, 64, 20, 5000
IMAGES = BATCH*BATCHES

def synchronised(run):
    "Images a second of a run, the device's work included."
    def timed():
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return IMAGES/(time.perf_counter() - start)
    return timed

def learner():
    dls = image_loaders(noise(IMAGES, SIZE), noise(BATCH, SIZE), BATCH, device=DEVICE)
    return dls, distill_learner(dls, deepcopy(network('resnet50')).to(DEVICE), objectives(), student='resnet18',
                                lr=1e-3)

def ours():
    _, learn = learner()
    learn.to_bf16()
    def run():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return synchronised(run)

def _step(cohort, optimiser, batch):
    x, y, index = batch
    with torch.autocast(DEVICE, torch.bfloat16): logits = cohort(x)
    cohort.loss(logits, y, index).backward()
    if optimiser: optimiser.step()
    cohort.zero_grad()

def bare():
    "The same cohort under a loop without callbacks, on the same loader."
    dls, learn = learner()
    cohort = learn.cohort.to(DEVICE)
    optimiser = torch.optim.AdamW(cohort.parameters(), lr=1e-3, weight_decay=.01, fused=True)
    def run():
        cohort.train()
        for batch in dls.train: _step(cohort, optimiser, batch)
    return synchronised(run)

def resident():
    "Forward and backward alone, again and again on one batch that is on the device."
    dls, learn = learner()
    cohort, batch = learn.cohort.to(DEVICE).train(), next(iter(dls.train))
    return synchronised(lambda: [_step(cohort, None, batch) for _ in range(BATCHES)])

def _all_probes(cast, what):
    "Every probe as the study calls it, with one other domain."
    for probe in (fidelity, calibration, localization, adversarial, invariance, group_bias, representation, boundary):
        probe(cast, what, device=DEVICE)
    consensus(cast, what, dict(other=what.subset(range(len(what)))), device=DEVICE)
    shape_bias(cast, what, {'cue conflict': what}, device=DEVICE)
    torch.cuda.synchronize()

def probes():
    nets = [deepcopy(network(*who)) for who in (('resnet50', 0), ('resnet18', 0), ('resnet18', 1))]
    what = known(noise(N_PROBED, 64))
    return lambda: _all_probes(Cast(nets[0], dict(Ind=nets[1], KL=nets[2])), what)

def study():
    from study import command, minutes
    kd_study = command('kd_study')
    def run():
        with tempfile.TemporaryDirectory() as folder: return 60*minutes(kd_study, cwd=folder)
    return run

cohort = f'five students of resnet50, resnet18, {SIZE} px, bfloat16, {IMAGES} images, batch {BATCH}: images/s'
CASES = [Case('gpu cohort', 10, cohort, {'ours': ours, 'bare loop': bare, 'forward and backward': resident},
              [Rule('ours/peer >= 0.95', 'bare loop'), Rule('ours/peer >= 0.85', 'forward and backward')]),
         Case('gpu probes', 10, 'all probes, resnet50 and two resnet18, 64 px, 5,000 images', dict(seconds=probes),
              [exact('seconds', 60)], once=True),
         Case('gpu study', 10, 'kd_study in an empty folder', dict(seconds=study), [exact('seconds', 60)], once=True)]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=5, help='rounds, after one that warms up')
    parser.add_argument('--out', type=Path, default=HERE/'gpu.csv')
    args = parser.parse_args()
    if not torch.cuda.is_available(): return print('No GPU here: nothing was measured.')
    warnings.filterwarnings('ignore')
    os.environ['TQDM_DISABLE'] = '1'
    for case in CASES:
        rows = measure(case, args.repeats)
        merged(args.out, rows, [case]).to_csv(args.out, index=False, float_format='%.6g')
        print(rows.to_string(index=False), flush=True)
    told = machine(torch.get_num_threads(), args.repeats) | dict(gpu=torch.cuda.get_device_name())
    args.out.with_suffix('.json').write_text(json.dumps(told, indent=1) + '\n')

if __name__ == '__main__': main()
