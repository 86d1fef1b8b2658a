"""Checks of requests and responses against botocore's service models.

AWS generates its SDKs from the same models. botocore's validator checks types, required
and unknown members, and minimum lengths and values. Enums, patterns, and maximum lengths
and values are added here, because botocore leaves them to the service.

An invalid request is refused, as AWS does. Violations in requests and responses are
kept: tests fail if there is one, and so does the process at its end.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import regex
from botocore import parsers, xform_name
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader
from botocore.model import OperationNotFoundError
from botocore.validate import ParamValidator, ValidationErrors
from moto.core import parse
from moto.core.model import OperationModel, ServiceModel, Shape
from moto.core.request import determine_request_protocol
from moto.core.responses import BaseResponse
from moto.core.utils import camelcase_to_underscores

REQUEST, RESPONSE = "request", "response"


@dataclass(frozen=True)
class Problem:
    """One deviation of a value from its shape."""

    kind: str
    """`missing required field`, `unknown field`, `invalid enum`, ..."""
    member: str
    """Path of the member, with `[]` for every item of a list."""
    message: str


@dataclass(frozen=True)
class Violation:
    direction: str
    service: str
    action: str
    caller: str
    """Caller of an invalid request; empty for a response."""
    member: str
    message: str


_ONLY_IN_REQUESTS = {
    "invalid pattern",
    "invalid length",
    "invalid range",
    "too long",
    "too large",
}
"""AWS does not keep these constraints in its answers.

The example of GetCommandInvocation in the AWS CLI Command Reference has the elapsed time
`PT0.091S`, which the model's pattern of this member does not match.
"""


@dataclass(frozen=True)
class Deviation:
    """A known deviation in responses: of moto, or of AWS from its own model."""

    service: str
    member: str
    """End of the member's path."""
    reason: str


KNOWN_DEVIATIONS = (
    Deviation("ec2", "Tags[].resource_id", "Is in moto's own tags, and not in the answer."),
    Deviation("ec2", "Tags[].resource_type", "Is in moto's own tags, and not in the answer."),
    # Source: EC2 API Reference, "InternetGatewayAttachment".
    Deviation("ec2", "Attachments[].State", "AWS answers `available`, which its enum lacks."),
    Deviation("ec2", "SupportedFeatures[]", "Has values of AWS that are newer than the model."),
    *(
        Deviation("scheduler", f"Schedules[].{member}", "moto lists whole schedules.")
        for member in (
            "ActionAfterCompletion",
            "Description",
            "EndDate",
            "FlexibleTimeWindow",
            "KmsKeyArn",
            "ScheduleExpression",
            "ScheduleExpressionTimezone",
            "StartDate",
        )
    ),
    Deviation("lambda", "CodeSigningConfigArn", "Is missing for functions without code signing."),
    Deviation("ssm", "PlatformTypes[]", "Has a placeholder, which nothing reads."),
)

# Validation


class _Errors(ValidationErrors):
    _FORMATS = {  # noqa: RUF012
        "invalid enum": "must satisfy enum value set: {wanted}",
        "invalid pattern": "must satisfy regular expression pattern: {wanted}",
        "too long": "must have length less than or equal to {wanted}",
        "too large": "must have value less than or equal to {wanted}",
    }
    """Endings of AWS's messages for the constraints that botocore does not check."""

    def _format_error(self, error: tuple[str, str, dict[str, Any]]) -> str:
        kind, name, details = error
        if kind not in self._FORMATS:
            return super()._format_error(error)
        constraint = self._FORMATS[kind].format_map(details)
        at = self._get_name(name)
        value = str(details["param"])[:200]
        return f"Value '{value}' at '{at}' failed to satisfy constraint: Member {constraint}"

    def problems(self) -> list[Problem]:
        return [
            Problem(error[0], self._member(error), self._format_error(error))
            for error in self._errors
        ]

    def _member(self, error: tuple[str, str, dict[str, Any]]) -> str:
        _, name, details = error
        inner = details.get("required_name") or details.get("unknown_param")
        path = f"{name}.{inner}" if inner else name
        return re.sub(r"\[\d+\]", "[]", path).removeprefix(".")


