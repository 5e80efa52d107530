"""Data as people have it: every kind of file, every layout of rows that others write, and what is wrong with a row."""

import bz2
import gzip
import json
import lzma
import zipfile
from io import BytesIO

import fsspec
import pytest
from datasets import Dataset, DatasetDict
from transformers import DataCollatorForSeq2Seq

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.training_helpers import make_pilot
from transformers_copilot import CopilotTrainer, CopilotTrainingArguments, PilotCopilotForCausalLM, load_training_data
from transformers_copilot.data.chat import PLAIN_TEMPLATE
from transformers_copilot.data.reading import open_source, split_of
from transformers_copilot.data.training_data import marked


CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function | tojson }}{% endfor %}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}\n{% endfor %}"
)
# As Qwen3's: earlier turns are written without what the last one has.
FORGETS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As DeepSeek-R1's: the generation prompt begins what the written turn doesn't have.
BREAKS = CHATML.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}")
STRICT = "{% for m in messages %}{% if m.role == 'critic' %}{{ raise_exception('Unknown role critic') }}{% endif %}"
STRICT += "{{ m.role }}:{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
DROPS = "{% for m in messages %}{% if m.role in ('user', 'assistant') %}{{ m.role }}:{{ m.content }}</s>{% endif %}"
DROPS += "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"

ASK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
LONG = [{"role": "system", "content": "Be brief."}, *ASK, {"role": "user", "content": "3+3?"}]
LONG += [{"role": "assistant", "content": "6"}]


def tokenizer(template=CHATML):
    made = byte_tokenizer()
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def tiny_pair_for_bytes():
    """A pair whose tokenizer has a token for each byte, and the tokenizer."""
    made = tokenizer()
    ends = {"pad_token_id": made.pad_token_id, "eos_token_id": made.eos_token_id, "bos_token_id": made.bos_token_id}
    return PilotCopilotForCausalLM.from_pilot(make_pilot("llama", vocab_size=len(made), **ends)), made


