"""Two processes that train together and share out the probes end with the networks and the tables of one; an error in
one ends both."""
import json, os, re, subprocess, sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from kd_knowledge.study.presets import PRESETS

pytest.importorskip('accelerate')
TUTORIAL = Path(__file__).resolve().parents[2]/'nbs'/'tutorials'/'many_processes.ipynb'
TINY = dict(data='shapes', size=16, n_train=128, n_probe=64, bs=32, teacher_args='{width: 8}',
            student_args='{width: 4}', teacher_epochs=2, epochs=2, recipe='steps', lr=.03,
            objectives='{KL: {}, Hint: {}, CRD: {weight: 0.05, negatives: bank}}', seeds=1, independent_seeds=2,
            probes='adversarial colour fidelity', probe_args='{adversarial: {eps: 0.1}}', device='cpu')

RUNS = r'''
"""Runs of one study in one process and in several. This process imports everything and computes nothing; each process
of a run is a fork of it."""
import json, os, shutil, signal, socket, sys, time, traceback, warnings
from pathlib import Path
warnings.simplefilter('ignore')
import accelerate, torch
from kd_knowledge import data, distillation, models, probes
from kd_knowledge.study import run as _
from kd_knowledge.cli import kd_study

top, argv = Path(sys.argv[1]), sys.argv[2:]

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])

def begin(rank, env, log, work):
    pid = os.fork()
    if pid: return pid
    for stream, end in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{log}-{rank}.{end}', os.O_WRONLY | os.O_CREAT), stream)
    if env: os.environ.update(env, RANK=str(rank), LOCAL_RANK=str(rank))
    status = 1
    try: status = work()
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)

def fit(file):
    "A training of 24 steps in double precision, with every objective; the first process writes what came out."
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    dls = data.get_dls('shapes', bs=32, size=16, n_train=256, n_valid=16, device='cpu',
                       augment=data.Augment(crop=(.5, 1), jitter=.4))
    objectives = dict(Ind=None, KL=distillation.KL(), Hint=distillation.Hint(), batch=distillation.CRD(),
                      bank=distillation.CRD(negatives='bank', n_negatives=64), Nobody=distillation.Nobody())
    net = lambda width, **kwargs: models.create_model('resnet_small', 10, width=width, **kwargs)
    learn = distillation.distill_learner(dls, net(8, seed=1), objectives, student=lambda: net(4), clip=5.)
    with learn.distrib_ctx(), learn.no_logging(), learn.no_bar(): learn.fit_one_cycle(3, .01)
    if os.environ.get('RANK', '0') == '0':
        torch.save((learn.cohort.state_dict(), learn.distill.log.value.tolist()), file)
    return 0

def run(name, processes, *more, folder=None, kill=None, work=None):
    """Run the study in processes, and note what became of them; the first file that fits the pattern `kill` is the sign
    to kill the last of them."""
    n, folder = str(processes), top/(folder or name)
    env = dict(WORLD_SIZE=n, LOCAL_WORLD_SIZE=n, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    work = work or (lambda: kd_study([*argv, *more, '--out', str(folder)]))
    pids = [begin(rank, env if processes > 1 else {}, top/name, work) for rank in range(processes)]
    while kill and not list(folder.glob(kill)): time.sleep(.005)
    if kill: os.kill(pids[-1], signal.SIGKILL)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    texts = {end: [(top/f'{name}-{rank}.{end}').read_text() for rank in range(processes)] for end in ('out', 'err')}
    steps = sorted(p.stem for p in (folder/'steps').glob('*.json'))
    left = [str(p) for p in folder.rglob('*') if '.part' in p.name]
    said[name] = dict(texts, statuses=statuses, steps=steps, left=left)

def forget_probes(folder):
    found = [*(folder/'steps').glob('probe*.json'), *(folder/'probes').iterdir()]
    for p in [*found, folder/'steps'/'report.json']: p.unlink()

said = {}
run('one', 1, '--workers', '1')
shutil.copytree(top/'one', top/'probed')
forget_probes(top/'probed')
run('probed', 2)
run('killed', 2, '--epochs', '4', '--probes', 'fidelity', kill='steps/teacher T.json')
run('resumed', 1, '--epochs', '4', '--probes', 'fidelity', '--workers', '1', folder='killed')
for n in (1, 2): run(f'double-{n}', n, work=lambda: fit(top/f'double-{n}.pt'))
run('uneven', 2, '--bs', '33')
run('diverged', 2, '--lr', '1e12')
print(json.dumps(said))
'''


