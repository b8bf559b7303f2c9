"""What can be found in rows, in words: of each kind its harm, a sentence, and a cure of one line.

A table and nothing else: what it takes to be found is in `findings.py`, what the remedies do in `clean.py`.
"""

from typing import Literal

Level = Literal["stop", "warning", "hint"]
LEVELS: tuple[Level, ...] = ("stop", "warning", "hint")

# kind -> its harm, what "{rows}" of the "{count}" rows are or do, the cure, and the name of `clean`'s remedy
TEXTS: dict[str, tuple[Level, str, str, str]] = {
    "duplicates": (
        "warning", "say the same as an earlier row",
        "Keep one of each: a row that is there twice is learned twice.", "drop_duplicates",
    ),
    "near_duplicates": (
        "hint", "say almost the same as an earlier row",
        "Look at some of them; keep one of each if they teach nothing new.", "drop_near_duplicates",
    ),
    "conflicting_answers": (
        "hint", "ask what another row asks and answer it differently",
        "Keep the right answer, if only one is right.", "",
    ),
    "leaks": (
        "warning", "are trained although a held-out row says the same or almost the same",
        "Drop them from the training rows: the held-out loss looks better than it is.", "drop_leaks",
    ),
    "nothing_trained": (
        "warning", "have nothing to learn and are left out",
        "Look at their roles, and at data.loss_on.", "drop_untrained",
    ),
    "answer_cut_off": (
        "warning", "are cut before their answer begins, and are left out",
        "Raise model.max_length, or shorten what comes before the answer.", "drop_untrained",
    ),
    "answer_cut": (
        "warning", "lose a part of what is learned, so the model learns to stop in the middle",
        "Raise model.max_length, or split long rows.", "drop_cut",
    ),
    "cut": (
        "hint", "are longer than the sequence length, but nothing that is learned is cut",
        "Raise model.max_length if what is cut matters.", "",
    ),
    "longer_than_context": (
        "warning", "are longer than the model can read",
        "Split or shorten these rows.", "",
    ),
    "no_end": (
        "warning", "do not teach where the answer ends, so the model may not stop",
        "Let the chat template end each answer with its end-of-turn token.", "",
    ),
    "empty_answer": (
        "warning", "have an empty answer", "Fill it, or drop these rows.", "drop_empty",
    ),
    "short_answer": (
        "hint", "have an answer of one word, which is rare in these data",
        "Look at them; drop them if they answer nothing.", "drop_short",
    ),
    "same_answer": (
        "hint", "have the same answer",
        "Keep fewer of them if the model should say it less often.", "",
    ),
    "role_twice": (
        "warning", "have two turns of the same role in a row",
        "Join the two, or add the turn that is missing.", "merge_turns",
    ),
    "ends_with_user": (
        "warning", "end with a turn that nobody answers",
        "Add the answer, or drop that turn.", "drop_last_user_turn",
    ),
    "assistant_first": (
        "warning", "begin with an assistant turn, which many chat templates refuse",
        "Put a user turn before it.", "",
    ),
    "system_not_first": (
        "warning", "have a system turn that is not the first turn, which many chat templates refuse",
        "Put the system turn first, or make it a user turn.", "",
    ),
    "tool_without_call": (
        "warning", "have a tool's result that no assistant turn called for",
        "Add tool_calls to the turn before it.", "",
    ),
    "call_without_result": (
        "hint", "go on after a tool was called, without its result",
        "Add the tool's turn.", "",
    ),
    "other_script": (
        "hint", "are in another script than the rest",
        "Keep them if they are meant.", "drop_other_script",
    ),
    "other_language": (
        "hint", "look like another language than the rest",
        "Keep them if they are meant.", "drop_other_language",
    ),
    "secrets": (
        "warning", "seem to hold a secret, which the model can learn and say again",
        "Mask them, and change the secrets that are real.", "mask_secrets",
    ),
    "personal_data": (
        "hint", "seem to hold personal data, which the model can learn and say again",
        "Mask them if they are real and you may not use them.", "mask_personal",
    ),
    "special_tokens": (
        "warning", "hold signs of a chat template in what is said",
        "Give the turns without template: it is written for you.", "",
    ),
}  # fmt: skip
