"""Step Functions: corrects differences between moto's interpreter and AWS.

moto executes state machines, but ships no JSONata evaluator. It differs in error
names, in the context object, and in the start, stop and list of executions.
Source for the behaviour here: the Step Functions Developer Guide and API
Reference.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import random
import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from jsonata.jexception import JException
from jsonata.jsonata import Jsonata
from jsonata.utils import Utils
from moto.core.responses import ActionResult
from moto.stepfunctions.exceptions import ExecutionDoesNotExist, InvalidName
from moto.stepfunctions.parser.api import (
    EvaluationFailedEventDetails,
    ExecutionAbortedEventDetails,
    ExecutionStatus,
    ExecutionTimedOutEventDetails,
    HistoryEventType,
    InvalidDefinition,
)
from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEvent,
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import (
    StatesErrorName,
)
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import (
    StatesErrorNameType,
)
from moto.stepfunctions.parser.asl.component.common.retry.jitter_strategy_decl import (
    JitterStrategyDecl,
)
from moto.stepfunctions.parser.asl.component.common.string.string_expression import (
    StringJSONata,
    StringVariableSample,
)
from moto.stepfunctions.parser.asl.component.common.timeouts.timeout import TimeoutSeconds
from moto.stepfunctions.parser.asl.component.eval_component import EvalComponent
from moto.stepfunctions.parser.asl.component.program.program import Program
from moto.stepfunctions.parser.asl.component.state import state as asl_state
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_aws_sdk,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_lambda import (  # noqa: E501
    StateTaskServiceLambda,
)
from moto.stepfunctions.parser.asl.component.state.fail import state_fail
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventManager
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.parser.asl.utils import boto_client
from moto.stepfunctions.parser.backend.execution import (
    BaseExecutionWorkerCommunication,
    Execution,
)
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker
from moto.stepfunctions.parser.models import StepFunctionsParserBackend
from moto.stepfunctions.responses import StepFunctionResponse

from .cloud import STATES_SESSION, Cloud, credentials
from .patching import api, patch

_NAME = re.compile(r"[^\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]{1,80}")
_EXPRESSION = re.compile(r"\{%(.*)%\}", re.DOTALL)
_PAGE = 100

_SDK_INTEGRATIONS = (
    "https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html"
)

# AWS's prefix before the dot in error names of `aws-sdk:` integrations.
_SDK_ERROR_PREFIXES = {
    "cloudwatch": "CloudWatch",
    "ec2": "Ec2",
    "ecr": "Ecr",
    "eventbridge": "EventBridge",
    "lambda": "Lambda",
    "scheduler": "Scheduler",
    "sns": "Sns",
    "sqs": "Sqs",
    "ssm": "Ssm",
}


def install(cloud: Cloud) -> None:
    _install_jsonata()
    _install_parsing()
    _install_context()
    _install_starting()
    _install_ending(cloud)
    _install_time_limit(cloud)
    _install_reading()
    _install_validation()
    _install_retries(cloud)
    _install_lost_answers()
    _install_clients(cloud)
    for service, prefix in _SDK_ERROR_PREFIXES.items():
        patch(
            state_task_service_aws_sdk,
            f"_SERVICE_ERROR_NAMES[{service}]",
            prefix,
            reason="Sets AWS's prefix of error names.",
            link=_SDK_INTEGRATIONS,
            adds=True,
        )
    # A Fail state can pass on every error name that it caught, also `States.Timeout`.
    patch(
        state_fail,
        "CustomErrorName",
        ErrorName,
        reason="A Fail state can pass on every error name, also States.Timeout.",
    )


# JSONata


class Undefined(Exception):
    """The expression evaluates to nothing, which AWS treats as an error."""


_jsonata_lock = threading.Lock()
"""jsonata-python keeps interpreter state per process, not per expression."""


def evaluate(expression: str, bindings: dict[str, Any]) -> Any:
    """Returns the value of a JSONata expression, with AWS's functions.

    Raises Undefined, or JException if JSONata finds an error.
    """
    with _jsonata_lock:
        compiled = _compile(expression)
        value = compiled.evaluate(None, _with_nulls(bindings))
    if value is None:
        raise Undefined
    # The interpreter's list and null types are not plain JSON.
    return _plain(value)


@functools.lru_cache(maxsize=1024)
def _compile(expression: str) -> Jsonata:
    compiled = Jsonata(expression)
    # Undefined and null must remain distinct until the end.
    compiled.set_output_convert_nulls(False)
    for name, function in _AWS_FUNCTIONS.items():
        compiled.register_lambda(name, function)
    return compiled


def _with_nulls(value: Any) -> Any:
    """A copy in which null is JSONata's null; None means undefined to it."""
    if value is None:
        return Utils.NULL_VALUE
    if isinstance(value, dict):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_nulls(inner) for inner in value]
    return value


