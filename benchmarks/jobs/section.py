"""Goals J1 to J8, and what measures each.

Knows: the limits, and what others reached. Must not know: how anything is measured.
"""

from collections.abc import Mapping
from functools import partial

from benchmarks.jobs.in_the_app import measure_large, measure_live
from benchmarks.jobs.over_http import measure_http, measure_submissions
from benchmarks.jobs.stores import DATABASES
from benchmarks.jobs.throughput import WORKERS, measure_owners, measure_store
from benchmarks.readings import Goal, Section

PROTOTYPE = 4700
"""The least that a prototype of the store did in a second, without an engine and without HTTP."""
MOST_MEGABYTES = 100

ELSEWHERE = {
    "J1 SQLite 1": "prototype 8,565; DBOS 151 to 314",
    "J1 SQLite 2": "prototype 8,700",
    "J1 PostgreSQL 1": "prototype 8,376; pgqueuer 9,854; saq 486; procrastinate 426; DBOS 223",
    "J1 PostgreSQL 2": "prototype 12,900",
    "J2 SQLite": "items a second, Redis: taskiq 3,275; saq 2,145; dramatiq 1,791; arq 1,239; streaq 857; Celery 812",
    "J2 PostgreSQL": "items a second: taskiq and NATS 4,579; Restate 479",
}
"""Of a study that was made before the code was written, on a machine like this: tasks that do nothing."""


def _many(workers: int) -> str:
    return "one worker" if workers == 1 else f"{workers} workers"


GOALS: Mapping[str, Goal] = {
    **{
        f"J1 {database} {count}": Goal(
            text=f"items a second without HTTP, {database}, {_many(count)}",
            at_least=PROTOTYPE if count == 1 else None,
            elsewhere=ELSEWHERE[f"J1 {database} {count}"],
        )
        for database in DATABASES
        for count in WORKERS
    },
    **{
        f"J2 {database}": Goal(
            text=f"CPU of an item, in a job, {database} / batch of 100", elsewhere=ELSEWHERE[f"J2 {database}"]
        )
        for database in DATABASES
    },
    **{
        f"J3 {database} {count}": Goal(text=f"items a second passed on, {database}, {_many(count)}")
        for database in DATABASES
        for count in WORKERS
    },
    **{
        f"J4 {database} {form}": Goal(text=f"{text}, {database}")
        for database in DATABASES
        for form, text in {
            "JSON": "submissions of 100 items a second, JSON",
            "lines": "lines a second of a submission of 50,000",
            "async": "wait for a batch of 10, as a job / at once",
        }.items()
    },
    "J5 upload": Goal(text="growth of memory, MB, while 200 MB of lines arrive", at_most=MOST_MEGABYTES),
    "J5 work": Goal(text="the same, while the job runs"),
    "J5 download": Goal(text="the same, while its results are read", at_most=MOST_MEGABYTES),
    "J6": Goal(text="seconds until the first result, while the job runs"),
    "J7": Goal(text="p99 of single requests, beside a job / alone"),
    **{
        f"J8 {database}": Goal(text=f"seconds for a job of 10, beside one of 50,000, {database}")
        for database in DATABASES
    },
}

SECTION = Section(
    name="jobs",
    title="Jobs",
    measures={
        "jobs-sqlite": partial(measure_store, "SQLite"),
        "jobs-postgresql": partial(measure_store, "PostgreSQL"),
        "jobs-http": measure_http,
        "jobs-submitted": measure_submissions,
        "jobs-large": measure_large,
        "jobs-live": measure_live,
        "jobs-owners": measure_owners,
    },
    goals=GOALS,
    thorough={"jobs-postgresql", "jobs-http", "jobs-submitted", "jobs-large", "jobs-live", "jobs-owners"},
)