class Validator(ParamValidator):
    # Also turns off botocore's short cut for lists of scalars.
    VALIDATED_METADATA_ATTRS = ParamValidator.VALIDATED_METADATA_ATTRS | {"max", "enum", "pattern"}

    def problems(self, direction: str, value: Any, shape: Shape | None) -> list[Problem]:
        if shape is None:
            return []
        errors = _Errors()
        self._validate(value, shape, errors, name="")
        kept = errors.problems()
        return [p for p in kept if direction == REQUEST or p.kind not in _ONLY_IN_REQUESTS]

    def _validate_string(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        super()._validate_string(param, shape, errors, name)
        if not isinstance(param, str):
            return
        constraints = shape.metadata
        if len(param) > constraints.get("max", len(param)):
            errors.report(name, "too long", param=param, wanted=constraints["max"])
        if (values := constraints.get("enum")) and param not in values:
            errors.report(name, "invalid enum", param=param, wanted=f"[{', '.join(values)}]")
        pattern = constraints.get("pattern")
        if pattern and not _matches(pattern, param):
            errors.report(name, "invalid pattern", param=param, wanted=pattern)

    def _validate_list(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        super()._validate_list(param, shape, errors, name)
        self._limit_length(param, shape, errors, name)

    def _validate_map(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        super()._validate_map(param, shape, errors, name)
        self._limit_length(param, shape, errors, name)

    def _validate_integer(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        super()._validate_integer(param, shape, errors, name)
        self._limit(param, shape, errors, name)

    def _validate_long(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        super()._validate_long(param, shape, errors, name)
        self._limit(param, shape, errors, name)

    def _validate_double(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        super()._validate_double(param, shape, errors, name)
        self._limit(param, shape, errors, name)

    _validate_float = _validate_double

    def _limit_length(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        if isinstance(param, (list, dict)) and len(param) > shape.metadata.get("max", len(param)):
            wanted = shape.metadata["max"]
            errors.report(name, "too long", param=f"{len(param)} items", wanted=wanted)

    def _limit(self, param: Any, shape: Shape, errors: _Errors, name: str) -> None:
        if isinstance(param, (int, float)) and param > shape.metadata.get("max", param):
            errors.report(name, "too large", param=param, wanted=shape.metadata["max"])


def _matches(pattern: str, text: str) -> bool:
    """Matches the whole text, as AWS does: `[a-z]+` refuses `a b`.

    The patterns are Java's. `re` lacks their classes of Unicode, such as `\\p{L}`.
    """
    return regex.fullmatch(pattern, text, regex.DOTALL) is not None


# Requests
#
# moto's parsers leave out unknown members and convert values. These keep both as they
# are, so that the validator sees them.


class _JSONValues:
    """Keeps members that the model lacks, and values of a wrong type."""

    def _parse_structure(self, shape: Shape, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        parsed = super()._parse_structure(shape, value)  # type: ignore[misc]
        if shape.is_document_type:
            return parsed
        names = {member.serialization.get("name", name) for name, member in shape.members.items()}
        return parsed | {name: value[name] for name in value.keys() - names}

    def _parse_list(self, shape: Shape, value: Any) -> Any:
        is_text = isinstance(value, str) and "location" in shape.serialization
        if not isinstance(value, list) and not is_text:
            return value
        return super()._parse_list(shape, value)  # type: ignore[misc]

    def _parse_map(self, shape: Shape, value: Any) -> Any:
        return super()._parse_map(shape, value) if isinstance(value, dict) else value  # type: ignore[misc]

    def _parse_number(self, shape: Shape, value: Any) -> Any:
        # Headers and query strings have only text.
        if isinstance(value, str) and "location" in shape.serialization:
            return float(value) if shape.type_name in ("double", "float") else int(value)
        return value

    _parse_integer = _parse_long = _parse_float = _parse_double = _parse_number

    def _parse_boolean(self, shape: Shape, value: Any) -> Any:
        if isinstance(value, str) and "location" in shape.serialization:
            return value == "true"
        return value


class _JSONRequest(_JSONValues, parse.JSONParser):
    pass


class _RestJSONRequest(_JSONValues, parse.RestJSONParser):
    pass


class _Form(dict[str, str]):
    """Parameters of a query, with the names that a parser has read."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.read = {"Action", "Version"}

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


class _FormValues:
    def _do_parse(self, request: dict[str, Any], shape: Shape) -> Any:
        form = _Form(request["values"])
        parsed = super()._do_parse(request | {"values": form}, shape)  # type: ignore[misc]
        return parsed | {name: form[name] for name in form.keys() - form.read}


class _QueryRequest(_FormValues, parse.QueryParser):
    pass


class _EC2Request(_FormValues, parse.EC2QueryParser):
    pass


_REQUEST_PARSERS: dict[str, type[parse.RequestParser]] = {
    "ec2": _EC2Request,
    "json": _JSONRequest,
    "query": _QueryRequest,
    "rest-json": _RestJSONRequest,
    "rest-xml": parse.RestXMLParser,
}


# Responses


class _JSONAnswer:
    def _handle_structure(self, shape: Shape, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        parsed = super()._handle_structure(shape, value)  # type: ignore[misc]
        if shape.is_document_type:
            return parsed
        names = {member.serialization.get("name", name) for name, member in shape.members.items()}
        return parsed | {name: value[name] for name in value.keys() - names}

    def _handle_list(self, shape: Shape, value: Any) -> Any:
        is_text = isinstance(value, str) and "location" in shape.serialization
        return super()._handle_list(shape, value) if is_text or isinstance(value, list) else value  # type: ignore[misc]

    def _handle_map(self, shape: Shape, value: Any) -> Any:
        return super()._handle_map(shape, value) if isinstance(value, dict) else value  # type: ignore[misc]

    def _handle_integer(self, shape: Shape, value: Any) -> Any:
        # Headers have only text.
        return int(value) if "location" in shape.serialization else value

    _handle_long = _handle_integer


class _XMLAnswer:
    _ENVELOPE = frozenset({"requestId", "ResponseMetadata"})

    def _handle_structure(self, shape: Shape, node: Any) -> Any:
        parsed = super()._handle_structure(shape, node)  # type: ignore[misc]
        names = {self._member_key_name(member, name) for name, member in shape.members.items()}
        found = self._build_name_to_xml_node(node).keys()
        return parsed | dict.fromkeys(found - names - self._ENVELOPE, "")


class _JSONResponse(_JSONAnswer, parsers.JSONParser):
    pass


class _RestJSONResponse(_JSONAnswer, parsers.RestJSONParser):
    pass


class _QueryResponse(_XMLAnswer, parsers.QueryParser):
    pass


class _EC2Response(_XMLAnswer, parsers.EC2QueryParser):
    pass


_RESPONSE_PARSERS: dict[str, type[parsers.ResponseParser]] = {
    "ec2": _EC2Response,
    "json": _JSONResponse,
    "query": _QueryResponse,
    "rest-json": _RestJSONResponse,
    "rest-xml": parsers.RestXMLParser,
}


def _dropped(value: Any, shape: Shape | None, path: str = "") -> Iterator[str]:
    """Returns the members of a result that the model lacks, which moto leaves out of the answer."""
    if shape is None:
        return
    if shape.type_name == "list" and isinstance(value, (list, tuple)):
        for item in value:
            yield from _dropped(item, shape.member, f"{path}[]")
    if not isinstance(value, dict):
        return
    if shape.type_name == "map":
        for inner in value.values():
            yield from _dropped(inner, shape.value, f"{path}[]")
    if shape.type_name != "structure":
        return
    members = {}
    for name, member in shape.members.items():
        known_as = {name, xform_name(name), member.serialization.get("name", name)}
        members |= dict.fromkeys(known_as, member)
    for name, inner in value.items():
        below = f"{path}.{name}".removeprefix(".")
        if name in members:
            yield from _dropped(inner, members[name], below)
        else:
            yield below


# The checks


_EC2_CODES = {"missing required field": "MissingParameter", "unknown field": "UnknownParameter"}
"""Source: EC2 API Reference, "Error codes"."""


def refusal(response: BaseResponse, problems: Iterable[Problem]) -> tuple[str, str] | None:
    """Returns the error code and the message for an invalid request."""
    service = _service(response.boto3_service_name)
    protocol = service.protocol if service else ""
    # Only the query protocols refuse an unknown member: others ignore it.
    refused = [p for p in problems if p.kind != "unknown field" or protocol in ("ec2", "query")]
    if not refused:
        return None
    if protocol == "ec2":
        code = _EC2_CODES.get(refused[0].kind, "InvalidParameterValue")
    else:
        code = "ValidationError" if protocol == "query" else "ValidationException"
    message = "; ".join(problem.message for problem in refused)
    return code, f"{len(refused)} validation error(s) detected: {message}"


@functools.cache
def _service(name: str) -> ServiceModel | None:
    """Returns botocore's own model, without moto's additions."""
    try:
        return ServiceModel(Loader().load_service_model(name, "service-2"), name)
    except UnknownServiceError:
        return None


def _operation(response: BaseResponse) -> OperationModel | None:
    service = _service(response.boto3_service_name)
    try:
        return service.operation_model(response._get_action()) if service else None
    except OperationNotFoundError:
        return None


def _protocol(response: BaseResponse, operation: OperationModel) -> str:
    """Returns the protocol that the caller speaks: some services have several."""
    content_type = response.normalized_request.content_type
    return determine_request_protocol(operation.service_model, content_type)


class Checks:
    """Counts of checked requests and responses, and all violations."""

    def __init__(self) -> None:
        self._validator = Validator()
        self._checked: dict[str, Counter[str]] = {REQUEST: Counter(), RESPONSE: Counter()}
        self._unchecked: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._violations: Counter[Violation] = Counter()
        self._lock = threading.Lock()

    def request(self, response: BaseResponse, caller: str) -> list[Problem]:
        """Returns the problems of a request."""
        return self._check(REQUEST, response, caller, lambda op: self._judge_request(op, response))

    def response(self, response: BaseResponse, answer: tuple[Any, Any, Any]) -> None:
        if int(answer[0]) < 300:
            self._check(
                RESPONSE,
                response,
                "",
                lambda op: self._judge_response(op, _protocol(response, op), answer),
            )

    def result(self, response: BaseResponse, result: Any) -> None:
        """Checks a result of localcloud before moto turns it into an answer."""
        action = camelcase_to_underscores(response._get_action() or "")
        method = getattr(response, action, None)
        is_ours = getattr(method, "__module__", "").startswith(f"{__package__}.")
        operation = _operation(response) if is_ours else None
        if operation is None or isinstance(result, Exception):
            return
        message = "The model lacks this member, so the answer lacks it too"
        lost = {
            Problem("unknown field", m, message) for m in _dropped(result, operation.output_shape)
        }
        self._keep(RESPONSE, operation, "", self._without_known(operation, lost))

    def _check(
        self,
        direction: str,
        response: BaseResponse,
        caller: str,
        judge: Callable[[OperationModel], list[Problem]],
    ) -> list[Problem]:
        start = time.thread_time()
        operation = _operation(response)
        if operation is None:
            with self._lock:
                self._unchecked[f"{response.boto3_service_name}:{response._get_action()}"] += 1
            return []
        problems = judge(operation)
        self._keep(direction, operation, caller, problems)
        with self._lock:
            self._checked[direction][operation.service_model.service_name] += 1
            self._seconds[direction] += time.thread_time() - start
        return problems

    def _judge_request(self, operation: OperationModel, response: BaseResponse) -> list[Problem]:
        request = response.normalized_request
        protocol = _protocol(response, operation)
        # moto reads a query from the body, from the address and from the form.
        form = {name: values[0] for name, values in response.querystring.items()}
        try:
            given = _REQUEST_PARSERS[protocol](operation).parse(
                {
                    "method": request.method,
                    "values": form if protocol in ("ec2", "query") else request.values,
                    "headers": request.headers,
                    "body": request.data,
                    "url_path": request.path,
                    "url_params": response.uri_match,
                }
            )
        except (ValueError, TypeError, AttributeError) as error:
            return [Problem("unreadable", "", f"The request cannot be parsed: {error}")]
        return self._validator.problems(REQUEST, given, operation.input_shape)

    def _judge_response(
        self, operation: OperationModel, protocol: str, answer: tuple[Any, Any, Any]
    ) -> list[Problem]:
        status, headers, body = answer
        raw = body.encode() if isinstance(body, str) else body or b""
        try:
            parsed = _RESPONSE_PARSERS[protocol]().parse(
                {"status_code": int(status), "headers": headers, "body": raw},
                operation.output_shape,
            )
        except Exception as error:
            return [Problem("unreadable", "", f"botocore cannot parse it: {error!r}")]
        parsed.pop("ResponseMetadata", None)
        found = self._validator.problems(RESPONSE, parsed, operation.output_shape)
        return self._without_known(operation, found)

    @staticmethod
    def _without_known(operation: OperationModel, found: Iterable[Problem]) -> list[Problem]:
        service = operation.service_model.service_name
        known = tuple(d.member for d in KNOWN_DEVIATIONS if d.service == service)
        return [problem for problem in found if not problem.member.endswith(known)]

    def _keep(
        self, direction: str, operation: OperationModel, caller: str, problems: Iterable[Problem]
    ) -> None:
        service = operation.service_model.service_name
        with self._lock:
            for found in problems:
                violation = Violation(
                    direction, service, operation.name, caller, found.member, found.message
                )
                self._violations[violation] += 1

    def describe(self) -> dict[str, Any]:
        """Returns the numbers of checked calls by service, and the CPU seconds of the checks."""
        with self._lock:
            return {
                "requests": dict(self._checked[REQUEST]),
                "responses": dict(self._checked[RESPONSE]),
                "unchecked": dict(self._unchecked),
                "seconds": dict(self._seconds),
            }

    def violations(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(found) | {"times": n} for found, n in self._violations.items()]

    def forget(self) -> None:
        with self._lock:
            self._violations.clear()
