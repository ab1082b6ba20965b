"""Conversations built from single-speaker recordings along real turn timings, and vectors that
switch along a random walk, with what clusters them (`rivals`) and how well anybody can (`limits`).
"""

from pyannote_weighter.simulation.acoustics import Acoustics, pink_noise, room_response
from pyannote_weighter.simulation.conversations import simulate_conversation
from pyannote_weighter.simulation.corpus import write_corpus
from pyannote_weighter.simulation.splits import split_turns, split_voices
from pyannote_weighter.simulation.turns import TurnTaking, choose_excerpt, read_turns
from pyannote_weighter.simulation.vectors import (
    RandomWalkVectors,
    Sequences,
    dominance,
    random_walk,
)
from pyannote_weighter.simulation.voices import SAMPLE_RATE, Voice, load_voice, read_voices

__all__ = [
    "SAMPLE_RATE",
    "Acoustics",
    "RandomWalkVectors",
    "Sequences",
    "TurnTaking",
    "Voice",
    "choose_excerpt",
    "dominance",
    "load_voice",
    "pink_noise",
    "random_walk",
    "read_turns",
    "read_voices",
    "room_response",
    "simulate_conversation",
    "split_turns",
    "split_voices",
    "write_corpus",
]
