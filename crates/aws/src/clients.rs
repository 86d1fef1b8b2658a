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

/// Maximum attempts of the SDK at a call that is throttled or fails with 5xx. After them the stage fails with `Throttled`,
/// and the state machine retries the whole stage.
pub const SDK_ATTEMPTS: u32 = 5;

/// One client for each service, all in one Region.
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
    /// Creates clients with the Region and the credentials of the environment, like every AWS tool.
    pub async fn from_environment() -> Self {
        let config = defaults()
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .load()
            .await;
        Self::new(config)
    }

    /// Creates clients for a stand-in of AWS at `endpoint`, which accepts any credentials.
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

    /// Creates the clients of a test, which answer the same in every Region.
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

    /// Returns the same clients in another Region.
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

    /// Returns the configuration of the clients, for a client of another service. In a test it has no credentials.
    #[must_use]
    pub fn sdk_config(&self) -> SdkConfig {
        self.config.clone().unwrap_or_else(|| {
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .build()
        })
    }

    /// Returns the Region of the clients, if the environment sets one.
    #[must_use]
    pub fn region(&self) -> Option<RegionName> {
        self.config.as_ref()?.region()?.as_ref().parse().ok()
    }
}

/// Returns the SDK's defaults with one HTTP client for all services. Otherwise, each service's client creates its own, which
/// parses all root certificates twice: at its creation and at its first call.
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

/// An HTTP client without the check at the creation of a service's client. The check creates a complete connector and drops
/// it.
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
