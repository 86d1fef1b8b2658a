//! Checks the account's quotas for vCPUs, functions and the initialization of volumes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use aws_sdk_servicequotas::types::ServiceQuota;
use futures::join;
use prepull_aws::ec2::types::{Filter, InstanceType, InstanceTypeInfo, Reservation};
use prepull_aws::{AwsError as _, StageResult as _};
use prepull_domain::{Architecture, CacheConfig, StageError};
use prepull_estimate::MAX_INITIALIZATION_RATE;

use super::account::Account;
use super::{Caches, Check, Finding, found, network};

/// Code of Lambda's quota "Concurrent executions".
const CONCURRENT_EXECUTIONS: &str = "L-B99A9384";

/// Words in the name of EBS's quota for initialization rates. The documentation shows no code of this quota.
const INITIALIZATION_RATE: &str = "initialization rate";

/// Concurrent executions outside of targets: start-build, and the sweep of clean-up.
const BESIDES_TARGETS: usize = 2;

/// Checks the quotas.
pub async fn check(account: &Account, caches: &Caches) -> Vec<Finding> {
    let (functions, rate, mut findings) = join!(
        concurrency(account, caches),
        initialization_rate(account),
        vcpus(account, caches)
    );
    findings.push(found(Check::LambdaConcurrency, functions));
    findings.push(found(Check::InitializationRate, rate));
    findings
}

/// Checks that all caches can be built concurrently. A stage that waits occupies its function until its timeout.
async fn concurrency(account: &Account, caches: &Caches) -> Result<Finding, StageError> {
    let check = Check::LambdaConcurrency;
    let targets: usize = caches.values().map(|cache| cache.architectures.len()).sum();
    let needed = targets + BESIDES_TARGETS;
    let quota = quota(account, "lambda", CONCURRENT_EXECUTIONS).await?;
    Ok(if quota < as_quota(needed) {
        Finding::wrong(
            check,
            format!(
                "the account may run {quota} functions concurrently, but concurrent builds of the caches need {needed}"
            ),
            increase(
                "Concurrent executions",
                "AWS Lambda",
                CONCURRENT_EXECUTIONS,
                as_quota(needed),
            ),
        )
    } else {
        Finding::fine(
            check,
            format!(
                "the account may run {quota} functions concurrently, and prepull needs up to {needed}"
            ),
        )
    })
}

/// Checks that nodes can start with the rate of the printed node class. EBS refuses volumes beyond the quota.
///
/// Source: EBS User Guide, "Quotas for Amazon EBS".
async fn initialization_rate(account: &Account) -> Result<Finding, StageError> {
    let check = Check::InitializationRate;
    let Some(quota) = quota_by_name(account, "ebs", INITIALIZATION_RATE).await? else {
        return Ok(Finding::unknown(
            check,
            format!(
                "Service Quotas lists no quota of EBS with `{INITIALIZATION_RATE}` in its name"
            ),
            "Look up the quota in the Service Quotas console: each node that starts with an initialization rate uses it",
        ));
    };
    let rate = f64::from(MAX_INITIALIZATION_RATE);
    let (value, code) = (
        quota.value.unwrap_or_default(),
        quota.quota_code.unwrap_or_default(),
    );
    let nodes = (value / rate).floor();
    Ok(if nodes < 1.0 {
        Finding::wrong(
            check,
            format!(
                "the volumes of the account may initialize at {value} MiB/s in total, but a node class of `prepull \
                 nodeclass` sets {rate} MiB/s for each node, so no node starts"
            ),
            increase(
                quota.quota_name.as_deref().unwrap_or(INITIALIZATION_RATE),
                "Amazon EBS",
                &code,
                rate,
            ),
        )
    } else {
        Finding::fine(
            check,
            format!(
                "the volumes of the account may initialize at {value} MiB/s in total: {nodes} nodes at once with \
                 {rate} MiB/s each"
            ),
        )
    })
}

/// Checks that each cache has builders that the quotas allow now.
async fn vcpus(account: &Account, caches: &Caches) -> Vec<Finding> {
    let check = Check::VcpuQuota;
    // EC2 refuses filters without values.
    if caches.is_empty() {
        return Vec::new();
    }
    let types = match network::instance_types(account, caches).await {
        Ok(types) => types,
        Err(error) => return vec![Finding::unchecked(check, &error)],
    };
    let mut pools = BTreeMap::new();
    for family in types.keys().filter_map(|name| Family::of(name)) {
        if let Entry::Vacant(entry) = pools.entry(family) {
            match pool(account, family).await {
                Ok(pool) => entry.insert(pool),
                Err(error) => return vec![Finding::unchecked(check, &error)],
            };
        }
    }
    caches
        .iter()
        .map(|(cache, config)| of_cache(config, &types, &pools).of(cache))
        .collect()
}

/// The vCPUs of a family's quota.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pool {
    /// The quota.
    pub quota: f64,
    /// The vCPUs of running instances.
    pub used: f64,
}

