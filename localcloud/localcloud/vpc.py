"""VPC: the default VPC leads to the internet, as on AWS. moto's has no gateway."""

from __future__ import annotations

from moto.ec2.models import EC2Backend
from moto.ec2.models.vpcs import VPC, VPCBackend

from .cloud import Cloud
from .patching import patch

_COMPONENTS = "https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html"


def install(_cloud: Cloud) -> None:
    create = VPCBackend.create_default_vpc

    def create_default_vpc(self: EC2Backend) -> VPC:
        vpc = create(self)
        gateway = self.create_internet_gateway()
        self.attach_internet_gateway(gateway.id, vpc.id)
        table = self.describe_route_tables(
            filters={"vpc-id": [vpc.id], "association.main": ["true"]}
        )[0]
        self.create_route(table.id, "0.0.0.0/0", None, gateway_id=gateway.id)
        return vpc

    patch(
        VPCBackend,
        "create_default_vpc",
        create_default_vpc,
        reason="Adds the internet gateway and the route to it.",
        link=_COMPONENTS,
    )
