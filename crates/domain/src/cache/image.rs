//! Image references and digests, in the grammar of the OCI distribution specification.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};

use crate::cache::variant::BottlerocketVersion;
use crate::excerpt;
use crate::ids::{AccountId, RegionName, identifier};

/// Maximum length of a reference in bytes. The OCI grammar limits only the repository, to 255. This limit also covers
/// host, tag and digest, so that references fit into command lines and parameters.
pub const MAX_REFERENCE_LENGTH: usize = 255;

/// A text is not a valid reference of an image to cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It does not follow the grammar.
    #[error(
        "image reference `{given}` is malformed: {why}. Write `registry/repository:tag` or \
         `registry/repository@sha256:…`"
    )]
    Malformed {
        /// The text, truncated if it is very long.
        given: String,
        /// The violated rule.
        why: String,
    },
    /// It has no registry host.
    #[error(
        "image reference `{given}` has no registry: containerd looks up images by their full name. Write \
         `{suggestion}`"
    )]
    NoRegistry {
        /// The text.
        given: String,
        /// The probably intended reference.
        suggestion: String,
    },
    /// It has neither tag nor digest.
    #[error(
        "image reference `{given}` is incomplete: it has neither tag nor digest. Add one, for example \
         `{given}:latest`"
    )]
    NoTag {
        /// The text.
        given: String,
    },
}

/// The reference of an image: registry, repository, and tag, digest or both.
///
/// It is always fully qualified, because containerd and the kubelet look up images by their literal full name.
///
/// ```
/// use prepull_domain::ImageReference;
///
/// let image: ImageReference = "docker.io/library/nginx:1.27".parse()?;
/// assert_eq!(image.registry(), "docker.io");
/// assert_eq!(image.repository(), "library/nginx");
/// # Ok::<(), prepull_domain::cache::image::InvalidReference>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Returns the registry's host, including the port if there is one: `registry.example.com:5443`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository within the registry: `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest in the reference, if there is one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the reference of the same image by `digest`. Builders pull by digest, because a tag can move after the
    /// plan.
    #[must_use]
    pub fn by_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }

    /// Returns the image names that must exist on a node if the reference resolves to `digest`.
    ///
    /// containerd's CRI plugin drops the tag of a reference that has both tag and digest (`ParseDockerRef`). It looks
    /// up such a reference by digest only.
    #[must_use]
    pub fn names_on_node(&self, digest: &Digest) -> Vec<String> {
        let by_digest = self.by_digest(digest);
        match (&self.tag, &self.digest) {
            (Some(tag), None) => vec![
                by_digest,
                format!("{}/{}:{tag}", self.registry, self.repository),
            ],
            _ => vec![by_digest],
        }
    }

    /// Returns the word that asks the document `pull-images` for [`Self::names_on_node`], in the same order: the name by
    /// digest, and after it the tag if the reference has one. It repeats no repository, because the words of all images
    /// must fit into one parameter.
    #[must_use]
    pub fn status_request(&self, digest: &Digest) -> String {
        let by_digest = self.by_digest(digest);
        match (&self.tag, &self.digest) {
            (Some(tag), None) => format!("{by_digest}:{tag}"),
            _ => by_digest,
        }
    }

    /// Returns account, region and repository if the registry is private ECR.
    #[must_use]
    pub fn ecr(&self) -> Option<EcrRepository> {
        let (_, account, region) = self.ecr_host()?;
        Some(EcrRepository {
            account,
            region,
            repository: self.repository.clone(),
        })
    }

    /// Checks that a builder with the Bottlerocket release `builder` logs in to the registry.
    ///
    /// host-ctr recognizes private ECR by the host. It pulls from every other host without the role of the builder.
    ///
    /// # Errors
    /// If host-ctr of the release does not recognize the host as private ECR.
    pub fn check_login(&self, builder: &BottlerocketVersion) -> Result<(), NoLogin> {
        match self.ecr_host() {
            Some((domain, ..)) if builder.numbers() < domain.login_since => Err(NoLogin {
                image: self.to_string(),
                release: builder.clone(),
                since: domain.login_since.map(|part| part.to_string()).join("."),
            }),
            _ => Ok(()),
        }
    }

    fn ecr_host(&self) -> Option<(&'static EcrDomain, AccountId, RegionName)> {
        ECR_DOMAINS.iter().find_map(|domain| {
            let host = self.registry.strip_suffix(domain.suffix)?;
            let (account, rest) = host.strip_suffix('.')?.split_once('.')?;
            let region = rest.strip_prefix(domain.service)?;
            let region = region.strip_prefix("-fips").unwrap_or(region);
            let region = region.strip_prefix('.')?;
            Some((domain, account.parse().ok()?, region.parse().ok()?))
        })
    }
}

