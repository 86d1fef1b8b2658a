//! Checks the instance types and the subnets of builders.

use std::collections::{BTreeMap, BTreeSet};

use futures::join;
use prepull_aws::StageResult as _;
use prepull_aws::ec2::types::{
    Filter, InstanceTypeInfo, LocationType, NatGateway, RouteState, RouteTable, State, Subnet,
    VpcEndpoint,
};
use prepull_domain::{CacheConfig, StageError};

use super::account::Account;
use super::quotas::wanted;
use super::{Caches, Check, Finding};

/// Endpoints that a builder needs without the internet. ECR stores layers in S3.
///
/// Source: Systems Manager User Guide, "Create VPC endpoints", and ECR User Guide, "Amazon ECR interface VPC endpoints".
const ENDPOINTS: [&str; 5] = ["ssm", "ssmmessages", "ecr.api", "ecr.dkr", "s3"];

/// Checks the builders' types and subnets of each cache.
pub async fn check(account: &Account, caches: &Caches) -> Vec<Finding> {
    // EC2 refuses filters without values.
    if caches.is_empty() {
        return Vec::new();
    }
    let types = async {
        match join!(instance_types(account, caches), offers(account, caches)) {
            (Ok(types), Ok(offers)) => caches
                .iter()
                .map(|(cache, config)| offered(config, &types, &offers).of(cache))
                .collect(),
            (Err(error), _) | (_, Err(error)) => {
                vec![Finding::unchecked(Check::InstanceTypes, &error)]
            }
        }
    };
    let subnets = async {
        match Network::read(account, caches).await {
            Ok(network) => caches
                .iter()
                .map(|(cache, config)| network.judge(config).of(cache))
                .collect(),
            Err(error) => vec![Finding::unchecked(Check::Subnets, &error)],
        }
    };
    let (mut findings, subnets): (Vec<_>, Vec<_>) = join!(types, subnets);
    findings.extend(subnets);
    findings
}

/// Returns the existing instance types among those of the caches.
pub async fn instance_types(
    account: &Account,
    caches: &Caches,
) -> Result<BTreeMap<String, InstanceTypeInfo>, StageError> {
    // With `InstanceTypes`, an unknown type would be an error.
    let mut types = account
        .clients
        .ec2
        .describe_instance_types()
        .filters(filter("instance-type", types_of(caches)))
        .into_paginator()
        .items()
        .send();
    let mut found = BTreeMap::new();
    while let Some(info) = types.next().await {
        let info = info.or_stage_error("ec2:DescribeInstanceTypes")?;
        if let Some(name) = info.instance_type() {
            found.insert(name.as_str().to_owned(), info);
        }
    }
    Ok(found)
}

/// The availability zones of each instance type and of each subnet.
struct Offers {
    zones_of_type: BTreeMap<String, BTreeSet<String>>,
    zone_of_subnet: BTreeMap<String, String>,
}

async fn offers(account: &Account, caches: &Caches) -> Result<Offers, StageError> {
    let zone_of_subnet: BTreeMap<_, _> = subnets(account, caches)
        .await?
        .into_iter()
        .filter_map(|subnet| Some((subnet.subnet_id?, subnet.availability_zone?)))
        .collect();
    let mut offerings = account
        .clients
        .ec2
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .filters(filter("instance-type", types_of(caches)))
        .into_paginator()
        .items()
        .send();
    let mut zones_of_type: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(offering) = offerings.next().await {
        let offering = offering.or_stage_error("ec2:DescribeInstanceTypeOfferings")?;
        if let (Some(name), Some(zone)) = (offering.instance_type, offering.location) {
            zones_of_type
                .entry(name.as_str().to_owned())
                .or_default()
                .insert(zone);
        }
    }
    Ok(Offers {
        zones_of_type,
        zone_of_subnet,
    })
}

