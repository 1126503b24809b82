"""A chat asks a softmax teacher and a linear student the same question, and shows their speed and memory."""

import os
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio")

from support.llm_models import byte_tokenizer, linear_model, tiny_model

from subquad.app.chats import Chat, Chats, Side
from subquad.app.language import build_language
from subquad.app.language_results import chat_view, opening_view
from subquad.errors import SubquadError
from subquad.llm.serving.chat import ChatSession
from subquad.llm.serving.settings import ChatSettings


@pytest.fixture
def chat(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    models = {"teacher": tiny_model("llama", vocab_size=283), "student": linear_model()}
    settings = ChatSettings(temperature=0.0, max_new_tokens=40)
    return Chat(
        folder=tmp_path,
        sides={name: Side(ChatSession(model, tokenizer, settings)) for name, model in models.items()},
    )


def test_both_models_answer_and_only_the_cache_grows(chat):
    for question in ("the bird sings " * 8, "a river " * 8):
        for _ in chat.answers(question, threading.Lock()):
            pass
    teacher, student = chat.sides["teacher"], chat.sides["student"]
    assert [question for question, _ in teacher.turns] == [question for question, _ in student.turns]
    assert all(answer for side in (teacher, student) for _, answer in side.turns)
    assert teacher.speed > 0
    assert student.speed > 0
    sizes = {name: [size for _, size in side.memory] for name, side in chat.sides.items()}
    assert sizes["teacher"] == sorted(sizes["teacher"])
    assert sizes["teacher"][-1] > 2 * sizes["teacher"][0]
    assert sizes["student"][-1] == sizes["student"][0]
    html = chat_view(chat)
    assert "MiB cache for" in html
    assert "MiB state for" in html
    assert html.count("tokens per second") == 2


def remembered(side):
    """Return questions and answers that the model of a side remembers."""
    texts = [message["content"] for message in side.chat.messages if message["role"] != "system"]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_memory_has_its_name_before_anything_was_answered(chat):
    html = chat_view(chat)
    assert html.index("MiB cache for") < html.index("MiB state for")


def test_what_a_model_writes_is_escaped(chat):
    chat.sides["student"].turns.append(("<b>", "<script>"))
    assert "<script>" not in chat_view(chat)


def test_a_stopped_answer_is_kept(chat, monkeypatch):
    monkeypatch.setattr("subquad.app.chats.SECONDS_BETWEEN_VIEWS", 0)
    for number, _ in enumerate(chat.answers("the bird", threading.Lock())):
        if number == 5:
            chat.stop()
    for side in chat.sides.values():
        # of 40
        assert 5 <= side.tokens <= 7
        assert len(side.turns) == 1
        assert remembered(side) == side.turns


def test_an_answer_is_kept_as_far_as_it_was_written_when_the_page_is_loaded_again(chat, monkeypatch):
    monkeypatch.setattr("subquad.app.chats.SECONDS_BETWEEN_VIEWS", 0)
    lock = threading.Lock()
    answers = chat.answers("the bird", lock)
    for _ in range(5):
        next(answers)
    answers.close()
    assert not lock.locked()
    for side in chat.sides.values():
        assert [question for question, _ in side.turns] == ["the bird"]
        assert remembered(side) == side.turns
    for _ in chat.answers("a river", lock):
        pass
    for side in chat.sides.values():
        assert [question for question, _ in side.turns] == ["the bird", "a river"]
        assert remembered(side) == side.turns


@pytest.mark.parametrize("strict", ["teacher", "student"])
def test_a_question_that_one_model_refuses_is_no_turn_of_either(chat, strict):
    for _ in chat.answers("the bird", threading.Lock()):
        pass
    before = {name: list(side.turns) for name, side in chat.sides.items()}
    chat.sides[strict].chat._model.config.max_position_embeddings = 100
    with pytest.raises(SubquadError, match=r"at most 100; start a new chat, or give a shorter turn$"):
        list(chat.answers("a green river " * 12, threading.Lock()))
    for name, side in chat.sides.items():
        assert side.turns == before[name] == remembered(side)
    assert "reading the question" not in chat_view(chat)


def test_a_second_question_in_the_same_chat_follows_the_first_answer(chat, monkeypatch):
    # a view after each token: a fast machine would end the first answer before its first view
    monkeypatch.setattr("subquad.app.chats.SECONDS_BETWEEN_VIEWS", 0)
    lock, seen = threading.Lock(), []
    first, second = (chat.answers(text, lock) for text in ("the bird", "a river"))
    while not chat.sides["student"].turns:
        # the first view comes after some tokens
        next(first)
    assert next(second)
    assert "Another answer is being written" in chat_view(chat, is_waiting=True)
    asked = threading.Thread(target=lambda: seen.extend(second))
    asked.start()
    for is_waiting in first:
        assert not is_waiting
        assert [question for question, _ in chat.sides["teacher"].turns] == ["the bird"]
    asked.join(60)
    for side in chat.sides.values():
        assert [question for question, _ in side.turns] == ["the bird", "a river"]
        assert all(answer for _, answer in side.turns)
    assert not chat.is_busy


def test_a_folder_without_a_linearized_model_is_refused(tmp_path):
    with pytest.raises(SubquadError, match="no such model folder"):
        Chats().start("user", tmp_path / "none", ChatSettings())
    assert Chats().find("user") is None
    assert chat_view(None).startswith('<p class="sq-hint">')


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Return the names of the models that are opened; all are the same tiny one."""
    names = []

    def models_of(folder):
        names.append(folder.name)
        return linear_model(), byte_tokenizer(tmp_path)

    monkeypatch.setattr("subquad.app.chats.load", models_of)
    monkeypatch.setattr("subquad.app.chats.open_checkpoint", lambda path: tiny_model("llama", vocab_size=283))
    variants = [SimpleNamespace(role="teacher", path=tmp_path)]
    monkeypatch.setattr("subquad.app.chats.models_to_evaluate", lambda folders: [SimpleNamespace(variants=variants)])
    return names


@pytest.fixture
def idle(monkeypatch):
    """Let no chat be busy from its opening on."""
    monkeypatch.setattr("subquad.app.chats.SECONDS_TO_ASK", 0)


def test_the_ninth_chat_ends_the_one_that_was_not_used_for_longest_and_says_so(opened, idle, tmp_path):
    chats = Chats()
    made = {user: chats.start(user, tmp_path / "one", ChatSettings()) for user in "abcdefgh"}
    # "a" asks again, and "b" is being answered
    assert chats.find("a") is made["a"]
    made["b"].questions.append("the bird")
    chats.start("i", tmp_path / "one", ChatSettings())
    assert [user for user in "abcdefghi" if chats.find(user)] == list("abdefghi")
    assert made["c"].is_closed
    assert "Your earlier chat was ended" in chat_view(chats.start("c", tmp_path / "one", ChatSettings()))
    assert "Your earlier chat was ended" not in chat_view(chats.start("c", tmp_path / "one", ChatSettings()))


@pytest.mark.long
def test_nobody_who_waits_for_an_answer_loses_the_chat_to_others(opened, tmp_path):
    chats = Chats()
    made = {user: chats.start(user, tmp_path / "one", ChatSettings()) for user in "abcdefgh"}
    with chats.computing:
        waiting = []
        for chat in made.values():
            chat.asked_by = 0
            answers = chat.answers("the bird", chats.computing)
            assert next(answers)
            # what the page does as soon as it has shown the first view
            waiting.append(threading.Thread(target=list, args=(answers,)))
            waiting[-1].start()
        with pytest.raises(SubquadError, match="8 other chats wait for answers; ask again in a minute"):
            chats.start("i", tmp_path / "one", ChatSettings())
        assert [user for user in "abcdefghi" if chats.find(user)] == list("abcdefgh")
        # one of the eight may begin anew
        chats.start("a", tmp_path / "one", ChatSettings())
    for thread in waiting:
        thread.join(60)
    assert made["a"].is_closed
    for user in "bcdefgh":
        assert [question for question, _ in made[user].sides["student"].turns] == ["the bird"]


def test_a_chat_whose_first_question_is_on_its_way_does_not_end_for_others(opened, tmp_path, monkeypatch):
    chats = Chats()
    made = {user: chats.start(user, tmp_path / "one", ChatSettings()) for user in "abcdefgh"}
    with pytest.raises(SubquadError, match="8 other chats wait for answers"):
        chats.start("i", tmp_path / "one", ChatSettings())
    for _ in made["c"].answers("the bird", chats.computing):
        pass
    chats.start("i", tmp_path / "one", ChatSettings())
    assert [user for user in "abcdefghi" if chats.find(user)] == list("abdefghi")


def test_models_whose_chats_wait_for_answers_are_not_closed(opened, tmp_path):
    chats = Chats()
    made = {user: chats.start(user, tmp_path / name, ChatSettings()) for user, name in (("a", "one"), ("b", "two"))}
    with pytest.raises(SubquadError, match="other chats wait for answers of 2 other models; ask again in a minute"):
        chats.start("c", tmp_path / "three", ChatSettings())
    made["b"].asked_by = 0
    chats.start("c", tmp_path / "three", ChatSettings())
    assert [user for user in "abc" if chats.find(user)] == ["a", "c"]
    assert opened == ["one", "two", "three"]


def test_chats_are_found_while_room_is_made_for_another(monkeypatch, tmp_path):
    monkeypatch.setattr("subquad.app.chats.MOST_CHATS", 1000)
    chats, users = Chats(), [f"user {number}" for number in range(500)]
    chats._chats.update((user, Chat(folder=tmp_path, sides={})) for user in users)
    is_over, before = threading.Event(), sys.getswitchinterval()

    def look():
        while not is_over.is_set():
            for user in users:
                chats.find(user)

    threads = [threading.Thread(target=look) for _ in range(2)]
    # so that threads take turns within a loop over the chats
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(200):
            chats._make_room("another user")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert [user for user in users if chats.find(user)] == users


def test_a_chat_has_few_questions_at_a_time(chat):
    lock = threading.Lock()
    with lock:
        waiting = [chat.answers(f"question {number}", lock) for number in range(4)]
        for answers in waiting:
            next(answers)
        with pytest.raises(SubquadError, match="4 questions of this chat are not answered yet; ask again in a minute"):
            next(chat.answers("one more", lock))
    waiting.pop().close()
    for answers in waiting:
        for _ in answers:
            pass
    assert [question for question, _ in chat.sides["student"].turns] == ["question 0", "question 1", "question 2"]
    assert not chat.is_busy


def test_a_question_of_a_whole_book_is_refused_at_once(chat):
    with pytest.raises(SubquadError, match="the question has 100,001 characters; give at most 100,000"):
        next(chat.answers("a" * 100_001, threading.Lock()))
    assert not chat.sides["teacher"].turns


def test_a_model_that_was_trained_again_is_opened_again_and_one_that_was_deleted_is_closed(opened, tmp_path):
    chats = Chats()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        chats.start("a", tmp_path / name, ChatSettings())
    chats.start("a", tmp_path / "one", ChatSettings())
    assert opened == ["one", "two"]
    os.utime(tmp_path / "one" / "config.json", (0, 0))
    shutil.rmtree(tmp_path / "two")
    chats.start("a", tmp_path / "one", ChatSettings())
    assert opened == ["one", "two", "one"]
    assert [folder.name for folder, _ in chats._models] == ["one"]


def test_a_question_that_was_stopped_is_not_revived_by_the_next_one(chat):
    lock = threading.Lock()
    with lock:
        first = chat.answers("one", lock)
        next(first)
        chat.stop()
        second = chat.answers("two", lock)
        next(second)
    assert [*first] == []
    assert [*second]
    assert [question for question, _ in chat.sides["student"].turns] == ["two"]


def test_at_most_two_linearized_models_are_in_memory(opened, idle, tmp_path):
    chats = Chats()
    users = {"a": "one", "b": "two", "c": "one", "d": "three"}
    made = {user: chats.start(user, tmp_path / name, ChatSettings()) for user, name in users.items()}
    assert opened == ["one", "two", "three"]
    assert made["a"].sides["student"].model is made["c"].sides["student"].model
    # "one" was used after "two"
    assert [user for user in users if chats.find(user)] == ["a", "c", "d"]
    assert made["b"].is_closed
    # "d" changes models: nobody else loses a chat
    chats.start("d", tmp_path / "two", ChatSettings())
    assert [user for user in users if chats.find(user)] == ["a", "c", "d"]
    assert opened[-1] == "two"


def test_a_question_that_is_stopped_while_it_waits_is_not_answered(chat):
    lock = threading.Lock()
    with lock:
        waiting = chat.answers("the bird", lock)
        next(waiting)
        chat.stop()
    assert list(waiting) == []
    assert not chat.sides["teacher"].turns


def test_a_question_is_shown_while_it_is_read(chat):
    answers = chat.answers("the bird", threading.Lock())
    next(answers)
    html = chat_view(chat)
    assert html.count("reading the question …") == 2
    assert html.count("the bird") == 2
    for _ in answers:
        pass
    assert "reading the question" not in chat_view(chat)


def test_a_chat_that_is_longer_than_the_training_texts_says_what_that_means(chat):
    chat.sides["student"].model = model = chat.sides["student"].chat._model
    for trained, is_said in ((1000, False), (7, True)):
        model.config.trained_length = trained
        for _ in chat.answers("the bird sings", threading.Lock()):
            pass
        assert ("the student was trained on texts of 7: what it writes" in chat_view(chat)) == is_said
    assert "&#34;Perplexity by position&#34; shows how much" in chat_view(chat)
    assert "--" not in chat_view(chat)


@pytest.fixture
def slow(opened, monkeypatch):
    """Return events that let the student and the teacher be opened; without them they are not."""
    events = {name: threading.Event() for name in ("load", "open_checkpoint")}
    from subquad.app import chats

    for name, event in events.items():
        fast = getattr(chats, name)

        def waiting(path, *, event=event, fast=fast):
            assert event.wait(60)
            return fast(path)

        monkeypatch.setattr(chats, name, waiting)
    return events


def test_the_steps_of_the_opening_are_shown(slow, tmp_path):
    chats = Chats()
    views = (opening_view(step) for step in chats.opening("a", tmp_path / "one", ChatSettings()))

    def next_with(text):
        return next(view for view in views if text in view)

    assert 'value="1" max="3"' in next_with("step 2 of 3: the linear student")
    # another user waits for the same models
    other = chats.opening("b", tmp_path / "one", ChatSettings())
    assert "Waiting: other models are opened first" in opening_view(next(other))
    slow["load"].set()
    assert 'value="2" max="3"' in next_with("step 3 of 3: the softmax teacher")
    assert chats.find("a") is None
    slow["open_checkpoint"].set()
    for steps in (views, other):
        list(steps)
    assert chats.find("a").sides["student"].model is chats.find("b").sides["student"].model


def test_models_stay_open_when_their_opening_was_stopped(slow, opened, tmp_path):
    chats = Chats()
    steps = chats.opening("a", tmp_path / "one", ChatSettings())
    next(steps)
    chats.stop("a")
    assert list(steps) == []
    for event in slow.values():
        event.set()
    list(chats.opening("b", tmp_path / "one", ChatSettings()))
    assert chats.find("a") is None
    assert chats.find("b") is not None
    assert opened == ["one"]


def test_an_error_of_the_opening_reaches_the_user(tmp_path):
    with pytest.raises(SubquadError, match="no such model folder"):
        list(Chats().opening("a", tmp_path / "none", ChatSettings()))


def test_a_refused_question_leaves_the_chat_in_sight(chat, context, session, monkeypatch):
    monkeypatch.setattr("subquad.app.language.session_of", lambda *_: session)
    monkeypatch.setattr("subquad.app.language.run_of", lambda *_: chat.folder)
    monkeypatch.setattr("subquad.app.language.label_of_run", lambda *_: "mine")
    monkeypatch.setattr(Chats, "find", lambda *_: chat)
    with gr.Blocks() as page:
        build_language(context)
    on_ask = next(own.fn for own in page.fns.values() if getattr(own.fn, "__name__", "") == "on_ask")
    *_, (box, view) = on_ask(None, "run", "the bird", 16, 0.0)
    assert box == ""
    assert view.count("the bird") == 2
    for question, error in ((" ", "the question is empty; write one"), ("a" * 100_001, "100,001 characters")):
        *_, (box, view) = on_ask(None, "run", question, 16, 0.0)
        assert box == question
        assert view.count("the bird") == 2
        assert error.lower() in view.lower()


def test_the_opening_can_be_stopped_on_the_page(slow, context, session, tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.app.language.session_of", lambda *_: session)
    monkeypatch.setattr("subquad.app.language.run_of", lambda *_: tmp_path / "one")
    with gr.Blocks() as page:
        build_language(context)
    on_ask, on_stop = (
        next(own.fn for own in page.fns.values() if getattr(own.fn, "__qualname__", "") == f"_chat.<locals>.{name}")
        for name in ("on_ask", "on_stop")
    )
    views = on_ask(None, "run", "the bird", 16, 0.0)
    box, view = next(views)
    assert box == "the bird"
    assert "<progress" in view
    on_stop(None)
    *_, (box, view) = views
    assert box == "the bird"
    assert "Stopped before the models were open." in view
    for event in slow.values():
        event.set()
