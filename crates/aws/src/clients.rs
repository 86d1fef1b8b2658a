//! The clients of the AWS services that prepull calls.

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
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
        let config = defaults()
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .load()
            .await;
        Self::new(config)
    }

    /// The clients of a cloud that is not AWS's own but answers like it at `endpoint`, and takes any credentials.
    pub async fn at_endpoint(endpoint: &str, region: &RegionName) -> Self {
        let credentials =
            aws_sdk_ec2::config::Credentials::new("localcloud", "localcloud", None, None, "static");
        let config = defaults()
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

/// The SDK's defaults, but one HTTP client for all services. Left alone, each service's client makes its own, and each of
/// those parses all root certificates twice: when it is made, and at its first call.
fn defaults() -> ConfigLoader {
    let hyper = Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.build()
    });
    aws_config::defaults(BehaviorVersion::latest()).http_client(Unchecked(hyper))
}

/// An HTTP client that is not checked when a service's client is made. The check makes a connector, with all that it parses,
/// and throws it away.
#[derive(Debug)]
struct Unchecked(SharedHttpClient);

impl HttpClient for Unchecked {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.0.http_connector(settings, components)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}
