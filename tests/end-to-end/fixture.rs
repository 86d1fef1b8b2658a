//! The local cloud that all tests share, and the images in its registries.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::ssm::types::ParameterType;
use prepull_domain::{Architecture, Digest, SnapshotId};
use prepull_tests::localcloud::Registries;
use prepull_tests::world::Outcome;
use prepull_tests::{Environment, Image, Layer, World, invariants};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const X86: Architecture = Architecture::X86_64;
pub const ARM: Architecture = Architecture::Arm64;

/// A cache that uses every option with a grant of its own: a KMS key, a secret, other accounts and another region.
pub const EVERY_OPTION: &str = "every-option";
/// A cache whose registry credentials are in a parameter that is encrypted with a customer-managed KMS key.
pub const SEALED: &str = "sealed";
/// Region that the snapshots of [`EVERY_OPTION`] are copied to.
pub const COPY_REGION: &str = "eu-central-1";

/// Multi-Region KMS key. Its replica in another region has the same ID.
pub const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef";

/// Debounce window, in seconds.
pub const DEBOUNCE_SECONDS: u32 = 2;

/// The deployed world and the references of the images in its registries.
pub struct Fixture {
    pub world: World,
    /// Image for one platform, in private ECR.
    pub api: String,
    /// Image for `x86_64` and `arm64`, in private ECR.
    pub multi: String,
    pub multi_digest: Digest,
    /// Image for `x86_64` only, behind an index.
    pub only_x86: String,
    /// Image for one platform, in the registry that requires a password.
    pub report: String,
    pub base: Vec<Layer>,
    caches: AtomicU32,
    _state: TempDir,
}

impl Fixture {
    pub async fn set_up() -> Result<Self> {
        let state = tempfile::Builder::new().prefix("prepull-test-").tempdir()?;
        let mut caches = Value::Null;
        let world = World::start(
            Environment::read()?,
            state.path(),
            DEBOUNCE_SECONDS,
            |cloud| {
                caches = declared(&cloud.ready.registries);
                caches.clone()
            },
        )
        .await?;
        let base = vec![Layer::busybox()?, Layer::filler("base", 4)?];
        for repository in [
            "team/api",
            "team/pushed",
            "team/multi",
            "team/only-x86",
            "team/changing",
        ] {
            world.create_repository(repository).await?;
        }
        world
            .clients
            .ecr
            .create_pull_through_cache_rule()
            .ecr_repository_prefix("cached")
            .upstream_registry_url(&world.cloud.ready.registries.private.host)
            .send()
            .await?;
        let image = |architecture, name: &str| -> Result<Image> {
            let layers = [base.as_slice(), &[Layer::filler(name, 1)?]].concat();
            Image::new(architecture, &layers, name)
        };
        let api = world
            .ecr
            .push("team/api", "v1", &image(X86, "api")?)
            .await?;
        let platforms = [image(X86, "multi")?, image(ARM, "multi on arm64")?];
        let (multi, multi_digest) = world.ecr.push_index("team/multi", "v1", &platforms).await?;
        let (only_x86, _) = world
            .ecr
            .push_index("team/only-x86", "v1", &[image(X86, "only x86")?])
            .await?;
        let report = world
            .private
            .push("tools/report", "v1", &image(X86, "report")?)
            .await?;
        let password = world.cloud.ready.registries.private.password.clone();
        world.store_credentials("/team/registry", &password).await?;
        let secret_arn = seal_credentials(&world).await?;
        // The ARN of a secret is known only after the secret is created.
        caches[EVERY_OPTION]["registry_credentials"] =
            json!({&world.cloud.ready.registries.private.host: {"secret_arn": secret_arn}});
        world.deployment.declare(&caches)?;
        // These pushes come before the push rule exists, so they start no builds that could disturb a test.
        tokio::task::block_in_place(|| world.deployment.apply())?;
        Ok(Self {
            world,
            api,
            multi,
            multi_digest,
            only_x86,
            report,
            base,
            caches: AtomicU32::new(0),
            _state: state,
        })
    }

    /// Returns an image on the shared base with its own top layer and message.
    pub fn image(&self, architecture: Architecture, name: &str) -> Result<Image> {
        let layers = [self.base.as_slice(), &[Layer::filler(name, 1)?]].concat();
        Image::new(architecture, &layers, name)
    }

    /// Pushes an image that can be downloaded but not unpacked.
    pub async fn broken_image(&self) -> Result<String> {
        let layers = [self.base.as_slice(), &[Layer::corrupt()]].concat();
        self.world
            .private
            .push("tools/broken", "v1", &Image::new(X86, &layers, "broken")?)
            .await
    }

    /// Returns the configuration of a cache with `images` for `x86_64`.
    pub async fn config(&self, images: &[&str]) -> Result<Value> {
        let mut config = self.world.stored_config("template").await?;
        config["images"] = json!(images);
        config["architectures"] = json!(["x86_64"]);
        Ok(config)
    }

    /// Declares a new cache and returns its name.
    pub async fn cache(&self, config: &Value) -> Result<String> {
        let name = format!("test-{}", self.caches.fetch_add(1, Ordering::Relaxed));
        self.world.store_config(&name, config).await?;
        Ok(name)
    }

    /// Runs the sweep, and asserts that it ended without an error.
    pub async fn sweep(&self) -> Result<()> {
        let sweep = json!({"source": "sweep"});
        let answer = self.world.invoke("clean-up", &sweep).await?;
        ensure!(answer.get("errorType").is_none(), "{answer}");
        Ok(())
    }