/// The builder would pull an image from private ECR without credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the builder's Bottlerocket {release} does not log in to the ECR host of `{image}`. Set `bottlerocket_version` to \
     {since} or later"
)]
pub struct NoLogin {
    image: String,
    release: BottlerocketVersion,
    since: String,
}

/// A form of the hosts of private ECR: `<account>.<service>[-fips].<region>.<suffix>`.
struct EcrDomain {
    service: &'static str,
    suffix: &'static str,
    /// First Bottlerocket release whose host-ctr logs in to these hosts with the role of the instance.
    login_since: [u16; 3],
}

/// Every release that prepull can use logs in to these hosts.
const EVERY_RELEASE: [u16; 3] = [0, 0, 0];

/// Release whose host-ctr recognizes the same hosts as the kubelet's credential provider.
const DOCKER_RESOLVER: [u16; 3] = [1, 54, 0];

/// Forms of the hosts of private ECR. Terraform (`infra/main.tf`) and the local cloud (`standins/endpoints.py`) have the
/// same list.
///
/// Source: `ecrPattern` in `ecr-login/api/client.go` of amazon-ecr-credential-helper, and the same pattern in the
/// kubelet's ecr-credential-provider (cloud-provider-aws). The combinations of service and suffix: AWS General Reference,
/// "Amazon ECR endpoints and quotas". The releases: `ecrRegex` of host-ctr in bottlerocket-core-kit of October 2024, and
/// its pull request 760. That release 1.54 contains the latter is an inference, because its images have no second name.
const ECR_DOMAINS: [EcrDomain; 9] = [
    ecr_domain("dkr.ecr", "amazonaws.com", EVERY_RELEASE),
    ecr_domain("dkr.ecr", "amazonaws.com.cn", EVERY_RELEASE),
    ecr_domain("dkr.ecr", "amazonaws.eu", DOCKER_RESOLVER),
    ecr_domain("dkr.ecr", "c2s.ic.gov", DOCKER_RESOLVER),
    ecr_domain("dkr.ecr", "sc2s.sgov.gov", DOCKER_RESOLVER),
    ecr_domain("dkr.ecr", "cloud.adc-e.uk", EVERY_RELEASE),
    ecr_domain("dkr.ecr", "csp.hci.ic.gov", DOCKER_RESOLVER),
    // Dual stack: IPv4 and IPv6.
    ecr_domain("dkr-ecr", "on.aws", DOCKER_RESOLVER),
    ecr_domain("dkr-ecr", "on.amazonwebservices.com.cn", DOCKER_RESOLVER),
];

const fn ecr_domain(
    service: &'static str,
    suffix: &'static str,
    login_since: [u16; 3],
) -> EcrDomain {
    EcrDomain {
        service,
        suffix,
        login_since,
    }
}

/// A repository in private ECR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcrRepository {
    /// Account that owns the registry.
    pub account: AccountId,
    /// Region of the registry.
    pub region: RegionName,
    /// Name of the repository.
    pub repository: String,
}

