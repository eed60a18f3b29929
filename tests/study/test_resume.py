"A study that is killed again and again ends with the numbers of one that ran through."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from kd_knowledge.cli import kd_study
from kd_knowledge.study.processes import start_processes

TINY = dict(probes='localization adversarial colour', n_train=128, n_probe=64, teacher_args='{width: 8}',
            student_args='{width: 4}', teacher_epochs=2, epochs=2, seeds=2, independent_seeds=2, bs=16, lr=.03,
            probe_args='{adversarial: {eps: 0.1}}', device='cpu')

COMMAND = 'import sys; from kd_knowledge.cli import kd_study; sys.exit(kd_study())'

KILLER = r'''
"""Run a study through, then again with kills. This process imports everything and computes nothing; each run is a
fork of it."""
import json, os, random, signal, sys, time, traceback, warnings
from pathlib import Path
warnings.simplefilter('ignore')
os.cpu_count = lambda: 2 # one thread for a run alone, and for each of two workers
from kd_knowledge.study import run as _
from kd_knowledge.cli import kd_study

top, argv, rng = Path(sys.argv[1]), sys.argv[2:], random.Random(0)
WORKERS = [1, 1, 2, 1, 1, 2, 1, 1, 2, 1]

def start(folder, workers):
    pid = os.fork()
    if pid: return pid
    log = os.open(top/'log.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2): os.dup2(log, stream)
    status = 1
    try: status = kd_study([*argv, '--workers', str(workers), '--out', str(folder)])
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)

def wait(pid, seconds, ready=lambda: True):
    "The status of a run: its exit status, or minus the signal that ended it; it is killed `seconds` after it is ready."
    end = None
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        if end is None and ready(): end = time.monotonic() + seconds
        time.sleep(.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def steps(folder): return [p.stem for p in (folder/'steps').glob('*.json')]

begin = time.monotonic()
assert wait(start(top/'through', 1), 300) == 0, (top/'log.txt').read_text()
length, n = time.monotonic() - begin, len(steps(top/'through'))

killed, folder = [], top/'killed-0'
for i, workers in enumerate(WORKERS):
    wanted = int(n*(i + rng.random())/len(WORKERS))
    status = wait(start(folder, workers), .03*length*rng.random(), lambda: len(steps(folder)) >= wanted)
    left = [str(p.relative_to(folder)) for p in folder.rglob('*') if '.part' in p.name]
    killed.append(dict(status=status, workers=workers, steps=sorted(steps(folder)), left=left))
    if status == 0: folder = top/f'killed-{i + 1}' # it was through before the kill: begin another
assert wait(start(folder, 1), 300) == 0, (top/'log.txt').read_text()
print(json.dumps(dict(killed=killed)))
'''


def arguments(out=None, **options):
    return [w for k, v in {**TINY, **options, **(dict(out=out) if out else {})}.items()
            for w in ['--' + k.replace('_', '-'), *([str(v)] if k != 'probes' else v.split())]]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A folder with an uninterrupted run, `through`, and killed ones, and what happened to these."
    top = tmp_path_factory.mktemp('resume')
    res = subprocess.run([sys.executable, '-c', KILLER, top, *arguments()], env={**os.environ, 'OMP_NUM_THREADS': '1'},
                         capture_output=True, text=True, timeout=500)
    assert res.returncode == 0, res.stderr[-3000:]
    return top, json.loads(res.stdout.splitlines()[-1])


def results(folder):
    files = [p for p in folder.rglob('*') if p.suffix in ('.csv', '.parquet', '.safetensors')]
    return sorted(p.relative_to(folder) for p in files if not p.name.startswith('.'))


def test_the_kills(runs):
    "Most of the ten runs were really killed, in training, in the probes and near the end."
    top, said = runs
    killed = [k for k in said['killed'] if k['status'] == -9]
    assert {k['status'] for k in said['killed']} <= {-9, 0} and len(killed) >= 8, said
    assert {k['workers'] for k in killed} == {1, 2} and len({len(k['steps']) for k in killed}) >= 4
    probed = [any(s.startswith('probe') for s in k['steps']) for k in killed]
    assert any(probed) and not all(probed)
    assert not any('report' in k['steps'] for k in killed)


def killed_runs(top): return [f for f in sorted(top.glob('killed-*')) if (f/'report.html').exists()]


def test_the_same_numbers(runs):
    top, _ = runs
    wanted = results(top/'through')
    assert {str(p) for p in wanted} >= {'estimates.csv', 'values.csv', 'accuracy.csv', 'probes/colour.parquet',
                                        'models/KL_star-1.safetensors'}
    assert killed_runs(top)
    for folder in killed_runs(top):
        assert results(folder) == wanted
        for p in wanted:
            a, b = top/'through'/p, folder/p
            if p.suffix == '.csv': assert a.read_bytes() == b.read_bytes(), p
            elif p.suffix == '.parquet':
                pd.testing.assert_frame_equal(pd.read_parquet(a), pd.read_parquet(b), check_exact=True)
            else: same_tensors(load_file(a), load_file(b), p)


def same_tensors(a, b, name):
    assert a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a), name


