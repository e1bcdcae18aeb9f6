"""Verification of drafts: what is accepted, the bonus token, and what ends inside them."""

from __future__ import annotations

from wanspec.conformance.rule import RuleSkippedError, expect, rule
from wanspec.conformance.rules.ending import words
from wanspec.conformance.sources import ROUNDS, TENSORS, VERIFICATION
from wanspec.conformance.subject import Reference, Subject

SECTION = VERIFICATION
METRICS = ("total_draft_tokens", "total_accepted_draft_tokens", "acceptance_rate")


def _drafts(subject: Subject, reference: Reference, right: int, count: int) -> list[int]:
    """``right`` greedy tokens, then wrong ones."""
    text = reference.output
    return [*text[:right], *(subject.other(text[place]) for place in range(right, count))]


@rule(
    "drafts.accepted",
    "k right drafts give k + 1 tokens: the drafts and a bonus token, as greedy generation gives.",
    section=SECTION,
    why="this is the gain of speculative decoding, and where an index is off by one",
    how="every k up to max_draft_len (--most-drafts), three prompts",
)
def accepted(subject: Subject) -> None:
    """All drafts right."""
    for count in range(1, subject.longest_drafts() + 1):
        for reference in subject.facts.references:
            text = subject.text(reference.prompt, count + 1, reference.output[:count])
            expect(f"tokens after {count} right drafts", reference.output[: count + 1], text)


@rule(
    "drafts.rejected",
    "Of drafts right up to m, the m and one token of the model's own come, for every m below every k.",
    section=SECTION,
    why="a wrong draft that is accepted is a wrong answer",
    how="every k and every m",
)
def rejected(subject: Subject) -> None:
    """Every right prefix of every length."""
    reference = subject.reference
    for count in range(1, subject.longest_drafts() + 1):
        for right in range(count):
            text = subject.text(reference.prompt, count + 1, _drafts(subject, reference, right, count))
            expect(f"tokens after {right} right of {count} drafts", reference.output[: right + 1], text)


@rule(
    "drafts.right_after_wrong",
    "A draft after a wrong one counts for nothing, however right it looks.",
    section=SECTION,
    why="it was drafted after another prefix",
    how="the first draft wrong, the others as in greedy text",
)
def right_after_wrong(subject: Subject) -> None:
    """One wrong draft in front."""
    reference, count = subject.reference, subject.longest_drafts()
    if count < 2:
        raise RuleSkippedError("max_draft_len is 1")
    drafts = [subject.other(reference.output[0]), *reference.output[1:count]]
    expect("tokens", reference.output[:1], subject.text(reference.prompt, count + 1, drafts))


@rule(
    "drafts.output_len",
    "request_output_len limits accepted drafts too.",
    section=TENSORS,
    why="the last round of an answer would overshoot",
    how="all drafts right, every shorter request_output_len",
)
def output_len(subject: Subject) -> None:
    """Fewer tokens than drafts."""
    reference, count = subject.reference, subject.longest_drafts()
    for length in range(1, count + 1):
        text = subject.text(reference.prompt, length, reference.output[:count])
        expect(f"tokens with {count} right drafts and request_output_len {length}", reference.output[:length], text)


@rule(
    "drafts.end_id",
    "end_id inside accepted drafts, or as the bonus token, ends the output and is not part of it.",
    section=VERIFICATION,
    why="text after the end, or an end token in the text",
    how="takes each token of the greedy text, up to the bonus token, as end_id",
)
def end_id(subject: Subject) -> None:
    """An end at every place."""
    reference, count = subject.reference, subject.longest_drafts()
    text = reference.output
    for place in range(count + 1):
        if text[place] in text[:place]:
            continue
        got = subject.text(reference.prompt, count + 1, text[:count], end_id=text[place])
        expect(f"tokens with end_id at place {place} of {count} drafts", text[:place], got)


@rule(
    "drafts.stop_words",
    "A stop word completed inside accepted drafts ends the output with it; it may begin in the prompt.",
    section=TENSORS,
    why="verification in rounds would run past the stop",
    how="a word of the second and third draft; one of the last prompt token and the first draft",
)
def stop_words(subject: Subject) -> None:
    """Stop words among drafts."""
    reference, count = subject.reference, subject.longest_drafts()
    text = reference.output
    if count >= 3:
        got = subject.text(reference.prompt, count + 1, text[:count], stop_words_list=words(text[1:3]))
        expect("tokens with a stop word inside the drafts", text[:3], got)
    across = words([reference.prompt[-1], text[0]])
    got = subject.text(reference.prompt, count + 1, text[:count], stop_words_list=across)
    expect("tokens with a stop word that begins in the prompt", text[:1], got)


@rule(
    "drafts.metrics",
    "total_draft_tokens, total_accepted_draft_tokens and acceptance_rate describe the request.",
    section=f"{TENSORS}, outputs",
    why="adaptive draft lengths and dashboards stand on them",
    how="every m right of the most drafts",
)
def metrics(subject: Subject) -> None:
    """Acceptance of every prefix."""
    reference, count = subject.reference, subject.longest_drafts()
    for right in range(count + 1):
        drafts = _drafts(subject, reference, right, count)
        answer = subject.ask(reference.prompt, count + 1, drafts, want=METRICS, return_perf_metrics=True)
        got = tuple(round(answer.scalar(name), 4) for name in METRICS)
        expect(f"{', '.join(METRICS)} with {right} right of {count}", (count, right, round(right / count, 4)), got)


@rule(
    "drafts.rounds",
    "Text by rounds of drafts, right and wrong, equals text without drafts.",
    section=ROUNDS,
    why="this is what speculative decoding promises",
    how="rounds with random draft lengths and errors over three greedy texts",
)
def rounds(subject: Subject) -> None:
    """A whole client loop."""
    longest = subject.longest_drafts()
    for reference in subject.facts.references:
        text, done = reference.output, 0
        while done < len(text):
            count = min(int(subject.rng.integers(0, longest + 1)), len(text) - done - 1)
            drafts = list(text[done : done + count])
            if drafts and subject.rng.random() < 0.5:
                place = int(subject.rng.integers(len(drafts)))
                drafts[place] = subject.other(drafts[place])
            got = subject.text([*reference.prompt, *text[:done]], len(drafts) + 1, drafts or None)
            expect(f"tokens at place {done}", text[done : done + len(got)], got)
            expect("at least one token a round", True, bool(got))
            done += len(got)


RULES = (accepted, rejected, right_after_wrong, output_len, end_id, stop_words, metrics, rounds)
