"""A Mistake Log counted row by row in plain Python, from its raw tensors: what the analysis is tested against."""

from collections import Counter, defaultdict


def rows_of(log):
    """A log's rows, made one by one from its raw tensors and not by the package's own way."""
    rows = []
    for number, record in zip(log.round_numbers, log, strict=True):
        at, lessons = 0, 0
        for sequence, length in enumerate(record.lengths.tolist()):
            for position in range(length):
                here, label = at + position, int(record.labels[at + position])
                lesson = bool(record.lessons[here])
                lessons += lesson
                if (label < 0 and position == length - 1) or not (lesson or record.belief_ids is not None):
                    continue
                true = label if label >= 0 else int(record.token_ids[here + 1])
                if lesson:  # exact; these lie one after the other
                    names = ("true_probabilities", "predicted_ids", "predicted_probabilities", "mistake_sizes")
                    p, predicted, probability, size = (getattr(record, name)[lessons - 1].item() for name in names)
                else:
                    p = float(record.next_probabilities[here])
                    beliefs = [record.belief_ids[here].tolist(), record.belief_probabilities[here].tolist()]
                    size = (1 - p) ** 2 + sum(q * q for token, q in zip(*beliefs, strict=True) if token != true)
                    predicted, probability = (values[0] for values in beliefs)
                token = int(record.token_ids[here])
                rows.append((number, sequence, position, token, true, p, predicted, probability, label >= 0, size))
            at += length
        assert lessons == len(record.true_probabilities)
    return rows


def brute_force(rows, class_of, round_bins):
    """What the analysis promises, counted row by row in plain Python."""
    rounds = [row[0] for row in rows]
    first, length = min(rounds), max(rounds) - min(rounds) + 1
    round_bins = min(round_bins, length)
    supervised = [row for row in rows if row[8]]
    replies = defaultdict(list)
    pairs, tenth_pairs, tenth_tokens, tenth_wrong = defaultdict(list), Counter(), Counter(), Counter()
    by_class, by_round = defaultdict(list), defaultdict(list)
    for row in supervised:
        wrong, tenth = row[4] != row[6], (row[0] - first) * 10 // length
        replies[row[0], row[1]].append((wrong, row[9]))
        by_class[class_of(row[4])].append((wrong, row[9]))
        by_round[(row[0] - first) * round_bins // length, class_of(row[4])].append((wrong, row[9]))
        tenth_tokens[tenth] += 1
        if wrong:
            pairs[row[4], row[6]].append(row[9])
            tenth_pairs[row[4], row[6], tenth] += 1
            tenth_wrong[tenth] += 1
    first_wrong, after = Counter(), defaultdict(list)
    for reply in replies.values():
        wrong_at = [place for place, (wrong, _) in enumerate(reply) if wrong]
        if wrong_at:
            first_wrong[wrong_at[0]] += 1
            for place, (wrong, size) in enumerate(reply):
                after[place - wrong_at[0]].append((wrong, size, sum(size for _, size in reply[: place + 1])))
    return {
        "supervised": supervised,
        "replies": replies,
        "pairs": pairs,
        "tenth_pairs": tenth_pairs,
        "tenth_tokens": tenth_tokens,
        "tenth_wrong": tenth_wrong,
        "by_class": by_class,
        "by_round": by_round,
        "first_wrong": first_wrong,
        "after": {distance: values for distance, values in after.items() if -5 <= distance <= 20},
    }
