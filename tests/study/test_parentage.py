"Whose student is it? Planted tables of answers, of which the truth is known, and the command in a process."
import numpy as np
import pandas as pd
import pytest
import torch

from kd_knowledge.study.parentage import parentage, rates

COMMAND = 'import sys; from kd_knowledge.cli import kd_parent; sys.exit(kd_parent(sys.argv[1:]))'
N, K = 300, 5


def networks(share, seed, controls=8, pull=0.):
    "Logits of four teachers, of a student of each, of one of a fifth teacher, of one of nobody, and of controls."
    stream = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(N, K, generator=stream)
    common, own = 3*draw(), [draw() for _ in range(5)]
    suspects = {f'of {k}': common + share*o + draw() for k, o in zip('ABCDE', own)} | dict(nobody=common + draw())
    lean = pull*sum(own[:4])/4  # what all candidates share, and all of their students, but not the controls
    teachers = {k: common + o + lean for k, o in zip('ABCD', own)}
    return {k: z + lean for k, z in suspects.items()}, teachers, [common + draw() for _ in range(controls)]


@pytest.mark.parametrize('pull', [0, 2.])
def test_parents_are_found_and_nobodys_are_left_alone(pull):
    table = parentage(*networks(.5, 1, pull=pull))
    claims = table[table.p < .001]
    assert list(zip(claims.network, claims.teacher)) == [(f'of {k}', k) for k in 'ABCD']


def test_claims_without_parents_are_as_rare_as_said():
    tables = [parentage(*networks(0, seed)) for seed in range(40)]
    false = np.mean([t[t.role == 'suspect'].groupby('network').claimed.any() for t in tables])
    assert false < .08  # of 240 networks, at .05


def test_more_of_the_teacher_is_a_larger_margin():
    margin = lambda share: parentage(*networks(share, 3)).query('network == "of A" and teacher == "A"').margin.item()
    assert margin(0) < margin(.3) < margin(.9)


def test_rates_by_hand():
    rows = [('S', 'A', .5, True, 'A', 'KL'), ('S', 'B', -.5, False, 'A', 'KL'), ('U', 'A', .1, False, 'A', 'KL'),
            ('U', 'B', .4, True, 'A', 'KL'), ('Ind 9', 'A', .2, False, '', ''), ('Ind 9', 'B', -.2, False, '', '')]
    table = pd.DataFrame(rows, columns='network teacher margin claimed parent objective'.split())
    found = rates(table.assign(role='suspect', answers='logits')).set_index('suspects')
    assert found.loc['students', ['right', 'wrong', 'nearest']].tolist() == [.5, .5, .5]
    assert found.loc['students', 'auc'] == 6/8  # .5 is above all four other margins, .1 above two
    assert found.loc['untaught', 'wrong'] == 0 and found.loc['untaught', 'wrong_high'] > .7


@pytest.fixture(scope='module')
def tables(tmp_path_factory):
    "A folder with a table for each network, and the options that name them."
    folder = tmp_path_factory.mktemp('tables')
    suspects, teachers, controls = networks(.5, 1)

    def written(name, logits):
        columns = pd.DataFrame(logits.numpy(), columns=list('vwxyz')).assign(sample=[str(i) for i in range(N)])
        columns.to_parquet(folder/f'{name}.parquet')
        return f'answers:{folder/name}.parquet'

    given = lambda option, nets: [option, *(written(k.replace(' ', '-'), z) for k, z in nets.items())]
    parties = [*given('--suspects', suspects), *given('--teachers', teachers),
               *given('--controls', {f'c{i}': z for i, z in enumerate(controls)})]
    return [*parties, '--data', 'shapes', '--size', '8', '--n', str(N), '--device', 'cpu']


def test_the_command_on_tables(tables, fresh, tmp_path):
    told = fresh(COMMAND, *tables, '--out', tmp_path/'out')
    assert told.returncode == 0, told.stderr
    said = told.stdout.splitlines()
    assert said[0].startswith('of-A: student of A (p') and said[5].startswith('nobody: of none of these')
    assert said[6].startswith('8 controls: a margin above') and 'no p below 0.11' in said[6]
    assert (tmp_path/'out'/'parentage.png').exists()
    assert len(pd.read_csv(tmp_path/'out'/'parentage.csv')) == (6 + 8)*4


@pytest.mark.parametrize('change, said', [
    (lambda t: t[:-8] + t[-8:-4] + ['--n', '40', '--device', 'cpu'], 'n: 40 images are too few for 5 classes. Give 55'),
    (lambda t: ['--suspects', t[8], *t[7:]], 'has a role already. Give each network once'),
    (lambda t: ['--suspects', 'A=nowhere/net', *t[7:]], "suspects: 'A' is there already"),
    (lambda t: ['--suspects', 'nowhere/net', *t[7:]], 'suspects: ')])
def test_a_mistake_is_told_in_one_line(tables, change, said, capsys, tmp_path):
    from kd_knowledge.cli import kd_parent
    status = kd_parent([*change(tables), '--out', str(tmp_path/'out')])
    told = capsys.readouterr().err.splitlines()
    assert status == 2 and len(told) == 1 and told[0].startswith('kd_parent: ') and said in told[0]
    assert not (tmp_path/'out').exists()
