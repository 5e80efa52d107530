"""The report: its numbers against counts made one by one, its page in Chromium, and what is thrown at it."""

import html
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.helpers.hostile_tokenizer import HOSTILE, hostile_tokenizer
from tests.helpers.mistake_counting import brute_force, rows_of
from tests.helpers.training_helpers import VOCAB, make_pair, make_trainer
from transformers_copilot import MistakeLog
from transformers_copilot.mistake_log.token_text import TokenTexts, visible
from transformers_copilot.report.mistake_examples import collect_examples
from transformers_copilot.report.page import write_report
from transformers_copilot.report.run_folder import ROW_NAMES, RunFolder
from transformers_copilot.report.texts import LookAt, count_read, logged_items


NONE = pd.DataFrame(columns=["true_token_id", "predicted_token_id"])  # no confusion is asked for


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, MistakeLog]:
    """The folder of a small run with everything in it, and its log."""
    folder = tmp_path_factory.mktemp("runs") / "<b>run</b>"
    trainer = make_trainer(
        folder,
        make_pair(random_head=True),
        max_steps=14,
        mistake_log_export_rows=100_000,
        trainer_kwargs={"processing_class": hostile_tokenizer(VOCAB)},
    )
    trainer.train()
    trainer.save_model(str(folder))
    trainer.save_state()
    sides = {"question": "<img src=x onerror=alert(4)> 2+2?", "expected": "4", "id": "0"}
    rows = [
        {**sides, "pilot_reply": "<i>5</i>", "pair_reply": "4", "pilot_correct": False, "pair_correct": True},
        {**sides, "pilot_reply": "4", "pair_reply": "\u202e9\x07", "pilot_correct": True, "pair_correct": False},
        {**sides, "pilot_reply": "4", "pair_reply": "4.0", "pilot_correct": True, "pair_correct": True},
    ]
    rows.append({**sides, "pilot_reply": "8", "pair_reply": "7", "pilot_correct": False, "pair_correct": False})
    model = {"weights": 1, "correct": 2, "total": 4, "share": 2 / 4, "low": 0.2, "high": 0.9}
    results = {"task": "<u>sums</u>", "models": {"Pilot alone": model, "<svg onload=alert(5)>": model}, "rows": rows}
    (folder / "evaluation.json").write_text(json.dumps(results), encoding="utf-8")
    return folder, trainer.mistake_log


@pytest.fixture(scope="module")
def page(run) -> Path:
    return write_report(run[0], run[0] / "report.html", progress=False)


@pytest.fixture(scope="module")
def text(page) -> str:
    return page.read_text(encoding="utf-8")


def cells(row: str) -> list[str]:
    return [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]


def table_rows(text: str, name: str) -> list[list[str]]:
    body = re.search(rf'<table id="{name}".*?<tbody>(.*?)</tbody>', text, re.DOTALL).group(1)
    return [cells(row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]


# ---- what it says ----


def test_numbers_are_those_of_the_raw_log(run, text):
    rows = rows_of(run[1])
    tokens = TokenTexts(hostile_tokenizer(VOCAB))
    true = brute_force(rows, tokens.class_of, 40)
    wrong = [row for row in true["supervised"] if row[4] != row[6]]
    assert f"{len(true['supervised']):,}" in text and f"{100 * len(wrong) / len(true['supervised']):.1f} %" in text
    cost = sum(row[9] for row in true["supervised"])
    expected = sorted(true["pairs"].items(), key=lambda pair: -sum(pair[1]))[:50]
    shown = table_rows(text, "mistakes")
    assert len(shown) == len(expected) > 5
    found = {(row[0], row[1]): row for row in shown}
    for (right, predicted), sizes in expected:
        row = found[tokens.name(right), tokens.name(predicted)]
        counts = [true["tenth_pairs"][right, predicted, tenth] for tenth in range(10)]
        assert [row[2], row[6]] == [f"{len(sizes):,}", tokens.class_of(right)]
        assert float(row[7]) == pytest.approx(sum(sizes) / len(sizes), abs=0.006)
        assert float(row[3].removesuffix(" %")) == pytest.approx(100 * sum(sizes) / cost, abs=0.06)
        assert row[8:10] == [str(counts[0]), str(counts[9])]
        assert (row[4] == "–") == (row[5] == "–") == (len(sizes) < 5)  # no trend of what is noise
    for row in table_rows(text, "classes"):
        values = true["by_class"][row[0]]
        assert row[1:3] == [f"{len(values):,}", f"{sum(wrong for wrong, _ in values):,}"]
        assert float(row[4]) == pytest.approx(sum(size for _, size in values) / len(values), abs=0.0006)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert data["analysis"]["totals"]["wrong"] == len(wrong)
    assert data["analysis"]["totals"]["cost"] == pytest.approx(cost, rel=1e-5)


def test_the_pair_is_measured_as_evaluation_measures_it(run, tmp_path):
    """The mean mistake by λ is what Trainer's own evaluation finds on the same texts."""
    folder = run[0]
    trainer = make_trainer(tmp_path, make_pair(), per_device_eval_batch_size=3)
    items = trainer.eval_dataset
    page = write_report(folder, tmp_path / "r.html", look_at=LookAt("ten texts", items), most_texts=99, progress=False)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL).group(1))
    by_weight = {row["weight"]: row for row in data["pair"]["by_weight"]}
    trainer.model.load_state_dict(trainer.pair.from_pretrained(folder).state_dict())
    for weight in (0.3, 1.0):
        trainer.pair.config.copilot_weight = weight
        metrics = trainer.evaluate()
        assert by_weight[weight]["mistake_size"] == pytest.approx(metrics["eval_mistake_size"], rel=1e-4)
        assert by_weight[0.0]["mistake_size"] == pytest.approx(metrics["eval_pilot_mistake_size"], rel=1e-4)
        assert by_weight[weight]["loss"] == pytest.approx(metrics["eval_rectified_loss"], rel=1e-4)


