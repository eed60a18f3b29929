"Everything public says what it does, what each of its parameters is, and within which range a number lies."
import importlib, inspect, pkgutil, re
from dataclasses import is_dataclass
import pytest
import kd_knowledge
from fastcore.docments import docments

MODULES = [o.name for o in pkgutil.walk_packages(kd_knowledge.__path__, 'kd_knowledge.')
           if not o.name.rpartition('.')[2].startswith('_')]

def unwrap(o): return inspect.unwrap(o) if callable(o) else o

def docstring(o):
    "What `o` itself says, not a class above it, and not the signature that `dataclass` puts there."
    if not inspect.isclass(o): return unwrap(o).__doc__
    return None if (vars(o).get('__doc__') or '').startswith(f'{o.__name__}(') else vars(o).get('__doc__')

def public(module):
    "Name -> function or class, of what `module` itself defines and exports."
    there = {n: getattr(module, n) for n in module.__all__}
    return {n: o for n, o in there.items() if (inspect.isclass(o) or inspect.isfunction(unwrap(o)))
            and o.__module__ == module.__name__}

def overrides(cls, name):
    "Does a class above `cls` already say what `name` is, or fastai, for its callbacks' events?"
    from fastai.callback.core import event
    return any(hasattr(o, name) for o in cls.__mro__[1:]) or hasattr(event, name)

def methods(cls, module):
    "Name -> function, of the public methods and properties that our code gives `cls`."
    plain = {n: getattr(o, '__func__', None) or getattr(o, 'fget', None) or o for n, o in vars(cls).items()
             if not n.startswith('_')}
    return {n: f for n, f in plain.items() if inspect.isfunction(f) and f.__module__.startswith('kd_knowledge')
            and not overrides(cls, n)}

def own_parameters(f):
    "The parameters in the source of `f`, without `self`, `cls`, `*args` and `**kwargs`."
    code = unwrap(f).__code__
    names = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    return [n for n in names if n not in ('self', 'cls') and not n.startswith('_')]

def parameters(o):
    "Name -> what is said of it, of a function's own parameters, or those of a class's own `__init__` or fields."
    if is_dataclass(o): own, f = list(inspect.get_annotations(o)), o
    elif inspect.isclass(o): own, f = (own_parameters(o.__init__), o.__init__) if '__init__' in vars(o) else ([], None)
    else: own, f = own_parameters(o), unwrap(o)
    said = docments(f, returns=False, full=True) if own else {}
    return {n: said.get(n, {}) for n in own}

def is_number(said): return said.get('anno') in (int, float) or type(said.get('default')) in (int, float)

def faults(name, o):
    """What `o` leaves unsaid, as lines that begin with `name`. A range is a number, or a name in backticks that has
    one; any whole number is a seed."""
    if not docstring(o): yield f'{name}: no docstring'
    for p, said in parameters(o).items():
        if not said.get('docment'): yield f'{name}.{p}: no comment'
        elif is_number(said) and 'seed' not in p and not re.search(r'\d|`', said['docment']):
            yield f'{name}.{p}: a number without its range'

@pytest.mark.parametrize('name', MODULES)
def test_everything_public_is_documented(name):
    module, found = importlib.import_module(name), []
    if not hasattr(module, '__all__'): return  # a folder without an index has no notebook
    if not module.__doc__: found.append(f'{name}: no docstring (the quoted line under the title)')
    for n, o in public(module).items():
        found += faults(f'{name}.{n}', o)
        if inspect.isclass(o): found += [x for m, f in methods(o, module).items() for x in faults(f'{name}.{n}.{m}', f)]
    assert not found, '\n' + '\n'.join(found)

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_of_the_top_level_lead_to_files(name, root):
    "And README.md can be read in one go."
    text = (root/name).read_text(encoding='utf-8')
    links = [o for o in re.findall(r'\]\(([^)#\s]+)', text) if not o.startswith('http')]
    assert not [o for o in links if not (root/o).exists()]
    assert name != 'README.md' or text.count('\n') <= 150
