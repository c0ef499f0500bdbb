"""What the page on jobs promises, and what it does not, sentence by sentence, and the tests that show each.

Whoever writes another sentence there names its test here; whoever renames a test, too.
"""

from __future__ import annotations

import re

import pytest

from tests.documents import DOCS, ROOT, section

PAGE = (DOCS / "jobs.md").read_text("utf-8")

SHOWN: dict[str, tuple[str, ...]] = {
    "Once a submission is answered, the job survives the end of any process and the loss of power:": (
        "jobs/store/test_processes.py::test_a_submission_is_there_once_it_is_committed",
        "server/test_jobs_process.py::test_nothing_is_lost_with_a_process_that_is_killed",
        "jobs/store/test_faults.py::test_a_server_that_is_stopped_is_waited_for",
    ),
    "SQLite commits with `synchronous=FULL`, PostgreSQL with its `synchronous_commit`.": (
        "jobs/store/test_faults.py::test_commits_reach_the_disk",
        "jobs/test_postgresql_page.py::test_commits_are_as_durable_as_the_role_says",
    ),
    "Before that there is nothing:": ("jobs/store/test_submission.py::test_nobody_sees_a_job_that_is_being_stored",),
    "a submission that is broken off leaves no trace,": (
        "jobs/resources/test_sockets.py::test_a_client_that_leaves_amid_its_upload_leaves_nothing",
        "jobs/resources/test_submitting.py::test_a_submission_that_is_cancelled_leaves_nothing",
    ),
    "and one whose process was killed none after some minutes.": (
        "jobs/store/test_processes.py::test_a_submission_that_is_killed_leaves_nothing",
    ),
    "Every item of a job that has ended has exactly one result,": (
        "jobs/store/test_machine.py::test_it_is_as_the_model",
        "jobs/working/test_lost_workers.py::test_workers_that_are_killed",
        "jobs/store/test_ending.py::test_a_job_does_not_end_before_its_items_do",
    ),
    "and it never changes.": (
        "jobs/store/test_claims.py::test_of_two_results_the_first_stays",
        "jobs/store/test_claims.py::test_a_zombie_writes_nothing",
        "server/test_jobs_downloads.py::test_results_that_were_seen_stay",
    ),
    "Results are committed before anybody sees them,": (
        "jobs/store/test_processes.py::test_a_checkpoint_is_there_once_it_is_committed",
        "server/test_jobs_downloads.py::test_results_that_were_seen_stay",
    ),
    "and before whatever follows from them.": (
        "jobs/store/test_checkpointer.py::test_nobody_goes_on_before_the_commit",
        "jobs/working/test_outages.py::test_places_are_held_until_the_commit",
    ),
    "What a lost worker had is taken up by another when its lease is over;": (
        "jobs/working/test_lost_workers.py::test_workers_that_are_killed",
    ),
    "at once, if it stopped in an orderly way.": (
        "jobs/working/test_work.py::test_a_worker_hands_over_what_it_has",
        "server/test_jobs_process.py::test_what_runs_at_the_end_is_handed_over",
    ),
    "Only items whose results were not committed are done again.": (
        "jobs/working/test_lost_workers.py::test_workers_that_are_killed",
        "server/test_jobs_downloads.py::test_results_that_were_seen_stay",
    ),
    "A job of which every item failed is `completed`.": (
        "jobs/store/test_ending.py::test_a_job_of_failures_is_completed",
        "jobs/working/test_work.py::test_failures_of_items_are_results",
    ),
    "`failed` is one that was not valid, or whose results were taken from the store.": (
        "jobs/working/test_work.py::test_an_end_that_cannot_be_made",
        "jobs/store/test_submission.py::test_a_job_that_is_not_valid_fails",
        "jobs/working/test_work.py::test_a_job_is_validated_by_a_worker",
    ),
    "of one owner. The same content gives that job again; another is a conflict.": (
        "jobs/store/test_submission.py::test_a_key_stands_for_one_job",
        "jobs/store/test_submission.py::test_of_many_with_one_key_one_makes_the_job",
        "jobs/resources/test_submitting.py::test_a_key_stands_for_one_job",
    ),
    "A job, a file or a result is there for its owner, and for nobody else.": (
        "jobs/resources/test_watching.py::test_jobs_of_others_are_not_there",
        "jobs/resources/test_watching.py::test_a_list_is_of_ones_own",
        "jobs/openai/test_python_sdk.py::test_files_and_batches_of_others_do_not_exist",
    ),
    # Not promised
    "An item may be sent more than once: after a crash, those that were in flight at most;": (
        "jobs/working/test_lost_workers.py::test_workers_that_are_killed",
        "jobs/working/test_lost_workers.py::test_workers_that_freeze_again_and_again",
        "test_demo.py::test_the_demo_shows_all_parts_and_ends",
    ),
    "and where it may be, also when [an attempt failed](#how-jobs-are-worked-on).": (
        "jobs/working/test_retries.py::test_a_failure_that_may_pass",
        "jobs/working/test_retries.py::test_an_overload_is_no_failure",
    ),
    "Where it must not be, it may be said so, and then some end `unknown` instead:": (
        "jobs/working/test_lost_workers.py::test_a_write_is_never_sent_twice",
        "jobs/store/test_claims.py::test_what_was_intended_is_not_sent_again",
    ),
    "Items are done in no particular order, but for those that wait for each other;": (
        "jobs/working/test_work.py::test_items_wait_for_each_other_over_a_restart",
        "jobs/working/test_work.py::test_a_job_that_stops_on_an_error",
    ),
    "a chunk, by one worker at a time.": ("jobs/store/test_claims.py::test_a_claim_is_for_one_worker",),
    "What a worker that was frozen has sent is not called back.": (
        "jobs/working/test_lost_workers.py::test_a_worker_that_is_frozen_and_thawed",
    ),
    "Hints (wake-ups) may be lost. They make things quick, never right.": (
        "jobs/test_postgresql_page.py::test_without_any_hint_the_poll_does",
        "server/test_jobs_process.py::test_processes_that_only_work",
    ),
}
# What is no claim: names of paragraphs, and where to read on.
_LABEL = re.compile(r"\*\*.*?\*\*|\[see below\]\(#[a-z-]+\)\.")


def sentences() -> str:
    """All that is said, in one line."""
    said = section(PAGE, "What is promised") + section(PAGE, "What is not promised")
    return " ".join(_LABEL.sub(" ", re.sub(r"^\* ", "", said, flags=re.MULTILINE)).split())


def test_every_sentence_is_shown() -> None:
    """Each sentence of both sections has its tests, and nothing else is in the table."""
    left = sentences()
    for sentence in SHOWN:
        assert sentence in left, f"the page does not say {sentence!r}"
        left = left.replace(sentence, "", 1)
    assert left.split() == []


@pytest.mark.parametrize("test", sorted({each for tests in SHOWN.values() for each in tests}))
def test_every_test_is_there(test: str) -> None:
    """Under its name."""
    file, _, name = test.partition("::")
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE)
