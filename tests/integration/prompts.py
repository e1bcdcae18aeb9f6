"""Prompts for the small pair: beginnings of sentences such as its corpora hold."""

PROMPTS = (
    "The people of the United States",
    "It was a truth which nobody in the village",
    "I have the honour to report to Congress that",
    "She looked at him with an expression of",
    "The revenue of the last fiscal year amounted to",
    "There is no subject more deserving of",
    "Mr. Darcy had never before",
    "Call me Ishmael. Some years ago",
    "Our relations with foreign powers",
    "The ball at Netherfield was",
    "During the past year the Department of War",
    "He was not an ill-disposed young man, unless",
    "The treaty with Great Britain",
    "Whales are seldom seen in",
    "My fellow citizens, we meet today",
    "Her mother was a woman of",
    "The Secretary of the Treasury recommends",
    "No one who had ever seen Catherine",
    "The captain stood on the deck and",
    "We must not forget that peace",
)
