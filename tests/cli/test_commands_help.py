"The commands' help names every option with its default, at once."
import re
import pytest

HELP = 'import sys; sys.argv = ["{0}", "--help"]; from kd_knowledge.cli import {0}; {0}()'
COMMANDS = ['kd_study', 'kd_probe', 'kd_results', 'kd_explore']

def options(text):
    "Name -> what the help says of it, for every option in an argparse help text."
    parts = re.split(r'^  (?=-)', text, flags=re.MULTILINE)[1:]
    return {re.search(r'--[\w-]+', p)[0]: ' '.join(p.split()) for p in parts}

@pytest.mark.parametrize('command', COMMANDS)
def test_help_is_quick(command, fresh, tmp_path):
    runs = [fresh(HELP.format(command), cwd=tmp_path) for _ in range(3)]
    assert all(o.returncode == 0 for o in runs), runs[0].stderr[-2000:]
    assert min(o.seconds for o in runs) < 2 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('command', COMMANDS)
def test_help_names_every_option_with_its_default(command, fresh):
    found = options(fresh(HELP.format(command)).stdout)
    assert len(found) >= 3
    silent = [name for name, text in found.items() if name != '--help' and not re.search('default|required', text, re.IGNORECASE)]
    assert not silent, f'no default named for {silent}'
