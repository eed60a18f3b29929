"""The estimator: honest on casts without an effect, independent of the order of rows, exact on a hand-made case."""
import numpy as np
import pandas as pd
import pytest

from kd_knowledge.probes import ESTIMATES, Member, estimate, table, wins

CLAIMS = ('inherited', 'opposite')


def member(model, seed): return Member(model, 'control' if model == 'Ind' else 'student', seed, None)


def casts(n_casts, effects, n=300, luck=.04, seed=0):
    "Tables of many casts, each a condition of its own. effects: model -> (networks, effect, factor of a seed's luck)."
    rng, rows = np.random.default_rng(seed), []
    for cast in range(n_casts):
        hard = rng.normal(0, .15, n)
        for model, (networks, effect, factor) in effects.items():
            for s in range(networks):
                chance = .6 + hard + effect + rng.normal(0, luck*factor)
                kept = rng.random(n) < chance
                rows.append(table('colour', f'cast {cast}', 'agreement', member(model, s), range(n), kept))
    return pd.concat(rows)


def share_of_claims(found): return found.verdict.str.startswith(CLAIMS).mean()


def test_at_most_five_percent_of_verdicts_claim_an_effect_that_is_not_there(capsys):
    found = estimate(casts(400, dict(Ind=(3, 0, 1), KL=(2, 0, 1), Hint=(2, 0, 1), CRD=(2, 0, 1))))
    share, error = share_of_claims(found), 2*(.05*.95/400)**.5
    with capsys.disabled():
        print(f'\n400 casts without effect, 1200 verdicts: {100*share:.1f} % claim one (at most 5 +- {100*error:.1f})')
    assert share <= .05 + error


def test_a_small_cast_is_honest_too():
    found = estimate(casts(200, dict(Ind=(4, 0, 1), KL=(4, 0, 1)), seed=1))
    assert share_of_claims(found) <= .05 + 2*(.05*.95/200)**.5


def test_a_real_effect_is_found():
    found = estimate(casts(40, dict(Ind=(3, 0, 1), KL=(2, .25, 1), Hint=(2, 0, 1), CRD=(2, 0, 1)), seed=2))
    assert found[found.student == 'KL'].verdict.eq('inherited').mean() > .9


def test_order_of_rows_does_not_matter():
    rows = casts(1, dict(Ind=(3, 0, 1), KL=(2, .2, 1)))
    shuffled = rows.sample(frac=1, random_state=0).sort_values('probe', kind='stable')
    pd.testing.assert_frame_equal(estimate(rows), estimate(shuffled))


def test_samples_that_do_not_count_for_one_network_count_for_none():
    fooled = lambda model, values: [table('adversarial', 'teacher', 'fooled', member(model, s), range(4), values)
                                    for s in range(2)]
    ind, kl = fooled('Ind', [0, 1, 0, np.nan]), fooled('KL', [1, 1, np.nan, 1])
    row = estimate(pd.concat(ind + kl)).iloc[0]
    assert (row.n, row.value, row.control) == (2, 1., .5)


def test_own_control_is_needed():
    def rows(condition, effect):
        rng = np.random.default_rng(3)
        return [table('adversarial', condition, 'fooled', Member(m, r, s, None), range(400), rng.random(400) < .3 + e)
                for m, r, e in (('Ind', 'control', 0), ('KL', 'student', effect)) for s in range(4)]
    alone, moved = (estimate(pd.concat(rows('teacher', .4) + rows('foreign', foreign))) for foreign in (0., .4))
    assert alone[alone.condition == 'teacher'].verdict.item() == 'inherited'
    assert moved[moved.condition == 'teacher'].verdict.item() == "inherited, not from this teacher's images"
    assert set(moved[moved.condition == 'foreign'].verdict) == {'control'}


def test_star_is_the_control_of_what_its_teacher_lacks():
    rng = np.random.default_rng(4)
    rows = [table('colour', '0.4', 'agreement', Member(m, r, s, None), range(400), rng.random(400) < .4 + e)
            for m, r, e in (('Ind', 'control', 0), ('KL', 'student', .4), ('KL*', 'student', .35)) for s in range(2)]
    found = estimate(pd.concat(rows)).set_index('student').verdict
    assert found['KL'] == "inherited, not from this teacher's property" and found['KL*'] == 'control'
    assert list(estimate(pd.concat(rows)).columns) == ESTIMATES


def test_wins_of_independent_students_average_one_half():
    rng = np.random.default_rng(5)
    rows = pd.concat([table('localization', 'grad_cam', 'cosine', member(m, s), range(50), rng.random(50).round(1))
                      for m in ('Ind', 'KL') for s in range(3)])
    assert wins(rows, 'closer').query('model == "Ind"').value.mean() == pytest.approx(.5)
