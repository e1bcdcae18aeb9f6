"""Prompts that acceptance is measured on. Written by hand, unlike the training prompts; never trained on."""

from __future__ import annotations

Turn = tuple[str, str]
"""Role and text of one turn of a conversation."""

HELD_OUT: tuple[tuple[Turn, ...], ...] = (
    (("user", "Why do cats purr when they are not happy?"),),
    (("user", "My landlord wants to raise the rent by 30 percent. Draft a firm but friendly reply."),),
    (("user", "Write a Python function that returns the longest word in a sentence, and show how to call it."),),
    (("user", "A train leaves at 14:20 and arrives at 17:05. How long is the journey? Show your steps."),),
    (("user", "Make this sound more professional: 'hey, can't come in today, feeling awful, sorry!'"),),
    (("user", "Tell a bedtime story about a lighthouse keeper who is afraid of the dark."),),
    (("user", "What should I pack for a week of hiking in Iceland in September?"),),
    (
        (
            "user",
            "Summarize in two sentences: The city council voted on Tuesday to close the old bridge to cars. Cyclists "
            "and pedestrians may still use it. Shop owners nearby fear losing customers, while residents welcome the "
            "quiet.",
        ),
    ),
    (("user", "Explain the difference between TCP and UDP to a new network engineer."),),
    (
        ("user", "I have eggs, spinach, and half an onion. What can I cook?"),
        (
            "assistant",
            "You could make a simple spinach omelette: soften the onion, wilt the spinach, and add the eggs.",
        ),
        ("user", "I have no frying pan. Is there another way?"),
    ),
    (
        ("user", "Hi! I start a new job on Monday and I am nervous."),
        ("assistant", "Congratulations! It is normal to feel nervous. What worries you most?"),
        ("user", "That nobody will like me."),
    ),
    (
        (
            "user",
            "Is the following review positive or negative, and why? 'The battery lasts all day, but the screen "
            "scratched within a week and support never answered.'",
        ),
    ),
    (("user", "Write an SQL query that finds the three customers who spent the most in 2023."),),
    (("user", "Pretend you are a pirate and explain how to make a cup of tea."),),
    (("user", "List five questions a journalist could ask the inventor of a solar-powered boat."),),
    (("user", "What were the main causes of the fall of the Western Roman Empire?"),),
)
"""16 conversations: advice, letters, code, arithmetic, rewriting, stories, two dialogues of several turns and more."""