def arguments(**options):
    pairs = {'--' + k.replace('_', '-'): v for k, v in {**TINY, **options}.items()}
    words = [w for k, v in pairs.items() for w in [k, *(v.split() if k == '--probes' else [str(v)])]]
    return [*words, '--no-starred']


def output(command, **kwargs): return subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A folder with the runs, and what their processes said and how they ended."
    top = tmp_path_factory.mktemp('processes')
    res = output([sys.executable, '-c', RUNS, top, *arguments()], env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert res.returncode == 0, res.stderr[-3000:]
    return top, json.loads(res.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def launched(tmp_path_factory):
    "The folder of a study that `accelerate launch` began and ended in two processes, and what was printed."
    folder = tmp_path_factory.mktemp('launched')/'two'
    launch = [Path(sys.executable).parent/'accelerate', 'launch', '--multi_gpu', '--num_processes', '2',
              '--main_process_port', '0', '-m', 'kd_knowledge.cli']
    res = output([*launch, *arguments(out=folder)], env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert res.returncode == 0, res.stderr[-3000:]
    return folder, res.stdout


def probes(folder): return {p.stem: pd.read_parquet(p) for p in sorted((folder/'probes').iterdir())}


def check_weights(one, other):
    "All networks of two folders agree within 1e-5, running statistics of batch norms too."
    files = sorted(p.name for p in (one/'models').iterdir())
    assert len(files) == 16 and files == sorted(p.name for p in (other/'models').iterdir())
    for name in files:
        pair = one/'models'/name, other/'models'/name
        if name.endswith('.json'):
            a, b = (json.loads(p.read_text())['recipe'] for p in pair)
            assert a == b
        else: same(*map(load_file, pair), 1e-5)


def same(a, b, most):
    "All tensors of two networks or cohorts differ by at most `most`; there are batch norms among them."
    assert a.keys() == b.keys() and any('running_var' in k for k in a)
    for k in a: assert (a[k].double() - b[k].double()).abs().max() <= most, k


def test_the_same_weights(runs, launched):
    (top, said), (two, _) = runs, launched
    assert said['one']['statuses'] == [0]
    check_weights(top/'one', two)
    for log in (top/'one'/'logs').iterdir():
        pd.testing.assert_frame_equal(pd.read_csv(log), pd.read_csv(two/'logs'/log.name), rtol=1e-5)
    assert pd.read_csv(top/'one'/'logs'/'Ind-KL-Hint-CRD-0.csv').term.nunique() == 4


def test_it_is_the_same_arithmetic(runs):
    """In double precision a training of 24 steps is equal to the last digits: objectives, banks, batch norms, clipping
    and the logged terms. In single precision many steps make visible differences of any rounding, also where every
    weight of one process is changed by a ten millionth."""
    top, said = runs
    assert said['double-1']['statuses'] == [0] and said['double-2']['statuses'] == [0, 0], said['double-2']['err']
    (one, log), (other, its_log) = (torch.load(top/f'double-{n}.pt') for n in (1, 2))
    assert {'objectives.bank.0.bank', 'objectives.bank.0.log_z', 'objectives.Hint.0.regressor.weight'} < set(one)
    assert len(log) == 3*11
    same(one, other, 1e-9)
    assert log == pytest.approx(its_log, rel=1e-9)


def test_the_same_tables(runs, launched):
    """Of the same networks exactly the same; of networks that each folder trained for itself, within what float32
    leaves."""
    (top, said), (two, _) = runs, launched
    assert said['probed']['statuses'] == [0, 0] and set(probes(top/'one')) == set(TINY['probes'].split())
    for name, table in probes(top/'one').items():
        pd.testing.assert_frame_equal(table, probes(top/'probed')[name], check_exact=True)
        other = probes(two)[name]
        pd.testing.assert_frame_equal(table.drop(columns='value'), other.drop(columns='value'))
        assert ((table.value - other.value).abs() > 1e-3).mean() < .01, name
    for name in ('estimates.csv', 'values.csv', 'accuracy.csv'):
        assert (top/'one'/name).read_bytes() == (top/'probed'/name).read_bytes()


def test_each_step_is_done_once(runs, launched):
    """Each probe by one of the two, each network by both together; only the first tells what was done before and the
    results."""
    (top, said), (two, printed) = runs, launched
    told = sorted(re.findall(r'^ *[\d.]+ s  (.*)$', printed, re.M))
    assert told == said['one']['steps'] == sorted(p.stem for p in (two/'steps').glob('*.json'))
    assert printed.count('Report: ') == printed.count('CRD: the bank') == 1 and 'done before' not in printed
    first, second = said['probed']['out']
    assert 'done before  teacher T' in first and first.splitlines()[-1].startswith('Report: ')
    assert 'done before' not in second and 'Report: ' not in second


LOST = 'one of them ended. The same command goes on from the last finished step'


def test_a_killed_process_ends_the_other(runs):
    "It is told in one line, nothing is half written, and one process goes on with the folder."
    top, said = runs
    killed = said['killed']
    assert killed['statuses'] == [2, -9] and killed['left'] == [] and killed['steps'] == ['teacher T']
    assert killed['err'][0] == f'kd_study: processes: {LOST}\n'
    resumed = said['resumed']
    assert resumed['statuses'] == [0] and 'done before  teacher T' in resumed['out'][0] and 'report' in resumed['steps']


@pytest.mark.parametrize('name, text', [('uneven', 'bs: batches of 33 images cannot be cut into 2 equal parts'),
                                        ('diverged', 'Give a lower learning rate')])
def test_an_error_ends_all_and_is_told_once(runs, name, text):
    found = runs[1][name]
    err = ''.join(found['err'])
    lines = re.findall('^kd_study: .*', err, re.M)
    assert len(lines) == 1 and text in lines[0] and 'Traceback' not in err, found
    assert 2 in found['statuses'] and 0 not in found['statuses'] and found['steps'] == [] == found['left']


@pytest.fixture(scope='module')
def script():
    "The SLURM script of the tutorial."
    cells = [c.source for c in nbformat.read(TUTORIAL, 4).cells if '#SBATCH' in c.source]
    assert len(cells) == 1
    return re.search(r'```bash\n(#!/bin/bash\n.*?)```', cells[0], re.S)[1]


def test_the_slurm_script_is_bash(script):
    res = output(['bash', '-n'], input=script)
    assert res.returncode == 0 and res.stderr == ''


def test_the_slurm_script_names_every_pair_and_seed(script):
    """Its elements, run by bash with a launcher that only prints, are all pairs of presets and seeds, each in its own
    folder."""
    first, last = map(int, re.search(r'--array=(\d+)-(\d+)', script).groups())
    def element(i):
        return output(['bash'], input='accelerate() { echo "$@"; }\n' + script,
                      env={**os.environ, 'SLURM_ARRAY_TASK_ID': str(i), 'IMAGENET': '/data'})
    said = [element(i).stdout for i in range(first, last + 1)]
    named = [re.search(r'-m kd_knowledge\.cli --preset (\S+) --imagenet /data --seed (\d) --out (\S+)$', s).groups()
             for s in said]
    presets, seeds, folders = (set(v) for v in zip(*named))
    assert len(named) == len(folders) == len(presets)*len(seeds) == len({n[:2] for n in named})
    assert presets <= set(PRESETS) and first == 0
    assert element(last).returncode == 0 != element(last + 1).returncode
