"""What a study comes to in three lines, for the terminal: decided, best arm, undecided."""

from __future__ import annotations

import pandas as pd

from ablation.analysis import effects as judged
from ablation.analysis.claims import claims_counted
from ablation.analysis.effects import is_conditional
from ablation.analysis.results import Results
from ablation.formatting import effect, label, listed, over_seeds
from ablation.reporting.report import moved

# verdicts of effects about which nothing is known for sure
OPEN = (
    *(judged.NOT_SEPARABLE, judged.SEPARABLE_ON_RUN, judged.NOT_SEPARABLE_ON_RUN),
    *(judged.ONE_SEED, judged.NO_SPREAD, judged.NO_SEED),
)


def conclusion(results: Results, effects: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    """Three lines, or fewer of a study that has nothing to say on one of them.

    effects, claims: from `effects.judge` and `claims.judge_claims`; the report's answer says more.
    """
    headline = effects[effects["metric"] == results.headline]
    main = headline[headline["kind"] == "main"]
    cells = results.cells(results.headline)

    def sizes(rows: pd.DataFrame) -> list[str]:
        return [
            f"{row.effect} {effect(row.estimate, row.low, row.high)}" for row in rows.itertuples()
        ]

    # of factors that interact, a mean over levels describes no arm: each level is told
    simple = judged.level_by_level(results, headline)
    interacting = {
        factor for pair in judged.interacting_pairs(results, headline) for factor in pair
    }
    alone = main[~main["effect"].str.partition(": ")[0].isin(interacting)]
    found = [text.replace("`", "") for text in moved(alone, results.headline)]
    found += sizes(simple[~simple["verdict"].isin(OPEN)])
    lines = []
    if found:
        what = f" on {label(results.headline)}" if len(simple) else ""
        lines.append(f"decided{what}: {'; '.join(found)}")
    elif len(main):
        one_seed = " on one seed" if is_conditional(headline) or len(cells) == 1 else ""
        lines.append(f"decided{one_seed}: no effect of a factor is separable from 0")
    ranking = judged.rank(results, list(results.arms))
    if ranking:
        best = f"{ranking.best} ({over_seeds(cells[ranking.best])})"
        n_others = cells[list(results.arms)].notna().any().sum() - 1
        rivals = "any other" if len(ranking.rivals) == n_others else listed(ranking.rivals)
        if len(cells) == 1:
            lines.append(f"best arm: one seed can call none so; {best} has the best value")
        elif ranking.rivals:
            what = f"{best} has the best mean, but is not separable from {rivals}"
            lines.append(f"best arm: none can be called so; {what}")
        else:
            lines.append(f"best arm: {best}, separable from all others that finished")
    told = pd.concat([alone, simple])
    left = ", ".join(told.loc[told["verdict"].isin(OPEN), "effect"])
    counted = claims_counted(claims).replace("`", "").rstrip(".")
    if left or counted:
        lines.append(f"undecided: {'; '.join(filter(None, [left or 'no effect', counted]))}")
    return lines