def test_nothing_of_the_data_is_markup(text):
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    for harm in ("<script>alert", "</td></table>", 'onload="alert', "<img src=x", "<b>run", "<u>sums", "<i>5"):
        assert harm not in outside, harm
    assert html.escape(HOSTILE[0], quote=False) in outside and "{{ totals }}" in outside
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u2028]", outside)
    assert visible("\u202egnp.exe") in html.unescape(outside) and "<U+202E>9␇" in html.unescape(outside)
    assert len(re.findall(r"<script", outside)) == 2
    addresses = re.findall(r"(?:src|href|srcset)=\"([^\"]*)\"", outside) + re.findall(r"url\(", outside)
    assert all(address.startswith(("#", "data:")) or not address for address in addresses)


def test_the_page_opens_with_the_verdict_and_its_words(text):
    places = [text.index(f'<section id="{name}"') for name in ("verdict", "words", "figures", "learning", "pair")]
    assert places == sorted(places)
    opening = re.sub(r"<[^>]+>", " ", text[text.index("<header>") : places[1]])
    for said in ("the Pilot", "the Copilot", "Not tested yet", "The loss says how much", "so much of its correction"):
        assert said in re.sub(r"\s+", " ", opening), said
    for jargon in ("confusion", "round", "mistake size", "‖"):
        assert jargon not in opening.split("Is the Copilot worth keeping?")[1].replace("last rounds", ""), jargon


def test_what_comes_from_training_texts_is_marked(run, text, tmp_path):
    headings = re.findall(r'<section id="(\w+)".*?<h2[^>]*>(.*?)</h2>', text, re.DOTALL)
    marked = {name for name, heading in headings if 'class="tag read"' in heading}
    assert marked == {"figures", "learning", "confusions", "examples", "pair"}
    figures = re.findall(r'<figure id="([\w-]+)".*?<h3>(.*?)</h3>', text, re.DOTALL)
    assert len(figures) >= 6 and all('class="tag read"' in heading for _, heading in figures)
    known = [sequence.item() for sequence in collect_examples(run[0], NONE).last]
    new = [{"input_ids": [3, 9, 9, 4], "labels": [-100, -100, -100, 4]}] * 3
    for items, tag in ((new, "not training texts"), ([*known[:2], *new], "2 of 5 are training texts")):
        page = write_report(run[0], tmp_path / "r.html", look_at=LookAt("texts", items), progress=False)
        heading = re.search(r'<h2 id="pair-title">(.*?)</h2>', page.read_text(encoding="utf-8")).group(1)
        assert tag in heading


def test_texts_are_looked_at_whole_where_the_rows_lack_the_prompts(tmp_path):
    """The pair was given replies without their prompts, and its figures were about nothing."""
    trainer = make_trainer(tmp_path, make_pair(copilot={"form": "linear"}), max_steps=3)
    trainer.train()
    trainer.mistake_log.save(tmp_path / "mistake_log.safetensors")
    run = RunFolder.read(tmp_path)
    found = collect_examples(run.source, NONE).last
    assert found and not any(sequence.whole for sequence in found)
    read = {tuple(row["input_ids"]): row["labels"] for row in trainer.train_dataset}
    items = logged_items(found, run.logs)
    assert len(items) >= 3 and all(read[tuple(item["input_ids"])] == item["labels"] for item in items)
    assert logged_items(found, []) == []
    some = [*items[:2], {"input_ids": [1, 2], "labels": [-100, 2]}]
    assert count_read(some, run.source, run.logs) == 2 and count_read(some, run.source, []) is None


