//! The clients of the AWS services that prepull calls.

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use prepull_domain::RegionName;

/// How often the SDK tries a call that is throttled or fails with 5xx, the first time included, before the stage ends
/// with `Throttled` and the state machine tries the whole stage again.
pub const SDK_ATTEMPTS: u32 = 5;

/// One client for each service, all of one region.
#[derive(Debug, Clone)]
pub struct Clients {
    /// EC2 and EBS.
    pub ec2: aws_sdk_ec2::Client,
    /// Private ECR.
    pub ecr: aws_sdk_ecr::Client,
    /// EventBridge.
    pub events: aws_sdk_eventbridge::Client,
    /// Secrets Manager.
    pub secrets: aws_sdk_secretsmanager::Client,
    /// Step Functions.
    pub sfn: aws_sdk_sfn::Client,
    /// Systems Manager.
    pub ssm: aws_sdk_ssm::Client,
    config: Option<SdkConfig>,
}

impl Clients {
    /// The clients of the region and with the credentials that the environment names, as every AWS tool finds them.
    pub async fn from_environment() -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .load()
            .await;
        Self::new(config)
    }

    /// The clients of a cloud that is not AWS's own but answers like it at `endpoint`, and takes any credentials.
    pub async fn at_endpoint(endpoint: &str, region: &RegionName) -> Self {
        let credentials =
            aws_sdk_ec2::config::Credentials::new("localcloud", "localcloud", None, None, "static");
        let config = aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new(region.to_string()))
            .credentials_provider(credentials)
            .load()
            .await;
        Self::new(config)
    }

    fn new(config: SdkConfig) -> Self {
        Self {
            ec2: aws_sdk_ec2::Client::new(&config),
            ecr: aws_sdk_ecr::Client::new(&config),
            events: aws_sdk_eventbridge::Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
            sfn: aws_sdk_sfn::Client::new(&config),
            ssm: aws_sdk_ssm::Client::new(&config),
            config: Some(config),
        }
    }

    /// The clients of a test, which answer alike in every region.
    #[must_use]
    pub fn for_tests(
        ec2: aws_sdk_ec2::Client,
        ecr: aws_sdk_ecr::Client,
        events: aws_sdk_eventbridge::Client,
        secrets: aws_sdk_secretsmanager::Client,
        sfn: aws_sdk_sfn::Client,
        ssm: aws_sdk_ssm::Client,
    ) -> Self {
        Self {
            ec2,
            ecr,
            events,
            secrets,
            sfn,
            ssm,
            config: None,
        }
    }

    /// The same clients in another region.
    #[must_use]
    pub fn in_region(&self, region: &RegionName) -> Self {
        match &self.config {
            Some(config) => Self::new(
                config
                    .to_builder()
                    .region(Region::new(region.to_string()))
                    .build(),
            ),
            None => self.clone(),
        }
    }

    /// The region of the clients, where the environment names one.
    #[must_use]
    pub fn region(&self) -> Option<RegionName> {
        self.config.as_ref()?.region()?.as_ref().parse().ok()
    }
}
