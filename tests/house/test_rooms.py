"""Facts about the house, each measured, printed and held to its bar: rooms and their order, lines, known answers.

`python -m tests.house.test_rooms` prints them all; as tests they fail where a bar is broken."""
import ast, json, re, statistics, subprocess, sys, time, tokenize
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, NBS = ROOT/'kd_knowledge', ROOT/'nbs'
LINES, WIDTH = 650, 120  # of a module, of a line
UPPER = 'report', 'study', 'explorer', 'cli'  # what stands above the probes
OFFERS = {'domains', 'cue conflict', 'groups'}  # what data may have, which some probes are named after
COMMANDS = 'kd_study', 'kd_probe', 'kd_parent', 'kd_results', 'kd_explore'

### What there is

@cache
def modules():
    "Name -> path of every module with code of its own, without `kd_knowledge.`."
    paths = [p for p in PACKAGE.rglob('*.py') if p.stem not in ('_modidx', '__init__')]
    return {'.'.join(p.relative_to(PACKAGE).with_suffix('').parts): p for p in paths}

@cache
def source(path): return path.read_text(encoding='utf-8')

@cache
def tree(path): return ast.parse(source(path))

@cache
def chapters():
    "Notebook -> the module it is exported to, in reading order."
    found = {p: re.search(r'#\| default_exp ([\w.]+)', source(p)) for p in sorted(NBS.glob('[0-9]*.ipynb'))}
    return {p: m[1] for p, m in found.items() if m}

def order():
    "Module -> its place in the reading order; an index of a folder is `data.__init__` and so on."
    return {name: i for i, name in enumerate(chapters().values())}

def own_files():
    "The Python that is written by hand: tests, benchmarks, and the tools of the repository."
    tools = [p for p in (ROOT/'.ci').iterdir() if p.is_file() and source(p).startswith('#!/usr/bin/env python')]
    return [*sorted((ROOT/'tests').rglob('*.py')), *tools, ROOT/'setup.py']

def say(text, *found):
    "Print a figure, with what breaks its bar."
    print(text, *(f'\n    {o}' for o in found[:20]), '\n    ...' if len(found) > 20 else '', sep='')

### Rooms

def test_no_module_is_a_cabinet():
    sizes = {name: source(p).count('\n') for name, p in modules().items()}
    largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
    wrong = [f'{n}: {k} lines' for n, k in sizes.items() if k > LINES]
    say(f'{len(sizes)} modules, {sum(sizes.values())} lines; '
        f'largest: {", ".join(f"{n} {sizes[n]}" for n in largest)} (at most {LINES})', *wrong)
    assert not wrong

def module_of(node, path):
    "The module of the package that an import names, or None."
    if isinstance(node, ast.Import):
        return next((a.name.partition('.')[2] for a in node.names if a.name.startswith('kd_knowledge.')), None)
    parts = path.relative_to(PACKAGE).parent.parts
    home = parts[:len(parts) - node.level + 1] if node.level else ()
    full = [*home, *(node.module or '').split('.')] if node.level else (node.module or '').split('.')
    if not node.level and full[0] != 'kd_knowledge': return None
    return '.'.join(filter(None, full if node.level else full[1:]))

def targets(node, path):
    "The modules that an import statement draws on: `from . import x` names a module too."
    base = module_of(node, path)
    if base is None: return []
    places = order()
    below = [f'{base}.{a.name}'.strip('.') for a in node.names] if isinstance(node, ast.ImportFrom) else []
    named = [b for b in below if b in places]
    return named or [base if base in places else f'{base}.__init__']

@cache
def draws():
    "Module -> the set of modules that it draws on, wherever the import stands."
    def of(path):
        nodes = [o for o in ast.walk(tree(path)) if isinstance(o, (ast.Import, ast.ImportFrom))]
        return {t for o in nodes for t in targets(o, path)}
    return {name: of(path) for name, path in modules().items()}

def circle(name, seen=()):
    "A circle of imports through `name`, or None."
    if name in seen: return seen[seen.index(name):] + (name,)
    return next((c for o in draws().get(name, ()) if (c := circle(o, seen + (name,)))), None)

def test_imports_only_go_down():
    places = order()
    lost = [f'{n} has no notebook' for n in modules() if n not in places]
    assert not lost, lost
    pairs = [(n, o) for n, found in draws().items() if n != 'all' for o in found if o in places]
    upwards = [f'{n} draws on {o}' for n, o in pairs if places[o] >= places[n]]
    say(f'{len(pairs)} imports between modules; upwards: {len(upwards)} (none)', *upwards)
    assert not upwards

