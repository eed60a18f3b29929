"Bar 11: how long somebody waits: for an import, for help, for a study that is done already, and after it was renamed."
import os, subprocess, sys, tempfile, time
from functools import cache, partial
from pathlib import Path

from harness import HERE, Case, Missing, exact
from study import command

ROOT = HERE.parents[1]

def seconds(*words, cwd=ROOT):
    "Seconds of a fresh process."
    start = time.perf_counter()
    res = subprocess.run(words, cwd=cwd, env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    if res.returncode: raise Missing(f'{words[0]} gave {res.returncode}: {(res.stderr or res.stdout)[-300:]}')
    return time.perf_counter() - start

def imports():
    "Seconds of the import alone, without the interpreter's start."
    code = 'import time\nstart = time.perf_counter()\nimport kd_knowledge\nprint(time.perf_counter() - start)'
    command = [sys.executable, '-c', code]
    return lambda: float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout)

def shows(name):
    kd = command(name)
    return lambda: seconds(kd, '--help')

@cache
def finished():
    "The folder of a default study that was run once, and that goes with the process."
    folder = tempfile.TemporaryDirectory(prefix='waiting-')
    seconds(command('kd_study'), cwd=folder.name)
    return folder

def again():
    folder = finished().name
    return lambda: seconds(command('kd_study'), cwd=folder)

def renamed():
    "The same after its folder was renamed, to another name at each call."
    folder = Path(finished().name)
    def run():
        old = next((folder/'runs').iterdir())
        new = old.rename(old.with_name(f'{time.time_ns()}'))
        try: return seconds(command('kd_study'), '--out', f'runs/{new.name}', cwd=folder)
        finally: new.rename(folder/'runs'/'default')
    return run

def case(key, text, run, limit): return Case(f'waiting {key}', 11, text, {'seconds': run}, [exact('seconds', limit)])

COMMANDS = 'kd_study', 'kd_probe', 'kd_parent', 'kd_results', 'kd_explore'
CASES = [case('import', 'import kd_knowledge', imports, .3),
         *(case(name, f'{name} --help', partial(shows, name), 1) for name in COMMANDS),
         case('again', 'kd_study, all done already', again, 4),
         case('renamed', 'kd_study --out, all done already, the folder renamed', renamed, 4)]
