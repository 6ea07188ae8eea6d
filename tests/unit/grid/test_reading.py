"""Strict YAML: values, keys, mistakes with their lines, and dotted keys."""

import os

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.errors import InputError
from ablation.grid.strict_yaml import (
    MAX_BYTES,
    MAX_DEPTH,
    doubts_in_file,
    doubts_in_value,
    flatten,
    overlap,
    read_value,
    read_yaml,
)


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path)

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("on", "off", "yes", "no", "On", "y", "none", "None", "tRUE", "2024-01-01", "1:30", "1_000", "-0x10", "0b1", "0o8", "1e", "inf")],
        *[(word, True) for word in ("true", "True", "TRUE")], *[(word, False) for word in ("false", "False", "FALSE")],
        *[(word, None) for word in ("null", "Null", "NULL", "~")], ("[Null, {a: }]", [None, {"a": None}]),
        *[(f"{quote}{word}{quote}", word) for quote in "'\"" for word in ("True", "Null", "0x1F", "0o17", "1e3", "1_000", "yes")],
        ("0x1F", 31), ("0xff", 255), ("0x0", 0), ("0o17", 15), ("0o0", 0), ("017", 17), ("08", 8), ("+1", 1), ("-0", 0),
        ("5", 5), ("-3", -3), ("010", 10), ("+.5", 0.5), ("1e3", 1e3), ("1.E+3", 1e3), ("1e-3", 1e-3), ("1.0e-3", 1e-3), ("5E-4", 5e-4), (".5", 0.5), ("1.", 1.0),
        ("'5'", "5"), ('"true"', "true"), ("[1, 2.0, on]", [1, 2.0, "on"]), ("{a: {b: off}}", {"a": {"b": "off"}}),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text, value):
    found = read_value(text, "-S")
    assert found == value and type(found) is type(value)


DOUBTFUL = """
None nULL yes On YES tRUE no Off OFF fALSE
1_000 0.000_1 1:30 16:9 0b101 -0x1F 0X1F 0O17 1e 2.5E- inf -inf nan Infinity 1,000 0,5 64,128
2024-01-01 2024-01-01T10:00:00Z \u22121 1e\u22123 \u0663
""".split()


@pytest.mark.parametrize("text", [*DOUBTFUL, "2024-01-01 10:00:00"])
def test_text_that_others_take_for_something_else_is_doubtful_with_its_place(read, text):
    value = f"- 1\n- a: {text}"
    assert read_value(value, "-S", "k") == [1, {"a": text}]
    [doubt] = doubts_in_value(value, "-S", "k")
    assert (doubt.file, doubt.key) == ("-S", "k[1].a")
    said = f'line 2: {text} is read as text; write "{text}" in quotes if text is meant, else '
    assert doubt.message.startswith(said)
    assert read(f"x:\n  y: {text}\n") == {"x": {"y": text}}


CLEAR = """
none y n 1.2.3 v1 10k 5% 1/2 1-2 10.0.0.1 a_1 _1 2024-1-1 nano a:b x,y << = 0bad true ~ 017
'yes' "None" '1_000' "2024-01-01"
""".split()


@pytest.mark.parametrize("text", [*CLEAR, "|\n yes\n"])
def test_text_that_everybody_reads_alike_is_not_doubtful(text):
    assert not [*doubts_in_value(text, "-S", "k")]