def test_no_leftover_is_a_result(runs):
    "What a killed run had half written is hidden, is named in no record and is not in the report's way."
    top, _ = runs
    for folder in killed_runs(top):
        named = [f for p in (folder/'steps').glob('*.json') for f in json.loads(p.read_text())['files']]
        assert len(named) > 20 and all((folder/f).stat().st_size for f in named)
        assert not [f for f in named if '.part' in f]
        assert all(p.name.startswith('.') for p in folder.rglob('*') if '.part' in p.name)


def state(folder):
    "Its files: when they were written, and how long they are."
    files = [p for p in folder.rglob('*') if p.is_file() and p.name != '.lock']
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


def test_a_second_call_does_nothing(runs, fresh):
    top, _ = runs
    folder = killed_runs(top)[-1]
    before = state(folder)
    res = fresh(COMMAND, *arguments(folder, workers=1))
    assert res.returncode == 0 and res.stderr == '', res.stderr[-2000:]
    assert state(folder) == before
    done = [line for line in res.stdout.splitlines() if line.startswith('  done before')]
    assert len(done) == len(list((folder/'steps').glob('*.json'))) and ' s   ' not in res.stdout.split('Accuracy')[0]
    assert res.stdout.splitlines()[-1] == f'Report: {folder/"report.html"}'


def test_two_runs_at_once(tmp_path, capsys):
    "While one works in the folder, the second says so and stops; the first is not disturbed."
    argv = arguments(tmp_path/'run', workers=1, probes='colour', seeds=1, epochs=1, objectives='{KL: {}}')
    first = subprocess.Popen([sys.executable, '-c', COMMAND, *argv], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path/'run'/'config.yaml').exists() and first.poll() is None: time.sleep(.01)
        first.send_signal(signal.SIGSTOP)
        assert kd_study(argv) == 2
        said = capsys.readouterr()
        assert said.out == '' and said.err.startswith('kd_study: out: another run is working in')
        assert len(said.err.splitlines()) == 1
    finally: first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=120) == 0, first.stderr.read()
    assert (tmp_path/'run'/'report.html').exists()
    first.stderr.close()


LIGHT = '''
import sys
from kd_knowledge.cli import kd_study
kd_study()
print('torch' in sys.modules, file=sys.stderr)
'''


def test_the_folder_may_be_renamed(runs, fresh):
    "Wherever it lies by then, what is done is done, before PyTorch is imported."
    top, _ = runs
    moved = (top/'through').rename(top/'elsewhere')
    res = fresh(LIGHT, *arguments(moved, workers=2))
    moved.rename(top/'through')
    assert res.stderr == 'False\n' and f'Report: {moved/"report.html"}' in res.stdout
    assert ' s   ' not in res.stdout.split('Accuracy')[0]


def test_a_process_keeps_to_its_threads(monkeypatch):
    """Also where the environment gives MKL more of them, which PyTorch would follow: two processes on two cores take
    many times as long."""
    monkeypatch.setenv('MKL_NUM_THREADS', '2')
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    executors = start_processes(2)
    try: assert [e.submit(torch.get_num_threads).result() for e in executors] == [1, 1]
    finally:
        for e in executors: e.shutdown(kill_workers=True)


CHILDREN = """
import os, sys, time
from kd_knowledge.study import processes
executors = processes.start_processes(2)
working = [e.submit(time.sleep, 600) for e in executors]
print(*(p for e in executors for p in e._processes), flush=True)
working[0].result()
"""


def alive(pid): return Path(f'/proc/{pid}').exists() and Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_children_end_with_their_parent():
    "Also in the middle of a step, and when it is killed."
    parent = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', CHILDREN], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    children = parent.stdout.readline().split()
    time.sleep(1)
    assert len(children) == 2 and all(map(alive, children))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(map(alive, children)) and time.monotonic() < deadline: time.sleep(.1)
    assert not any(map(alive, children))


def test_a_killed_child_ends_the_study_in_one_line(tmp_path):
    "Nothing is lost: the same command goes on."
    argv = arguments(tmp_path/'run', workers=2, probes='colour', epochs=200, objectives='{KL: {}}')
    study = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', COMMAND, *argv], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
    while not list((tmp_path/'run').glob('steps/teacher T*.json')) and study.poll() is None: time.sleep(.02)
    children = [p for p in Path('/proc').glob('[0-9]*') if parent_of(p) == study.pid]
    worker = next(int(p.name) for p in children if 'popen_loky' in command_of(p))
    os.kill(worker, signal.SIGKILL)
    err = study.communicate(timeout=120)[1]
    assert study.returncode == 2
    assert err == 'kd_study: workers: one of them ended. The same command goes on from the last finished step\n'
    assert not [p for p in (tmp_path/'run').rglob('*') if '.part' in p.name]
    assert list((tmp_path/'run').glob('steps/teacher T*.json')) and not (tmp_path/'run'/'report.html').exists()


def command_of(p):
    try: return (p/'cmdline').read_text()
    except OSError: return ''


def parent_of(p):
    try: return int((p/'stat').read_text().rsplit(')', 1)[1].split()[1])
    except OSError: return 0
