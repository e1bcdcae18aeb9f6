"""Training prompts: task templates filled with topics, and follow-up turns. The rest the target invents itself."""

from __future__ import annotations

import random
from pathlib import Path

TASKS = (
    "Explain {} in simple terms.",
    "Write a short paragraph about {}.",
    "What is {}?",
    "What are the benefits of {}?",
    "What are the risks of {}, and how can they be reduced?",
    "Give me five facts about {}.",
    "How does {} work?",
    "Write a poem about {}.",
    "Write a short story that involves {}.",
    "Describe {} to a child.",
    "Summarize what is known about {}.",
    "Write an email to a friend about {}.",
    "Write a formal letter to a company about {}.",
    "What are common mistakes people make with {}?",
    "Make a list of things to consider about {}.",
    "Give step-by-step instructions for a beginner who is interested in {}.",
    "Compare {} with something similar.",
    "Write a dialogue between two people who disagree about {}.",
    "What is the history of {}?",
    "Write three quiz questions about {} with answers.",
    "Why do people care about {}?",
    "Suggest a title and an outline for an article about {}.",
    "Write a product description related to {}.",
    "Write a Python program related to {}.",
    "Write a Python class that models {}, with comments.",
    "Write a JavaScript function for an app about {}.",
    "Design a database table to store information about {}.",
    "Write a small HTML page about {}.",
    "Argue for and against {}.",
    "Write a speech about {} for a school audience.",
    "Write a news report about {}.",
    "Write a diary entry about {}.",
    "Invent a riddle about {}.",
    "What questions should I ask an expert on {}?",
    "Plan a weekend around {}.",
    "I want to learn more about {}. Where do I start?",
    "I am worried about {}. What should I do?",
    "Someone asked me about {} and I had no answer. Help me reply.",
    "How has {} changed in the last hundred years?",
    "How do you measure or evaluate {}?",
    "Which jobs have to do with {}?",
    "Write a social media post about {}.",
    "Write a review that mentions {}.",
    "Translate a sentence about {} into French and explain it.",
    "Define {} in one sentence, then give two examples.",
    "What is the connection between {} and everyday life?",
    "Write a word problem in mathematics about {} and solve it.",
    "Imagine a world without {}.",
    "Explain {} as if you were a sports commentator.",
    "Tell me a joke about {}.",
)

TOPICS = tuple(Path(__file__).with_name("topics.txt").read_text().splitlines())

FOLLOW_UPS = (
    "Can you make that shorter?",
    "Can you explain the last point in more detail?",
    "Give me an example.",
    "Rewrite that for a ten-year-old.",
    "What else should I know?",
    "Why is that?",
    "Turn that into a list.",
    "Make it more formal.",
    "Make it funnier.",
    "Thanks! What would you do first?",
    "I do not understand. Try again in other words.",
    "Are you sure? Check your answer.",
    "Continue.",
    "What is the opposite view?",
    "Now write it as a letter.",
)


def template_prompt(random_source: random.Random) -> str:
    """Return one task about one topic."""
    return random_source.choice(TASKS).format(random_source.choice(TOPICS))


def follow_up(random_source: random.Random) -> str:
    """Return what a user may say after an answer."""
    return random_source.choice(FOLLOW_UPS)
