"""Prompts that pairs are recorded with. Nothing was tuned on them."""

from __future__ import annotations

PROMPTS = (
    "Explain how a bicycle stays upright.",
    "Write a short letter asking a neighbour to water the plants.",
    "What causes the tides?",
    "Describe the taste of a ripe pear to someone who has never eaten one.",
    "Give three reasons to learn a second language.",
    "How does a refrigerator keep food cold?",
    "Tell a story about a lighthouse keeper and a storm.",
    "What is the difference between weather and climate?",
    "List the steps to change a flat tyre.",
    "Why do leaves change colour in autumn?",
    "Summarise what a court of appeal does.",
    "Write a function that counts the vowels in a string.",
    "How do vaccines work?",
    "Describe a busy market on a Saturday morning.",
    "What should be packed for a week of hiking?",
    "Explain compound interest to a child.",
    "Who repairs roads, and how is it paid for?",
    "Write a dialogue between a cat and a goldfish.",
    "How is paper made from wood?",
    "What makes a good teacher?",
    "Explain why the sky is dark at night.",
    "Compare trains and aeroplanes for a journey of 500 km.",
    "How does a search engine find pages?",
    "Describe the first day at a new job.",
)