impl EcrRepository {
    /// Returns the ARN of the repository.
    #[must_use]
    pub fn arn(&self) -> String {
        let Self {
            account,
            region,
            repository,
        } = self;
        let partition = region.partition();
        format!("arn:{partition}:ecr:{region}:{account}:repository/{repository}")
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(given: &str) -> Result<Self, InvalidReference> {
        let malformed = |why: String| InvalidReference::Malformed {
            given: excerpt(given, 80),
            why,
        };
        if given.len() > MAX_REFERENCE_LENGTH {
            return Err(malformed(format!(
                "it has {} characters, more than {MAX_REFERENCE_LENGTH}",
                given.len()
            )));
        }
        // The parser accepts letters of every script in a tag. Registries and containerd accept only ASCII.
        if !given.is_ascii() {
            return Err(malformed("it has a character outside ASCII".to_owned()));
        }
        let parsed: Reference = given
            .parse()
            .map_err(|error| malformed(format!("{error}")))?;
        let (registry, repository) = (parsed.registry(), parsed.repository());
        // The parser inserts Docker Hub if the text has no host. In that case the text does not start with the host.
        if !given
            .strip_prefix(registry)
            .is_some_and(|rest| rest.starts_with('/'))
        {
            return Err(InvalidReference::NoRegistry {
                given: given.to_owned(),
                suggestion: parsed.whole(),
            });
        }
        if !is_host(registry) {
            return Err(malformed(format!("`{registry}` is not a registry host")));
        }
        let digest = parsed
            .digest()
            .map(|digest| {
                digest
                    .parse::<Digest>()
                    .map_err(|error| malformed(error.to_string()))
            })
            .transpose()?;
        // The parser inserts `latest` if the text has neither tag nor digest.
        let tag = parsed.tag().map(str::to_owned);
        if digest.is_none() && !given.ends_with(&format!(":{}", tag.as_deref().unwrap_or_default()))
        {
            return Err(InvalidReference::NoTag {
                given: given.to_owned(),
            });
        }
        let reference = Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag,
            digest,
        };
        // The parser normalizes some references. Pods would then look up a different image name than the node has.
        if reference.to_string() != given {
            return Err(malformed(format!("its full form is `{reference}`")));
        }
        Ok(reference)
    }
}

