"The commands' help names every option with its default, at once."
import re

import pytest

HELP = '''
import contextlib, sys
from kd_knowledge.cli import {0}
sys.argv = ['{0}', '--help']
with contextlib.suppress(SystemExit): {0}()
'''
HEAVY = "print('torch' in sys.modules, 'pandas' in sys.modules)"
COMMANDS = ['kd_study', 'kd_probe', 'kd_parent', 'kd_results', 'kd_explore']

def options(text):
    "Name -> what the help says of it, for every option in an argparse help text."
    parts = re.split(r'^  (?=-)', text, flags=re.MULTILINE)[1:]
    return {re.search(r'--[\w-]+', p)[0]: ' '.join(p.split()) for p in parts}

@pytest.mark.parametrize('command', COMMANDS)
def test_help_imports_nothing_heavy(command, fresh, tmp_path):
    "So it answers at once; the benchmarks say how soon."
    told = fresh(HELP.format(command) + HEAVY, cwd=tmp_path)
    assert told.returncode == 0 and told.stdout.endswith('False False\n'), told.stderr[-2000:]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('command', COMMANDS)
def test_help_names_every_option_with_its_default(command, fresh):
    found = options(fresh(HELP.format(command)).stdout)
    assert len(found) >= 3
    silent = [name for name, text in found.items() if not re.search('default|required', text, re.IGNORECASE)]
    assert set(silent) <= {'--help'}, f'no default named for {silent}'
