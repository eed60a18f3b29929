"""Bars measured side by side: each round calls every contestant of a case once, in rotated order, so that whatever
slows the machine slows all of them.

A case has contestants, name -> a function that makes ready and returns what is measured, and rules that say which
ratio has to be at most or at least what. What is measured is the seconds of the call, or the number that the call
returns; for memory the peak of a fresh process that does nothing else."""
import gc, os, platform, re, subprocess, sys, time
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import pandas as pd

HERE = Path(__file__).resolve().parent
ROUNDS_S = 15
COLUMNS = ['bar', 'case', 'ours', 'peer', 'peer_name', 'ratio', 'low', 'high', 'holds']
PEERS = ('torch torchvision captum grad-cam torchcam torchattacks foolbox torch-cka pytorch-cka fastai numpy '
         'pandas').split()

class Missing(Exception): "A peer that is not here, with the reason."

@dataclass
class Rule:
    "What a bar says of one ratio; its text is the bar's in the table."
    text:str # 'ours/peer <= 1.1', 'peer/ours >= 2', or 'ours <= 1e-05' for a number that has no peer
    peer:str # name of the contestant beside ours; of a number what it is
    number:str='ours' # the contestant of ours

    @property
    def alone(self): return self.text.startswith('ours <')
    @property
    def names(self): return [self.number] if self.alone else [self.number, self.peer]
    @property
    def limit(self): return float(self.text.split()[-1])
    def ratio(self, ours, peer):
        return ours if self.alone else ours/peer if self.text.startswith('ours/') else peer/ours
    def holds(self, ratio): return ratio <= self.limit if '<=' in self.text else ratio >= self.limit

def at_most(peer, limit, ours='ours'): return Rule(f'ours/peer <= {limit:g}', peer, ours)
def at_least(peer, limit, ours='ours'): return Rule(f'peer/ours >= {limit:g}', peer, ours)
def exact(name, limit): return Rule(f'ours <= {limit:g}', name, name)

@dataclass
class Case:
    "One comparison: what it is, who takes part, which rules it has to keep."
    key:str # what `--only` knows it by: its module, then words
    bar:int # the number of the bar
    text:str # what is run, with sizes
    contestants:dict # name -> function without arguments that makes ready and returns what is called
    rules:list # of `Rule`
    memory:str='' # '' for seconds, 'peak' for the whole process, 'extra' for what a call adds to it (second call)
    once:bool=False # exact numbers, the same at every call
    per:dict = field(default_factory=dict) # name -> a number that its measure is divided by

def ready(case, names):
    "What is called, each called once to warm up, and why others cannot be. Where ours breaks, so does the run."
    calls, missing = {}, {}
    for name in names:
        try:
            calls[name] = case.contestants[name]()
            if not case.once: calls[name]()
        except Exception as error:
            if name.startswith('ours'): raise
            calls.pop(name, None)
            missing[name] = reason(error)
    return calls, missing

def reason(error):
    return str(error) if isinstance(error, (ImportError,
                                            Missing)) else f'{type(error).__name__}: {str(error).splitlines()[0][:200]}'

def once(call):
    "The measure of one call: the number it returns, else its seconds."
    gc.collect()
    start = time.perf_counter()
    told = call()
    seconds = time.perf_counter() - start
    return told if isinstance(told, float) else seconds

def rounds(case, calls, repeats):
    """name -> the measures of every round; each round begins with another contestant. Short ones go on for ROUNDS_S
    seconds, as a machine is never quite at rest."""
    names, found, start = list(calls), {name: [] for name in calls}, time.perf_counter()
    for i in range((1 if case.once else 10*repeats)*bool(names)):
        if i >= repeats and time.perf_counter() - start > ROUNDS_S: break
        for name in names[i % len(names):] + names[:i % len(names)]:
            found[name].append(once(calls[name])/case.per.get(name, 1))
    return found

### Memory: the peak of a process of its own

# What a tensor held goes back at once, so that a peak is one of tensors in use.
GIVEN_BACK = dict(MALLOC_MMAP_THRESHOLD_='262144', MALLOC_TRIM_THRESHOLD_='262144')

def _status(key): return int(re.search(rf'{key}:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

def peak(case, name):
    "MB at the highest, of this whole process or of one call above what lay there before it."
    call = case.contestants[name]()
    if case.memory == 'peak':
        call()
        return _status('VmHWM')
    call()
    gc.collect()
    before = _status('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')
    call()
    return _status('VmHWM') - before

def peaks(case, names):
    "name -> its peak in MB, each in a fresh process of this command, and why others have none."
    found, missing = {}, {}
    for name in names:
        res = subprocess.run([sys.executable, *sys.argv, '--peak', case.key, name], capture_output=True, text=True,
                             env=os.environ | GIVEN_BACK)
        if res.returncode == 0: found[name] = [float(res.stdout.split()[-1])]
        elif name.startswith('ours'): raise RuntimeError(f'{case.key}: {res.stderr[-2000:]}')
        else: missing[name] = res.stderr.strip().splitlines()[-1].partition(': ')[2]
    return found, missing

### Rows

def row(case, rule, found, missing):
    "One line of the table: medians, and the median of the rounds' ratios with the smallest and the largest."
    start, lost = [f'{case.bar}: {rule.text}', case.text], [f'{n}: {missing[n]}' for n in rule.names if n in missing]
    if lost: return [*start, None, None, lost[0], None, None, None, 'not measured']
    values = [found[n] for n in rule.names]
    ratios = sorted(rule.ratio(a, b) for a, b in zip(values[0], values[-1]))
    ratio, peer = median(ratios), None if rule.alone else median(values[1])
    name = rule.peer if rule.number == 'ours' or rule.alone else f'{rule.peer} ({rule.number})'
    return [*start, median(values[0]), peer, name, ratio, ratios[0], ratios[-1], 'yes' if rule.holds(ratio) else 'no']

def measure(case, repeats):
    "The rows of one case."
    names = dict.fromkeys(n for r in case.rules for n in r.names)
    if case.memory: found, missing = peaks(case, names)
    else:
        calls, missing = ready(case, names)
        found = rounds(case, calls, repeats)
    return pd.DataFrame([row(case, rule, found, missing) for rule in case.rules], columns=COLUMNS)

def merged(path, rows, cases):
    "The table at `path` with the rows of `cases` replaced, in the order of the bars."
    old = pd.read_csv(path) if Path(path).exists() else rows.iloc[:0]
    there = {(str(c.bar), c.text) for c in cases}
    kept = old[[(bar.split(':')[0], case) not in there for bar, case in zip(old.bar, old.case)]]
    both = rows if kept.empty else pd.concat([kept, rows], ignore_index=True)
    return both.sort_values('bar', key=lambda bars: bars.str.split(':').str[0].astype(int), kind='stable',
                            ignore_index=True)

def _version(name):
    try: return version(name)
    except PackageNotFoundError: return None

def machine(threads, repeats):
    "What the numbers depend on beside the code."
    info = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    model = re.search(r'model name\s*: (.*)', info)
    memory = os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30
    return dict(date=date.today().isoformat(), cpu=model[1] if model else platform.processor(), cores=os.cpu_count(),
                threads=threads, memory_GB=round(memory, 1),
                repeats=repeats, python=platform.python_version(), versions={n: v for n in PEERS if (v := _version(n))})