/// Whether `host` is a registry host in lower case. containerd compares hosts literally.
fn is_host(host: &str) -> bool {
    let (name, port) = host
        .split_once(':')
        .map_or((host, None), |(name, port)| (name, Some(port)));
    port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        && (name == "localhost" || name.contains('.'))
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidReference;

    fn try_from(given: String) -> Result<Self, InvalidReference> {
        given.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> String {
        reference.to_string()
    }
}

identifier!(
    /// The digest of an image manifest or index: `sha256:` and 64 hexadecimal digits.
    Digest, "a digest", "`sha256:` and 64 lower-case hexadecimal digits", |s| {
        s.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parse(given: &str) -> ImageReference {
        given.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn image_reference_survives_a_round_trip() {
        for given in [
            "docker.io/library/nginx:1.27".to_owned(),
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1.2.3".to_owned(),
            "localhost:5443/team/app:latest".to_owned(),
            format!("registry.example.com/a/b/c@{DIGEST}"),
            format!("registry.example.com:8443/a:v1@{DIGEST}"),
        ] {
            assert_eq!(parse(&given).to_string(), given);
        }
    }

    #[test]
    fn malformed_reference_does_not_parse() {
        let long = format!("docker.io/library/{}:1", "a".repeat(300));
        for wrong in [
            "",
            "docker.io/library/nginx:",
            "nginx:",
            "docker.io/UPPER/case:1",
            "UPPER/case",
            "a b",
            "docker.io/a b:1",
            "$(reboot)",
            "docker.io/$(reboot):1",
            "x;y",
            "docker.io/library/nginx@sha256:12",
            "docker.io/library/nginx:1.27\n",
            "docker.io/library/nginx:\u{e9}",
            "docker.io/library/nginx:1 --privileged",
            "REGISTRY.example.com/a:1",
            "docker.io/nginx:1.27",
            "index.docker.io/library/nginx:1.27",
            "registry.example.com:0/a:1",
            "https://registry.example.com/a:1",
            &long,
        ] {
            assert!(
                wrong.parse::<ImageReference>().is_err(),
                "{wrong:?} was accepted"
            );
        }
    }

    #[test]
    fn short_name_error_suggests_the_full_name() {
        let error = "nginx:1.27".parse::<ImageReference>().unwrap_err();
        assert!(
            error.to_string().contains("`docker.io/library/nginx:1.27`"),
            "{error}"
        );
    }

    #[test]
    fn reference_without_tag_and_digest_does_not_parse() {
        assert_eq!(
            "docker.io/library/nginx".parse::<ImageReference>(),
            Err(InvalidReference::NoTag {
                given: "docker.io/library/nginx".into()
            })
        );
    }

    #[test]
    fn tagged_image_has_names_by_tag_and_digest() {
        let digest: Digest = DIGEST.parse().unwrap();
        assert_eq!(
            parse("docker.io/library/nginx:1.27").names_on_node(&digest),
            [
                format!("docker.io/library/nginx@{DIGEST}"),
                "docker.io/library/nginx:1.27".to_owned()
            ]
        );
        assert_eq!(
            parse(&format!("docker.io/library/nginx:1.27@{DIGEST}")).names_on_node(&digest),
            [format!("docker.io/library/nginx@{DIGEST}")]
        );
        let request = |text: &str| parse(text).status_request(&digest);
        assert_eq!(
            [
                request("docker.io/library/nginx:1.27"),
                request(&format!("docker.io/library/nginx:1.27@{DIGEST}")),
            ],
            [
                format!("docker.io/library/nginx@{DIGEST}:1.27"),
                format!("docker.io/library/nginx@{DIGEST}"),
            ]
        );
    }

    #[test]
    fn ecr_host_yields_arn_and_first_release_with_login() {
        let repository = "team/api";
        for (host, region, partition, since) in [
            ("dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1", "aws", None),
            (
                "dkr.ecr-fips.us-east-1.amazonaws.com",
                "us-east-1",
                "aws",
                None,
            ),
            (
                "dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                "us-gov-west-1",
                "aws-us-gov",
                None,
            ),
            (
                "dkr.ecr.cn-north-1.amazonaws.com.cn",
                "cn-north-1",
                "aws-cn",
                None,
            ),
            (
                "dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
                "eu-isoe-west-1",
                "aws-iso-e",
                None,
            ),
            (
                "dkr.ecr.eusc-de-east-1.amazonaws.eu",
                "eusc-de-east-1",
                "aws-eusc",
                Some("1.54.0"),
            ),
            (
                "dkr.ecr.us-iso-east-1.c2s.ic.gov",
                "us-iso-east-1",
                "aws-iso",
                Some("1.54.0"),
            ),
            (
                "dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
                "us-isob-east-1",
                "aws-iso-b",
                Some("1.54.0"),
            ),
            (
                "dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
                "us-isof-south-1",
                "aws-iso-f",
                Some("1.54.0"),
            ),
            (
                "dkr-ecr.eu-west-1.on.aws",
                "eu-west-1",
                "aws",
                Some("1.54.0"),
            ),
            (
                "dkr-ecr-fips.us-east-2.on.aws",
                "us-east-2",
                "aws",
                Some("1.54.0"),
            ),
            (
                "dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                "cn-north-1",
                "aws-cn",
                Some("1.54.0"),
            ),
        ] {
            let image = parse(&format!("123456789012.{host}/{repository}:v1"));
            assert_eq!(
                image.ecr().map(|ecr| ecr.arn()),
                Some(format!(
                    "arn:{partition}:ecr:{region}:123456789012:repository/{repository}"
                )),
                "{host}"
            );
            let on = |release: &str| image.check_login(&release.parse().unwrap());
            assert_eq!(on("1.53.9").is_ok(), since.is_none(), "{host}");
            assert_eq!(on("1.54.0"), Ok(()), "{host}");
            if let Some(since) = since {
                let error = on("1.53.9").unwrap_err().to_string();
                assert!(error.contains(host) && error.contains(since), "{error}");
            }
        }
    }

    #[test]
    fn other_host_is_not_private_ecr() {
        for host in [
            "docker.io",
            "public.ecr.aws",
            "ecr-public.aws.com",
            "12345.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.example.com",
            "123456789012.dkr.ecr.eu-west-1.example.com",
            "123456789012.dkr.ecr.amazonaws.com",
            "123456789012.dkr.ecr-fipseu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.on.aws",
            "123456789012.dkr-ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.xamazonaws.com",
            "a.123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com:443",
        ] {
            let image = parse(&format!("{host}/team/api:v1"));
            assert_eq!(image.ecr(), None, "{host}");
            assert_eq!(image.check_login(&"1.30.0".parse().unwrap()), Ok(()));
        }
    }
}
