"""Each test runs in one of the tiers of run.py, in each of its jobs."""

import jobs
import pytest
import run


@pytest.fixture
def slow(request):
    """Returns pairs of a job and a file that the second tier must have."""
    items = request.config.stash[jobs.COLLECTED]
    root = request.config.rootpath
    return {
        (job, item.path.relative_to(root).as_posix())
        for item in items
        for job in jobs.jobs_of(item)
        if jobs.is_slow(item, job)
    }


def test_the_second_tier_has_all_that_is_slow(slow):
    tier = [(job, file) for job, *files in run.SECOND_TIER for file in files]
    assert slow <= set(tier)
    assert len(tier) == len(set(tier))


def test_the_first_tier_has_all_that_is_not(request):
    whole = {job for job, *arguments in run.FIRST_TIER if "tests" in arguments}
    named = {
        (job, argument) for job, *rest in run.FIRST_TIER for argument in rest
    }
    for item in request.config.stash[jobs.COLLECTED]:
        file = item.path.relative_to(request.config.rootpath).as_posix()
        for job in jobs.jobs_of(item):
            assert (
                jobs.is_slow(item, job) or job in whole or (job, file) in named
            )


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(run, "is_installed", lambda name: name != "openvino")
    assert run.missing_packages(browser=False) == ["openvino"]
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    assert run.missing_packages(browser=True) == ["openvino", "chromium"]
