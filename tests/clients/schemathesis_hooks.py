"""What the OpenAPI document has no words for: which events and assets there are, the languages of some parameters, which
of them exclude each other, and that the stream has to end."""

import os

import schemathesis

EVENT, ASSET, POSITION = (os.environ[f"CATCHMENT_{name}"] for name in ("EVENT", "ASSET", "POSITION"))
KNOWN = {"id": EVENT, "name": ASSET}
PATHS = {"/v1/events/{id}", "/v1/assets/{name}", "/v1/assets/{name}/history", "/v1/assets/{name}/blame"}
# Values that are right by more than a schema can say. Made-up ones are refused, and rightly so: the tool still makes them
# up where it means to send what is wrong.
RIGHT = {
    "type": "create,asset.update,io.catchment.asset.delete",  # the prefix is configured
    "where": "asset.provider == 'aws' && size(changes) > 0",  # an expression
    "omit": "raw,asset.tags",  # members of an event
    "fields": "time,asset.name,changes.path",
    "after": EVENT,  # an event that there is
    "last_event_id": POSITION,  # a position in this very log
    "Last-Event-ID": POSITION,
}


def correct(path, query):
    for name in RIGHT.keys() & query.keys():
        if path != "/v1/assets" or name != "type":  # there it is that of the asset
            query[name] = RIGHT[name]
    if path.endswith("/history") and "page_token" in query:
        query["page_token"] = POSITION
    if "fields" in query:
        query.pop("omit", None)


@schemathesis.hook
def before_call(ctx, case, kwargs):
    path, query = case.operation.path, dict(case.query or {})
    is_wrong = case.meta is not None and case.meta.generation.mode.is_negative
    if not is_wrong:
        correct(path, query)
        if "Last-Event-ID" in (case.headers or {}):
            case.headers["Last-Event-ID"] = POSITION
        # Made-up names meet 404 only: half of the cases ask for what is there.
        if path in PATHS and case.path_parameters:
            (name,) = case.path_parameters
            if len(str(case.path_parameters[name])) % 2 == 0:
                case.path_parameters[name] = KNOWN[name]
    # A stream that is not asked to end does not: it is asked for what was until now. A wrong until is left as it is.
    if path == "/v1/events" and not (is_wrong and "until" in query):
        query["until"] = "0s"
    case.query = query
