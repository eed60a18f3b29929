"Bar 9: the default study in an empty folder, and all notebooks."
import os, shutil, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path

from harness import HERE, Case, Missing, exact

ROOT = HERE.parents[1]

def minutes(*command, cwd=None, **environment):
    "Minutes of a command's only run."
    start = time.perf_counter()
    res = subprocess.run(command, cwd=cwd, env=dict(os.environ, **environment), capture_output=True, text=True)
    if res.returncode: raise Missing(f'{command[0]} gave {res.returncode}: {(res.stderr or res.stdout)[-300:]}')
    return (time.perf_counter() - start)/60

def command(name):
    "A command of this environment, or of the one that `make test` works in."
    places = Path(sys.executable).parent, ROOT/'.venv'/'bin'
    found = shutil.which(name, path=os.pathsep.join(map(str, places)))
    if not found: raise Missing(f'{name} is neither beside {sys.executable} nor in .venv, where make check installs it')
    return found

def study():
    kd_study = command('kd_study')
    def run():
        with tempfile.TemporaryDirectory() as folder: return minutes(kd_study, cwd=folder)
    return run

def notebooks(): return partial(minutes, command('nbdev_test'), '--n_workers', '2', cwd=ROOT, OMP_NUM_THREADS='1')

CASES = [Case(key, 9, text, {'minutes': run}, [exact('minutes', limit)], once=True)
         for key, text, run, limit in (('study run', 'kd_study in an empty folder', study, 3),
                                       ('study notebooks',
                                        'nbdev_test with 2 workers of one thread, as make test runs it', notebooks, 4))]
