"""Replies of the server that are compared with its own description."""

import schemathesis
from schemathesis.checks import CHECKS as ALL_CHECKS
from schemathesis.checks import load_all_checks

# those of OpenAPI are registered by this, or when a description is loaded, after the import of a test
load_all_checks()
# whether a request that fits the description can be answered depends on the model too: its context, its template
CHECKS = [check for check in ALL_CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]


def checked(server, path, body=None, **parameters):
    """Return the reply to a request, GET without a body, after comparing it with the description."""
    schema = schemathesis.openapi.from_dict(server.app.openapi())
    more = {} if body is None else {"body": body, "media_type": "application/json"}
    case = schema[path]["GET" if body is None else "POST"].Case(path_parameters=parameters, **more)
    reply = case.call(base_url=server.url)
    case.validate_response(reply, checks=CHECKS)
    return reply
