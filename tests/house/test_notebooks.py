"The committed notebooks are small, begin as they should, and hold nothing that changes with every run."
import ast, json, re
from pathlib import Path
import pytest

NBS = Path(__file__).resolve().parents[2]/'nbs'
NOTEBOOKS = sorted(p for p in NBS.rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(NBS).parts))
IMPORTS = ast.Import, ast.ImportFrom

def source(cell): return ''.join(cell['source'])

def exported(nb):
    return [source(c) for c in nb['cells'] if c['cell_type'] == 'code' and source(c).startswith('#| export')]

def is_index(nb):
    "Is this the index of a folder, or of all names?"
    return any(re.search(r'default_exp (all|\w+\.__init__)$', source(c)) for c in nb['cells'])

@pytest.fixture(params=NOTEBOOKS, ids=lambda p: str(p.relative_to(NBS)))
def path(request): return request.param

@pytest.fixture
def nb(path): return json.loads(path.read_text(encoding='utf-8'))

def test_there_are_notebooks(): assert NOTEBOOKS

def test_is_small(path): assert path.stat().st_size < 300_000

def test_holds_no_widget_state(path, nb):
    assert 'widgets' not in nb['metadata']
    assert 'application/vnd.jupyter.widget' not in path.read_text(encoding='utf-8')

def test_holds_its_sources_in_lines_that_can_be_compared(nb):
    assert all(isinstance(c['source'], list) for c in nb['cells'])

def test_begins_with_a_title_and_a_quoted_line(nb):
    first = nb['cells'][0]
    lines = [o for o in source(first).splitlines() if o.strip()]
    assert first['cell_type'] == 'markdown' and lines[0].startswith('# ') and lines[1].startswith('> ')

def test_holds_no_error(nb):
    assert not [o for c in nb['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']

def test_exported_imports_are_in_cells_of_their_own(nb):
    for code in exported(nb):
        kinds = {isinstance(o, IMPORTS) for o in ast.parse(code).body}
        assert len(kinds) < 2, f'imports beside other code in the cell that begins with\n{code[:200]}'
        assert 'import *' not in code or is_index(nb)

def test_imports_of_a_chapter_are_in_cells_of_their_own(nb):
    "To make the site nbdev runs each cell that imports something, and of the others only the exported ones."
    codes = [source(c) for c in nb['cells'] if c['cell_type'] == 'code']
    if not exported(nb): return
    for code in codes:
        tree = ast.parse(re.sub(r'^\s*[%!].*$', '', code, flags=re.M))
        imports = any(isinstance(o, IMPORTS) for o in ast.walk(tree))
        if not imports or re.search(r'^#\| *(export|eval: *false)', code, re.M): continue
        assert all(isinstance(o, IMPORTS) for o in tree.body), f'the site cannot be made with\n{code[:200]}'
