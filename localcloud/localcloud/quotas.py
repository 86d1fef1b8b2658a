"""Service Quotas: the quotas that `prepull doctor` reads. moto knows only those of VPC.

The values are the defaults in AWS's documentation. Tests lower them through the setting
`quotas`, by code. EBS's documentation shows no code of its quota, so that one is ours.
"""

from __future__ import annotations

import json
from typing import Any

from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.models import ServiceQuotasBackend
from moto.servicequotas.responses import ServiceQuotasResponse

from .cloud import Cloud
from .patching import api, patch

_QUOTAS = {
    # EC2 User Guide, "Amazon EC2 instance type quotas": new accounts have 5.
    ("ec2", "L-1216C47A"): (
        "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
        256.0,
    ),
    # Lambda Developer Guide, "Lambda quotas".
    ("lambda", "L-B99A9384"): ("Concurrent executions", 1000.0),
    # EBS User Guide, "Quotas for Amazon EBS".
    ("ebs", "L-00000EB5"): ("Cumulative volume initialization rate, in MiB/s", 5000.0),
}


def install(cloud: Cloud) -> None:
    cloud.settings.register(quotas={})

    def described(service: str, code: str) -> dict[str, Any]:
        name, default = _QUOTAS[(service, code)]
        value = cloud.settings["quotas"].get(code, default)
        return {"ServiceCode": service, "QuotaCode": code, "QuotaName": name, "Value": value}

    get = ServiceQuotasBackend.get_service_quota

    def get_service_quota(self: Any, service_code: str, quota_code: str) -> dict[str, Any]:
        if (service_code, quota_code) in _QUOTAS:
            return described(service_code, quota_code)
        return get(self, service_code, quota_code)

    def list_service_quotas(self: Any) -> str:
        wanted = json.loads(self.body)["ServiceCode"]
        found = [described(service, code) for service, code in _QUOTAS if service == wanted]
        if not found:
            raise NoSuchResource
        return json.dumps({"Quotas": found})

    patch(
        ServiceQuotasBackend,
        "get_service_quota",
        get_service_quota,
        reason="Adds quotas of EC2, EBS and Lambda.",
        link=api("servicequotas", "GetServiceQuota"),
    )
    patch(
        ServiceQuotasResponse,
        "list_service_quotas",
        list_service_quotas,
        reason="Adds an action that `prepull doctor` calls.",
        link=api("servicequotas", "ListServiceQuotas"),
        adds=True,
    )
