"""The wait for people: look, and if answers are missing, sleep in the triggerer until the next look.

The trigger is Airflow's own `DateTimeTrigger`, so a triggerer needs nothing of ours, holds no process and may be
restarted at any time; a look is a CLI call like any other and runs where every other call runs. All state is the time
of the push, an XCom: a scheduler or worker that dies in between changes nothing.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from prefine_airflow.settings import Labels


def label_wait(base: Any) -> type[BaseOperator]:
    """The wait as an operator whose looks are calls of `base` (see `calls.call_class`)."""

    class LabelWait(base):  # type: ignore[misc]
        """Goes on when enough answers have come or the deadline has passed, and says which in `ended_by`.

        Args:
            since: when the wait began, ISO 8601; a template.
            until: when it ends; not called `labels`, for a pod has labels of its own.
        """

        template_fields = (*base.template_fields, "since")
        ui_color = "#fdf3d8"

        def __init__(self, *, since: str, until: Labels, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.since, self.until = since, until

        def execute(self, context: Context) -> dict[str, Any]:
            """Look; sleep if it is too early."""
            return self.look_again(context)

        def look_again(self, context: Context, event: Any = None) -> dict[str, Any]:
            """A look, the first or one after a sleep."""
            status: dict[str, Any] = {}
            try:
                status = self.call(context)
            except AirflowFailException:
                raise
            except AirflowException as error:
                self.log.warning("nobody could say how many labels there are; asking again later: %s", error)
            now = datetime.now(UTC)
            deadline = datetime.fromisoformat(self.since) + timedelta(hours=self.until.hours)
            ended = ended_by(status, self.until.enough, now >= deadline)
            if ended is None:
                moment = min(now + timedelta(minutes=self.until.poll_minutes), deadline)
                self.log.info("%s; next look at %s, deadline %s", progress_text(status), moment, deadline)
                self.defer(trigger=DateTimeTrigger(moment=moment), method_name="look_again")
            log = self.log.warning if ended == "deadline" else self.log.info
            log("%s; going on with what there is (%s)", progress_text(status), ended)
            return {**status, "ended_by": ended}

    return LabelWait


def ended_by(status: dict[str, Any], enough: float, late: bool) -> str | None:
    """Why the wait is over: `nothing_asked`, `enough` or `deadline`; None while it is not.

    Args:
        status: what `prefine labels --json` printed; empty if nobody could say.
    """
    if status and not status["wanted"]:
        return "nothing_asked"
    if status and status["answered"] >= math.ceil(enough * status["wanted"]):
        return "enough"
    return "deadline" if late else None


def progress_text(status: dict[str, Any]) -> str:
    """The status in words."""
    return f"{status['answered']} of {status['wanted']} answers" if status else "an unknown number of answers"