/// Types of instances that share a quota.
///
/// Source: EC2 User Guide, "Amazon EC2 instance type quotas". Types of all other families are not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// A, C, D, H, I, M, R, T and Z.
    Standard,
    /// G and VT.
    Graphics,
    /// X.
    Memory,
}

impl Family {
    /// Returns the family of an instance type.
    pub fn of(instance_type: &str) -> Option<Self> {
        let class: String = instance_type
            .chars()
            .take_while(char::is_ascii_alphabetic)
            .collect();
        // `m7gd` and `is4gen` have their generation after the class; `mac2` and `hpc7g` have quotas of their own.
        match class.as_str() {
            "a" | "c" | "d" | "h" | "i" | "im" | "is" | "m" | "r" | "t" | "z" => {
                Some(Self::Standard)
            }
            "g" | "gr" | "vt" => Some(Self::Graphics),
            "x" => Some(Self::Memory),
            _ => None,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Standard => "L-1216C47A",
            Self::Graphics => "L-DB2E81BA",
            Self::Memory => "L-7295265B",
        }
    }

    fn quota_name(self) -> &'static str {
        match self {
            Self::Standard => "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
            Self::Graphics => "Running On-Demand G and VT instances",
            Self::Memory => "Running On-Demand X instances",
        }
    }
}

/// Returns the quota of a family and its use.
async fn pool(account: &Account, family: Family) -> Result<Pool, StageError> {
    let quota = quota(account, "ec2", family.code()).await?;
    // Stopped instances do not count. Source: EC2 User Guide, "Amazon EC2 instance type quotas".
    let running = Filter::builder()
        .name("instance-state-name")
        .values("pending")
        .values("running")
        .build();
    let mut pages = account
        .clients
        .ec2
        .describe_instances()
        .filters(running)
        .into_paginator()
        .send();
    let mut used = 0.0;
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeInstances")?;
        let instances = page.reservations().iter().flat_map(Reservation::instances);
        used += instances
            // Spot instances have quotas of their own.
            .filter(|instance| instance.instance_lifecycle().is_none())
            .filter(|instance| {
                let name = instance.instance_type().map(InstanceType::as_str);
                name.and_then(Family::of) == Some(family)
            })
            .filter_map(|instance| {
                let options = instance.cpu_options()?;
                Some(f64::from(
                    options.core_count()? * options.threads_per_core()?,
                ))
            })
            .sum::<f64>();
    }
    Ok(Pool { quota, used })
}

/// Checks one cache. launch-builder tries the types in order, so one that fits is enough for an architecture.
fn of_cache(
    config: &CacheConfig,
    types: &BTreeMap<String, InstanceTypeInfo>,
    pools: &BTreeMap<Family, Pool>,
) -> Finding {
    let check = Check::VcpuQuota;
    let mut free: BTreeMap<_, _> = pools
        .iter()
        .map(|(&family, pool)| (family, pool.quota - pool.used))
        .collect();
    let mut fitting = Vec::new();
    for (architecture, names) in wanted(config) {
        // Types without a known quota or size are left to EC2.
        let known: Vec<_> = names
            .iter()
            .filter_map(|name| Some((name, Family::of(name)?, vcpus_of(types.get(name)?)?)))
            .collect();
        let fit = known.iter().find(|(_, family, vcpus)| {
            let free = free.get(family).copied().unwrap_or_default();
            *vcpus <= free
        });
        if let Some(&(name, family, vcpus)) = fit {
            // The builders of both architectures run at the same time.
            *free.entry(family).or_default() -= vcpus;
            fitting.push(format!("{name} with {vcpus} vCPUs for {architecture}"));
        } else if let Some(&(name, family, vcpus)) =
            known.iter().min_by(|(_, _, a), (_, _, b)| a.total_cmp(b))
        {
            let Pool { quota, used } = pools[&family];
            return Finding::wrong(
                check,
                format!(
                    "no builder for {architecture} fits into the quota of {quota} vCPUs, of which {used} are in use: \
                     the smallest, {name}, has {vcpus}"
                ),
                format!(
                    "{}, or add a smaller type to `builder.instance_types`",
                    increase(
                        family.quota_name(),
                        "Amazon EC2",
                        family.code(),
                        used + vcpus
                    )
                ),
            );
        }
    }
    let allowed = if fitting.is_empty() {
        "every builder".to_owned()
    } else {
        fitting.join(" and ")
    };
    Finding::fine(check, format!("the quota allows {allowed}"))
}

/// Returns the instance types of a cache for each architecture, in order of preference.
pub fn wanted(config: &CacheConfig) -> impl Iterator<Item = (Architecture, &[String])> {
    config.architectures.iter().map(|architecture| {
        let types = config.builder.instance_types.get(architecture);
        (*architecture, types.map_or(&[][..], Vec::as_slice))
    })
}

fn vcpus_of(info: &InstanceTypeInfo) -> Option<f64> {
    info.v_cpu_info()?.default_v_cpus().map(f64::from)
}