def learnt(rows, template=CHATML, **options):
    """What is supervised, of each item."""
    made = tokenizer(template)
    return [marked(made, item) for item in load_training_data(rows, made, **options)]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- layouts, as others write them ----

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
LAYOUTS = {
    "trl_messages": ({"messages": ASK}, "<|user|>2+2?</s>\n<|assistant|>⟦4</s>⟧\n"),
    "trl_language_modeling": ({"text": "The sky is blue."}, "⟦The sky is blue.</s>⟧"),
    "trl_prompt_completion": ({"prompt": "The sky is", "completion": " blue."}, "The sky is⟦ blue.</s>⟧"),
    "trl_conversational_prompt_completion": (
        {"prompt": LONG[:-1], "completion": LONG[-1:]},
        "<|system|>Be brief.</s>\n<|user|>2+2?</s>\n<|assistant|>4</s>\n<|user|>3+3?</s>\n<|assistant|>⟦6</s>⟧\n",
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n"
        "### Response:\n⟦5</s>⟧",
    ),
    "alpaca_without_input": (
        {"instruction": "Say 5.", "input": "", "output": "5"},
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay 5.\n\n### Response:\n⟦5</s>⟧",
    ),
    "sharegpt": (
        {"id": "x", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        "<|user|>2+2?</s>\n<|assistant|>⟦4</s>⟧\n",
    ),
    "sharegpt_with_system": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        "<|system|>Be brief.</s>\n<|user|>Hi</s>\n<|assistant|>⟦Ho</s>⟧\n",
    ),
    "openai_weights": (
        {"messages": [*LONG[:2], {**LONG[2], "weight": 0}, LONG[3], {**LONG[4], "weight": 1}]},
        "<|system|>Be brief.</s>\n<|user|>2+2?</s>\n<|assistant|>4</s>\n<|user|>3+3?</s>\n<|assistant|>⟦6</s>⟧\n",
    ),
    "openai_tools": (
        {
            "messages": [
                {"role": "user", "content": "2+3?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "5"},
                {"role": "assistant", "content": "It is 5."},
            ],
            "tools": TOOLS,
            "parallel_tool_calls": False,
        },
        '<|user|>2+3?</s>\n<|assistant|>⟦{"name": "add", "arguments": {"a": 2, "b": 3}}</s>⟧\n<|tool|>5</s>\n'
        "<|assistant|>⟦It is 5.</s>⟧\n",
    ),
    "openai_parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, ASK[1]]},
        "<|user|>2+2?</s>\n<|assistant|>⟦4</s>⟧\n",
    ),
    "prompt_target": ({"prompt": "2+2=", "target": "4"}, "2+2=⟦4</s>⟧"),
    "numbers": ({"prompt": "Sum?", "target": 4}, "Sum?⟦ 4</s>⟧"),
    "gsm8k": ({"question": "Sum?", "answer": " 4"}, "Sum?⟦ 4</s>⟧"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_recognised_and_only_answers_are_supervised(name, tmp_path):
    row, expected = LAYOUTS[name]
    assert learnt(write_lines(tmp_path / "own.jsonl", [row, row])) == [expected] * 2
    if not name.startswith("openai_"):  # a table's turns are all of the same kind
        assert learnt(Dataset.from_list([row])) == [expected]


def test_columns_can_be_named_and_a_separator_given():
    rows = [{"q": "What", "a": "This", "text": "…"}]
    assert learnt(rows, prompt_column="q", target_column="a", separator=" ") == ["What⟦ This</s>⟧"]


@pytest.mark.parametrize("template", [CHATML, MARKED, PLAIN_TEMPLATE])
def test_markers_and_prefixes_supervise_the_same_turns(template):
    made = tokenizer(template)
    (item,) = load_training_data([{"messages": LONG}], made)
    text = marked(made, item)
    assert [part.partition("⟧")[0].strip() for part in text.split("⟦")[1:]] == ["4</s>", "6</s>"]


def test_a_template_that_writes_earlier_turns_otherwise_gives_an_item_a_turn():
    assert learnt([{"messages": LONG}], FORGETS) == [
        "<|system|>Be brief.</s>\n<|user|>2+2?</s>\n<|assistant|>⟦<think></think>4</s>⟧\n",
        "<|system|>Be brief.</s>\n<|user|>2+2?</s>\n<|assistant|>4</s>\n<|user|>3+3?</s>\n<|assistant|>"
        "⟦<think></think>6</s>⟧\n",
    ]


def test_a_template_that_breaks_its_own_generation_prompt_is_refused_by_name():
    with pytest.raises(ValueError, match=r"chat template of .* doesn't go on from its own generation prompt.*<think>"):
        learnt([{"messages": ASK}], BREAKS)


def test_a_tokenizer_without_a_template_says_what_to_give():
    with pytest.raises(ValueError, match="no chat template.*--chat_template plain"):
        learnt([{"messages": ASK}], None)
    assert learnt([{"messages": ASK}], None, chat_template="plain") == ["User: 2+2?\nAssistant:⟦ 4</s>⟧\n"]


@pytest.mark.parametrize(
    ("row", "template"),
    [
        ({"prompt": "a", "target": "b"}, None),
        ({"text": "a"}, None),
        ({"messages": ASK}, CHATML.replace("</s>", "{{ eos_token }}")),
        ({"messages": ASK}, PLAIN_TEMPLATE),
    ],
)
@pytest.mark.parametrize("options", [{}, {"streaming": True}])
def test_a_tokenizer_without_an_end_token_is_refused(row, template, options):
    made = tokenizer(template)
    made.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token, so no answer would learn to end"):
        list(load_training_data([row], made, **options))
    if template is not None:  # a template may have its own
        made.chat_template = CHATML
        assert len(list(load_training_data([row], made, **options))) == 1


def test_a_conversation_may_begin_with_the_assistant():
    rows = [{"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}]
    assert learnt(rows) == ["<|assistant|>⟦a</s>⟧\n<|user|>b</s>\n"]


def test_an_encoder_reads_what_stands_before_each_turn():
    assert learnt([{"messages": LONG}], is_encoder_decoder=True) == [
        "<|system|>Be brief.</s>\n<|user|>2+2?</s>\n<|assistant|> → ⟦4</s>⟧",
        "<|system|>Be brief.</s>\n<|user|>2+2?</s>\n<|assistant|>4</s>\n<|user|>3+3?</s>\n<|assistant|> → ⟦6</s>⟧",
    ]


def test_long_texts_are_cut_and_long_answers_left_out():
    made = tokenizer()
    pieces = load_training_data([{"text": "abcdefgh"}], made, max_length=4)
    assert [item["input_ids"] for item in pieces] == [item["labels"] for item in pieces]
    assert "".join(made.decode(item["input_ids"]) for item in pieces) == "abcdefgh"  # what is left of 9: one token
    kept = load_training_data(
        [{"prompt": "ab", "target": "c"}, {"prompt": "abcdef", "target": "g"}], made, max_length=5
    )
    assert len(kept) == 1 and kept.notes[0] == "left out: 1 texts that are too long"


def test_what_is_loaded_trains_a_pair(tiny_pair_for_bytes, tmp_path):
    pair, made = tiny_pair_for_bytes
    data = load_training_data([{"messages": ASK}] * 8, made)
    arguments = CopilotTrainingArguments(str(tmp_path), max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True)
    for items in (data, load_training_data([{"messages": ASK}] * 8, made, streaming=True)):
        trainer = CopilotTrainer(
            model=pair, args=arguments, train_dataset=items, data_collator=DataCollatorForSeq2Seq(made, padding=True)
        )
        assert trainer.train().global_step == 2


# ---- kinds of files ----

ROWS = [{"prompt": f"{n}+1=", "target": str(n + 1)} for n in range(3)]
EXPECTED = ["0+1=⟦1</s>⟧", "1+1=⟦2</s>⟧", "2+1=⟦3</s>⟧"]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "prompt{0}target\n" + "".join(f"{row['prompt']}{{0}}{row['target']}\n" for row in ROWS)


def zipped(content):
    """An archive of one file."""
    with BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("own.jsonl", content)
        return file.getvalue()


FILES = {
    "own.jsonl": LINES.encode(),
    "own.ndjson": b"\xef\xbb\xbf" + LINES.encode(),  # as Windows' editors begin a file
    "lines.json": LINES.encode(),
    "list.json": json.dumps(ROWS, indent=1).encode(),
    "named.json": json.dumps({"version": "1", "data": ROWS}).encode(),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "own.csv": TABLE.format(",").encode(),
    "excel.csv": TABLE.format(";").replace("\n", "\r\n").encode(),
    "own.tsv": TABLE.format("\t").encode(),
    "own.jsonl.gz": gzip.compress(LINES.encode(), mtime=0),
    "own.csv.bz2": bz2.compress(TABLE.format(",").encode()),
    "own.jsonl.xz": lzma.compress(LINES.encode()),
    "own.jsonl.zip": zipped(LINES.encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_is_read(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    assert learnt(tmp_path / name) == EXPECTED
    assert learnt(tmp_path / name, max_rows=2) == EXPECTED[:2]


@pytest.mark.parametrize(("ending", "package"), [("zst", "zstandard"), ("lz4", "lz4")])
def test_a_compression_whose_package_is_missing_names_it(ending, package, tmp_path, monkeypatch):
    monkeypatch.delitem(fsspec.utils.compressions, ending, raising=False)
    (tmp_path / f"own.jsonl.{ending}").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(ImportError, match=f"pip install {package}"):
        learnt(tmp_path / f"own.jsonl.{ending}")


def test_text_files_have_a_text_a_line(tmp_path):
    (tmp_path / "own.txt").write_text("one\n\ntwo\n")
    assert learnt(tmp_path / "own.txt") == ["⟦one</s>⟧", "⟦two</s>⟧"]


def test_parquet_and_saved_data_sets_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = Dataset.from_list(ROWS)
    rows.to_parquet(tmp_path / "own.parquet")
    rows.save_to_disk(tmp_path / "saved")
    DatasetDict(train=rows, validation=rows.take(1)).save_to_disk(tmp_path / "splits")
    for name in ("own.parquet", "saved", "splits"):
        assert learnt(tmp_path / name) == EXPECTED
    assert learnt(tmp_path / "splits", split="dev") == EXPECTED[:1]


def test_a_folder_is_read_by_the_words_of_its_names(tmp_path):
    write_lines(tmp_path / "train-00000.jsonl", ROWS[:1])
    write_lines(tmp_path / "train-00001.jsonl", ROWS[1:])
    write_lines(tmp_path / "validation.jsonl", ROWS[2:])
    (tmp_path / "LICENSE.txt").write_text("Do as you like.\n")
    assert learnt(tmp_path) == EXPECTED and learnt(tmp_path, split="dev") == EXPECTED[2:]
    with pytest.raises(ValueError, match="no rows for 'test', only for dev, train"):
        learnt(tmp_path, split="test")
    assert [split_of(name) for name in ("a/train.csv", "x-val.json", "test_hard", "contest.csv")] == [
        *("train", "dev", "test"),
        "all",
    ]


# ---- what is wrong with a row ----

BROKEN = [
    ('{"prompt": "a", "target": "b"\n', "line 2: is no JSON"),
    ("[1, 2]\n", r"line 2: is \[1, 2\]; expected an object"),
    ('{"prompt": "a\0", "target": "b"}\n', "line 2: holds NUL bytes"),
    ('{"prompt": "a\\u0000", "target": "b"}\n', "line 2: prompt holds a NUL character"),
    ('{"prompt": "a", "target": ""}\n', "line 2: target is ''"),
    ('{"prompt": "a", "target": null}\n', "line 2: target is None"),
    ('{"prompt": "a", "target": NaN}\n', "line 2: target is nan"),
    ('{"prompt": "a", "target": {"b": 1}}\n', "line 2: target is {'b': 1}"),
    (
        '{"messages": [{"role": "assistant", "content": "x"}]}\n',
        "line 2: is laid out as chat messages, the",
    ),
    ('{"prompt": "a", "goal": "b"}\n', "line 2: has the columns goal, prompt, which are no known layout"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_row_is_named_and_can_be_left_out(line, message, tmp_path):
    good = json.dumps(ROWS[0]) + "\n"
    (tmp_path / "own.jsonl").write_text(good + line + good)
    with pytest.raises(ValueError, match=f"own.jsonl, {message}.*--skip_bad_rows"):
        learnt(tmp_path / "own.jsonl")
    kept = load_training_data(tmp_path / "own.jsonl", tokenizer(), skip_bad_rows=True)
    assert len(kept) == 2 and kept.notes[0].startswith("left out: 1 broken rows; the first: own.jsonl, line 2: ")


CHATS = [
    ([{"role": "user"}], r"turn 1 \(user\) says nothing"),
    (["hello"], "turn 1 is 'hello'; give `role` and `content`"),
    ([{"content": "x"}], "turn 1 has no role"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "a part of type 'image_url'"),
    (
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
        "arguments of f is no JSON",
    ),
    ("hello", "messages is no JSON"),
    ([], r"messages is '\[\]'"),
]


@pytest.mark.parametrize(("messages", "message"), CHATS)
def test_a_malformed_conversation_is_named(messages, message):
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        learnt([{"messages": ASK}, {"messages": messages}])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (STRICT, "refuses the turns .user, critic, assistant.: Unknown role critic"),
        (DROPS, "doesn't know the role 'critic'"),
    ],
)
def test_a_role_that_the_template_does_not_know_is_named(template, message):
    bad = [ASK[0], {"role": "critic", "content": "Wrong."}, ASK[1]]
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        learnt([{"messages": ASK}, {"messages": bad}], template)
    assert len(learnt([{"messages": ASK}, {"messages": bad}], template, skip_bad_rows=True)) == 1


def test_conversations_without_an_assistants_turn_are_counted():
    data = load_training_data([{"messages": ASK}, {"messages": ASK[:1]}], tokenizer())
    assert len(data) == 1
    assert data.notes == ["left out: 1 conversations without a turn of the assistant to learn from"]
    with pytest.raises(ValueError, match="no row that can be used. left out: 1 conversations"):
        learnt([{"messages": ASK[:1]}])


def test_one_broken_row_of_a_hundred_thousand_is_named(tmp_path):
    good = json.dumps(ROWS[0]) + "\n"
    file = tmp_path / "own.jsonl"
    file.write_text(good * 76_543 + "garbage\n" + good * 23_456)
    with pytest.raises(ValueError, match="own.jsonl, line 76544: is no JSON"):
        learnt(file)


@pytest.mark.parametrize(
    ("prompt", "target", "together"),
    [
        ("total ?", "The", True),
        ("total", "The", True),
        ("total", " The", False),
        ("2+3=", "5", False),
        ("你好", "吗", False),
    ],
)
def test_a_prompt_and_target_that_run_together_are_warned_of(prompt, target, together):
    notes = load_training_data(
        [{"prompt": "a", "target": " b"}, {"prompt": prompt, "target": target}], tokenizer()
    ).notes
    assert bool(notes) == together
    if together:
        assert f"in 1 rows; the first: the data, row 2: …{prompt}{target}…" in notes[0] and "--separator" in notes[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n\n", "no row that can be used"),
        ("head.csv", b"prompt,target\n", "no row that can be used"),
        ("cut.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-12], "is damaged or not whole"),
        ("no.jsonl.gz", LINES.encode(), "no.jsonl.gz is damaged"),
        ("list.json", b'[{"prompt": "a"', "is no JSON"),
        ("latin.csv", "prompt,target\nä,b\n".encode("latin-1"), "line 2 is no UTF-8 text"),
        ("short.csv", b"prompt,target\na\n", "row 1: has 1 cells where the head has 2"),
        ("no.parquet", b"garbage", "can't be read as parquet"),
        ("own.docx", b"x", "no kind of file that is read here"),
        ("prefs.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "preferences"),
    ],
)
def test_a_file_that_can_not_be_read_says_why(name, content, message, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message):
        learnt(tmp_path / name)


@pytest.mark.parametrize("name", ["no.jsonl", "no.txt", "no.jsonl.gz", "no.tsv", "./no", "a/b/c", "~/no/folder"])
def test_what_is_missing_is_said_before_the_network_is_tried(name, monkeypatch):
    monkeypatch.setattr("transformers_copilot.data.reading._of_hub", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        open_source(name)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no data that is read here"):
        open_source(tmp_path)