/// Checks the instance types of one cache.
fn offered(
    config: &CacheConfig,
    types: &BTreeMap<String, InstanceTypeInfo>,
    offers: &Offers,
) -> Finding {
    let check = Check::InstanceTypes;
    let zones: BTreeSet<_> = config
        .builder
        .subnet_ids
        .iter()
        .filter_map(|subnet| offers.zone_of_subnet.get(subnet.as_str()))
        .cloned()
        .collect();
    let mut offered = Vec::new();
    for (architecture, names) in wanted(config) {
        // EC2 refuses such a launch, and the build fails.
        let foreign = names.iter().find(|name| {
            types
                .get(*name)
                .and_then(InstanceTypeInfo::processor_info)
                .is_some_and(|processor| {
                    let supported = processor.supported_architectures();
                    !supported
                        .iter()
                        .any(|one| one.as_str() == architecture.as_str())
                })
        });
        if let Some(name) = foreign {
            return Finding::wrong(
                check,
                format!("instance type {name} does not run {architecture}"),
                format!("Remove it from `builder.instance_types.{architecture}`"),
            );
        }
        let available = names.iter().filter(|name| {
            let zones_of_type = offers.zones_of_type.get(*name);
            zones_of_type.is_some_and(|offering| !offering.is_disjoint(&zones))
        });
        let available: Vec<_> = available.map(String::as_str).collect();
        if available.is_empty() {
            let listed =
                |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
            let elsewhere: BTreeSet<_> = names
                .iter()
                .filter_map(|name| offers.zones_of_type.get(name))
                .flatten()
                .cloned()
                .collect();
            let remedy = match listed(&elsewhere) {
                zones if zones.is_empty() => format!(
                    "Add a type that the Region offers to `builder.instance_types.{architecture}`"
                ),
                zones => format!(
                    "Add other types to `builder.instance_types.{architecture}`, or a subnet in {zones}"
                ),
            };
            return Finding::wrong(
                check,
                format!(
                    "no instance type for {architecture} ({}) is offered in the zones of the subnets ({})",
                    names.join(", "),
                    listed(&zones)
                ),
                remedy,
            );
        }
        offered.push(format!("{} for {architecture}", available.join(", ")));
    }
    Finding::fine(
        check,
        format!("the zones of the subnets offer {}", offered.join(" and ")),
    )
}

/// The network of all caches.
struct Network {
    region: String,
    subnets: BTreeMap<String, Subnet>,
    tables: Vec<RouteTable>,
    gateways: BTreeMap<String, NatGateway>,
    endpoints: Vec<VpcEndpoint>,
}

/// The way of a builder to AWS and to registries.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Egress {
    /// An internet gateway, a NAT gateway, or a route of the user to a network that this check cannot see.
    Route(String),
    /// No internet, but endpoints for all AWS services that a builder calls.
    Endpoints,
    /// None, with the reason and the remedy.
    None(String, String),
}

impl Network {
    async fn read(account: &Account, caches: &Caches) -> Result<Self, StageError> {
        let subnets = subnets(account, caches).await?;
        let vpcs: BTreeSet<_> = subnets.iter().filter_map(|s| s.vpc_id.clone()).collect();
        let ec2 = &account.clients.ec2;
        let in_vpcs = || filter("vpc-id", vpcs.iter().cloned());
        let tables = async {
            let mut items = ec2
                .describe_route_tables()
                .filters(in_vpcs())
                .into_paginator()
                .items()
                .send();
            let mut tables = Vec::new();
            while let Some(table) = items.next().await {
                tables.push(table.or_stage_error("ec2:DescribeRouteTables")?);
            }
            Ok::<_, StageError>(tables)
        };
        let gateways = async {
            let mut items = ec2
                .describe_nat_gateways()
                .filter(in_vpcs())
                .into_paginator()
                .items()
                .send();
            let mut gateways = BTreeMap::new();
            while let Some(gateway) = items.next().await {
                let gateway = gateway.or_stage_error("ec2:DescribeNatGateways")?;
                let id = gateway.nat_gateway_id().unwrap_or_default().to_owned();
                gateways.insert(id, gateway);
            }
            Ok::<_, StageError>(gateways)
        };
        let endpoints = async {
            let mut items = ec2
                .describe_vpc_endpoints()
                .filters(in_vpcs())
                .into_paginator()
                .items()
                .send();
            let mut endpoints = Vec::new();
            while let Some(endpoint) = items.next().await {
                endpoints.push(endpoint.or_stage_error("ec2:DescribeVpcEndpoints")?);
            }
            Ok::<_, StageError>(endpoints)
        };
        let (tables, gateways, endpoints) = join!(tables, gateways, endpoints);
        Ok(Self {
            region: account.region.to_string(),
            subnets: subnets
                .into_iter()
                .filter_map(|subnet| Some((subnet.subnet_id.clone()?, subnet)))
                .collect(),
            tables: tables?,
            gateways: gateways?,
            endpoints: endpoints?,
        })
    }

