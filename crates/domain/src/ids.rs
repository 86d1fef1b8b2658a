//! Identifiers that AWS assigns. Each has its own type, so the compiler finds a mix-up.

/// The text does not have the format of the identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {kind}: expected {expected}")]
pub struct InvalidId {
    /// The text.
    pub given: String,
    /// Kind of the expected identifier with its article, for example "a snapshot ID".
    pub kind: &'static str,
    /// Expected format.
    pub expected: &'static str,
}

/// Declares a newtype over `String` whose only constructor is `FromStr`.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the identifier as a string.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::ids::InvalidId;

            fn from_str(given: &str) -> Result<Self, $crate::ids::InvalidId> {
                let check: fn(&str) -> bool = $check;
                if check(given) {
                    Ok(Self(given.to_owned()))
                } else {
                    Err($crate::ids::InvalidId { given: given.to_owned(), kind: $kind, expected: $expected })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::ids::InvalidId;

            fn try_from(given: String) -> Result<Self, $crate::ids::InvalidId> {
                given.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use identifier;

/// Whether `given` is `prefix` plus 8 to 17 hexadecimal digits. EC2 uses short and long resource IDs.
fn is_resource_id(given: &str, prefix: &str) -> bool {
    given.strip_prefix(prefix).is_some_and(|hex| {
        (8..=17).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

identifier!(
    /// An EBS snapshot.
    SnapshotId, "a snapshot ID", "`snap-` and hexadecimal digits", |s| is_resource_id(s, "snap-")
);
identifier!(
    /// An EC2 instance.
    InstanceId, "an instance ID", "`i-` and hexadecimal digits", |s| is_resource_id(s, "i-")
);
identifier!(
    /// An Amazon Machine Image.
    AmiId, "an AMI ID", "`ami-` and hexadecimal digits", |s| is_resource_id(s, "ami-")
);
identifier!(
    /// An EBS volume.
    VolumeId, "a volume ID", "`vol-` and hexadecimal digits", |s| is_resource_id(s, "vol-")
);
identifier!(
    /// A subnet of a VPC.
    SubnetId, "a subnet ID", "`subnet-` and hexadecimal digits", |s| is_resource_id(s, "subnet-")
);
identifier!(
    /// An EC2 launch template.
    LaunchTemplateId, "a launch template ID", "`lt-` and hexadecimal digits", |s| is_resource_id(s, "lt-")
);
identifier!(
    /// A security group of a VPC.
    SecurityGroupId, "a security group ID", "`sg-` and hexadecimal digits", |s| is_resource_id(s, "sg-")
);
identifier!(
    /// An AWS account.
    AccountId, "an account ID", "12 digits", |s| s.len() == 12 && s.bytes().all(|b| b.is_ascii_digit())
);
identifier!(
    /// An AWS region.
    RegionName, "a region", "a name like `eu-west-1`", |s| {
        s.len() <= 32
            && s.split('-').count() >= 3
            && s.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
    }
);

impl RegionName {
    /// Returns the partition of the region. Partitions share no credentials.
    ///
    /// Source: `regionRegex` of each partition in botocore's `partitions.json`.
    #[must_use]
    pub fn partition(&self) -> &'static str {
        const BY_PREFIX: [(&str, &str); 8] = [
            ("cn-", "aws-cn"),
            ("us-gov-", "aws-us-gov"),
            ("us-iso-", "aws-iso"),
            ("us-isob-", "aws-iso-b"),
            ("eu-isoe-", "aws-iso-e"),
            ("us-isof-", "aws-iso-f"),
            ("eu-isof-", "aws-iso-f"),
            ("eusc-", "aws-eusc"),
        ];
        BY_PREFIX
            .into_iter()
            .find(|(prefix, _)| self.as_str().starts_with(prefix))
            .map_or("aws", |(_, partition)| partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_refuses_other_kinds() {
        assert!("snap-0123456789abcdef0".parse::<SnapshotId>().is_ok());
        assert!("snap-12345678".parse::<SnapshotId>().is_ok());
        for wrong in [
            "vol-0123456789abcdef0",
            "snap-",
            "snap-XYZ45678",
            "snap-1234567",
            "snap-12345678; reboot",
            "",
        ] {
            assert!(wrong.parse::<SnapshotId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn invalid_identifier_error_has_the_expected_format() {
        let error = "i-xyz".parse::<InstanceId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`i-xyz` is not an instance ID: expected `i-` and hexadecimal digits"
        );
    }

    #[test]
    fn region_name_accepts_only_aws_format() {
        for right in ["eu-west-1", "us-gov-east-1", "ap-southeast-5"] {
            assert!(right.parse::<RegionName>().is_ok(), "{right}");
        }
        for wrong in ["eu-west", "EU-WEST-1", "", "eu--1", "eu-west-1 "] {
            assert!(wrong.parse::<RegionName>().is_err(), "{wrong}");
        }
    }
}
