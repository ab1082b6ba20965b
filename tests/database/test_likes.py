"""The .likes format: what lines mean, what is refused, and that writing and reading agree."""

import os
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyannote_weighter.database import read_likes, write_likes
from pyannote_weighter.database.likes import quote_item, split_items


def _file(tmp_path, text):
    path = tmp_path / "train.likes"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    "line, items",
    [
        ("ep1 Alice Bob", ["ep1", "Alice", "Bob"]),
        ("  ep1\tAlice  ", ["ep1", "Alice"]),
        ('ep1 "Anna Lee" Bob', ["ep1", "Anna Lee", "Bob"]),
        (r"ep1 Anna\ Lee Bob", ["ep1", "Anna Lee", "Bob"]),
        ('"my file" Alice', ["my file", "Alice"]),
        (r"my\ file Alice", ["my file", "Alice"]),
        ("ep1 O'Brien 'quoted'", ["ep1", "O'Brien", "'quoted'"]),
        ('ep1 "Dwayne \\"The Rock\\" Johnson"', ["ep1", 'Dwayne "The Rock" Johnson']),
        (r"ep1 5\"", ["ep1", '5"']),
        (r"ep1 a\\b", ["ep1", r"a\b"]),
        ("ep1 C# Alice#2", ["ep1", "C#", "Alice#2"]),
        ("ep1 Alice # Bob is not here", ["ep1", "Alice"]),
        (r'ep1 "#1" \#2', ["ep1", "#1", "#2"]),
        ("# all comment", []),
        ("   ", []),
        ("ep1", ["ep1"]),
        ("ep1\u3000\u5c71\u7530 \u00c9mile", ["ep1", "\u5c71\u7530", "\u00c9mile"]),
        (r'ep1 "a\nb\rc"', ["ep1", "a\nb\rc"]),
        ('ep1 "\u201cAnna\u201d" Bob\u201d', ["ep1", "\u201cAnna\u201d", "Bob\u201d"]),
    ],
)
def test_line(line, items):
    assert split_items(line) == items


def test_file(tmp_path):
    path = _file(
        tmp_path,
        "\ufeff# tagged by hand\r\n\r\nep1 Bob Alice Bob\r\nep2   # nobody\r\n"
        '"my file" "Anna Lee"',
    )
    assert read_likes(path) == {"ep1": ("Bob", "Alice"), "ep2": (), "my file": ("Anna Lee",)}
    assert read_likes(str(path)) == read_likes(path)


def test_files_put_together(tmp_path):
    """Each has its byte order mark."""
    path = _file(tmp_path, "\ufeff\ufeffep1 Ann\r\n\ufeffep2 Bob\r\n\ufeff# end\r\n")
    assert read_likes(path) == {"ep1": ("Ann",), "ep2": ("Bob",)}


@pytest.mark.parametrize("text", ["", "\ufeff", "\n\n# only a comment\n"])
def test_nothing_listed(tmp_path, text):
    assert read_likes(_file(tmp_path, text)) == {}


