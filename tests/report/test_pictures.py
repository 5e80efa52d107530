"""The report's pictures: readable on a phone, nothing hidden, nothing drawn of what is too few to show anything."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from transformers_copilot.mistake_log.token_text import TOKEN_CLASSES, TokenTexts
from transformers_copilot.report import pictures, pictures_of_pair
from transformers_copilot.report.mistake_examples import LoggedSequence
from transformers_copilot.report.pair_inspection import LayerView, PairInspection
from transformers_copilot.report.token_cells import layer_lines, reply_lines


PHONE = 350  # pixels that a picture has on a screen of 390
SMALLEST = 9  # pixels that can still be read


def by_round(tokens: int = 20) -> pd.DataFrame:
    """Five kinds of tokens over forty stretches, the highest point first."""
    rows = [
        {"first_round": place, "token_class": kind, "tokens": tokens, "wrong": 1, "mean_size": 2.0 / (1 + place)}
        for place in range(40)
        for kind in TOKEN_CLASSES
    ]
    return pd.DataFrame(rows)


def inspected() -> PairInspection:
    rng = np.random.default_rng(0)
    tokens = pd.DataFrame({name: rng.integers(0, 5, 200) for name in ("true_token_id", "pilot_token_id")})
    tokens = tokens.assign(pair_token_id=tokens["true_token_id"], noticeable=4, corrected=3, harmed=1)
    for name in ("pilot_confidence", "pair_confidence"):
        tokens[name] = rng.random(200)
    grid = np.linspace(0, 12, 12)
    by_weight = pd.DataFrame({"weight": grid, "token_accuracy": grid / 12, "mistake_size": 1.0, "loss": 2 - grid / 12})
    return PairInspection(1.0, by_weight, tokens)


def made() -> dict:
    """Every picture of the page, by its name, as a call."""
    places = pd.DataFrame({"place": range(30), "tokens": 40, "wrong": 3, "wrong_share": 0.1, "mean_size": 0.2})
    after = pd.DataFrame({"distance": range(-5, 21), "tokens": 30, "wrong_share": 0.3, "mean_total": np.arange(26.0)})
    corrected = pictures_of_pair.corrected_by_class(inspected(), TokenTexts())
    corrected = pd.concat([corrected.assign(token_class=kind) for kind in TOKEN_CLASSES], ignore_index=True)
    return {
        "rounds": lambda: pictures.sizes_over_rounds(by_round()),
        "places": lambda: pictures.places_in_reply(places),
        "after": lambda: pictures.after_first_wrong(after),
        "weight": lambda: pictures_of_pair.effect_of_weight(inspected().by_weight, 1.0),
        "corrected": lambda: pictures_of_pair.share_of_corrected(corrected),
        "reliability": lambda: pictures_of_pair.reliability(inspected()),
    }


@pytest.fixture
def drawn_figures(monkeypatch):
    """The figures that are drawn meanwhile, in the place of their files."""
    figures = []

    def keep(figure, dots=200):
        FigureCanvasAgg(figure).draw()
        figures.append(figure)
        return b""

    for module in (pictures, pictures_of_pair):
        monkeypatch.setattr(module, "png", keep)
    return figures


@pytest.mark.parametrize("name", list(made()))
def test_a_picture_is_read_on_a_phone_and_its_legend_hides_nothing(name, drawn_figures):
    made()[name]()
    (figure,) = drawn_figures
    scale = PHONE / (72 * figure.get_figwidth())
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert texts and min(scale * text.get_fontsize() for text in texts) >= SMALLEST
    assert not any(axes.get_legend() for axes in figure.axes)
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    width = figure.get_window_extent().width
    ticks = [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_ticklabels()]
    for text in texts:  # nor is a word cut off; ticks beyond the axes have labels that are not drawn
        box = text.get_window_extent()
        assert text in ticks or (box.x0 >= -1 and box.x1 <= width + 1), text.get_text()


def test_the_highest_point_of_the_mistakes_is_drawn(drawn_figures):
    pictures.sizes_over_rounds(by_round())
    (axes,) = drawn_figures[0].axes
    assert len(axes.lines) == len(TOKEN_CLASSES) and axes.get_ylim()[1] >= 2.0


def test_nothing_is_drawn_of_fewer_than_five_cases(drawn_figures):
    few = by_round()
    few.loc[few["token_class"] == "word", "tokens"] = 4
    few.loc[few["first_round"] == 7, "tokens"] = 4
    pictures.sizes_over_rounds(few)
    lines = drawn_figures[0].axes[0].lines
    assert [line.get_label() for line in lines] == [kind for kind in TOKEN_CLASSES if kind != "word"]
    assert all(len(line.get_xdata()) == 39 and 8 not in line.get_xdata() for line in lines)
    places = pd.DataFrame({"place": range(3), "tokens": [9, 5, 4], "wrong": 1, "wrong_share": 0.1, "mean_size": 0.2})
    pictures.places_in_reply(places)
    assert len(drawn_figures[1].axes[0].patches) == 2
    one = inspected()
    one.tokens = one.tokens.head(4)
    assert len(pictures_of_pair.corrected_by_class(one, TokenTexts())) == 0


def test_tokens_in_colour_say_what_the_log_says():
    rows = pd.DataFrame(
        {
            "true_token_id": [3, 4, 5],
            "predicted_token_id": [3, 9, 5],
            "mistake_size": [0.0, 2.0, 0.5],
            "supervised": [True, True, True],
        }
    )
    (line,) = reply_lines([LoggedSequence(rows)], TokenTexts(), places=2)
    assert [(cell.name, cell.heat, cell.wrong) for cell in line.cells] == [("#3", 0, None), ("#4", 100, "#9")]
    assert line.left_out == 1 and line.cells[1].note == "mistake 2.00"
    layers = [(f"layer {n}", [(n, 0.5), (7, 0.25)]) for n in range(1, 31)]
    view = LayerView(7, [1, 2], 0.8, [*layers, ("Pilot", [(1, 0.9), (7, 0.1)]), ("Pilot + Copilot", [(7, 0.6)])], True)
    lines = layer_lines(view, TokenTexts())
    assert len(lines) == 14 and [label for label, _ in lines][-3:] == ["layer 30", "Pilot", "Pilot + Copilot, λ = 0.8"]
    assert [(cell.name, cell.heat, cell.note, cell.marked) for cell in lines[-2][1]] == [
        ("#1", 90, "90 %", False),
        ("#7", 10, "10 %", True),
    ]