def test_a_list_holds_what_its_title_says(text):
    lists = re.findall(r"<h3 class=\"\w+\">([^<]+): (\d+)</h3></summary>(.*?)</table>", text, re.DOTALL)
    assert [(title, int(count)) for title, count, _ in lists] == [
        ("Mended", 1),
        ("Spoilt", 1),
        ("Other words, still wrong", 1),
    ]
    assert [part.count("<tr><td") for *_, part in lists] == [1, 1, 1]
    answers = [table_rows(text, f"answers-{place}")[0][1:] for place in (1, 2, 3)]
    assert answers == [["4", "<i>5</i>", "4"], ["4", "4", "<U+202E>9␇"], ["4", "8", "7"]]
    for verdict in ("mended", "spoilt"):
        said = re.search(rf"<h3 class=\"{verdict}\">Tokens that the Copilot {verdict}: (.*?)</h3>", text)
        if said is not None:
            for row in table_rows(text, f"{verdict}-tokens"):
                assert (row[1] == row[3]) == (verdict == "mended") and (row[1] == row[2]) == (verdict == "spoilt")


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no `chromium` with `chromedriver` on the path; Debian's packages are chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{switch}")
    options.add_argument("--disable-sync")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def show(browser, page: Path, width: int, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def test_the_page_in_chromium(browser, page):
    from selenium.webdriver.common.keys import Keys

    sources = {}
    for width, scheme in ((1100, "light"), (390, "dark")):
        show(browser, page, width, scheme)
        assert browser.get_log("browser") == []
        pictures = browser.execute_script(
            "return [...document.images].map(i => [i.complete && i.naturalWidth, i.alt, i.currentSrc])"
        )
        assert len(pictures) >= 5 and all(size > 300 and len(alt) > 30 for size, alt, _ in pictures)
        sources[scheme] = {source for *_, source in pictures}
        names = "[onload], [onerror], svg, u, img[src=x], section script"
        assert browser.execute_script(f"return document.querySelectorAll('{names}').length") == 0
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]  # only tables and wide pictures scroll sideways, each by itself
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert all(name.startswith("data:") for name in loaded)
    assert not sources["light"] & sources["dark"]
    check_structure(browser)
    # By the keyboard alone: to the field, type, to the button of the third column, press it twice.
    field = browser.find_element("id", "mistakes-filter")
    times = "return [...document.querySelectorAll('#mistakes tbody tr')].map(r => Number(r.cells[2].dataset.value))"
    before = browser.execute_script(times)
    field.send_keys(Keys.TAB)
    for _ in range(9):
        if browser.switch_to.active_element.text.startswith("Times"):
            break
        browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.tag_name == "button"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.execute_script(times) == sorted(before, reverse=True)
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert browser.execute_script(times) == sorted(before)
    head = browser.find_elements("css selector", "#mistakes th[aria-sort]")
    assert [one.get_attribute("aria-sort") for one in head] == ["ascending"]
    field.send_keys("digit")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#mistakes tbody tr')].filter(r => !r.hidden).map(r => r.textContent)"
    )
    assert len(shown) < len(before) and all("digit" in row for row in shown)
    assert browser.find_element("id", "mistakes-count").text == f"{len(shown)} of {len(before)} rows"


def test_tables_fit_a_phone_or_say_that_they_scroll(browser, page):
    """Three of ten columns were shown, and nothing said that there are more."""
    show(browser, page, 390, "light")
    wider = """return [...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth)
        .map(t => t.id)"""
    assert browser.execute_script(wider) == ["mistakes"]
    assert browser.find_element("css selector", "#confusions .cue").is_displayed()
    labels = """return [...document.querySelectorAll('.cards td[data-label]')].every(
        t => getComputedStyle(t, '::before').content.includes(t.dataset.label))"""
    assert browser.execute_script(labels)
    tokens = """return [...document.querySelectorAll('.cell, .layers td')].filter(t =>
        t.getBoundingClientRect().right > innerWidth || parseFloat(getComputedStyle(t).fontSize) < 12).length"""
    assert browser.execute_script(tokens) == 0
    show(browser, page, 1280, "light")
    assert browser.execute_script(wider) == [] and not browser.find_element("css selector", ".cue").is_displayed()