    /// Checks the subnets of one cache. A builder may start in each of them.
    fn judge(&self, config: &CacheConfig) -> Finding {
        let check = Check::Subnets;
        let mut ways = BTreeSet::new();
        for id in &config.builder.subnet_ids {
            let Some(subnet) = self.subnets.get(id.as_str()) else {
                return Finding::wrong(
                    check,
                    format!("{id} does not exist in {}", self.region),
                    "Set `builder.subnet_ids`, or the module's `subnet_ids`, to existing subnets",
                );
            };
            // Such a subnet has no IPv4, and most registries have only IPv4 addresses.
            if subnet.ipv6_native == Some(true) {
                return Finding::wrong(
                    check,
                    format!(
                        "{id} has only IPv6, but registries and Bottlerocket's first start need IPv4"
                    ),
                    "Use a subnet with IPv4",
                );
            }
            if subnet.available_ip_address_count == Some(0) {
                return Finding::wrong(
                    check,
                    format!("{id} has no free IPv4 address"),
                    "Use a subnet with free addresses",
                );
            }
            match self.egress(id.as_str(), subnet) {
                Egress::Route(way) => {
                    ways.insert(way);
                }
                Egress::Endpoints => {
                    // Endpoints lead to private ECR only.
                    if let Some(image) = config.images.iter().find(|image| image.ecr().is_none()) {
                        return Finding::wrong(
                            check,
                            format!(
                                "{id} has no route to the internet, and {image} is not in private ECR"
                            ),
                            "Add a NAT gateway and a route to it, or copy the image to private ECR",
                        );
                    }
                    ways.insert("VPC endpoints".to_owned());
                }
                Egress::None(reason, remedy) => return Finding::wrong(check, reason, remedy),
            }
        }
        Finding::fine(
            check,
            format!(
                "builders reach AWS and registries through {}",
                Vec::from_iter(ways).join(", ")
            ),
        )
    }

    /// Finds the way out of a subnet.
    fn egress(&self, id: &str, subnet: &Subnet) -> Egress {
        let vpc = subnet.vpc_id().unwrap_or_default();
        let table = self.table_of(id, vpc);
        let default = table
            .into_iter()
            .flat_map(RouteTable::routes)
            .find(|route| route.destination_cidr_block() == Some("0.0.0.0/0"));
        let Some(route) = default else {
            return self.endpoints(id, vpc, table);
        };
        if route.state() == Some(&RouteState::Blackhole) {
            return Egress::None(
                format!("the route of {id} to the internet leads to a deleted gateway"),
                "Replace the route to 0.0.0.0/0 in its route table".to_owned(),
            );
        }
        if let Some(nat) = route.nat_gateway_id() {
            let state = self.gateways.get(nat).and_then(NatGateway::state);
            return match state.map(prepull_aws::ec2::types::NatGatewayState::as_str) {
                // A NAT gateway of another VPC is not visible here.
                None | Some("available") => Egress::Route(nat.to_owned()),
                Some(state) => Egress::None(
                    format!("{nat}, the way of {id} to the internet, is {state}"),
                    "Replace the NAT gateway, or the route to it".to_owned(),
                ),
            };
        }
        match route.gateway_id() {
            // launch-builder leaves the choice of a public address to the subnet.
            Some(gateway)
                if gateway.starts_with("igw-") && subnet.map_public_ip_on_launch != Some(true) =>
            {
                Egress::None(
                    format!(
                        "{id} routes to {gateway}, but gives builders no public address, so they reach nothing"
                    ),
                    format!(
                        "Enable auto-assignment of public IPv4 addresses for {id}, or use a subnet with a NAT gateway"
                    ),
                )
            }
            Some(gateway) => Egress::Route(gateway.to_owned()),
            None => Egress::Route("a route of its own".to_owned()),
        }
    }

