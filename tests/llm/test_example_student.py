"""The linearized model that ships with the package is used like any other run."""

from pydoc_data.topics import topics

import pytest
import torch

import subquad.llm
from subquad.llm.evaluation.model_variants import models_to_evaluate
from subquad.llm.models.checkpoints import has_tokenizer, open_checkpoint, open_tokenizer
from subquad.runs.examples import run_folder
from subquad.runs.folder import stamp_of

NAME = "example:linear-smollm2"


@pytest.mark.long
def test_it_predicts_help_topics_better_than_its_teacher(smollm2):
    student, tokenizer = subquad.llm.load(NAME)
    teacher = open_checkpoint(smollm2)
    ids = tokenizer(topics["typesmapping"], return_tensors="pt")["input_ids"][:, :800]
    with torch.no_grad():
        losses = [float(model(ids, labels=ids).loss) for model in (student, teacher)]
    # 0.13 less, by fine-tuning on these topics; a student without its updates is worse than its teacher
    assert losses[0] < losses[1] - 0.06


@pytest.mark.long
def test_its_tokenizer_for_measurements_is_that_of_its_teacher(smollm2):
    model, *others = models_to_evaluate([run_folder(NAME)])
    assert others == []
    assert not has_tokenizer(model.folder)
    text = "Lists and tuples"
    assert model.tokenizer().encode(text) == open_tokenizer(smollm2).encode(text)


def test_its_folder_is_a_run_and_names_no_folder_of_the_machine_that_made_it():
    folder = run_folder(NAME)
    assert stamp_of(folder)["kind"] == "llm"
    for path in folder.iterdir():
        assert b"/root/" not in path.read_bytes()