    /// Builds a cache for `x86_64` and returns the snapshot that its pointer holds afterwards.
    pub async fn published(&self, cache: &str) -> Result<SnapshotId> {
        let outcome = self.world.build(cache).await?;
        ensure_succeeded(&outcome)?;
        let clients = &self.world.clients;
        let (published, _) = invariants::pointer_is_valid(clients, &cache.parse()?, X86).await?;
        Ok(published)
    }
}

/// Returns the caches that the Terraform configuration declares.
fn declared(registries: &Registries) -> Value {
    let cache = |images: Value| {
        json!({
            "images": images,
            "variant": "aws-k8s-1.33",
            "volume": {"size_gib": 4},
            // Most tests are about other stages. Those of verification set the level themselves.
            "verification": {"level": "off"},
            "schedule": {"enabled": false},
        })
    };
    let ecr = |name: &str| format!("{}/{name}", registries.ecr.host);
    let mut pushed = cache(json!([ecr("team/pushed:v1"), ecr("team/api:v1")]));
    pushed["builder"] = json!({"instance_types": {"x86_64": ["m7i.xlarge", "m6i.xlarge"]}});
    let cached = cache(json!([ecr("cached/team/imported:v1")]));
    let dual_stack = cache(json!([format!(
        "{}/team/api:v1",
        registries
            .ecr
            .host
            .replace(".dkr.ecr.", ".dkr-ecr.")
            .replace(".amazonaws.com", ".on.aws")
    )]));
    let mut nightly = cache(json!([ecr("team/api:v1")]));
    nightly["rebuild_on_push"] = json!(false);
    nightly["schedule"] = json!({"expression": "cron(0 3 * * ? *)", "time_zone": "Europe/Berlin"});
    let mut template = cache(json!([
        ecr("team/api:v1"),
        format!("{}/tools/report:v1", registries.private.host)
    ]));
    template["architectures"] = json!(["x86_64", "arm64"]);
    template["rebuild_on_push"] = json!(false);
    template["registry_credentials"] =
        json!({&registries.private.host: {"parameter_name": "/team/registry"}});
    let mut every_option = cache(json!([
        ecr("team/api:v1"),
        format!("{}/tools/report:v1", registries.private.host)
    ]));
    every_option["rebuild_on_push"] = json!(false);
    every_option["verification"] = json!({});
    every_option["volume"]["kms_key_id"] = json!(KEY);
    every_option["publication"] = json!({
        "share_with_accounts": ["210987654321"], "copy_to_regions": [COPY_REGION]});
    let mut sealed = template.clone();
    sealed["architectures"] = json!(["x86_64"]);
    sealed["registry_credentials"][&registries.private.host] =
        json!({"parameter_name": "/team/sealed"});
    // This cache is never built. The roles may read only declared images and credentials, so it declares those that
    // tests use in caches of their own.
    let mut declared_only = cache(json!([
        ecr("team/multi:v1"),
        ecr("team/only-x86:v1"),
        ecr("team/changing:v1"),
        ecr("team/never-made:v1"),
        "registry.example.com/team/tool:v1"
    ]));
    declared_only["rebuild_on_push"] = json!(false);
    declared_only["registry_credentials"] =
        json!({"registry.example.com": {"parameter_name": "/team/wrong"}});
    json!({"pushed": pushed, "cached": cached, "dual-stack": dual_stack, "nightly": nightly, "template": template, "declared-only": declared_only,
        EVERY_OPTION: every_option, SEALED: sealed})
}

/// Stores the credentials of the private registry in a parameter and in a secret. Both are encrypted with a
/// customer-managed KMS key. Returns the ARN of the secret.
async fn seal_credentials(world: &World) -> Result<String> {
    let registry = &world.cloud.ready.registries.private;
    let value = json!({"username": registry.username, "password": registry.password}).to_string();
    world
        .clients
        .ssm
        .put_parameter()
        .name("/team/sealed")
        .value(&value)
        .r#type(ParameterType::SecureString)
        .key_id(KEY)
        .send()
        .await?;
    let secret = world
        .clients
        .secrets
        .create_secret()
        .name("team/registry")
        .secret_string(&value)
        .kms_key_id(KEY)
        .send()
        .await?;
    secret
        .arn
        .ok_or_else(|| anyhow::anyhow!("Secrets Manager returned a secret without an ARN"))
}

/// Asserts that an execution succeeded.
pub fn ensure_succeeded(outcome: &Outcome) -> Result<()> {
    ensure!(
        outcome.status == ExecutionStatus::Succeeded,
        "{}: {}",
        outcome.error,
        outcome.cause
    );
    Ok(())
}

/// Asserts that an execution failed with `error`, and that its cause contains each of `words`.
pub fn ensure_failed(outcome: &Outcome, error: &str, words: &[&str]) -> Result<()> {
    ensure!(
        outcome.status == ExecutionStatus::Failed,
        "the execution should have failed, but its status is {:?}: {}",
        outcome.status,
        outcome.output
    );
    ensure!(
        outcome.error == error,
        "the execution failed with {}, expected {error}: {}",
        outcome.error,
        outcome.cause
    );
    for word in words {
        ensure!(
            outcome.cause.contains(word),
            "the cause does not contain {word:?}: {}",
            outcome.cause
        );
    }
    Ok(())
}
