"""Label Studio through its SDK: projects, tasks out, answers in.

Works with the open-source edition (measured with 1.23). It has no import dedupe, no roles and no
transactions across requests, so `push` announces every batch in the ledger before sending it, and
`reconcile` finds what a crash left between server and ledger. `pull` is incremental: a task's
`updated_at` moves when an answer is created, changed or deleted, and a changed task's answers replace what
was known of them. Webhooks are not used: the server sends each once, without retry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from schemas.errors import AnnotationServerError, MissingExtra
from schemas.ids import hash_fields
from schemas.secrets import Redaction
from schemas.tables import Row
from transforms.annotate.page import page_version
from transforms.annotate.tasks import (
    Tasks,
    announced,
    confirmed,
    overlap_changes,
    recovered,
    unpushed,
    with_overlap,
    without,
)

BATCH = 500
RAW = pl.Schema(
    {"project_id": pl.Int64, "task_id": pl.Int64, "id": pl.Int64, "updated_at": pl.String, "record": pl.String}
)

# No names or addresses of people, and nothing that changes by itself ("created 3 minutes ago").
_KEPT = ("id", "task", "result", "completed_by", "updated_by", "was_cancelled", "lead_time", "created_at", "updated_at")
_PAGE_SIZE = 200
_TITLE_LIMIT = 50
_MARGIN = timedelta(seconds=60)  # a change commits after it took its time stamp
_TIMEOUT = 300.0
_REFUSED = 401
_ONCE = {"max_retries": 0}  # a repeated import would make every task twice

Save = Callable[[pl.DataFrame], None]


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    ledger: pl.DataFrame
    created: int
    recovered: int  # tasks found on the server after a crash
    gone: int  # tasks that somebody deleted on the server since the last push
    overlaps_changed: int


@dataclass(frozen=True)
class Pulled:
    """The answers on the server as last seen (`RAW`) and up to when (project id -> RFC 3339)."""

    raw: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=RAW))
    cursors: dict[str, str] = field(default_factory=dict)
    fetched: int = 0
    deleted: int = 0

    def records(self) -> list[Row]:
        """The answers as the server gave them."""
        rows = self.raw.select("project_id", "record").iter_rows()
        return [json.loads(record) | {"project": project_id} for project_id, record in rows]


class LabelStudioServer:
    """A Label Studio server; `token` is a personal access token or a legacy token.

    Raises:
        MissingExtra: label-studio-sdk is not installed.
        AnnotationServerError: from every method, if the server fails; the text says what it said.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._client = self._logged_in()

    def annotators(self) -> dict[int, str]:
        """User id -> the pseudonym under which answers are stored; addresses stay on the server."""
        users = self._call("list users", lambda: list(self._client.users.list()))
        return {user.id: f"ls-user-{user.id}" for user in users}

    def project(self, name: str, owner: str, xml: str, overlap: int) -> int:
        """The id of this owner's project of this config version; made if it is missing.

        The title is all the server keeps that is ours, so it must tell apart owners who share a server and a name.
        """
        title = f"{name[: _TITLE_LIMIT - 9]} {hash_fields('project', owner, page_version(xml))[:8]}"
        listed = self._call("list projects", lambda: list(self._client.projects.list(title=title)))
        ids = sorted(p.id for p in listed if p.title == title)
        if ids:
            return int(ids[0])
        made = self._call(
            f"create project {title!r}",
            lambda: self._client.projects.create(
                title=title,
                label_config=xml,
                maximum_annotations=overlap,
                enable_empty_annotation=False,
                show_collab_predictions=False,
                show_annotation_history=False,
                skip_queue="REQUEUE_FOR_OTHERS",
                sampling="Sequential sampling",
                request_options=_ONCE,
            ),
        )
        return int(made.id)

    def task_count(self, project_id: int) -> int | None:
        """How many tasks the project has; None if there is no such project."""
        project = self._call("get project", lambda: self._client.projects.get(project_id), missing=None)
        return None if project is None else int(project.task_number or 0)

    def default_overlap(self, project_id: int) -> int:
        """How many answers the project asks for on a new task."""
        return int(self._call("get project", lambda: self._client.projects.get(project_id)).maximum_annotations or 1)

    def tasks(self, project_id: int, after: int = 0, data: bool = False) -> Iterable[Any]:
        """Tasks of the project with an id above `after`; `data` adds what they show."""
        include = "id,data" if data else "id"
        return self._tasks(project_id, [_filter("id", "greater", "Number", after)], "task_only", include)

    def add_tasks(self, project_id: int, data: Sequence[Row]) -> list[int]:
        """Import tasks in one request; their ids in the same order."""
        made = self._call(
            "import tasks",
            lambda: self._client.projects.import_tasks(
                project_id, request=[{"data": d} for d in data], return_task_ids=True, request_options=_ONCE
            ),
        )
        ids = [int(i) for i in made.task_ids or ()]
        if len(ids) != len(data):
            raise AnnotationServerError(f"{self.url} made {len(ids)} tasks of {len(data)}; push again to reconcile")
        return ids

    def set_overlap(self, task_id: int, overlap: int) -> None:
        """How many answers one task asks for."""
        self._call("change a task", lambda: self._client.tasks.update(str(task_id), overlap=overlap))

    def changed(self, project_id: int, since: str) -> dict[int, list[Row]]:
        """Tasks changed after `since` ("" for all), each with all its answers, skips included."""
        filters = [_filter("updated_at", "greater", "Datetime", since)] if since else []
        # The names apply to tasks and to their answers alike: this leaves out texts and people's names.
        tasks = self._tasks(project_id, filters, "all", ",".join(("annotations", *_KEPT)))
        return {t.id: [_kept(answer) for answer in t.annotations or ()] for t in tasks}

    def last_change(self, project_id: int) -> datetime | None:
        """When a task of the project was last changed, by the server's clock."""
        query = json.dumps({"ordering": ["-tasks:updated_at"], "filters": {"conjunction": "and", "items": []}})
        page = self._call(
            "list tasks",
            lambda: self._client.tasks.list(
                project=project_id, query=query, fields="task_only", include="id,updated_at", page_size=1
            ),
        )
        return page.items[0].updated_at if page.items else None

    def _tasks(self, project_id: int, filters: list[Row], fields: str, include: str) -> list[Any]:
        query = json.dumps({"ordering": ["tasks:id"], "filters": {"conjunction": "and", "items": filters}})
        return list(
            self._call(
                "list tasks",
                lambda: list(
                    self._client.tasks.list(
                        project=project_id, query=query, fields=fields, include=include, page_size=_PAGE_SIZE
                    )
                ),
            )
        )

    def _logged_in(self) -> Any:
        try:
            from label_studio_sdk import LabelStudio
        except ImportError:
            raise MissingExtra(
                "Label Studio needs label-studio-sdk: install the extra `prefine[annotate]`, or use "
                "annotations.jsonl (annotate.plugin: files), which needs no server"
            ) from None
        return self._guarded("log in", lambda: LabelStudio(base_url=self.url, api_key=self._token, timeout=_TIMEOUT))

    def _call(self, what: str, ask: Callable[[], Any], **missing: Any) -> Any:
        """The answer; a personal token's bearer lives 300 s by the server's clock, so a refusal is asked once more."""
        try:
            return self._guarded(what, ask, **missing)
        except AnnotationServerError as error:
            if getattr(error.__cause__, "status_code", None) != _REFUSED:
                raise
        self._client = self._logged_in()
        return self._guarded(what, ask, **missing)

    def _guarded(self, what: str, ask: Callable[[], Any], **missing: Any) -> Any:
        """The answer; `missing=x` gives x if the server knows no such thing."""
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        redacted = Redaction([self._token]).error
        try:
            return ask()
        except ApiError as error:
            if error.status_code == 404 and "missing" in missing:
                return missing["missing"]
            detail = error.body.get("detail", error.body) if isinstance(error.body, dict) else error.body
            hint = "; is the token valid and of this server?" if error.status_code in (401, 403) else ""
            reply = redacted(str(detail))[:500]
            raise AnnotationServerError(
                f"cannot {what} at {self.url}: status {error.status_code}, {reply}{hint}"
            ) from error
        except httpx.HTTPError as error:
            raise AnnotationServerError(
                f"cannot {what} at {self.url}: {type(error).__name__} {redacted(str(error))}; is the server running? "
                "Run again to go on"
            ) from error


