#!/usr/bin/env python3
"""Measure kd_knowledge beside the libraries that people use today, bar by bar.

    python tests/benchmarks/run.py [--only cams 'attacks resnet18' 6 ...] [--repeats 5] [--out results.csv]

The exit status is 0 where everything of ours ran: a bar that does not hold is a finding, whose row says `no`, and so
is a peer that is not installed or breaks, whose row says `not measured` with the reason. It is 1 where something of
ours broke."""
import argparse, importlib, json, os, sys, time, traceback, warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
MODULES = 'cams attacks precision crd cohort learner objectives layers planes growth explorer evidence'.split()

def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', metavar='NAME',
                        help='cases whose key begins with this, or numbers of bars; all others keep their rows')
    parser.add_argument('--repeats', type=int, default=5,
                        help='rounds at least, after one that warms up (default 5); short cases go on for 15 seconds')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='threads of everybody (default: all cores)')
    parser.add_argument('--out', type=Path,
                        help='the table (default: results.csv here; machine.json and the figure lie beside another)')
    parser.add_argument('--cases', help='a Python file whose CASES are measured in place of ours')
    parser.add_argument('--list', action='store_true', help='print the keys of the cases and stop')
    parser.add_argument('--study', action='store_true',
                        help='measure bars 9, 11 and 13 too: studies, notebooks, commands')
    parser.add_argument('--peak', nargs=2, metavar=('KEY', 'CONTESTANT'), help=argparse.SUPPRESS)
    return parser.parse_args()

def all_cases(args):
    if args.cases:
        sys.path.insert(0, str(Path(args.cases).parent))
        return importlib.import_module(Path(args.cases).stem).CASES
    names = MODULES + ['study', 'waiting', 'strangers']*args.study
    return [c for name in names for c in importlib.import_module(name).CASES]

def chosen(args):
    "The cases that `--only` names; a name that fits none is an error."
    cases = all_cases(args)
    if not args.only: return cases
    fits = lambda case, name: case.key.startswith(name) or str(case.bar) == name
    for name in args.only:
        if not any(fits(c, name) for c in cases):
            sys.exit(f'--only: no case {name!r}. Give some of {", ".join(c.key for c in cases)}')
    return [c for c in cases if any(fits(c, name) for name in args.only)]

def measured(args, cases):
    "Measure case by case; the table is written after each. Gives the keys of those that broke."
    from harness import HERE, machine, measure, merged
    from figure import draw
    out, broken = args.out or HERE/'results.csv', []
    picture = HERE.parents[1]/'nbs'/'images'/'speed.png' if args.out is None else out.with_suffix('.png')
    out.parent.mkdir(parents=True, exist_ok=True)
    for i, case in enumerate(cases):
        print(f'{i + 1}/{len(cases)} {case.key}', end=' ... ', flush=True)
        start = time.perf_counter()
        try: rows = measure(case, args.repeats)
        except Exception:
            broken.append(case.key)
            print('broke')
            traceback.print_exc()
            continue
        merged(out, rows, [case]).to_csv(out, index=False, float_format='%.6g')
        out.with_name('machine.json').write_text(json.dumps(machine(args.threads, args.repeats), indent=1) + '\n')
        print(f'{time.perf_counter() - start:.0f} s\n' + '\n'.join(told(r) for r in rows.itertuples()), flush=True)
    if out.exists():
        draw(out, picture)
        print(f'{out} and {picture}')
    return broken

def told(r):
    "A row in a line."
    if r.holds == 'not measured': return f'    {r.bar}: not measured ({r.peer_name})'
    verdict = 'holds' if r.holds == 'yes' else 'DOES NOT HOLD'
    return f'    {r.bar} ({r.peer_name}): {r.ratio:.3g}, {r.low:.3g} to {r.high:.3g}: {verdict}'

def main():
    args = arguments()
    warnings.filterwarnings('ignore')
    os.environ.update(OMP_NUM_THREADS=str(args.threads), MPLBACKEND='Agg', TQDM_DISABLE='1')
    if args.list: return print(*(c.key for c in all_cases(args)), sep='\n')
    cases = chosen(args)  # their modules import PyTorch if they use it
    if 'torch' in sys.modules: sys.modules['torch'].set_num_threads(args.threads)
    if args.peak:
        from harness import peak
        return print(peak(next(c for c in cases if c.key == args.peak[0]), args.peak[1]))
    broken = measured(args, cases)
    if broken: sys.exit(f'Not measured, because ours broke: {", ".join(broken)}')

if __name__ == '__main__': main()
