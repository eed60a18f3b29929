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
def test_help_imports_nothing_heavy(command, fresh, tmp_path):
    "So it answers at once; the benchmarks say how soon."
    code = HELP.format(command).replace(f'{command}()', f'\ntry: {command}()\nexcept SystemExit: print("torch" in sys.modules, "pandas" in sys.modules)')
    told = fresh(code, cwd=tmp_path)
    assert told.returncode == 0 and told.stdout.endswith('False False\n') and not list(tmp_path.iterdir()), told.stderr[-2000:]


@pytest.mark.parametrize('command', COMMANDS)
def test_help_names_every_option_with_its_default(command, fresh):
    found = options(fresh(HELP.format(command)).stdout)
    assert len(found) >= 3
    silent = [name for name, text in found.items() if name != '--help' and not re.search('default|required', text, re.IGNORECASE)]
    assert not silent, f'no default named for {silent}'