def push(
    server: LabelStudioServer,
    queue: pl.DataFrame,
    tasks_of: Tasks,
    ledger: pl.DataFrame,
    save: Save,
    *,
    name: str,
    owner: str,
    batch_size: int = BATCH,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pushed:
    """Make the server ask what the queue says; doing it again changes nothing.

    Tasks with different pages (with or without a context, images, a ranking) are in different projects.

    Args:
        queue: `schemas.tables.Queue`.
        tasks_of: the tasks of queue rows; asked for one batch at a time.
        ledger: as last saved.
        save: stores the ledger durably; called before and after every batch.
        name: of the project.
        owner: whose ledger this is: another owner's tasks are never in the same project, whatever its name.
        batch_size: tasks a request.
        progress: told how many tasks of how many are made.
    """
    ledger, n_recovered, gone = reconcile(server, ledger)
    save(ledger)
    todo = unpushed(queue, ledger)
    usual = int(queue["overlap"].mode().sort().first() or 1) if queue.height else 1  # type: ignore[arg-type]
    projects: dict[str, tuple[int, int]] = {}
    done = 0
    for batch in todo.iter_slices(batch_size):
        tasks = tasks_of(batch)
        for xml in dict.fromkeys(task.page for task in tasks):
            chosen = [task.page == xml for task in tasks]
            part, data = batch.filter(pl.Series(chosen)), [task.data for task in tasks if task.page == xml]
            page = page_version(xml)
            if page not in projects:
                project_id = server.project(name, owner, xml, usual)
                projects[page] = project_id, server.default_overlap(project_id)
            project_id, overlap = projects[page]
            ledger = announced(ledger, part, project_id, page, overlap)
            save(ledger)
            ids = server.add_tasks(project_id, data)
            ledger = confirmed(ledger, project_id, dict(zip(part["pair_id"], ids, strict=True)))
            save(ledger)
            done += part.height
            progress(done, todo.height)
    changes = overlap_changes(queue, ledger)
    for task_id, wanted in changes.iter_rows():
        server.set_overlap(task_id, wanted)
        ledger = with_overlap(ledger, task_id, wanted)
    save(ledger)
    return Pushed(ledger, done, n_recovered, gone, changes.height)


def reconcile(server: LabelStudioServer, ledger: pl.DataFrame) -> tuple[pl.DataFrame, int, int]:
    """Bring the ledger to what is on the server: the ledger, tasks recovered, tasks gone.

    Ids grow, so what a crash left unconfirmed lies above the project's last known id; only where numbers
    still differ are all ids compared.
    """
    n_recovered, already_gone = 0, int(ledger["gone"].sum())
    for project_id in ledger["project_id"].unique().sort():
        mine = ledger.filter(pl.col("project_id") == project_id)
        count = server.task_count(project_id)
        if count is None:
            ledger = without(ledger, project_id, ())
        else:
            if mine["task_id"].null_count():
                last = int(mine["task_id"].max() or 0)  # type: ignore[arg-type]
                tasks = [(t.id, (t.data or {}).get("pair_id")) for t in server.tasks(project_id, last, data=True)]
                news = recovered(tasks, mine)
                ledger = confirmed(ledger, project_id, news)
                n_recovered += len(news)
            mine = ledger.filter(pl.col("project_id") == project_id, pl.col("task_id").is_not_null(), ~pl.col("gone"))
            if mine.height != count:
                ledger = without(ledger, project_id, [t.id for t in server.tasks(project_id)])
    return ledger, n_recovered, int(ledger["gone"].sum()) - already_gone


def pull(server: LabelStudioServer, ledger: pl.DataFrame, state: Pulled) -> Pulled:
    """Fetch what changed; doing it again changes nothing.

    An answer that was deleted on the server is gone from the result. Answers to a task or project that was
    deleted as a whole are kept: they were given, and only the question was taken back.
    """
    raw, cursors, fetched, deleted = state.raw, dict(state.cursors), 0, 0
    for project_id in ledger["project_id"].unique().sort():
        if server.task_count(project_id) is None:
            continue
        until = server.last_change(project_id)
        tasks = server.changed(project_id, cursors.get(str(project_id), ""))
        mine = pl.DataFrame(
            [
                {
                    "project_id": project_id,
                    "task_id": task_id,
                    "id": record["id"],
                    "updated_at": _stamp(record["updated_at"]),
                    "record": json.dumps(record, sort_keys=True),
                }
                for task_id, answers in tasks.items()
                for record in answers
            ],
            schema=RAW,
        )
        there = pl.col("task_id").is_in(pl.Series(list(tasks), dtype=pl.Int64).implode())
        old = raw.filter((pl.col("project_id") == project_id) & there)
        deleted += old.join(mine, on="id", how="anti").height
        fetched += mine.join(old, on=["id", "updated_at"], how="anti").height
        raw = pl.concat([raw.join(old, on=["project_id", "id"], how="anti"), mine]).sort("project_id", "task_id", "id")
        if until is not None:
            cursors[str(project_id)] = (until - _MARGIN).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return Pulled(raw, cursors, fetched, deleted)


def _stamp(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _kept(answer: Any) -> Row:
    values = answer if isinstance(answer, dict) else json.loads(answer.json())
    return {name: values.get(name) for name in _KEPT}


def _filter(column: str, operator: str, kind: str, value: Any) -> Row:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}