def test_there_are_no_circles():
    circles = sorted({' -> '.join(c) for n in modules() if (c := circle(n))})
    say(f'circles of imports: {len(circles)} (none)', *circles)
    assert not circles

def inner_imports(path):
    "The lines of imports that stand inside functions or classes."
    scopes = [o for o in ast.walk(tree(path)) if isinstance(o, (ast.FunctionDef, ast.ClassDef))]
    return sorted({o.lineno for s in scopes for o in ast.walk(s) if isinstance(o, (ast.Import, ast.ImportFrom))})

def test_imports_stand_at_the_top():
    found, silent = [], []
    for name, path in modules().items():
        lines = source(path).splitlines()
        for k in inner_imports(path):
            found.append(f'{name}:{k}')
            told = '#' in lines[k - 1] or lines[k - 2].strip().startswith('#')
            if not told: silent.append(f'{name}:{k} gives no reason: {lines[k - 1].strip()}')
    say(f'imports inside functions: {len(found)} (at most 15); without a reason: {len(silent)} (none)', *silent)
    assert len(found) <= 15 and not silent

### Lines

def code_lines(path):
    "The lines of code, without nbdev's marks and the `__all__` that it writes."
    text = re.sub(r'^# %% auto.*?(?=^# %%|\Z)', '', source(path), flags=re.M | re.S)
    return [o for o in text.splitlines() if o.strip() and not o.startswith('# %%')]

def long_lines(files):
    "How many lines there are, how many are too long, and where those are."
    count = sum(len(code_lines(p)) for p in files)
    long = {p.relative_to(ROOT): sum(len(o) > WIDTH for o in code_lines(p)) for p in files}
    return count, sum(long.values()), [f'{p}: {k} long lines' for p, k in long.items() if k]

def test_exported_lines_are_short():
    count, k, where = long_lines(list(modules().values()))
    say(f'exported lines: {count}, over {WIDTH} columns: {k}, {k / count:.1%} (at most 1 %)', *where)
    assert k <= .01 * count

def test_lines_of_tests_and_tools_are_short():
    count, k, where = long_lines(own_files())
    say(f'lines of tests and tools: {count}, over {WIDTH} columns: {k}, {k / count:.1%} (at most 1 %)', *where)
    assert k <= .01 * count

def semicolons(path):
    with open(path, 'rb') as f:
        found = [t.start[0] for t in tokenize.tokenize(f.readline) if t.type == tokenize.OP and t.string == ';']
    return [f'{path.relative_to(ROOT)}:{k}' for k in found]

def test_one_statement_a_line():
    found = [o for p in [*modules().values(), *own_files()] for o in semicolons(p)]
    say(f'statements joined by semicolons: {len(found)} (none)', *found)
    assert not found

def body(f):
    "The lines of a function's body, without its docstring."
    said = isinstance(f.body[0], ast.Expr) and isinstance(getattr(f.body[0], 'value', None), ast.Constant)
    rest = f.body[said:]
    return rest[-1].end_lineno - rest[0].lineno + 1 if rest else 0

def test_functions_are_short():
    functions = [(n, f) for n, p in modules().items() for f in ast.walk(tree(p)) if isinstance(f, ast.FunctionDef)]
    lengths = {f'{n}.{f.name}:{f.lineno}': body(f) for n, f in functions}
    median, p90 = statistics.median(lengths.values()), statistics.quantiles(lengths.values(), n=10)[-1]
    longest = sorted(lengths, key=lengths.get, reverse=True)[:3]
    say(f'{len(lengths)} functions, body median {median:.0f}, p90 {p90:.0f} lines (3 to 5, at most 12); '
        f'longest: {", ".join(f"{n} {lengths[n]}" for n in longest)} (at most 40)')
    assert median <= 5 and p90 <= 12 and max(lengths.values()) <= 40

### Known answers

def parsed(code): return ast.parse(re.sub(r'^\s*[%!].*$', '', code, flags=re.M))

def defines(code):
    "The first function or class that a cell defines, or None."
    return next((o.name for o in parsed(code).body if isinstance(o, (ast.FunctionDef, ast.ClassDef))), None)

def answers(path):
    "The names that a notebook's export cells define, and those with a known answer before the next export."
    names, known, last = [], [], None
    for c in json.loads(source(path))['cells']:
        code = ''.join(c['source'])
        if c['cell_type'] != 'code': continue
        if re.match(r'(#\|.*\n)*#\| *export', code):
            last = defines(code)
            if last: names.append(last)
        elif last and re.search(r'\bassert\b|\btest_\w+\(', code):
            known.append(last)
            last = None
    return names, known

