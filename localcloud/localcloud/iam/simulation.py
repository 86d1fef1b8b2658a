"""IAM's policy simulation, which moto lacks. It decides like the enforcement of calls."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult
from moto.iam.exceptions import NotFoundException
from moto.iam.responses import IamResponse

from ..cloud import Cloud
from ..patching import api, patch
from .enforcement import authority
from .policy import Ask, Decision, Values


def install(_cloud: Cloud) -> None:
    def simulate_principal_policy(self: IamResponse) -> ActionResult:
        role = self._get_param("PolicySourceArn").rpartition("/")[2]
        context = dict(_context(entry) for entry in self._get_param("ContextEntries", []))
        results = []
        for resource in self._get_param("ResourceArns", ["*"]):
            for action in self._get_param("ActionNames"):
                decision = authority.decide(role, Ask(action, resource, context))
                if decision is None:
                    raise NotFoundException(f"The role with name {role} cannot be found.")
                results.append(_result(action, resource, decision))
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})

    patch(
        IamResponse,
        "simulate_principal_policy",
        simulate_principal_policy,
        reason="Adds an action that `prepull doctor` calls.",
        link=api("iam", "SimulatePrincipalPolicy"),
        adds=True,
    )


def _context(entry: dict[str, Any]) -> tuple[str, Values]:
    values = entry["ContextKeyValues"]
    is_list = entry["ContextKeyType"].endswith("List")
    return entry["ContextKeyName"], tuple(values) if is_list else values[0]


def _result(action: str, resource: str, decision: Decision) -> dict[str, Any]:
    """Source: IAM API reference, "EvaluationResult"."""
    outcome = "explicitDeny" if "explicitly" in decision.reason else "implicitDeny"
    result: dict[str, Any] = {
        "EvalActionName": action,
        "EvalResourceName": resource,
        "EvalDecision": "allowed" if decision.allowed else outcome,
        "MatchedStatements": [],
        "MissingContextValues": [],
    }
    if "permissions boundary" in decision.reason:
        result["PermissionsBoundaryDecisionDetail"] = {"AllowedByPermissionsBoundary": False}
    return result
