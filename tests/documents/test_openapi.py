"""The OpenAPI document is one, says all that there is to say, and what is received is what it describes."""

import json
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from trio_ws.actions.table import ACTIONS
from trio_ws.documents import openapi
from trio_ws.documents.messages import EVENTS
from trio_ws.errors import ActionError
from trio_ws.http.actions import STATUSES

DOCUMENT = json.loads(openapi.encoded())
POST = DOCUMENT["paths"]["/actions"]["post"]
GET = DOCUMENT["paths"]["/events"]["get"]
BODY = POST["requestBody"]["content"]["application/json"]
DONE = POST["responses"]["200"]["content"]["application/json"]


def check(payload: Any, schema: Any) -> None:
    """Raise unless the payload is what a schema of the document describes."""
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(payload)


def test_it_is_what_the_specification_says() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_the_specification_would_refuse_another() -> None:
    with pytest.raises(OpenAPIValidationError):
        OpenAPIV31SpecValidator({**DOCUMENT, "paths": {"/actions": {"post": {"responses": 1}}}}).validate()


def test_each_action_that_needs_no_line_has_its_request_and_its_reply() -> None:
    names = {row.name for row in ACTIONS.values() if not row.of_line}
    assert set(BODY["examples"]) == set(BODY["schema"]["discriminator"]["mapping"]) == names
    assert set(DONE["examples"]) == names
    assert "subscribe" not in names


@pytest.mark.parametrize("name", BODY["examples"])
def test_each_example_is_what_its_schema_takes(name: str) -> None:
    example = BODY["examples"][name]["value"]
    check(example, {"$ref": BODY["schema"]["discriminator"]["mapping"][name]})
    check(DONE["examples"][name]["value"], DONE["schema"])


def test_each_error_has_its_status_there() -> None:
    codes = {kind.code for kind in ActionError.__subclasses__()} | {"internal"}
    assert set(STATUSES) == codes
    described = {int(status) for status in POST["responses"] if status != "200"}
    assert described == {*STATUSES.values(), 408, 413, 415}
    for code, status in STATUSES.items():
        assert f"`{code}`" in DOCUMENT["components"]["responses"][f"Status{status}"]["description"]


def test_each_event_and_what_asks_for_them_is_described() -> None:
    for name in EVENTS:
        assert f"`{name}`" in GET["responses"]["200"]["description"]
    assert [one["name"] for one in GET["parameters"]] == ["topic", "after", "snapshot", "Last-Event-ID"]
