"""lm-eval's `--model subquad`: modes and arguments, and batches do not change its texts."""

import json
import subprocess
import sys

import pytest

from subquad.errors import SubquadError

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'subquad[eval]')")
PROMPTS = ["the old bird", "a river and the old house by a river", "the house"]


@pytest.fixture(scope="module")
def model(run):
    """Return the run as lm-eval opens it."""
    from lm_eval.api.registry import get_model

    return get_model("subquad")(pretrained=str(run), batch_size=3, device="cpu")


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


@pytest.mark.long
def test_lm_eval_knows_the_model_after_an_import_of_subquad():
    code = "import subquad.llm; from lm_eval.api.registry import get_model; print(get_model('subquad').__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "LinearizedLM"


def test_texts_of_a_padded_batch_are_those_of_single_prompts(model):
    def texts(prompts):
        asked = [(prompt, {"until": ["\n"], "max_gen_toks": 7}) for prompt in prompts]
        return model.generate_until(instances("generate_until", asked), disable_tqdm=True)

    together = texts(PROMPTS)
    assert together == [texts([prompt])[0] for prompt in PROMPTS]
    assert all(together)


def test_modes_of_the_attention_are_measured_by_name(run):
    from subquad.llm.evaluation.lm_eval_model import LinearizedLM

    pairs = [(" ".join(PROMPTS * 3), " the bird")]
    values = {
        mode: LinearizedLM(run, mode=mode, device="cpu").loglikelihood(
            instances("loglikelihood", pairs), disable_tqdm=True
        )[0][0]
        for mode in ("hybrid", "window", "softmax")
    }
    assert len(set(values.values())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "hybird"}, "did you mean 'hybrid'"),
        ({"max_len": 31}, "no entry of --model_args 'max_len'; did you mean 'max_length'"),
    ],
)
def test_a_wrong_argument_is_named(run, arguments, message):
    from subquad.llm.evaluation.lm_eval_model import LinearizedLM

    with pytest.raises(SubquadError, match=message):
        LinearizedLM(run, **arguments)


@pytest.mark.long
def test_lm_evals_command_measures_a_task_of_its_own(run, tmp_path):
    (tmp_path / "items.jsonl").write_text(json.dumps({"question": "the old", "answer": "bird"}) + "\n")
    (tmp_path / "toy.yaml").write_text(
        "task: toy\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{tmp_path / 'items.jsonl'}\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 5\nmetric_list:\n  - metric: exact_match\n'
    )
    command = [sys.executable, "-m", "subquad.llm.commands.lm_eval", "run", "--model", "subquad", "--tasks", "toy"]
    command += ["--model_args", f"pretrained={run}", "--include_path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "|toy" in done.stdout
    command[-3] = f"pretrained={tmp_path}"
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert f"subquad: {tmp_path}" in wrong.stderr
