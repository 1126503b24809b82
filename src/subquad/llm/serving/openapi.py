"""The server's OpenAPI description: what FastAPI derives from requests and replies, with what it cannot know."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from subquad.llm.serving.protocol import IGNORED, MOST_STOPS, NEUTRAL

__all__ = ["describe"]

ERRORS = {
    "400": "The request is not valid; `param` names the field.",
    "401": "The server was started with a key, and the request has none or another.",
    "403": "The server has no key, and the header Host has a name that is not allowed.",
    "404": "There is no such model.",
    "408": "The body was not complete in time.",
    "411": "The request does not say how long it is.",
    "413": "The body is too large.",
    "429": "Too many prompts wait, or too many requests are large; the header Retry-After says when to send it again.",
    "500": "The computation failed.",
    "503": "The server is ending, or too many connections are open.",
}
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def describe(app: FastAPI, *, name: str) -> None:
    """Let the application serve a description of itself with its errors, its model and the fields that it accepts.

    Args:
        app: The application; its routes may still be added.
        name: Model name for clients.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app, name)
        return app.openapi_schema

    app.openapi = openapi


def _described(app: FastAPI, name: str) -> dict[str, Any]:
    description = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = description.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = ERROR
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in description["paths"].items():
        for operation in operations.values():
            replies = operation["responses"]
            # errors of validation have the status 400 here
            replies.pop("422", None)
            if path.startswith("/v1/"):
                replies |= {status: {"description": text, "content": error} for status, text in ERRORS.items()}
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "name":
                    parameter["schema"]["enum"] = [name]
            if "requestBody" in operation:
                request = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                _complete(schemas[request.rpartition("/")[2]], name)
    return description


def _complete(schema: dict[str, Any], name: str) -> None:
    """Add to the schema of a request what is checked when it is answered."""
    properties = schema["properties"]
    if "model" in properties:
        properties["model"]["enum"] = [name]
    for stops in properties.get("stop", {}).get("anyOf", ()):
        if stops.get("type") == "array":
            stops["maxItems"] = MOST_STOPS
    # other fields are not refused at once, but looked at
    if schema.get("additionalProperties"):
        properties |= {field: {"description": "Has no effect."} for field in sorted(IGNORED)}
        properties |= {
            field: {"enum": [*values, None], "description": "Not supported: only values without effect."}
            for field, values in NEUTRAL.items()
        }
        schema["additionalProperties"] = False
