from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.strict import StrictError, parse


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"]
    radius: float


@dataclass(frozen=True)
class Square:
    kind: Literal["square"]
    edge: int

    def __post_init__(self) -> None:
        if self.edge < 1:
            raise ValueError("edge: must be at least 1")


@dataclass(frozen=True)
class Drawing:
    title: str
    shapes: tuple[Circle | Square, ...]
    sizes: dict[str, float]
    visible: bool
    parent: int | None
    colour: Literal["red", "blue"] = "red"
    tags: tuple[str, ...] = field(default_factory=tuple)


def data(**changes: Any) -> dict[str, Any]:
    plain = {
        "title": "t",
        "shapes": [{"kind": "circle", "radius": 1.5}, {"kind": "square", "edge": 2}],
        "sizes": {"a": 1, "b": 0.5},
        "visible": True,
        "parent": None,
    }
    return {**plain, **changes}


def test_data_become_dataclasses() -> None:
    drawing = parse(Drawing, data(parent=3, colour="blue", tags=["x"]))
    assert drawing == Drawing(
        "t", (Circle("circle", 1.5), Square("square", 2)), {"a": 1.0, "b": 0.5}, True, 3, "blue", ("x",)
    )


def test_defaults_may_be_left_out() -> None:
    assert parse(Drawing, data()).colour == "red"
    assert parse(Drawing, data()).tags == ()


@pytest.mark.parametrize(
    ("given_data", "message"),
    [
        ([], "file: expected a table, got []"),
        (data(title=3), "title: expected str, got 3"),
        (data(visible=1), "visible: expected bool, got 1"),
        (data(parent=True), "parent: expected int, got True"),
        (data(parent=1.0), "parent: expected int, got 1.0"),
        (data(parent=2**63), "parent: expected an int of 64 bits, got 9223372036854775808"),
        (data(colour="green"), "colour: expected one of 'red', 'blue', got 'green'"),
        (data(colour=["red"]), "colour: expected one of 'red', 'blue', got ['red']"),
        (data(tags="x"), "tags: expected a list, got 'x'"),
        (data(tags=["x", None]), "tags[1]: expected str, got None"),
        (data(sizes=[]), "sizes: expected a table, got []"),
        (data(sizes={"a": True}), "sizes.a: expected a finite number, got True"),
        (data(sizes={"a": "1"}), "sizes.a: expected a finite number, got '1'"),
        (data(sizes={"a": float("inf")}), "sizes.a: expected a finite number, got inf"),
        (data(sizes={"a": float("nan")}), "sizes.a: expected a finite number, got nan"),
        (data(shapes={}), "shapes: expected a list, got {}"),
        (data(shapes=[{"kind": "circle"}]), "missing key 'shapes[0].radius'"),
        (data(shapes=[{"kind": "circle", "radius": 1, "x": 2}]), "unknown key 'shapes[0].x'; known: kind, radius"),
        (data(shapes=[{"radius": 1}]), "shapes[0].kind: expected one of 'circle', 'square', got None"),
        (data(shapes=[{"kind": []}]), "shapes[0].kind: expected one of 'circle', 'square', got []"),
        (data(shapes=["circle"]), "shapes[0]: expected a table, got 'circle'"),
        (data(shapes=[{"kind": "square", "edge": 0}]), "edge: must be at least 1"),
        (data(extra=1), "unknown key 'extra'; known: title, shapes, sizes, visible, parent, colour, tags"),
    ],
)
def test_errors_name_the_key_and_what_came(given_data: Any, message: str) -> None:
    with pytest.raises(StrictError) as caught:
        parse(Drawing, given_data)
    assert str(caught.value) == message


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(StrictError, match=r"^sizes\.a: expected a finite number"):
        parse(Drawing, data(sizes={"a": 10**400}))


def test_a_prefix_goes_before_every_key() -> None:
    with pytest.raises(StrictError, match=r"^missing key 'drawing\.title'"):
        parse(Drawing, {}, "drawing")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@given(key=st.sampled_from(sorted(data())), value=_json)
def test_any_value_is_taken_or_refused_by_name(key: str, value: Any) -> None:
    try:
        parsed = parse(Drawing, data(**{key: value}))
    except StrictError as error:
        named = str(error)
    else:
        named = key if isinstance(parsed, Drawing) else ""
    assert named.startswith((key, "edge"))
