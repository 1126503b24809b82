"""The demo: two jobs at a time, a page after each, and errors that do not stop the other jobs."""

from dataclasses import replace

import pytest

from subquad import demo as module
from subquad.demo import demo
from subquad.errors import SubquadError
from subquad.reporting.page import Section
from subquad.runs.storage import write_json


def job(name, commands):
    return module._Job(
        name=name,
        title=f"Job {name}",
        commands=commands,
        section=lambda run: Section("", [f"The result of {run.name}."]),
        result=lambda metrics: (f"ours {metrics['test']}", "baseline 0.5"),
    )


@pytest.fixture
def jobs(monkeypatch):
    """Replace the three jobs by finished runs without commands; a test may set commands of its own."""
    own = {name: job(name, ()) for name in ("llm", "bio", "hep")}
    for name in own:
        monkeypatch.setattr(module, f"_{name}", lambda *_, _name=name, **__: own[_name])
    return own


def test_the_summary_of_sequences_names_the_ensemble_the_weight_of_lyra_and_each_model(tmp_path):
    values = {"ridge": 0.91, "boosting": 0.88, "mlp": 0.93, "lyra-additive": 0.915, "lyra": 0.92, "ensemble": 0.94}
    metrics = {
        "test": {name: {"spearman": value} for name, value in values.items()},
        "weights": {"ensemble": {"ridge": 0.0, "boosting": 0.1, "mlp": 0.65, "lyra": 0.25}},
    }
    ours, baselines = module._bio(tmp_path, quick=False).result(metrics)
    assert ours == "Spearman: ensemble 0.940 (weight of lyra 0.25), lyra 0.920"
    assert baselines == "ridge 0.910, boosting 0.880, mlp 0.930"


def finish(out, *names, quick=False):
    write_json(out / "demo.json", {"quick": quick, "seed": 0, "text": None})
    for name in names:
        write_json(out / name / "metrics.json", {"test": 0.7, "seconds": {"total": 61.0}})


def test_finished_runs_are_shown_and_not_repeated(tmp_path, jobs, capsys):
    finish(tmp_path, "llm", "bio", "hep")
    jobs["bio"] = replace(jobs["bio"], commands=(("no-such-command",),))
    demo(out=tmp_path, quiet=True)
    html = (tmp_path / "report.html").read_text()
    assert all(f"The result of {name}." in html for name in jobs)
    assert "ours 0.7" in capsys.readouterr().out
    lead = html.split("<header>")[1].split("</header>")[0]
    assert all(f"Job {name}: ours 0.7; baselines: baseline 0.5." in lead for name in jobs)


@pytest.mark.long
def test_a_failed_job_is_reported_and_the_others_are_finished(tmp_path, jobs):
    finish(tmp_path, "llm", "hep")
    jobs["bio"] = replace(jobs["bio"], commands=(("bio", "fit", "missing.csv", "--out", str(tmp_path / "bio")),))
    with pytest.raises(SubquadError, match=r"Job bio: subquad bio fit missing.csv .* failed:\n(.*\n)*.*no such file"):
        demo(out=tmp_path, quiet=True)
    html = (tmp_path / "report.html").read_text()
    assert "The result of llm." in html
    assert "The result of bio." not in html
    assert "Job bio: not finished." in html


def test_a_text_that_is_not_there_is_refused_before_any_work(tmp_path):
    with pytest.raises(SubquadError, match=r"missing.txt: no such file \(--text\)"):
        demo(out=tmp_path / "demo", text=tmp_path / "missing.txt")
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_another_demo_is_not_shown_as_this_one(tmp_path, jobs):
    finish(tmp_path, "llm", "bio", "hep", quick=True)
    demo(out=tmp_path, quick=True, quiet=True)
    demo(out=tmp_path, quick=True, quiet=True)
    with pytest.raises(SubquadError, match=r"holds a demo with other settings \(quick was True and is False; seed"):
        demo(out=tmp_path, seed=3, quiet=True)
