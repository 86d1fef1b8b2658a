"""Launch templates: versions inherit from their source and can be deleted, as on EC2.

moto ignores the source version and client tokens, has no deletion of versions, and finds
versions by their position. RunInstances takes only ImageId, InstanceType, IamInstanceProfile
and BlockDeviceMappings from a version.
"""

from __future__ import annotations

import copy
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import (
    InvalidLaunchTemplateIdNotFound,
    InvalidLaunchTemplateVersionNotFound,
)
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion
from moto.ec2.responses.launch_templates import LaunchTemplates

from .cloud import Cloud
from .ec2 import Machines, Tokens
from .patching import api, patch


def install(cloud: Cloud) -> None:
    _replace_versions()
    _replace_create_version(cloud.machines)
    _add_delete_versions()


def _replace_versions() -> None:
    def create_version(
        self: LaunchTemplate, data: dict[str, Any], description: str
    ) -> LaunchTemplateVersion:
        # EC2 never uses a number again.
        self.localcloud_last = getattr(self, "localcloud_last", 0) + 1
        version = LaunchTemplateVersion(self, self.localcloud_last, data, description)
        self.versions.append(version)
        return version

    def get_version(self: LaunchTemplate, num: Any) -> LaunchTemplateVersion:
        if str(num).lower() == "$latest":
            return self.versions[-1]
        if str(num).lower() == "$default":
            num = self.default_version_number
        found = next((v for v in self.versions if str(v.number) == str(num)), None)
        if found is None:
            raise InvalidLaunchTemplateVersionNotFound(template_id=self.id, version=num)
        return found

    def default_version(self: LaunchTemplate) -> LaunchTemplateVersion:
        return get_version(self, self.default_version_number)

    patch(
        LaunchTemplate,
        "create_version",
        create_version,
        reason="Numbers versions in the order of their creation, also after deletions.",
        link=api("ec2", "CreateLaunchTemplateVersion"),
    )
    patch(
        LaunchTemplate,
        "get_version",
        get_version,
        reason="Finds a version by its number; moto uses its position.",
        link=api("ec2", "DescribeLaunchTemplateVersions"),
    )
    patch(
        LaunchTemplate,
        "default_version",
        default_version,
        reason="Finds a version by its number; moto uses its position.",
        link=api("ec2", "DescribeLaunchTemplateVersions"),
    )


def inherited(source: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a version with a source.

    The given parameters overwrite those of the source, and the source's block devices lose
    their snapshots. Source: EC2 API reference, "CreateLaunchTemplateVersion".
    """
    data = copy.deepcopy(source)
    for mapping in data.get("BlockDeviceMappings", []):
        mapping.get("Ebs", {}).pop("SnapshotId", None)
    return data | given


def _replace_create_version(machines: Machines) -> None:
    create = LaunchTemplates.create_launch_template_version
    tokens: Tokens[ActionResult] = Tokens()

    def create_launch_template_version(self: LaunchTemplates) -> ActionResult:
        token = self._get_param("ClientToken")
        request = copy.deepcopy({k: v for k, v in self.params.items() if k != "ClientToken"})
        # If two equal calls run at once, the second waits for the first one's answer.
        with machines.lock:
            if token and (known := tokens.recall(self.region, token, request)):
                return known
            if source := self._get_param("SourceVersion"):
                data = _template(self).get_version(source).data
                given = self._get_param("LaunchTemplateData", {})
                self.params["LaunchTemplateData"] = inherited(data, given)
            answer = create(self)
            if token:
                tokens.remember(self.region, token, request, answer)
            return answer

    patch(
        LaunchTemplates,
        "create_launch_template_version",
        create_launch_template_version,
        reason="Inherits from the source version without its snapshots, and honours client tokens.",
        link=api("ec2", "CreateLaunchTemplateVersion"),
    )


def _add_delete_versions() -> None:
    def delete_launch_template_versions(self: LaunchTemplates) -> ActionResult:
        template = _template(self)
        self.error_on_dryrun()
        deleted, kept = [], []
        for number in self._get_param("Versions", []):
            item = {
                "LaunchTemplateId": template.id,
                "LaunchTemplateName": template.name,
                "VersionNumber": int(number),
            }
            found = next((v for v in template.versions if v.number == int(number)), None)
            if found is None:
                error = {
                    "Code": "launchTemplateVersionDoesNotExist",
                    "Message": f"Launch template version {number} does not exist.",
                }
                kept.append(item | {"ResponseError": error})
            elif template.is_default(found):
                error = {
                    "Code": "unexpectedError",
                    "Message": "The default version cannot be deleted.",
                }
                kept.append(item | {"ResponseError": error})
            else:
                template.versions.remove(found)
                deleted.append(item)
        return ActionResult(
            {
                "SuccessfullyDeletedLaunchTemplateVersions": deleted,
                "UnsuccessfullyDeletedLaunchTemplateVersions": kept,
            }
        )

    patch(
        LaunchTemplates,
        "delete_launch_template_versions",
        delete_launch_template_versions,
        reason="Adds an action that `prepull templates` calls.",
        link=api("ec2", "DeleteLaunchTemplateVersions"),
        adds=True,
    )


def _template(self: LaunchTemplates) -> LaunchTemplate:
    if template_id := self._get_param("LaunchTemplateId"):
        if template_id not in self.ec2_backend.launch_templates:
            raise InvalidLaunchTemplateIdNotFound(template_id)
        return self.ec2_backend.get_launch_template(template_id)
    return self.ec2_backend.get_launch_template_by_name(self._get_param("LaunchTemplateName"))