    /// Returns the route table of a subnet: its own, or the main one of its VPC.
    fn table_of(&self, subnet: &str, vpc: &str) -> Option<&RouteTable> {
        let associations = |table: &RouteTable, check: &dyn Fn(Option<&str>, bool) -> bool| {
            table
                .associations()
                .iter()
                .any(|one| check(one.subnet_id(), one.main() == Some(true)))
        };
        let own = self
            .tables
            .iter()
            .find(|table| associations(table, &|of, _| of == Some(subnet)));
        own.or_else(|| {
            let mut tables = self.tables.iter();
            tables.find(|table| {
                table.vpc_id() == Some(vpc) && associations(table, &|_, is_main| is_main)
            })
        })
    }

    /// Checks the endpoints of a subnet without a route to the internet.
    fn endpoints(&self, id: &str, vpc: &str, table: Option<&RouteTable>) -> Egress {
        let table = table.and_then(RouteTable::route_table_id);
        let serves = |endpoint: &&VpcEndpoint| {
            let is_gateway = endpoint
                .vpc_endpoint_type()
                .is_some_and(|kind| kind.as_str() == "Gateway");
            let tables = endpoint.route_table_ids();
            endpoint.vpc_id() == Some(vpc)
                && endpoint.state().is_none_or(|state| {
                    state
                        .as_str()
                        .eq_ignore_ascii_case(State::Available.as_str())
                })
                && if is_gateway {
                    tables.iter().any(|one| Some(one.as_str()) == table)
                } else {
                    // Without private DNS, the services' usual names lead to the internet.
                    endpoint.private_dns_enabled() == Some(true)
                }
        };
        let present: BTreeSet<_> = self
            .endpoints
            .iter()
            .filter(serves)
            .filter_map(|endpoint| {
                let prefix = format!("{}.", self.region);
                let (_, service) = endpoint.service_name()?.split_once(&prefix)?;
                Some(service.to_owned())
            })
            .collect();
        let missing: Vec<_> = ENDPOINTS
            .into_iter()
            .filter(|service| !present.contains(*service))
            .collect();
        if missing.is_empty() {
            return Egress::Endpoints;
        }
        Egress::None(
            format!(
                "{id} has no route to the internet and no VPC endpoint for {}",
                missing.join(", ")
            ),
            "Add a route to a NAT gateway or an internet gateway, or the missing endpoints"
                .to_owned(),
        )
    }
}

/// Returns the existing subnets of the caches.
async fn subnets(account: &Account, caches: &Caches) -> Result<Vec<Subnet>, StageError> {
    let ids: BTreeSet<_> = caches
        .values()
        .flat_map(|config| &config.builder.subnet_ids)
        .map(ToString::to_string)
        .collect();
    // With `SubnetIds`, a deleted subnet would be an error.
    let mut subnets = account
        .clients
        .ec2
        .describe_subnets()
        .filters(filter("subnet-id", ids))
        .into_paginator()
        .items()
        .send();
    let mut found = Vec::new();
    while let Some(subnet) = subnets.next().await {
        found.push(subnet.or_stage_error("ec2:DescribeSubnets")?);
    }
    Ok(found)
}

fn types_of(caches: &Caches) -> BTreeSet<String> {
    caches
        .values()
        .flat_map(wanted)
        .flat_map(|(_, types)| types.iter().cloned())
        .collect()
}

fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().collect()))
        .build()
}

#[cfg(test)]
mod tests {
    use prepull_aws::ec2::types::{NatGatewayState, Route, RouteTableAssociation, VpcEndpointType};

    use super::*;

    const SUBNET: &str = "subnet-0123456789abcdef0";
    const VPC: &str = "vpc-0123456789abcdef0";
    const TABLE: &str = "rtb-0123456789abcdef0";

    fn subnet(public: bool) -> Subnet {
        Subnet::builder()
            .subnet_id(SUBNET)
            .vpc_id(VPC)
            .map_public_ip_on_launch(public)
            .build()
    }

    /// Returns a network with one route table, which is the main one of the VPC.
    fn network(route: Option<Route>) -> Network {
        let main = RouteTableAssociation::builder().main(true).build();
        Network {
            region: "eu-west-1".to_owned(),
            subnets: BTreeMap::new(),
            tables: vec![
                RouteTable::builder()
                    .route_table_id(TABLE)
                    .vpc_id(VPC)
                    .associations(main)
                    .set_routes(route.map(|route| vec![route]))
                    .build(),
            ],
            gateways: BTreeMap::new(),
            endpoints: Vec::new(),
        }
    }

