"""The request as hooks see it: query parameters and headers are mappings that keep every value."""

from __future__ import annotations

import pytest

from actors import Headers, QueryParams, Request


def test_a_query_parameter_given_several_times_counts_with_its_last_value() -> None:
    params = QueryParams([("room", "a"), ("token", "x"), ("room", "b")])

    assert params["room"] == "b"
    assert params.get("token") == "x"
    assert params.get("missing") is None
    assert params.get_all("room") == ["a", "b"]
    assert params.get_all("missing") == []
    assert list(params) == ["room", "token"]
    assert len(params) == 2
    assert repr(params) == "QueryParams({'room': ['a', 'b'], 'token': ['x']})"


def test_a_header_is_found_in_any_case_and_counts_with_its_first_value() -> None:
    headers = Headers([("Host", "a.example"), ("X-Tag", "1"), ("x-tag", "2")])

    assert headers["HOST"] == "a.example"
    assert headers.get("x-TAG") == "1"
    assert "x-Tag" in headers
    assert "missing" not in headers
    assert 5 not in headers
    assert headers.get_all("X-TAG") == ["1", "2"]
    assert headers.get_all("missing") == []
    assert list(headers) == ["host", "x-tag"]
    assert len(headers) == 2
    assert repr(headers) == "Headers({'host': ['a.example'], 'x-tag': ['1', '2']})"


@pytest.mark.parametrize("values", [QueryParams([("a", "b")]), Headers([("a", "b")])])
def test_what_is_handed_out_cannot_be_used_to_change_the_request(values: QueryParams | Headers) -> None:
    values.get_all("a").append("c")

    assert values.get_all("a") == ["b"]
    with pytest.raises(KeyError):
        values["c"]


def test_each_request_has_a_state_of_its_own() -> None:
    first, second = Request("/"), Request("/")

    first.state["user"] = "ann"

    assert second.state == {}
    assert (first.query_params, first.headers, first.subprotocol) == (QueryParams(), Headers(), None)
