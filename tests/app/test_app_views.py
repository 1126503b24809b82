"""Views: what the page shows of a job."""

import time

import pytest

from subquad.app.jobs import Jobs
from subquad.app.views import result_view, status_view


@pytest.fixture
def job_of(tmp_path):
    def make(script, *, title="A job", file="", **files):
        jobs = Jobs(tmp_path / "jobs", 1, ("/bin/sh", "-c", script))
        folder = jobs.new()
        for name, content in files.items():
            path = folder / "out" / name.replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        job = jobs.start(folder, ["bio", "fit"], title=title, file=file)
        while job.state in ("waiting", "running"):
            time.sleep(0.01)
        jobs.close()
        return job

    return make


def test_a_report_is_shown_in_a_sandbox(job_of):
    job = job_of("true", report_html="<p>The report</p>", table_csv="a\n1\n")
    shown = result_view(job)
    assert 'sandbox="allow-scripts' in shown
    assert "allow-same-origin" not in shown
    assert f"gradio_api/file={job.folder}/A-job/report.html" in shown
    assert 'download="table.csv"' in shown
    assert "finished" in status_view(job)


def test_a_table_is_shown_where_there_is_no_report_and_cannot_hold_markup(job_of):
    shown = result_view(job_of("true", file="predictions.csv", predictions_csv="sequence,prediction\n<b>A</b>,0.25\n"))
    assert "<td>&lt;b&gt;A&lt;/b&gt;</td>" in shown
    assert "<td>0.25</td>" in shown


def test_an_error_is_shown_with_all_its_lines(job_of):
    job = job_of("echo 'reading'; echo 'subquad: two values are wrong'; echo '  row 3: <i>'; exit 2", title="<b>")
    shown = status_view(job)
    assert "two values are wrong\n  row 3: &lt;i&gt;" in shown
    assert "reading" not in shown
    assert "&lt;b&gt; failed" in shown


def test_an_interrupted_job_shows_how_far_it_was(job_of):
    shown = status_view(job_of("echo 'Lyra: 1,200/4,000, 20 s, 40 s left'; exit 143"))
    assert "Resume" in shown
    assert 'value="1200" max="4000"' in shown
