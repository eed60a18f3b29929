"As many seeds as it takes: a study that was killed on the way to its precision ends as one that ran through."
import subprocess, sys, time

import pytest

from kd_knowledge.cli import kd_study
from tests.study.test_resume import COMMAND, arguments

ASKED = dict(probes='fidelity', objectives='{KL: {}}', starred=False, seeds=2, max_seeds=4, precision=.01, epochs=4, workers=1)


def words(out):
    return ['--no-starred' if w == '--starred' else w for w in arguments(out, **ASKED) if w != 'False']


def test_killed_on_its_way(tmp_path, capsys):
    "The second start begins with the seeds that the first had reached."
    assert kd_study(words(tmp_path/'through')) == 0
    told = capsys.readouterr()
    rounds = [line for line in told.out.splitlines() if line.startswith('precision: ')]
    assert rounds[0].startswith('precision: with 2 seeds fidelity of KL, the widest, ') and rounds[0].endswith('4 seeds next')
    assert 'note: precision: with 4 seeds ' in told.err and 'Give more --max-seeds' in told.err
    killed = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', COMMAND, *words(tmp_path/'killed')],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path/'killed').glob('models/KL-2*')) and killed.poll() is None: time.sleep(.02)
    killed.kill()
    killed.wait()
    assert not (tmp_path/'killed'/'finished.json').exists()
    assert kd_study(words(tmp_path/'killed')) == 0
    again = capsys.readouterr().out
    assert 'with 2 seeds' not in again and 'done before  students Ind KL, seed 1' in again
    for name in ('estimates.csv', 'accuracy.csv', 'notes.json'):
        through, after = [(tmp_path/run/name).read_text() for run in ('through', 'killed')]
        assert after == through, name
    assert 'precision: with 4 seeds' in (tmp_path/'through'/'report.html').read_text()


@pytest.mark.parametrize('wrong, said', [
    (['--precision', '0'], 'precision: must be above 0'), (['--precision', '2', '--max-seeds', '1'], 'max_seeds: 1 are fewer'),
    (['--dtype', 'float16'], 'dtype: ')])
def test_what_cannot_be(wrong, said, capsys):
    assert kd_study(wrong) == 2
    assert capsys.readouterr().err.startswith(f'kd_study: {said}')
