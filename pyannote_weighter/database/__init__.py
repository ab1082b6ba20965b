"""Likes: their file format, their loader, their protocol."""

from .likes import read_likes, write_likes
from .loader import LikesLoader
from .protocol import SpeakerLikesProtocol, register

__all__ = ["LikesLoader", "SpeakerLikesProtocol", "read_likes", "register", "write_likes"]
