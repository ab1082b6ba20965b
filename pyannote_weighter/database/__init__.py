"""Likes: their file format, their loader, their protocol, and likes made worse on purpose."""

from .corruption import corrupt_likes, drop_likes
from .likes import read_likes, write_likes
from .loader import LikesLoader
from .protocol import SpeakerLikesProtocol, register

__all__ = [
    "LikesLoader",
    "SpeakerLikesProtocol",
    "corrupt_likes",
    "drop_likes",
    "read_likes",
    "register",
    "write_likes",
]
