"""The command that pilots settings trains the study that was asked for, and keeps what it found."""
import pandas as pd

from tests.study import pilots

FEW = dict(n_train=32, n_probe=16, epochs=1, teacher_epochs=1, objectives=dict(KL={}), workers=1)


def test_a_pilot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pilots, 'RESULTS', tmp_path/'pilots.csv')
    for _ in range(2): pilots.pilot('default', FEW, [100], 1)
    table = pd.read_csv(pilots.RESULTS)
    assert sorted(table.network) == ['Ind', 'KL', 'T'] and set(table.world) == {100}
    assert table.accuracy.between(0, 1).all() and (table.accuracy*16 % 1 < .01).all()
    assert 'points' in capsys.readouterr().out


def test_a_preset_is_piloted_as_it_is(tmp_path):
    study = pilots.piloted('shapes-vgg13-vgg8', dict(epochs=9), 101, 2, tmp_path)
    assert (study.teacher, study.epochs, study.seed, study.seeds) == ('vgg_small', 9, 101, 2)
    assert not study.starred_students()
