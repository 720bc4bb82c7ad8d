"""The rules of the verdict, in one table: a number each, two limits, and what to do next.

Every number is made so that smaller is better. ``good`` and ``look`` are the largest numbers that get these marks;
above ``look`` the mark is "do not use", for what the rule is about and for nothing else. `docs/report.md` is this table
in words.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

GOOD, LOOK, BAD = "good", "look", "do not use"
MARKS = (GOOD, LOOK, BAD)


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        about: "predictions", or "model": the model and the posterior of its latents.
        question: What it asks, answered by the mark.
        means: What that means, in a sentence without a term.
        number: What its number is.
        good: Largest number that is good.
        look: Largest number that asks for a look.
        evidence: Why these limits.
        then: What to do where the mark is not "good".
        howto: Name of the page in ``docs/howto`` that says how.
    """

    about: str
    question: str
    means: str
    number: str
    good: float
    look: float
    evidence: str
    then: str
    howto: str


RULES: dict[str, Rule] = {
    "labels": Rule(
        "predictions",
        "Are there enough labels to tell?",
        "Every number here is estimated from labels: with few of them it is a guess.",
        "standard error of a coverage of 90 % by as many independent labels as there are, to learn from or to score on "
        "(the fewer), in percentage points",
        3.0, 6.0,
        "sqrt(0.9 × 0.1 / n): 3 points take 100 labels, 6 points 25; below that, no other line of this page is sure",
        "Label more rows, of many groups rather than many of one. Until then take the model's numbers for a guess.",
        "missing",
    ),
    "mean": Rule(
        "predictions",
        "Does it know more than the mean?",
        "The least that a model has to beat.",
        "error of the fit less that of the mean of the labels, in standard errors of the difference by group",
        -2.0, -1.0,
        "two standard errors: a fit that knows nothing passes in one of forty cases; targets that were shuffled do not",
        "Check that targets and inputs belong to the same rows (a join, a shift in time), and that the inputs can know "
        "the target at all: look at the errors over inputs.",
        "own_table",
    ),
    "rivals": Rule(
        "predictions",
        "Does it beat simple methods?",
        "Methods that train in seconds, on the same labels and rows.",
        "error of the fit less that of the best simple method, in standard errors of the difference by group",
        -2.0, 2.0,
        "two standard errors on either side; the best of several rivals is chosen on the same rows, which favours it",
        "Where a simple method is better, use it. Where neither is, choose by cost, or by what else the model tells "
        "(intervals, latents, missing data); more labels or groups narrow the difference.",
        "compare",
    ),
    "clock": Rule(
        "predictions",
        "Does it know more than the clock?",
        "A model may have learned when something happens in place of what it measures.",
        "error of the fit less that of extra trees on the time alone, in standard errors of the difference by group",
        -2.0, 2.0,
        "two standard errors: what the time alone predicts as well may be a protocol or a drift, learned for a signal",
        "Ask whether the time will mean the same in use. Score on groups with another order of events, or remove what "
        "follows the clock from the inputs.",
        "time_ordered",
    ),
    "coverage": Rule(
        "predictions",
        "Are its probabilities right?",
        "A 90 % interval should hold 90 of 100 values, and what is said to be 90 % probable be right in 90 of 100 "
        "cases.",
        "largest distance of the coverage from 50, 80 and 90 % (for classes: of mean confidence from accuracy), less "
        "two standard errors by group, in percentage points",
        3.0, 10.0,
        "two standard errors keep chance out; 10 points make a 90 % interval one of 80 %, which misses twice as often",
        "Fit by zoo.cross_fitted, with labels held out as the rows to be predicted lie (by=, in the shell --held-out); "
        "where that was done, calibrate by zoo.cross_conformal on labels that did not train, or label more rows. Score "
        "later rows or new groups if these are to be predicted.",
        "intervals",
    ),
    "range": Rule(
        "predictions",
        "Are the rows like those of the training data?",
        "Where the inputs are unlike all that was trained on, no network knows what it says.",
        "share of the scored rows with an input outside the training range widened by 5 % on each side, less that of "
        "the training rows outside the range of the others (of other groups, if those scored are new), in percent",
        5.0, 20.0,
        "what is subtracted is chance, which grows with the number of inputs; 5 points more are rows of another kind",
        "Do not trust predictions of those rows. Add such rows to the training data, also without labels where the "
        "model takes them, or look for a sensor that drifts.",
        "new_units",
    ),
    "ppc": Rule(
        "model",
        "Does the model make data like these?",
        "Data drawn from the fitted model, beside the data.",
        "share of the statistics of predictive checks whose p is below 0.005 or above 0.995, in percent",
        5.0, 50.0,
        "1 % fail by chance where model and data agree",
        "To simulate, impute or detect faults, first change the model where the words of section 4 say that it fails. "
        "Predictions are judged by the lines above.",
        "posterior_right",
    ),
    "training": Rule(
        "model",
        "Has the training ended?",
        "The ELBO is what training makes larger; while it rises, the fit is not ready.",
        "rise of the ELBO over the last fifth of the training, less two standard errors, in nats per observed number",
        0.02, 0.2,
        "0.02 nats is what an sd that is wrong by 10 % costs a Gaussian prediction, 0.2 one that is wrong by a third",
        "Train longer (steps=, in the shell --steps; zoo.fit(resume=True) goes on from a checkpoint), or with another "
        "learning rate.",
        "resume",
    ),
    "restarts": Rule(
        "model",
        "Do the restarts agree?",
        "Fits of the same model from other initial weights should say the same.",
        "root mean square difference of two restarts' predictions, in predictive standard deviations (for classes: "
        "mean distance of probabilities)",
        0.3, 1.0,
        "0.3 sd widens an honest sd by 4 %; restarts that differ by an sd do not know what the intervals claim",
        "Train each of them longer (steps=, in the shell --steps), or label more rows. Predict with several restarts "
        "(restarts=4), whose mixture is wider where they disagree, and do not read latents that only one of them has.",
        "posterior_right",
    ),
    "khat": Rule(
        "model",
        "Is the guide wide enough?",
        "The guide is the family in which the posterior of the latents was sought; too narrow a one gives latents "
        "too small standard deviations. Pareto k measures it.",
        "share of the Pareto k above 0.7, of those that could be told, in percent",
        5.0, 25.0,
        "above 0.7 importance weights are unreliable (Vehtari et al. 2024); a few of many positions pass it by chance",
        "Do not read the latents' sds. Try a guide that is wider or correlated (see the card), more steps, or MCMC on "
        "the groups; predictions are judged by the coverage.",
        "own_guide",
    ),
    "prior": Rule(
        "model",
        "Does the answer rest on the prior?",
        "What was assumed before the data should not decide the answer.",
        "largest over the sites of the root mean square shift of predictions, when the power of the prior is halved or "
        "doubled, in predictive standard deviations",
        0.1, 0.5,
        "a shift of 0.1 sd costs 0.005 nats per row; one of 0.5 is seen in every interval",
        "Give a reason for that prior, or a wider one (priors={site: ...}), and report predictions under both.",
        "own_prior",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """One line of the verdict.

    Attributes:
        rule: Name of the rule.
        mark: "good", "look" or "do not use".
        says: What was found, with its number.
        value: The rule's number; None if it could not be told, which asks for a look.
        rule_text: The rule with its limits.
        then: What to do next; empty if the mark is good.
    """

    rule: str
    question: str
    mark: str
    says: str
    value: float | None
    rule_text: str
    then: str

    def as_json(self) -> dict[str, Any]:
        """The line as JSON holds it."""
        return asdict(self)


def limit(value: float) -> str:
    """A limit as the page shows it.

    Args:
        value: The limit.
    """
    return f"{value:g}".replace("-", "−")


def judge(name: str, value: float | None, says: str) -> Mark:
    """Apply a rule to its number.

    Args:
        name: Name of the rule.
        value: Its number; None, or one that is not a number, if it could not be told.
        says: What was found, in words.

    Example:
        >>> from pyrozoo.reports.rules import judge
        >>> judge("coverage", 12.0, "90 % intervals hold 78 % of the rows").mark
        'do not use'
    """
    rule = RULES[name]
    known = value is not None and not math.isnan(value)
    mark = LOOK if value is None or not known else GOOD if value <= rule.good else LOOK if value <= rule.look else BAD
    text = f"{rule.number}: good up to {limit(rule.good)}, look up to {limit(rule.look)}"
    page = f" How-to: docs/howto/{rule.howto}.md."
    then = rule.then + page if known else "Nothing was judged here; what was found says what is missing."
    return Mark(name, rule.question, mark, says, value if known else None, text, "" if mark == GOOD else then)