def check_structure(browser) -> None:
    """What a screen reader goes by: landmarks, headings in order, heads of tables, names of fields, a language."""
    found = browser.execute_script(
        """return {
        lang: document.documentElement.lang,
        landmarks: ['header', 'nav', 'main', 'footer'].map(n => document.querySelectorAll(n).length),
        levels: [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1])),
        heads: [...document.querySelectorAll('thead th')].every(h => h.scope === 'col'),
        captions: [...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent.trim()),
        fields: [...document.querySelectorAll('input')].every(i => i.labels.length),
        reached: [...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0 && s.getAttribute('aria-label')),
        scripts: document.scripts.length, ids: [...document.querySelectorAll('[id]')].map(e => e.id)}"""
    )
    assert found["lang"] == "en" and found["landmarks"] == [1, 1, 1, 1]
    assert found["levels"][0] == 1 and found["levels"].count(1) == 1
    assert all(after - before <= 1 for before, after in zip(found["levels"], found["levels"][1:], strict=False))
    assert found["heads"] and found["captions"] and found["fields"] and found["reached"]
    assert found["scripts"] == 2 and len(found["ids"]) == len(set(found["ids"]))


# ---- what is missing, and what is refused ----


def test_a_log_without_text_or_pair_still_makes_a_page(run, tmp_path):
    run[1].save(tmp_path / "checkpoint" / "mistake_log.safetensors")
    made = write_report(tmp_path / "checkpoint", tmp_path / "r.html").read_text(encoding="utf-8")
    assert "no tokenizer, so tokens are called by their ids" in made and "#5" in made
    assert "there are no weights of a pair" in made and "Tokens that the Copilot changed" not in made


def test_what_cannot_be_reported_is_refused_before_any_work(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_report(tmp_path / "none", tmp_path / "r.html")
    with pytest.raises(FileNotFoundError, match="no Mistake Log"):
        write_report(tmp_path, tmp_path / "r.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        write_report(run[0], tmp_path / "file" / "r.html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_report(run[0], tmp_path)
    MistakeLog().save(tmp_path / "empty" / "mistake_log.safetensors")
    with pytest.raises(ValueError, match="Mistake Log is empty"):
        write_report(tmp_path / "empty", tmp_path / "r.html")
    run[1].save(tmp_path / "torn" / "mistake_log.safetensors")
    (tmp_path / "torn" / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluation\.json cannot be read"):
        write_report(tmp_path / "torn", tmp_path / "r.html")
    loss = {"before": 1.0, "after": 0.9, "low": 0.0, "high": 0.2, "total": 40}
    for results, key in (
        ({"loss": {**loss, "low": "<b>"}}, r"`loss\.low` is '<b>'"),
        ({"loss": {"before": 1.0}}, r"`loss\.after` is None"),
        ({"gain": []}, None),
        ({"baseline": {"name": "LoRA"}}, "`baseline.loss` holds None"),
        ({"baseline": {"name": 1, "loss": loss}}, r"`baseline\.name` is 1"),
        ({"gain": [1]}, r"`gain` holds \[1\]"),
        ({"models": {"Pilot alone": {"correct": True}}}, r"`models\.correct` is True"),
        ({"copilot_weight": "1"}, "`copilot_weight` is '1'"),
        ({"rows": [{"question": "?"}]}, "`rows` must be a list of objects with expected"),
        ({"rows": [{**dict.fromkeys(ROW_NAMES, "x")}]}, r"`pilot_correct` and `pair_correct` of a row"),
    ):
        (tmp_path / "torn" / "evaluation.json").write_text(json.dumps(results))
        if key is None:
            assert RunFolder.read(tmp_path / "torn").results == results
            continue
        with pytest.raises(ValueError, match=rf"evaluation\.json: {key}.*transformers-copilot evaluate"):
            write_report(tmp_path / "torn", tmp_path / "r.html")
    assert not list(tmp_path.glob("*.html*"))


@pytest.mark.parametrize(
    "fields",
    [
        {"copilot_weight": "1"},
        {"copilot_weight_fit": {"scores": [1]}},
        {"copilot_weight_fit": [1]},
        {"copilot_weight_fit": {"scores": {"0": "<b>"}}},
        {"copilot_weight_fit": {"scores": {}, "set_size": None}},
    ],
)
def test_a_weight_that_is_no_number_is_named(run, tmp_path, fields):
    run[1].save(tmp_path / "mistake_log.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"config\.json.*(copilot_weight|of the pair's λ).*expected"):
        write_report(tmp_path, tmp_path / "r.html", with_pair=False)


def test_logs_of_several_processes_are_read_together(run, tmp_path):
    for name in ("mistake_log.safetensors", "mistake_log-00001.safetensors"):
        run[1].save(tmp_path / name)
    source = RunFolder.read(tmp_path).source
    assert len(source) == 2 and torch.is_tensor(run[1][0].labels)
    made = write_report(tmp_path, tmp_path / "r.html").read_text(encoding="utf-8")
    tokens = 2 * sum(int((record.labels >= 0).sum()) for record in run[1])
    assert f"<dt>Tokens of replies</dt><dd>{tokens:,}</dd>" in made