def share(name, found):
    n, k = sum(len(a) for a, _ in found.values()), sum(len(b) for _, b in found.values())
    poor = [f'{m}: {len(b)} of {len(a)}' for m, (a, b) in found.items() if len(b) < len(a) / 3]
    say(f'{name}: {k} of {n} export cells with a function or class have a known answer, {k / max(n, 1):.0%}', *poor)
    return k / max(n, 1)

def test_export_cells_have_known_answers():
    found = {m: answers(p) for p, m in chapters().items() if not m.endswith('__init__') and m != 'all'}
    names = dict.fromkeys(m.partition('.')[0] for m in found)
    rooms = {r: share(r, {m: o for m, o in found.items() if m.partition('.')[0] == r}) for r in names}
    assert share('all chapters (at least 50 %)', found) >= .5
    assert min(rooms[r] for r in ('report', 'study', 'explorer')) >= 1 / 3

### A probe is one record

def words(node):
    "The texts that a literal collection holds: of a list, tuple, set or dict, of `dict(...)`, of `'a b c'.split()`."
    if isinstance(node, ast.Call):
        text = getattr(getattr(node.func, 'value', None), 'value', None)
        return text.split() if isinstance(text, str) else [k.arg for k in node.keywords]
    parts = node.keys if isinstance(node, ast.Dict) else getattr(node, 'elts', [])
    return [o.value for o in parts if isinstance(o, ast.Constant)]

def lists_of_probes(path, names):
    "Where a literal collection, or a line, names two probes or more."
    kinds = ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Call, ast.Constant
    nodes = [o for o in ast.walk(tree(path)) if isinstance(o, kinds)]
    found = {o.lineno: set(map(str, words(o))) & names for o in nodes if hasattr(o, 'lineno')}
    lines = {}
    for o in nodes:
        if isinstance(o, ast.Constant) and o.value in names: lines.setdefault(o.lineno, set()).add(o.value)
    return {k: v for f in (found, lines) for k, v in f.items() if len(v) > 1 and not v <= OFFERS}

def test_no_list_of_probes_is_left_above_them():
    from kd_knowledge.probes import PROBES  # the index, which knows all records
    assert len(PROBES) > 5
    rooms = {n: lists_of_probes(p, set(PROBES)) for n, p in modules().items() if n.partition('.')[0] in UPPER}
    found = [f'{n}:{k} names {", ".join(sorted(v))}' for n, lists in rooms.items() for k, v in lists.items()]
    say(f'{len(PROBES)} probes are registered; lists of their names above them: {len(found)} (none)', *found)
    assert not found

def test_all_has_every_public_name():
    import kd_knowledge.all
    rooms = [import_module(f'kd_knowledge.{name}') for name in modules()]
    public = {n for room in rooms for n in getattr(room, '__all__', ()) if callable(getattr(room, n))}
    lost = sorted(public - set(kd_knowledge.all.__all__))
    say(f'{len(public)} public functions and classes; not in kd_knowledge.all: {len(lost)} (none)', *lost)
    assert not lost

### What a command costs before it does anything

def seconds(code, n=3):
    "The quickest of `n` fresh processes that run `code`, and the last words of the last one."
    def once():
        start = time.perf_counter()
        res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT, capture_output=True, text=True)
        return time.perf_counter() - start, (res.stdout + res.stderr).strip().rpartition('\n')[2]
    runs = [once() for _ in range(n)]
    return min(s for s, _ in runs), runs[-1][1]

HELP = """
import contextlib, io, sys
from kd_knowledge.cli import {command}
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): {command}(['--help'])
print(*sorted({{'torch', 'fastai', 'pandas', 'matplotlib', 'torchvision'}} & set(sys.modules)))
"""

def test_help_comes_before_anything_heavy():
    torch, bare, package = seconds('import torch', 1)[0], seconds('pass')[0], seconds('import kd_knowledge')[0]
    times = {c: seconds(HELP.format(command=c), 1) for c in COMMANDS}
    heavy = [f'{c} --help: {o}' for c, (_, o) in times.items() if o]
    say(f'seconds: python {bare:.2f}, import kd_knowledge {package:.2f}, import torch {torch:.2f}; '
        f'--help of {", ".join(f"{c} {s:.2f}" for c, (s, _) in times.items())} (nothing heavy imported)', *heavy)
    assert not heavy and package < bare + torch / 4

if __name__ == '__main__':
    for name, test in list(globals().items()):
        if not name.startswith('test_'): continue
        try: test()
        except AssertionError as error: print(f'BROKEN: {name} {error}'.rstrip())