def _plain(value: Any) -> Any:
    if value is Utils.NULL_VALUE:
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Utils.RangeList):
        return [value[index] for index in range(len(value))]
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str | int | float):
        return value
    raise JException("a function is not a JSON value", -1)


def _range(first: float, last: float, step: float) -> list[float]:
    count = int((last - first) // step) + 1
    return [first + index * step for index in range(max(count, 0))]


def _partition(items: list[Any], size: float) -> list[list[Any]]:
    return [items[at : at + int(size)] for at in range(0, len(items), int(size))]


def _hash(value: str, algorithm: str) -> str:
    return hashlib.new(algorithm.replace("-", "").lower(), value.encode()).hexdigest()


_AWS_FUNCTIONS = {
    "partition": _partition,
    "range": _range,
    "hash": _hash,
    "random": lambda seed=None: random.Random(seed).random(),
    "uuid": lambda: str(uuid.uuid4()),
    "parse": json.loads,
}


def _install_jsonata() -> None:
    def eval_body(self: StringJSONata | StringVariableSample, env: Environment) -> None:
        store = env.variable_store
        bindings = {**store._outer_scope, **store._inner_scope}
        bindings["states"] = {
            name: value
            for name, value in env.states._states_data.items()
            # moto presets these two to null; on AWS they do not exist yet.
            if not (name in ("result", "errorOutput") and value is None)
        }
        try:
            env.stack.append(evaluate(self.expression, bindings))
        except Undefined:
            cause = f"The JSONata expression '{self.expression}' returned nothing (undefined)."
            raise _query_error(env, cause) from None
        except (JException, ValueError, TypeError, ArithmeticError, LookupError) as error:
            cause = f"The JSONata expression '{self.expression}' threw an error: {error}"
            raise _query_error(env, cause) from error

    for owner in (StringJSONata, StringVariableSample):
        patch(
            owner,
            "_eval_body",
            eval_body,
            reason="Evaluates JSONata; moto ships no evaluator.",
            link="https://github.com/getmoto/moto/issues/10105",
        )


def _query_error(env: Environment, cause: str) -> FailureEventException:
    name = StatesErrorName(typ=StatesErrorNameType.StatesQueryEvaluationError)
    details = EventDetails(
        evaluationFailedEventDetails=EvaluationFailedEventDetails(
            cause=cause, error=name.error_name
        )
    )
    return FailureEventException(
        FailureEvent(
            env=env,
            error_name=name,
            event_type=HistoryEventType.EvaluationFailed,
            event_details=details,
        )
    )


# Parsing


@functools.lru_cache(maxsize=8)
def _parse(definition: str) -> EvalComponent:
    return AmazonStateLanguageParser.parse(definition)[0]


def _install_parsing() -> None:
    def get_evaluation_entrypoint(self: ExecutionWorker) -> EvalComponent:
        # Parsing takes longer than the rest of an execution. Each execution gets a copy.
        return copy.deepcopy(_parse(self._evaluation_details.state_machine_details.definition))

    patch(
        ExecutionWorker,
        "_get_evaluation_entrypoint",
        get_evaluation_entrypoint,
        reason="Caches parsed definitions, because parsing takes most of an execution's time.",
    )


# The context object


def _install_context() -> None:
    start_details = Execution.get_start_execution_details
    state_data = asl_state.StateData

    def with_iso_start_time(self: Execution) -> Any:
        details = start_details(self)
        details.start_time = _iso(self.start_date)
        return details

    def with_iso_entered_time(**fields: Any) -> Any:
        entered = datetime.fromisoformat(fields.pop("EnteredTime"))
        return state_data(EnteredTime=_iso(entered), RetryCount=0, **fields)

    patch(
        Execution,
        "get_start_execution_details",
        with_iso_start_time,
        reason="Formats StartTime in the context object as AWS does.",
    )
    patch(
        asl_state,
        "StateData",
        with_iso_entered_time,
        reason="Formats EnteredTime in the context object as AWS does, and sets RetryCount.",
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# Starting


def _install_starting() -> None:
    start = StepFunctionsParserBackend.start_execution
    # Without the lock, two simultaneous starts under one name both succeed.
    lock = threading.Lock()

    def start_execution(
        self: StepFunctionsParserBackend,
        state_machine_arn: str,
        name: str | None = None,
        *rest: Any,
        **more: Any,
    ) -> Execution:
        if name is not None and not _NAME.fullmatch(name):
            raise InvalidName(f"Invalid Name: '{name}'")
        with lock:
            return start(self, state_machine_arn, name or str(uuid.uuid4()), *rest, **more)

    patch(
        StepFunctionsParserBackend,
        "start_execution",
        start_execution,
        reason="Checks execution names and serialises starts under one name.",
        link=api("states", "StartExecution"),
    )


# Ends of executions, and their events


def _install_ending(cloud: Cloud) -> None:
    begin = Execution.start
    reflect = BaseExecutionWorkerCommunication._reflect_execution_status
    ending = threading.Lock()

    def announce(execution: Execution) -> None:
        def milliseconds(moment: datetime | None) -> int | None:
            return int(moment.timestamp() * 1000) if moment else None

        status = _status(execution)
        cloud.put_event(
            "aws.states",
            "Step Functions Execution Status Change",
            {
                "executionArn": execution.exec_arn,
                "stateMachineArn": execution.state_machine.arn,
                "name": execution.name,
                "status": status,
                "startDate": milliseconds(execution.start_date),
                "stopDate": milliseconds(execution.stop_date),
                "input": execution.execution_input,
                "output": json.dumps(execution.output) if status == "SUCCEEDED" else None,
                "error": execution.error,
                "cause": execution.cause,
            },
            [execution.exec_arn],
        )

    def start(self: Execution) -> None:
        begin(self)
        announce(self)

    def terminated(self: BaseExecutionWorkerCommunication) -> None:
        execution = self.execution
        with ending:
            if execution.exec_status != ExecutionStatus.RUNNING:
                return  # StopExecution has ended it.
            reflect(self)
            if execution.exec_status == ExecutionStatus.TIMED_OUT:
                details = EventDetails(
                    executionTimedOutEventDetails=ExecutionTimedOutEventDetails()
                )
                _close_history(execution, HistoryEventType.ExecutionTimedOut, details)
        announce(execution)

    def stop_execution(self: StepFunctionResponse) -> ActionResult:
        execution = _execution(self)
        error, cause = self._get_param("error"), self._get_param("cause")
        with ending:
            stopped_now = execution.exec_status == ExecutionStatus.RUNNING
            if stopped_now:
                # moto ends an execution when its task returns. AWS ends it at once,
                # while a running function goes on to its own end.
                execution.exec_status = ExecutionStatus.ABORTED
                execution.stop_date = datetime.now(UTC)
                execution.error, execution.cause = error, cause
                execution.stop(execution.stop_date, error, cause)
                details = EventDetails(
                    executionAbortedEventDetails=ExecutionAbortedEventDetails(
                        error=error, cause=cause
                    )
                )
                _close_history(execution, HistoryEventType.ExecutionAborted, details)
        if stopped_now:
            announce(execution)
        return ActionResult({"stopDate": execution.stop_date})

    patch(Execution, "start", start, reason="Sends the status-change event of a start.")
    patch(
        BaseExecutionWorkerCommunication,
        "terminated",
        terminated,
        reason="Sends the status-change event of an end, and keeps an earlier stop.",
    )
    patch(
        StepFunctionResponse,
        "stop_execution",
        stop_execution,
        reason="Ends the execution at once; moto waits for its running task.",
        link=api("states", "StopExecution"),
    )


def _install_time_limit(cloud: Cloud) -> None:
    """Applies the time limit of a cache to executions with its name in their input."""
    cloud.settings.register_scopable(execution_timeout_seconds=None)
    evaluate = Program.eval

    def eval_in_time(self: Program, env: Environment) -> None:
        if not env.is_frame():  # An iteration of a Map is one, and has no limit of its own.
            given = json.dumps(env.states.context_object.context_object_data["Execution"]["Input"])
            settings = cloud.settings.of(cloud.settings.cache_named_in(given))
            if settings["execution_timeout_seconds"] is not None:
                self.timeout_seconds = TimeoutSeconds(settings["execution_timeout_seconds"])
        evaluate(self, env)

    patch(
        Program,
        "eval",
        eval_in_time,
        reason="Applies the time limit of the setting execution_timeout_seconds.",
    )


def _close_history(execution: Execution, kind: HistoryEventType, details: EventDetails) -> None:
    """Writes the last event. The history leaves out later events of the interpreter."""
    env = execution.exec_worker.env
    manager: EventManager = env.event_manager
    context = env.event_history_context
    manager.add_event(context=context, event_type=kind, event_details=details)
    manager.add_event = lambda *_, **__: 0  # type: ignore[method-assign]


def _execution(response: StepFunctionResponse) -> Execution:
    arn = response._get_param("executionArn")
    for machine in response.stepfunction_backend.state_machines:
        for execution in machine.executions:
            if execution.execution_arn == arn:
                _wait_for_environment(execution)
                return execution
    raise ExecutionDoesNotExist(f"Execution Does Not Exist: '{arn}'")


def _wait_for_environment(execution: Execution) -> None:
    """Waits for the interpreter's thread to set up the environment, within milliseconds."""
    pause = threading.Event()
    while execution.exec_worker.env is None:
        pause.wait(0.002)


# Reading


def _status(execution: Execution) -> str:
    return ExecutionStatus(execution.exec_status).value


def _install_reading() -> None:
    def describe_execution(self: StepFunctionResponse) -> ActionResult:
        execution = _execution(self)
        described = execution.to_describe_output()
        described["status"] = _status(execution)
        described["input"] = execution.execution_input
        return ActionResult(_without_nulls(described))

    def list_executions(self: StepFunctionResponse) -> ActionResult:
        machine = self.stepfunction_backend.describe_state_machine(
            self._get_param("stateMachineArn")
        )
        wanted = self._get_param("statusFilter")
        newest_first = sorted(machine.executions, key=lambda e: e.start_date, reverse=True)
        listed = [
            {
                "executionArn": execution.execution_arn,
                "stateMachineArn": machine.arn,
                "name": execution.name,
                "status": _status(execution),
                "startDate": execution.start_date,
                "stopDate": execution.stop_date,
            }
            for execution in newest_first
            if wanted in (None, _status(execution))
        ]
        return ActionResult(_page(self, "executions", map(_without_nulls, listed)))

    def get_execution_history(self: StepFunctionResponse) -> ActionResult:
        events = list(_execution(self).to_history_output()["events"])
        if self._get_param("reverseOrder"):
            events.reverse()
        return ActionResult(_page(self, "events", events))

    patch(
        StepFunctionResponse,
        "describe_execution",
        describe_execution,
        reason="Returns the current status and the input, without null fields.",
        link=api("states", "DescribeExecution"),
    )
    patch(
        StepFunctionResponse,
        "list_executions",
        list_executions,
        reason="Filters by status, orders by start and returns pages.",
        link=api("states", "ListExecutions"),
    )
    patch(
        StepFunctionResponse,
        "get_execution_history",
        get_execution_history,
        reason="Supports reverse order and returns pages.",
        link=api("states", "GetExecutionHistory"),
    )


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _page(response: StepFunctionResponse, name: str, items: Iterable[Any]) -> dict[str, Any]:
    everything = list(items)
    start = int(response._get_param("nextToken") or 0)
    end = start + int(response._get_param("maxResults") or _PAGE)
    page: dict[str, Any] = {name: everything[start:end]}
    if end < len(everything):
        page["nextToken"] = str(end)
    return page


# Calls that Terraform makes and moto lacks


def _install_validation() -> None:
    validate = StepFunctionsParserBackend._validate_definition

    def validate_with_expressions(definition: str) -> None:
        validate(definition)
        for expression in _expressions(json.loads(definition)):
            try:
                _compile(expression)
            except JException as error:
                raise InvalidDefinition(
                    message=f"The JSONata expression '{expression}' is not valid: {error}"
                ) from error

    patch(
        StepFunctionsParserBackend,
        "_validate_definition",
        staticmethod(validate_with_expressions),
        reason="Rejects invalid JSONata expressions.",
    )

    def validate_state_machine_definition(self: StepFunctionResponse) -> ActionResult:
        try:
            StepFunctionsParserBackend._validate_definition(self._get_param("definition"))
        except InvalidDefinition as error:
            diagnostic = {
                "severity": "ERROR",
                "code": "SCHEMA_VALIDATION_FAILED",
                "message": str(error.message)[:900],
                "location": "/",
            }
            return ActionResult({"result": "FAIL", "diagnostics": [diagnostic]})
        return ActionResult({"result": "OK", "diagnostics": []})

    def list_state_machine_versions(self: StepFunctionResponse) -> ActionResult:
        machine = self.stepfunction_backend.describe_state_machine(
            self._get_param("stateMachineArn")
        )
        versions = [
            {"stateMachineVersionArn": version.arn, "creationDate": version.creation_date}
            for version in machine.versions.values()
        ]
        return ActionResult({"stateMachineVersions": versions})

    patch(
        StepFunctionResponse,
        "validate_state_machine_definition",
        validate_state_machine_definition,
        reason="Adds an action that Terraform calls.",
        link=api("states", "ValidateStateMachineDefinition"),
        adds=True,
    )
    patch(
        StepFunctionResponse,
        "list_state_machine_versions",
        list_state_machine_versions,
        reason="Adds an action that Terraform calls.",
        link=api("states", "ListStateMachineVersions"),
        adds=True,
    )


def _expressions(definition: Any) -> Iterator[str]:
    if isinstance(definition, dict):
        definition = list(definition.values())
    if isinstance(definition, list):
        for part in definition:
            yield from _expressions(part)
    elif isinstance(definition, str) and (match := _EXPRESSION.fullmatch(definition)):
        yield match[1]


# Retries


def _install_retries(cloud: Cloud) -> None:
    cloud.settings.register(retry_speed=1)
    # The last step of the computation of a Retry's delay.
    decide = JitterStrategyDecl._eval_body

    def decide_and_hurry(self: JitterStrategyDecl, env: Environment) -> None:
        decide(self, env)
        env.stack.append(env.stack.pop() / float(cloud.settings["retry_speed"]))

    patch(
        JitterStrategyDecl,
        "_eval_body",
        decide_and_hurry,
        reason="Applies the setting retry_speed.",
    )


def _install_lost_answers() -> None:
    """Maps a lost answer to AWS's error name.

    moto treats it as a fault of the state machine and ends the execution.
    """
    from_error = StateTaskServiceLambda._from_error

    def with_lost_answers(
        self: StateTaskServiceLambda, env: Environment, ex: Exception
    ) -> FailureEvent:
        if isinstance(ex, HTTPClientError):
            error = {"Code": "SdkClientException", "Message": str(ex)}
            metadata = {"HTTPStatusCode": 0, "RequestId": "null"}
            ex = ClientError({"Error": error, "ResponseMetadata": metadata}, "Invoke")  # type: ignore[typeddict-item]
        return from_error(self, env, ex)

    patch(
        StateTaskServiceLambda,
        "_from_error",
        with_lost_answers,
        reason="A lost answer gets AWS's error name; moto ends the execution.",
    )


# The interpreter's own calls


def _install_clients(cloud: Cloud) -> None:
    @functools.cache
    def client(region: str, service: str, role: str) -> Any:
        env = credentials(role, STATES_SESSION)
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=cloud.endpoint,
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                parameter_validation=False,
                retries={"total_max_attempts": 1},
                # A function can take 15 minutes, and a state has its own time-out.
                read_timeout=3600,
                max_pool_connections=100,
            ),
        )

    lock = threading.Lock()

    def boto_client_for(region: str, service: str, state_credentials: Any = None) -> Any:
        role = getattr(state_credentials, "role_arn", None) or "states"
        with lock:  # Building a client is not safe in two threads at once.
            return client(region, service, role.rpartition("/")[2])

    patch(
        boto_client,
        "boto_client_for",
        boto_client_for,
        reason="Calls the local cloud with the role of the state machine.",
    )
