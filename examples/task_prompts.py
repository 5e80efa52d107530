"""Tasks, their prompts and targets, and how an answer is read out of a reply.

The commonsense instructions and targets are LLM-Adapters', which the paper (arXiv 2505.16270) follows. Every prompt is

    Question: {instruction}
    Answer:

and the target goes on from there: ` the correct answer is answer2` for commonsense; for arithmetic the worked solution,
then `####` and the answer, ` x=(22-14)/4 #### 2`. The mark makes the answer easy to find whatever the solution says.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a task needs to be known by.

    Args:
        name: Name on the command line, and the name of its folder.
        group: The folder that its folder stands in, `arithmetic` or `commonsense`.
        label: Word that choices are numbered with (`answer1`, ...), `truth` for true or false, `letter` for A to E,
            `number` for a number.
        max_new_tokens: Tokens to generate for a reply: room for the target of all but freak questions.
        choices_in_key: Whether two items are the same only if their choices are, too (PIQA's questions repeat).
    """

    name: str
    group: str
    label: str
    max_new_tokens: int
    choices_in_key: bool = False


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("mawps", "arithmetic", "number", 40),
        Task("svamp", "arithmetic", "number", 40),
        Task("gsm8k", "arithmetic", "number", 256),
        Task("aqua", "arithmetic", "letter", 256),
        Task("boolq", "commonsense", "truth", 12),
        Task("openbookqa", "commonsense", "answer", 12),
        Task("arc_easy", "commonsense", "answer", 12),
        Task("arc_challenge", "commonsense", "answer", 12),
        Task("piqa", "commonsense", "solution", 12, choices_in_key=True),
        Task("social_iqa", "commonsense", "answer", 12),
        Task("winogrande", "commonsense", "option", 12, choices_in_key=True),
        Task("hellaswag", "commonsense", "ending", 12, choices_in_key=True),
    )
}

ANSWER_MARK = "####"
_LEADS = {
    "answer": "Please choose the correct answer to the question: ",
    "solution": "Please choose the correct solution to the question: ",
    "option": "Please choose the correct answer to fill in the blank to complete the given sentence: ",
    "ending": "Please choose the correct ending to complete the given sentence: ",
}
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_LABELS = {
    "truth": re.compile(r"\b(true|false)\b"),
    "letter": re.compile(r"\b([A-E])\b"),
    **{word: re.compile(rf"\b({word}\d+)\b") for word in _LEADS},
}


@dataclass(frozen=True)
class Question:
    """One item of a task.

    Args:
        id: Its name in the data.
        question: The question's text.
        answer: What a right reply says: a decimal number, a letter A to E, or a label such as `answer2` or `true`.
        rationale: The worked solution (arithmetic), or nothing.
        choices: The choices' texts (commonsense), or nothing.
        stem: The question without its choices where they stand in the question's text (AQuA), or nothing.
    """

    id: str
    question: str
    answer: str
    rationale: str = ""
    choices: tuple[str, ...] = ()
    stem: str = ""


def instruction_of(task: Task, question: Question) -> str:
    """The instruction of LLM-Adapters for a question.

    Args:
        task: The question's task.
        question: The question.

    Returns:
        The text, without the prompt's frame.
    """
    if task.group == "arithmetic":
        return question.question
    if task.label == "truth":
        lead = "Please answer the following question with true or false, question: "
        return f"{lead}{question.question}\n\nAnswer format: true/false"
    word = task.label
    names = [f"{word}{number}" for number in range(1, len(question.choices) + 1)]
    between = "\n\n" if word == "solution" else " "
    before_format = " " if word == "option" else "\n\n"
    listed = between.join(f"{name.capitalize()}: {text}" for name, text in zip(names, question.choices, strict=True))
    return f"{_LEADS[word]}{question.question}\n\n{listed}{before_format}Answer format: {'/'.join(names)}"


def prompt_of(task: Task, question: Question) -> str:
    """The text that the model is given.

    Args:
        task: The question's task.
        question: The question.

    Returns:
        The prompt; the target begins with the space that follows it.
    """
    return f"Question: {instruction_of(task, question)}\nAnswer:"


def target_of(task: Task, question: Question) -> str:
    """The text that the model is to write, without the end-of-text token.

    Args:
        task: The question's task.
        question: The question.

    Returns:
        The target: for arithmetic the worked solution if there is one, the mark and the answer.
    """
    if task.group == "commonsense":
        return f" the correct answer is {question.answer}"
    solution = question.rationale.strip()
    if task.name in ("mawps", "svamp"):
        solution = plain_equation(solution)
    return f" {solution} {ANSWER_MARK} {question.answer}" if solution else f" {ANSWER_MARK} {question.answer}"


def plain_equation(equation: str) -> str:
    """Write an equation of MAWPS or SVAMP the short way: `X=((22.0-14.0)/4.0)` becomes `x=(22-14)/4`.

    Args:
        equation: The equation as the data has it, or nothing.

    Returns:
        The same equation without blanks, superfluous decimals and outer brackets, its unknown called x; an expression
        without an equals sign gets `x=` in front.
    """
    short = re.sub(r"(\d)\.0+(?!\d)", r"\1", re.sub(r"\s+", "", equation)).lower()
    if not short:
        return ""
    left, equals, right = short.rpartition("=")
    while _is_bracketed(right):
        right = right[1:-1]
    return f"{left}={right}" if equals else f"x={right}"


def _is_bracketed(expression: str) -> bool:
    """Whether the first bracket of an expression is closed by its last character."""
    if not (expression.startswith("(") and expression.endswith(")")):
        return False
    depth = 0
    for position, character in enumerate(expression):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position == len(expression) - 1
    return False


def extract_answer(task: Task, reply: str) -> str | None:
    """Read the answer out of a reply.

    Arithmetic: the first number (AQuA: the first letter A to E) after the mark; without a mark the last one in the
    reply. Commonsense: the first label in the reply, as LLM-Adapters does.

    Args:
        task: The task.
        reply: What the model wrote.

    Returns:
        The answer, a number without thousands commas, or `None` where the reply has none.
    """
    pattern = _NUMBER if task.label == "number" else _LABELS[task.label]
    if task.group == "commonsense":
        found = pattern.search(reply.lower())
        return found.group(0) if found else None
    _, mark, after = reply.partition(ANSWER_MARK)
    found_all = pattern.findall(after if mark else reply)
    if not found_all:
        return None
    return (found_all[0] if mark else found_all[-1]).replace(",", "")