def test_keys_are_text(read):
    assert list(read("on: 1\noff: 2\n5: 3\n0.1: 4\ntrue: 5\nnull: 6\n<<: 7\n")) == [
        "on",
        "off",
        "5",
        "0.1",
        "true",
        "null",
        "<<",
    ]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["a.yaml: the file is empty"]),
        ("# only a comment\n", ["a.yaml: the file is empty"]),
        ("- 1\n", ["a.yaml: must hold a mapping (`key: value` lines) at the top"]),
        ("text\n", ["a.yaml: must hold a mapping (`key: value` lines) at the top"]),
        (
            "a: 1\nb: {c: 1, c: 2}\na: 2\n",
            [
                "a.yaml: b.c: line 2: the key 'c' is there twice, first in line 2",
                "a.yaml: a: line 3: the key 'a' is there twice, first in line 1",
            ],
        ),
        ("5: 1\n'5': 2\n", ["a.yaml: 5: line 2: the key '5' is there twice, first in line 1"]),
        ("a:\n  ? [1, 2]\n  : 3\n", ["a.yaml: a: line 2: a key must be text, not a list or a mapping"]),
        ("a:\n\tb: 1\n", ["a.yaml: line 2: a tab; indent with spaces"]),
        ("a: &x 1\nb: *x\n", ["a.yaml: line 1: anchors (&) and aliases (*) are not allowed"]),
        ("a: 1\nb: *x\n", ["a.yaml: line 2: anchors (&) and aliases (*) are not allowed"]),
        ("a: !!python/object/apply:os.system [ls]\n", ["a.yaml: line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed; only plain YAML is"]),
        ("a: !env HOME\n", ["a.yaml: line 1: the tag '!env' is not allowed; only plain YAML is"]),
        ("a: 1\n---\nb: 2\n", ["a.yaml: line 2: expected a single document in the stream, but found another document"]),
        ("a: [1, {b: .nan}]\n", ["a.yaml: a[1].b: line 1: .nan is no number to compute with: finite, and 18 digits if whole"]),
        ("a: 1e999\n", ["a.yaml: a: line 1: 1e999 is no number to compute with: finite, and 18 digits if whole"]),
        *[(f"a: {text}\n", [f"a.yaml: a: line 1: {text} is no number to compute with: "]) for text in (".Inf", "-.INF", ".NaN", "0xFFFFFFFFFFFFFFFF", "0o7777777777777777777777", "9" * 5000)],
        (f"a: {10**18}\n", [f"a.yaml: a: line 1: {10**18} is no number to compute with: finite, and 18 digits if whole"]),
        ('a: "\\ud800"\n', ["a.yaml: line 1: holds half of a surrogate pair, which is no character"]),
        ('"\\ud800": 1\n', ["a.yaml: line 1: holds half of a surrogate pair, which is no character"]),
        ('a: 1\nb: "\\UFFFFFFFF"\n', ["a.yaml: line 2: is not YAML: "]),
        ("a: 1\nb: \x07\n", ["a.yaml: line 2: the character U+0007 is not allowed"]),
        (b"a: 1\nb: \xff\n", ["a.yaml: line 2: is not UTF-8"]),
        ("a: [\n", ["a.yaml: line 2: "]),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), [f"a.yaml: line 1: nested deeper than {MAX_DEPTH} levels"]),
        ("a: " + "[" * 100_000, [f"a.yaml: line 1: nested deeper than {MAX_DEPTH} levels"]),
        ("#" * (MAX_BYTES + 1), [f"a.yaml: is larger than {MAX_BYTES} bytes"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(read, text, messages):
    with pytest.raises(InputError) as error:
        read(text)
    found = [str(problem) for problem in error.value.problems]
    assert len(found) == len(messages)
    assert all(a.startswith(b) for a, b in zip(found, messages)), found


def test_nesting_up_to_the_limit_is_read(read):
    read("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))


def test_a_missing_file_names_the_nearest_one_there(tmp_path):
    (tmp_path / "fixes.yaml").touch()
    with pytest.raises(
        InputError, match=r"fixs.yaml: no such file in '.*'; did you mean 'fixes.yaml'\?"
    ):
        read_yaml(tmp_path / "fixs.yaml")
    with pytest.raises(
        InputError, match="b.yaml: no such file: the folder '.*nowhere' does not exist"
    ):
        read_yaml(tmp_path / "nowhere" / "b.yaml")


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path.name}: cannot be read: Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(InputError, match="cannot be read: embedded null byte"):
        read_yaml(tmp_path / "a\0b.yaml")
    os.symlink(tmp_path / "loop.yaml", tmp_path / "loop.yaml")
    with pytest.raises(InputError, match="loop.yaml: cannot be read: "):
        read_yaml(tmp_path / "loop.yaml")


def test_an_option_without_a_value_is_refused():
    with pytest.raises(InputError, match="-S: a: has no value; write null"):
        read_value("", "-S", "a")


def test_flatten_joins_nested_keys_with_dots_in_order():
    nested = {
        "z": 1,
        "optim": {"lr": {"encoder": 2}, "lr.head": 3},
        "warmup": {"plateau": {}},
        "sizes": [{"a": 1}],
    }
    flat = flatten(nested, pytest.fail)
    assert list(flat.items()) == [
        ("z", 1),
        ("optim.lr.encoder", 2),
        ("optim.lr.head", 3),
        ("warmup.plateau", {}),
        ("sizes", [{"a": 1}]),
    ]


@pytest.mark.parametrize(
    ("mapping", "key", "message"),
    [
        ({"a": {"b": 1}, "a.b": 2}, "a.b", "is set twice, to 1 and to 2"),
        (
            {"optim": {"lr": 1}, "optim.lr.encoder": 2},
            "optim.lr.encoder",
            "clashes with 'optim.lr'",
        ),
        (
            {"optim.lr.encoder": 2, "optim": {"lr": 1}},
            "optim.lr",
            "clashes with 'optim.lr.encoder'",
        ),
        ({"a..b": 1}, "a..b", "is no dotted key"),
        ({"": 1}, "", "is no dotted key"),
        ({".a": 1}, ".a", "is no dotted key"),
    ],
)
def test_flatten_notes_clashes(mapping, key, message):
    notes = []
    flatten(mapping, lambda *note: notes.append(note))
    [(where, what)] = notes
    assert where == key and message in what


def test_overlap_is_being_the_same_or_inside():
    assert overlap("a.b", "a.b") and overlap("a", "a.b") and overlap("a.b", "a")
    assert not overlap("a.b", "a.bc") and not overlap("a.b", "a.c")


YAML_LIKE = st.text("ab01.-:,[]{}#&*!|>'\"%@?<~= \n\t\\uU", max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
        YAML_LIKE.map(str.encode),
    )
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    list(doubts_in_file(path))
    try:
        assert isinstance(read_yaml(path), dict)
    except InputError as error:
        assert error.problems
        str(error).encode()


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**17), 10**17), st.floats(allow_nan=False, allow_infinity=False), st.text("abc on.é", max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


WRITTEN = st.one_of(
    st.sampled_from(["true", "True", "TRUE", "false", "False", "FALSE"]).map(lambda text: (text, text.lower() == "true")),
    st.sampled_from(["null", "Null", "NULL", "~"]).map(lambda text: (text, None)),
    st.tuples(st.sampled_from(["", "+", "-"]), st.integers(0, 10**17)).map(lambda pair: (f"{pair[0]}{pair[1]}", -pair[1] if pair[0] == "-" else pair[1])),
    st.integers(0, 10**17).flatmap(lambda n: st.sampled_from([(f"0x{n:x}", n), (f"0x{n:X}", n), (f"0o{n:o}", n), (f"00{n}", n)])),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: (repr(x), x)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(WRITTEN)
def test_whatever_the_core_schema_has_for_a_value_is_that_and_its_quoted_form_is_text(written):
    text, value = written
    found = read_value(text, "-S")
    assert found == value and type(found) is type(value)
    assert read_value(f"'{text}'", "-S") == text
    assert not [*doubts_in_value(f"[{text}, '{text}']", "-S")]


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_pyyaml_writes_is_read_back(value):
    assert read_value(yaml.safe_dump({"v": value}, allow_unicode=True), "-S")["v"] == value
