"""The AsyncAPI document is one, and says all that there is to say."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from trio_ws.actions.table import ACTIONS
from trio_ws.documents import asyncapi
from trio_ws.errors import ActionError, CloseCode
from trio_ws.messages import REPLY_DATA, Action

SPECIFICATION = json.loads((Path(__file__).parent / "asyncapi-3.0.0.json").read_text())
DOCUMENT = json.loads(asyncapi.encoded())


def test_it_is_what_the_specification_says() -> None:
    jsonschema.Draft7Validator(SPECIFICATION).validate(DOCUMENT)


def test_the_specification_would_refuse_another() -> None:
    broken = {**DOCUMENT, "operations": {"ping": {"action": "answer"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SPECIFICATION).validate(broken)


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if "$ref" in part else set()
        return own.union(*(references(value) for value in part.values()))
    return set().union(*(references(value) for value in part)) if isinstance(part, list) else set()


def test_each_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        found = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
        assert found


def test_each_action_has_its_operation_request_and_reply() -> None:
    tags = {action.__struct_config__.tag for action in get_args(Action)}
    assert set(DOCUMENT["operations"]) == tags | {"events"}
    assert set(REPLY_DATA) == set(ACTIONS) == set(get_args(Action))
    assert {f"{tag}.reply" for tag in tags} | tags < set(DOCUMENT["components"]["messages"])


def test_each_message_has_an_example_that_its_schema_takes() -> None:
    for name, message in DOCUMENT["components"]["messages"].items():
        if name != "error":  # which has one for each code, in the protocol's page
            assert message["examples"]
        for example in message.get("examples", []):
            validator(message["payload"]).validate(example["payload"])


def test_each_schema_is_one_and_each_pattern_is_ecma_262_s() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)
    assert r"\\Z" not in asyncapi.encoded().decode()


def objects(part: Any) -> list[Any]:
    """All schemas of objects in a part of the document."""
    if isinstance(part, dict):
        own = [part] if part.get("type") == "object" else []
        return own + [found for value in part.values() for found in objects(value)]
    return [found for value in part for found in objects(value)] if isinstance(part, list) else []


def test_each_object_and_each_named_schema_has_a_title_of_its_own_for_generated_models() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    titles = [schema.get("title") for schema in objects(DOCUMENT["components"])]
    titles += [schema.get("title") for schema in schemas.values() if schema.get("type") != "object"]
    assert all(re.fullmatch(r"[A-Z]\w+", title or "") for title in titles), titles
    assert len(set(titles)) == len(titles)
    assert {name: schema["title"] for name, schema in schemas.items()} == {name: name for name in schemas}


def test_each_error_code_and_close_code_is_there() -> None:
    codes = DOCUMENT["components"]["schemas"]["Failure"]["properties"]["code"]["enum"]
    assert set(codes) == {kind.code for kind in ActionError.__subclasses__()} | {"internal"}
    told = {int(code) for code in re.findall(r"\b\d{4}\b", DOCUMENT["info"]["description"])}
    assert set(CloseCode) <= told


def test_each_field_that_a_client_sends_is_explained() -> None:
    for action in get_args(Action):
        for name, field in DOCUMENT["components"]["schemas"][action.__name__]["properties"].items():
            assert name in ("action", "request_id") or field.get("description"), (action, name)


def validator(payload: Any) -> jsonschema.Draft7Validator:
    """A validator of one of the document's schemas, for whom each field is to be named in it."""
    return jsonschema.Draft7Validator({**payload, "components": DOCUMENT["components"]})