/// Returns the applied quota, or AWS's default if the account has no value of its own.
///
/// Source: Service Quotas API reference, "`GetServiceQuota`".
async fn quota(account: &Account, service: &str, code: &str) -> Result<f64, StageError> {
    let applied = account
        .quotas
        .get_service_quota()
        .service_code(service)
        .quota_code(code)
        .send()
        .await;
    let quota = match applied {
        Err(error) if error.aws_code() == Some("NoSuchResourceException") => {
            let default = account
                .quotas
                .get_aws_default_service_quota()
                .service_code(service)
                .quota_code(code)
                .send()
                .await;
            default
                .or_stage_error("servicequotas:GetAWSDefaultServiceQuota")?
                .quota
        }
        other => other.or_stage_error("servicequotas:GetServiceQuota")?.quota,
    };
    quota
        .and_then(|quota| quota.value)
        .ok_or_else(|| StageError::AwsFailed {
            call: "servicequotas:GetServiceQuota",
            message: format!("quota {code} of {service} has no value"),
        })
}

/// Returns the first quota of `service` with `words` in its name.
async fn quota_by_name(
    account: &Account,
    service: &str,
    words: &str,
) -> Result<Option<ServiceQuota>, StageError> {
    let mut quotas = account
        .quotas
        .list_service_quotas()
        .service_code(service)
        .into_paginator()
        .items()
        .send();
    while let Some(quota) = quotas.next().await {
        let quota = quota.or_stage_error("servicequotas:ListServiceQuotas")?;
        let name = quota.quota_name().unwrap_or_default().to_lowercase();
        if name.contains(words) {
            return Ok(Some(quota));
        }
    }
    Ok(None)
}

fn increase(name: &str, service: &str, code: &str, least: f64) -> String {
    format!(
        "Request at least {least} for the quota `{name}` of {service} ({code}) in Service Quotas"
    )
}

/// Quotas are floating-point numbers, and the number of targets is far below the first that is not exact.
#[expect(clippy::cast_precision_loss)]
fn as_quota(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use prepull_aws::ec2::types::VCpuInfo;
    use serde_json::json;

    use super::*;
    use crate::doctor::Status;

    fn config(types: &serde_json::Value) -> CacheConfig {
        let mut config = prepull_testing::configuration();
        let architectures: Vec<_> = types.as_object().unwrap().keys().cloned().collect();
        config["architectures"] = architectures.into();
        config["builder"]["instance_types"] = types.clone();
        CacheConfig::parse(&"web".parse().unwrap(), &config.to_string()).unwrap()
    }

    fn types(vcpus: &[(&str, i32)]) -> BTreeMap<String, InstanceTypeInfo> {
        let info = |vcpus| {
            let vcpus = VCpuInfo::builder().default_v_cpus(vcpus).build();
            InstanceTypeInfo::builder().v_cpu_info(vcpus).build()
        };
        let named = vcpus.iter();
        named
            .map(|(name, vcpus)| ((*name).to_owned(), info(*vcpus)))
            .collect()
    }

    fn standard(quota: f64, used: f64) -> BTreeMap<Family, Pool> {
        [(Family::Standard, Pool { quota, used })].into()
    }

    #[test]
    fn one_fitting_type_is_enough_for_an_architecture() {
        let config = config(&json!({"x86_64": ["m7i.2xlarge", "m7i.large"]}));
        let types = types(&[("m7i.2xlarge", 8), ("m7i.large", 2)]);
        let fits = |quota, used| of_cache(&config, &types, &standard(quota, used));
        assert_eq!(fits(5.0, 0.0).status, Status::Fine);
        let refused = fits(5.0, 4.0);
        assert_eq!(refused.status, Status::Wrong);
        let remedy = refused.remedy.unwrap();
        assert!(remedy.starts_with("Request at least 6 "), "{remedy}");
    }

    #[test]
    fn builders_of_both_architectures_share_the_quota() {
        let config = config(&json!({"x86_64": ["m7i.2xlarge"], "arm64": ["m7g.2xlarge"]}));
        let types = types(&[("m7i.2xlarge", 8), ("m7g.2xlarge", 8)]);
        let fits = |quota| of_cache(&config, &types, &standard(quota, 0.0)).status;
        assert_eq!(fits(16.0), Status::Fine);
        assert_eq!(fits(15.0), Status::Wrong);
    }

    #[test]
    fn family_of_an_instance_type_follows_its_class() {
        for (instance_type, family) in [
            ("m7i.2xlarge", Some(Family::Standard)),
            ("is4gen.large", Some(Family::Standard)),
            ("g5.xlarge", Some(Family::Graphics)),
            ("x2gd.large", Some(Family::Memory)),
            ("mac2.metal", None),
            ("inf2.xlarge", None),
        ] {
            assert_eq!(Family::of(instance_type), family, "{instance_type}");
        }
    }
}