    fn to_internet() -> prepull_aws::ec2::types::builders::RouteBuilder {
        Route::builder()
            .destination_cidr_block("0.0.0.0/0")
            .state(RouteState::Active)
    }

    fn endpoint(service: &str) -> VpcEndpoint {
        let endpoint = VpcEndpoint::builder()
            .vpc_id(VPC)
            .state(State::Available)
            .service_name(format!("com.amazonaws.eu-west-1.{service}"));
        match service {
            "s3" => endpoint
                .vpc_endpoint_type(VpcEndpointType::Gateway)
                .route_table_ids(TABLE),
            _ => endpoint
                .vpc_endpoint_type(VpcEndpointType::Interface)
                .private_dns_enabled(true),
        }
        .build()
    }

    fn reason(egress: Egress) -> String {
        match egress {
            Egress::None(reason, _) => reason,
            way => panic!("{way:?}"),
        }
    }

    #[test]
    fn internet_gateway_needs_a_public_address() {
        let network = network(Some(to_internet().gateway_id("igw-1").build()));
        let way = Egress::Route("igw-1".to_owned());
        assert_eq!(network.egress(SUBNET, &subnet(true)), way);
        let reason = reason(network.egress(SUBNET, &subnet(false)));
        assert!(reason.contains("no public address"), "{reason}");
    }

    #[test]
    fn nat_gateway_must_be_available() {
        let mut network = network(Some(to_internet().nat_gateway_id("nat-1").build()));
        let gateway = |state| {
            let gateway = NatGateway::builder().nat_gateway_id("nat-1");
            [("nat-1".to_owned(), gateway.state(state).build())].into()
        };
        network.gateways = gateway(NatGatewayState::Available);
        let way = Egress::Route("nat-1".to_owned());
        assert_eq!(network.egress(SUBNET, &subnet(false)), way);
        network.gateways = gateway(NatGatewayState::Failed);
        let reason = reason(network.egress(SUBNET, &subnet(false)));
        assert!(
            reason.contains("nat-1") && reason.contains("failed"),
            "{reason}"
        );
    }

    #[test]
    fn route_to_a_deleted_gateway_leads_nowhere() {
        let route = to_internet().state(RouteState::Blackhole);
        let network = network(Some(route.nat_gateway_id("nat-1").build()));
        let reason = reason(network.egress(SUBNET, &subnet(false)));
        assert!(reason.contains("deleted gateway"), "{reason}");
    }

    #[test]
    fn route_table_of_the_subnet_precedes_the_main_one() {
        let mut network = network(None);
        let own = RouteTableAssociation::builder().subnet_id(SUBNET).build();
        network.tables.push(
            RouteTable::builder()
                .vpc_id(VPC)
                .associations(own)
                .routes(to_internet().transit_gateway_id("tgw-1").build())
                .build(),
        );
        let way = network.egress(SUBNET, &subnet(false));
        assert!(matches!(way, Egress::Route(_)), "{way:?}");
    }

    #[test]
    fn private_subnet_needs_every_endpoint() {
        let mut network = network(None);
        network.endpoints = ENDPOINTS.map(endpoint).to_vec();
        assert_eq!(network.egress(SUBNET, &subnet(false)), Egress::Endpoints);
        for (index, service) in ENDPOINTS.into_iter().enumerate() {
            let removed = network.endpoints.remove(index);
            let reason = reason(network.egress(SUBNET, &subnet(false)));
            assert!(reason.ends_with(service), "{reason}");
            network.endpoints.insert(index, removed);
        }
    }

    #[test]
    fn endpoint_without_private_dns_does_not_count() {
        let mut network = network(None);
        network.endpoints = ENDPOINTS.map(endpoint).to_vec();
        network.endpoints[0].private_dns_enabled = Some(false);
        let reason = reason(network.egress(SUBNET, &subnet(false)));
        assert!(reason.ends_with("endpoint for ssm"), "{reason}");
    }
}
