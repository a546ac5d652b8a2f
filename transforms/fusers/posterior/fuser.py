"""`posterior`: one calibrated posterior from all votes, with every voter's part in it."""

from __future__ import annotations

from typing import ClassVar, Literal

import polars as pl
from pydantic import Field
from threadpoolctl import threadpool_limits

from schemas.tables import Row
from transforms.fusers.base import Fuser
from transforms.fusers.posterior.agreement import with_offset
from transforms.fusers.posterior.design import length_feature
from transforms.fusers.posterior.fit import fit_model
from transforms.fusers.posterior.slices import slice_weight
from transforms.fusers.posterior.ties import tie_probability
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.stats.agreement.learn import Agreement
from transforms.stats.human_labels import human_cells
from transforms.stats.isotonic import calibrated
from transforms.stats.known_answers import known_labels, with_known_answers, with_known_ties
from transforms.stats.verdict_rows import verdicts
from transforms.stats.vote_cells import cells_of, opinionated, valid_votes


@register("posterior")
class Posterior(Fuser):
    """Log-odds that add up: logit P(a better) = sum over voters of weight times vote.

    The model is a Bayesian logistic regression of the humans' answer on the votes.

    - A vote is its sign less the voter's position bias (known without labels: pairs are stored in hash order),
      and, for voters that give probabilities or scores, tanh(raw / 2 scale) beside it; both weights are learned.
    - A voter's weight is its group's weight shared by the members present, plus its own. Both have Gaussian
      priors, so with few labels a voter is what its group is. Voters that cast exactly the same votes are one voter,
      in one group or several; so are people, from `transforms.stats.human_labels.COPIED_BALLOTS` votes on.
    - Before any label the prior mean is what the agreement of independent voters says, if that identifies it: at least
      three voters beside the source's label, each better than chance, whose errors no test finds dependent
      (`transforms.stats.agreement`). Near-copies and voters that err together count as one, and a judge that follows
      the length says little by preferring the longer response. Certainty is then calibrated without people.
    - Where agreement identifies nothing, the prior mean comes from self-consistency: a judge whose verdict does not
      survive exchanging the responses cannot be right more often than its consistency allows (the attenuation bound of
      classical test theory, Spearman 1904). This is what keeps many weak judges with a common bias from outvoting a
      good one, where the EM of Dawid & Skene (1979) makes the majority the truth. What voters share with others or
      with the length is taken off. Such a posterior is uncalibrated: `calibrated_by` is null, and everything that
      shows its probabilities says so.
    - Slices (task kind, language, origin) move a group's weight with a prior pulled to zero.
    - Human labels may show that humans prefer the longer response; that goes into `prior`, not to a voter.
    - Hypotheses about how far labels move the weights (the priors' widths, and their scale where agreement knows it)
      are averaged by evidence (`priors.py`; MacKay 1992); one temperature, fitted out of fold by prompt (Guo et al.
      2017), divides all log-odds, so they still add up. With `calibration: isotonic` a factor by pair
      follows, which makes what prior and voters other than people say a monotone map of it (`_isotonic`).

    Humans' own votes count with the accuracy they show against controls and each other. A control's known answer
    teaches the model about everybody but its source, and no vote turns it: it appears as a contribution of the voter
    "control". Invalid, refused and
    failed votes, and voters unknown to the model, add nothing. There is no intercept, so exchanging the
    responses mirrors the verdict. With no label at all the prior mean is the model.
    """

    class Config(PluginConfig):
        """Priors; the defaults suit judges of unknown quality."""

        human_accuracy: float = Field(0.85, gt=0.5, lt=1.0)  # before any evidence about a human
        prior_tie: float = Field(0.05, gt=0.0, lt=0.5)  # share of ties before any evidence
        trust: float = Field(2.0, ge=0.0)  # log-odds of all voters agreeing when nothing identifies their reliability
        slices: tuple[str, ...] = ("kind", "language", "origin")
        folds: int = Field(5, ge=2)
        calibration: Literal["temperature", "isotonic"] = (
            "temperature"  # isotonic: a monotone map after the temperature
        )

    config: Config
    version: ClassVar[int] = 8

    def fit(self, votes: pl.DataFrame, pairs: pl.DataFrame) -> Row:
        """Learn voters' reliability.

        Args:
            votes: the `votes` table, or a sample of it by prompt.
            pairs: `pair_id, prompt_id`, the slice columns, `length_a`, `length_b`, and optionally `known_label`
                (a|b|tie, else null) for control pairs, and `drawn`, false for pairs that are in a sample for their
                labels only.

        Returns:
            The model as JSON: `voters` (reliability table: votes, ties, position bias, self-consistency, accuracy
            on labelled pairs, weights, and `log_odds` of each vote value cast alone), `humans`, `slices`,
            `length`, `agreement` (`Agreement.to_json`, and the `weight` of its view of lengths), `calibrated_by`
            ("people", "agreement" or null), `tie`, `temperature`, `isotonic` (knots of the map, null without one),
            `widths` (of the priors, with their probability), `calibration` (out of fold: ECE, accuracy, log loss, bins
            of the reliability diagram), `n_pairs`, `n_votes`, `n_labels`.
        """
        # The matrices are small: with several workers a host, BLAS threads waiting for each other cost 10x.
        with threadpool_limits(limits=1, user_api="blas"):
            return fit_model(
                valid_votes(votes),
                pairs,
                human_prior=self.config.human_accuracy,
                prior_tie=self.config.prior_tie,
                trust=self.config.trust,
                slices=self.config.slices,
                folds=self.config.folds,
                steps=self.config.calibration == "isotonic",
            )

    def apply(self, model: Row, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Posteriors of `pairs`; each depends on its own votes and the model only, so any bucketing gives the same."""
        valid = valid_votes(votes).join(
            pairs.select("pair_id").unique(), on="pair_id", how="semi", maintain_order="left"
        )
        machine = machine_cells(model, valid, pairs)
        human = human_cells(
            valid.filter(pl.col("kind") == "human"), humans_frame(model["humans"]), self.config.human_accuracy
        )
        columns = ["pair_id", "voter", "n_votes", "labels", "log_odds"]
        priors = self._priors(model, machine, pairs)
        judged, priors = calibrated(machine.select(columns), priors, model["isotonic"])
        cells = pl.concat([judged, human.select(columns)])
        p_tie, known = tie_probability(model["tie"], pairs, machine, human), known_labels(pairs)
        return verdicts(priors, valid, with_known_answers(cells, priors, known), with_known_ties(p_tie, known))

    def _priors(self, model: Row, machine: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """`pairs` with `prior`, the log-odds that no voter adds: what lengths say, and what they take off the votes."""
        prior = length_feature() * model["length"] if model["length"] else pl.lit(0.0)
        if model["agreement"]["weight"]:
            pairs = with_offset(Agreement.from_json(model["agreement"]), machine, pairs)
            prior += pl.col("offset") * model["agreement"]["weight"]
        return pairs.with_columns((prior / model["temperature"]).alias("prior"))


def machine_cells(model: Row, valid: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """`cells_of` with `log_odds`: what each voter that is not human adds, after calibration."""
    voters = pl.DataFrame(
        [{"voter": name, **row} for name, row in model["voters"].items()],
        schema={
            "voter": pl.String,
            "slot": pl.String,
            "group": pl.String,
            "kind": pl.String,
            "bias": pl.Float64,
            "scale": pl.Float64,
            "numeric": pl.Boolean,
            "ties": pl.Float64,
            "w_sign": pl.Float64,
            "w_strength": pl.Float64,
            "u_sign": pl.Float64,
            "u_strength": pl.Float64,
        },
    )
    voters = opinionated(voters)
    cells = cells_of(valid.filter(pl.col("kind") != "human"), voters).join(
        voters.select("voter", "w_sign", "w_strength", "u_sign", "u_strength", pl.col("ties").alias("usual_ties")),
        on="voter",
        how="left",
        maintain_order="left",
    )
    lifted = slice_weight(model["slices"], cells, pairs)
    own = pl.col("w_sign") * pl.col("sign") + pl.col("w_strength") * pl.col("strength")
    shared = (
        pl.col("u_sign") * pl.col("sign") + (pl.col("u_strength") + pl.col("_slice")) * pl.col("strength")
    ) / pl.col("present")
    return lifted.with_columns(((own + shared) * pl.col("share") / model["temperature"]).alias("log_odds"))


def humans_frame(humans: dict[str, Row]) -> pl.DataFrame:
    """The model's humans as `voter, slot, log_odds`."""
    rows = [(name, row["slot"], float(row["log_odds"])) for name, row in humans.items()]
    return pl.DataFrame(rows, schema={"voter": pl.String, "slot": pl.String, "log_odds": pl.Float64}, orient="row")