@pytest.mark.parametrize(
    "text, line, reason",
    [
        ('ep1 "Anna Lee', 1, "never closed"),
        ('\n# x\nep1 "Anna"Lee', 3, "follows a closing double quote"),
        ('ep1 Anna"Lee"', 1, "double quote behind 'Anna'"),
        ('ep0\nep1 ""', 2, "empty name"),
        ("ep1 a\\", 1, "backslash before the end of the line"),
        ("ep1 DOMAIN\\nina", 1, "backslash before 'n'"),
        ("ep1 \u201cAnna Lee\u201d", 1, "curly quote"),
        ("ep0\nep1 An\ufeffn", 2, "byte order mark, which nobody sees"),
        ("ep0\nep1 \ufeffAnn", 2, "byte order mark, which nobody sees"),
        ("ep0\nep1 Ann\0", 2, "NUL character, which nobody sees"),
        (b"ep0\nep1 Ren\xe9e\n", 2, "not UTF-8"),
        (b"\xef\xbb\xbfep0\n\xe9\n", 2, "not UTF-8"),
        ("ep1 A".encode("utf-16"), 1, "not UTF-8"),
    ],
)
def test_bad_lines_name_file_line_and_cure(tmp_path, text, line, reason):
    path = _file(tmp_path, text)
    with pytest.raises(ValueError) as error:
        read_likes(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert reason in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    "line",
    ["ep1,Alice,Bob", "ep1: Alice", "ep1, Alice, Bob", "ep1,Anna Lee", "ep1;Ann", r"ep\ 1\,a;: B"],
)
def test_lines_of_other_formats_are_told_of(tmp_path, line):
    with pytest.warns(UserWarning, match="train.likes:2: 'ep ?1.*looks like CSV: separate items"):
        read_likes(_file(tmp_path, f"# uri\n{line}\n"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_likes(_file(tmp_path, '"ep1,2"\n"ep:" Ann\nep1\\,3 Smith,\\ Ann Bob:\n'))
        read_likes(_file(tmp_path, 'ep1\\, Ann;\nep2\\: Ann # a, b\nep:3 "a,b"\n# a, b: c\n'))


def test_uri_listed_twice_names_both_lines(tmp_path):
    path = _file(tmp_path, "ep1 Alice\nep2\n\nep1 Bob\n")
    with pytest.raises(ValueError, match="already listed in line 1") as error:
        read_likes(path)
    assert str(error.value).startswith(f"{path}:4: 'ep1'")


def test_uri_listed_twice_in_two_unicode_forms(tmp_path):
    path = _file(tmp_path, "Caf\u00e9 Alice\nCafe\u0301 Bob\n")
    with pytest.raises(ValueError, match=":2: .* already listed in line 1"):
        read_likes(path)
    people = _file(tmp_path, "ep1 Ren\u00e9 Rene\u0301\n")  # character by character
    assert read_likes(people) == {"ep1": ("Ren\u00e9", "Rene\u0301")}


def test_names_that_only_look_alike_are_told(tmp_path):
    path = tmp_path / "a.likes"
    path.write_text("one J\u00f6rg Ann\ntwo Jo\u0308rg Ann\nthree Ann\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"a.likes: accents .*J\\xf6rg.*Jo\\u0308rg.*one way"):
        assert len(read_likes(path)) == 3


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.likes: no such .likes file"):
        read_likes(tmp_path / "nowhere.likes")


ANY_TEXT = st.text(min_size=1, max_size=12)
AWKWARD = st.text(alphabet="aé山 \t\n\r\"'\\#\ufeff\u2028\x85\u00a0\u201c\x00", min_size=1)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    likes=st.dictionaries(
        ANY_TEXT | AWKWARD, st.none() | st.lists(ANY_TEXT | AWKWARD, max_size=4), max_size=5
    )
)
def test_round_trip(tmp_path, likes):
    path = tmp_path / "round.likes"
    write_likes(path, likes)
    expected = {u: tuple(dict.fromkeys(n)) for u, n in likes.items() if n is not None}
    assert read_likes(path) == expected
    assert list(read_likes(path)) == list(expected)  # the order too
    assert os.listdir(tmp_path) == ["round.likes"]  # nothing temporary is left


@settings(max_examples=200, deadline=None)
@given(item=ANY_TEXT | AWKWARD)
def test_written_items_stay_on_their_line(item):
    written = quote_item(item)
    assert "\n" not in written and "\r" not in written
    assert split_items(written) == [item]


@settings(max_examples=200, deadline=None)
@given(line=AWKWARD | st.text())
def test_any_line_gives_items_or_a_value_error(line):
    try:
        items = split_items(line)
    except ValueError:
        return
    assert all(items)
    assert split_items(" ".join(map(quote_item, items))) == items


def test_written_files_are_readable(tmp_path):
    path = tmp_path / "train.likes"
    write_likes(path, {"ep1": ["Alice", "Anna Lee"], "ep2": (), "ep3": None, "ep4": {"Émile": 1}})
    assert path.read_text("utf-8") == 'ep1 Alice "Anna Lee"\nep2\nep4 Émile\n'


def test_uris_that_look_like_csv_are_written_in_quotes(tmp_path):
    path, likes = tmp_path / "train.likes", {"ep1,2": ("Ann",), "ep;1": (), "ep:": ("Bob",)}
    write_likes(path, likes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_likes(path) == likes


def test_folders_are_made(tmp_path):
    write_likes(tmp_path / "new" / "train.likes", {"ep1": ["Ann"]})
    assert read_likes(tmp_path / "new" / "train.likes") == {"ep1": ("Ann",)}


@pytest.mark.parametrize(
    "likes, reason",
    [
        ({"ep1": "Alice"}, "Pass a tuple"),
        ({"ep1": 5}, "likes of 'ep1' are 5. Pass a tuple"),
        ({"ep1": [["Alice"]]}, "Pass a tuple"),
        ({"Caf\u00e9": ["Alice"], "Cafe\u0301": ["Bob"]}, "twice, in two Unicode forms"),
        ({"ep1": [""]}, "cannot be a uri or name"),
        ({"": ["Alice"]}, "cannot be a uri or name"),
        ({"ep1": [7]}, "cannot be a uri or name"),
        ({"ep1": ["\ud800"]}, "lone surrogate"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, likes, reason):
    path = _file(tmp_path, "old\n")
    with pytest.raises(ValueError, match=reason):
        write_likes(path, likes)
    assert read_likes(path) == {"old": ()}
    assert os.listdir(tmp_path) == ["train.likes"]
