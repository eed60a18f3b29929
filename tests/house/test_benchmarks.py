"The benchmarks' harness, run as a command on cases of a few milliseconds that are measured for real."
import json, subprocess, sys
import pandas as pd
import pytest

CASES = '''
import time
from harness import Case, Missing, at_least, at_most, exact

def sleeps(seconds): return lambda: lambda: time.sleep(seconds)
def absent(): raise Missing('it is not installed')
def breaks(): return lambda: 1/0
def holds_on(mb): return lambda: lambda: bytes(bytearray(b'x')*(mb*2**20)) and None

CASES = [
    Case('tiny slow', 1, 'twice as long', dict(ours=sleeps(.02), forward=sleeps(.01), late=sleeps(.04)),
         [at_most('forward', 1.1), at_least('late', 1)]),
    Case('tiny gone', 2, 'beside nobody', dict(ours=sleeps(.001), gone=absent, broken=breaks),
         [at_least('gone', 2), at_least('broken', 2)]),
    Case('tiny number', 3, 'a number', dict(error=lambda: lambda: 1e-7), [exact('error', 1e-6)], once=True),
    Case('tiny nowhere', 3, 'a number of nobody', dict(error=absent), [exact('error', 1e-6)], once=True),
    Case('tiny memory', 3, 'a hundred against ten MB', dict(ours=holds_on(100), small=holds_on(10)),
         [at_most('small', 2)], memory='extra'),
    Case('tiny shares', 8, 'seconds each', dict(ours=sleeps(.04), few=sleeps(.01)),
         [at_most('few', 1.5)], per=dict(ours=8, few=1)),
    Case('late failure', 10, 'ours breaks', dict(ours=breaks, forward=sleeps(.001)), [at_most('forward', 1.1)]),
]
'''
COLUMNS = ['bar', 'case', 'ours', 'peer', 'peer_name', 'ratio', 'low', 'high', 'holds']

@pytest.fixture(scope='module')
def bench(root, tmp_path_factory):
    "Runs the command with more arguments; gives the process and the table."
    folder = tmp_path_factory.mktemp('tiny')
    (folder/'tiny.py').write_text(CASES)
    def run(*args, out=folder/'results.csv'):
        command = [sys.executable, root/'tests'/'benchmarks'/'run.py', '--cases', folder/'tiny.py', '--repeats', '3',
                   '--threads', '1', '--out', out, *args]
        res = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        return res, pd.read_csv(out) if out.exists() else None
    return run

@pytest.fixture(scope='module')
def first(bench): return bench('--only', 'tiny slow', 'tiny gone', 'tiny number', 'tiny nowhere', 'tiny shares')

def of(table, text): return table[table.case == text].set_index('peer_name')

def test_writes_the_table_the_machine_and_the_figure(first, tmp_path_factory):
    res, table = first
    assert res.returncode == 0, res.stderr
    assert list(table) == COLUMNS and len(table) == 7
    folder = tmp_path_factory.getbasetemp()/'tiny0'
    machine = json.loads((folder/'machine.json').read_text())
    assert {'date', 'cpu', 'cores', 'threads', 'memory_GB', 'versions',
            'repeats'} <= machine.keys() and machine['threads'] == 1 and machine['versions']['torch']
    assert (folder/'results.png').read_bytes()[:4] == b'\x89PNG'

def test_each_ratio_lies_between_its_low_and_high(first):
    rows = first[1].dropna(subset='ratio')
    assert len(rows) == 4 and ((rows.low <= rows.ratio) & (rows.ratio <= rows.high)).all()

def test_a_bar_that_fails_is_reported_as_such(first):
    slow = of(first[1], 'twice as long')
    assert slow.holds.to_dict() == dict(forward='no', late='yes')
    assert slow.bar.to_dict() == dict(forward='1: ours/peer <= 1.1', late='1: peer/ours >= 1')
    assert 1.5 < slow.ratio['forward'] < 3 and .015 < slow.ours['forward'] < .04 and .008 < slow.peer['forward'] < .03
    assert 'DOES NOT HOLD' in first[0].stdout

def test_a_peer_that_is_missing_or_breaks_is_not_measured(first):
    gone = first[1][first[1].case == 'beside nobody']
    assert set(gone.holds) == {'not measured'} and gone.ratio.isna().all()
    assert set(gone.peer_name) == {'gone: it is not installed', 'broken: ZeroDivisionError: division by zero'}
    assert of(first[1], 'a number of nobody').holds.to_dict() == {'error: it is not installed': 'not measured'}

def test_numbers_and_shares(first):
    assert of(first[1], 'a number').loc['error', ['ratio', 'holds']].tolist() == [1e-7, 'yes']
    each = of(first[1], 'seconds each').loc['few']
    assert .3 < each.ratio < .8 and each.holds == 'yes'

def test_memory_is_the_peak_of_a_process_of_its_own(bench, first):
    row = of(bench('--only', 'tiny memory')[1], 'a hundred against ten MB').loc['small']
    assert 95 < row.ours < 260 and 9 < row.peer < 40 and row.holds == 'no'

def test_a_partial_run_replaces_its_own_rows_alone(bench, first):
    before = bench('--only', 'tiny number')[1]
    after = bench('--only', '1')[1]
    rest = [table[table.case != 'twice as long'] for table in (before, after)]
    assert len(after) == len(before) and rest[0].equals(rest[1])
    assert (of(after, 'twice as long').ours != of(before, 'twice as long').ours).all()
    assert after.bar.str.split(':').str[0].astype(int).is_monotonic_increasing

def test_ours_breaking_is_a_failure_that_keeps_the_rest(bench, tmp_path):
    res, table = bench('--only', 'tiny number', 'late failure', out=tmp_path/'results.csv')
    assert res.returncode == 1 and 'late failure' in res.stderr and table.case.tolist() == ['a number']

def test_an_unknown_name_is_answered_with_the_known_ones(bench):
    res, _ = bench('--only', 'nonsense')
    assert res.returncode == 1 and 'tiny slow' in res.stderr

def test_the_stored_table_is_the_one_that_the_page_shows(root):
    table = pd.read_csv(root/'tests'/'benchmarks'/'results.csv')
    assert list(table) == COLUMNS and set(table.holds) <= {'yes', 'no', 'not measured'}
    measured = table.dropna(subset='ratio')
    assert ((measured.low <= measured.ratio) & (measured.ratio <= measured.high)).all()
    page = json.loads((root/'nbs'/'tutorials'/'speed.ipynb').read_text())
    shown = ''.join(''.join(o.get('data', {}).get('text/html', '')) for c in page['cells']
                    for o in c.get('outputs', []))
    assert all(case.replace('<', '&lt;') in shown for case in table.case)
