//! Runs both sides for each quirk, and writes the table of verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::{Arguments, Trial};
use prepull_aws::Clients;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_domain::{Architecture, BuilderSettings, GiB, ImageReference, InstanceId, StageError};
use prepull_registry::{Registries, RegistryCredentials};
use prepull_tests::Environment;
use prepull_tests::localcloud::{LocalCloud, Nodes, PulledImage};
use prepull_tests::suite::report_as_ignored;
use prepull_tests::world::{REGION, await_state, run_instance};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::content::TAG;
use crate::table::{Quirk, Verdict};

/// The file with the table of verdicts, and the comments around it.
const DOCUMENT: &str = "docs/testing.md";
const BEGIN: &str = "<!-- The suite `quirks` writes this table. -->\n";
const END: &str = "<!-- End of the table. -->";

/// Variable that makes the suite write the table instead of comparing it.
const WRITE: &str = "PREPULL_WRITE_QUIRKS";

/// Versions of containerd that Bottlerocket has, as far as nodes of the local cloud have them, too.
const VERSIONS: [&str; 2] = ["1.7", "2.1"];

/// A result in one word and, for a refusal, the words of the refusing side.
type Outcome = Result<Pulled, String>;

/// The image that one side pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pulled {
    /// Digest of the index or manifest that the tag refers to.
    digest: String,
    /// Digest of the configuration of the node's platform.
    config: String,
}

/// The local cloud with one node for each version of containerd.
struct Fixture {
    cloud: LocalCloud,
    clients: Clients,
    /// Settings of the nodes.
    settings: BuilderSettings,
    nodes: BTreeMap<String, InstanceId>,
}

/// Runs the comparison.
pub fn run(arguments: &Arguments, quirks: Vec<Quirk>, authority: &Path) -> Result<ExitCode> {
    let environment = Environment::read()?;
    let state = tempfile::Builder::new()
        .prefix("prepull-quirks-")
        .tempdir()?;
    let cloud = LocalCloud::start(&environment, &state.path().join("cloud"))?;
    if cloud.ready.nodes != Nodes::Real {
        eprintln!(
            "quirks of registries are skipped, because nodes are simulated: {}",
            cloud.ready.why
        );
        let names = quirks.iter().map(|quirk| quirk.name);
        return Ok(report_as_ignored(arguments, names).exit_code());
    }
    let runtime = Arc::new(Runtime::new()?);
    let fixture = Arc::new(runtime.block_on(Fixture::start(cloud, authority, &quirks))?);
    let is_whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let rows: Vec<_> = quirks.iter().map(|quirk| quirk.name).collect();
    let table = Arc::new(Mutex::new(BTreeMap::new()));
    let trials = quirks.into_iter().map(|quirk| {
        let (runtime, fixture, table) = (runtime.clone(), fixture.clone(), table.clone());
        Trial::test(quirk.name, move || {
            let row = runtime.block_on(fixture.compare(&quirk))?;
            table
                .lock()
                .expect("no trial panics with the lock")
                .insert(quirk.name, row);
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(arguments, trials.collect());
    let versions: Vec<_> = fixture.nodes.keys().cloned().collect();
    fixture.cloud.stop()?;
    // A missing version is a missing column. `cargo xtask test` reports it as not checked.
    if conclusion.has_failed() || !is_whole || versions != VERSIONS {
        return Ok(conclusion.exit_code());
    }
    let table = table.lock().expect("all trials have ended");
    check_table(
        &environment,
        &versions,
        rows.iter().filter_map(|name| table.get(name)),
    )?;
    Ok(ExitCode::SUCCESS)
}

impl Fixture {
    async fn start(cloud: LocalCloud, authority: &Path, quirks: &[Quirk]) -> Result<Self> {
        let region = REGION.parse()?;
        let clients = Clients::at_endpoint(&cloud.endpoint, &region).await;
        let authority = fs::read_to_string(authority)?;
        let mirrors: BTreeMap<_, _> = quirks
            .iter()
            .map(|quirk| (quirk.host(), quirk.mirrors()))
            .filter(|(_, mirrors)| !mirrors.is_empty())
            .collect();
        let user_data = user_data(&authority, &mirrors)?;
        let settings = serde_json::from_value(json!({
            "pki": {"quirks": authority},
            "registry_mirrors": mirrors,
        }))?;
        let mut nodes = BTreeMap::new();
        let versions = cloud.ready.containerd.keys();
        for version in versions.filter(|version| VERSIONS.contains(&version.as_str())) {
            cloud.set(json!({"containerd": version})).await?;
            let (architecture, size) = (Architecture::X86_64, GiB(10));
            let node = run_instance(&clients, architecture, size, None, None, &user_data);
            let node = node.await?;
            // The local cloud reads the version when the node boots.
            await_state(&clients, &node, &InstanceStateName::Running).await?;
            nodes.insert(version.clone(), node);
        }
        ensure!(
            !nodes.is_empty(),
            "the machine has no containerd of {}",
            VERSIONS.join(" or ")
        );
        Ok(Self {
            cloud,
            clients,
            settings,
            nodes,
        })
    }

    /// Resolves and pulls the image of a quirk, and returns its row of the table.
    async fn compare(&self, quirk: &Quirk) -> Result<String> {
        let reference = format!("{}/team/app:{TAG}", quirk.host());
        let planned = self.plan(quirk, &reference).await;
        let mut row = format!("| {} | {} |", quirk.what, in_a_word(&planned));
        let verdict = match (&quirk.verdict, &planned) {
            (Verdict::Pulled, Ok(_)) => Ok(()),
            (Verdict::Refused(name, text), Err(error)) => {
                let is_expected = error.starts_with(&format!("{name}: ")) && error.contains(text);
                is_expected.then_some(()).with_context(|| {
                    format!("plan-build refuses with {error}, not with {name}: … {text} …")
                })
            }
            (Verdict::Pulled, Err(error)) => bail!("plan-build refuses the image: {error}"),
            (Verdict::Refused(..), Ok(_)) => bail!("plan-build accepts the image"),
        };
        verdict?;
        let mut differences = Vec::new();
        for (version, node) in &self.nodes {
            let pulled = self.cloud.pull_image(node, &reference, quirk.credentials);
            let pulled = pulled.await?;
            if let Ok(PulledImage { containerd, .. }) = &pulled {
                ensure!(
                    containerd.starts_with(&format!("{version}.")),
                    "the node has containerd {containerd}, not {version}"
                );
            }
            let pulled = pulled.map(|image| of_containerd(image, &reference));
            write!(row, " {} |", in_a_word(&pulled))?;
            match (&planned, &pulled) {
                (Ok(planned), Ok(pulled)) if planned == pulled => {}
                (Err(_), Err(error)) => eprintln!("{}: containerd {version}: {error}", quirk.name),
                (_, pulled) => differences.push(format!("containerd {version}: {pulled:?}")),
            }
        }
        ensure!(
            differences.is_empty(),
            "plan-build: {planned:?}, but {}",
            differences.join(", ")
        );
        Ok(row)
    }

    async fn plan(&self, quirk: &Quirk, reference: &str) -> Outcome {
        let image: ImageReference = reference.parse().map_err(|error| format!("{error}"))?;
        let credentials = quirk.credentials.map(|(username, password)| {
            let credentials = RegistryCredentials {
                username: username.to_owned(),
                password: password.to_owned(),
            };
            (quirk.host(), credentials)
        });
        let cache = "quirks".parse().map_err(|error| format!("{error}"))?;
        let credentials = credentials.into_iter().collect();
        let registries = Registries::new(&cache, credentials, &self.settings)
            .map_err(|error| format!("{error}"))?;
        let architecture = Architecture::X86_64;
        let resolved = registries
            .resolve(&self.clients, &image, &BTreeSet::from([architecture]))
            .await
            .map_err(|error: StageError| format!("{}: {error}", error.name()))?;
        let manifest = resolved.platforms[&architecture].digest.as_str();
        let config = quirk.content().config_of(manifest);
        Ok(Pulled {
            digest: resolved.digest.to_string(),
            config: config.unwrap_or_else(|| format!("unknown manifest {manifest}")),
        })
    }
}

/// Returns Bottlerocket's settings for a node: the proxy, the authority of the registries, and their mirrors.
fn user_data(authority: &str, mirrors: &BTreeMap<String, Vec<String>>) -> Result<String> {
    let proxy = env::var("HTTPS_PROXY")?;
    let mut text = format!(
        "[settings.kubernetes]\nhostname-override = \"node\"\n\n[settings.network]\nhttps-proxy = \"{proxy}\"\n\n\
         [settings.pki.quirks]\ntrusted = true\ndata = \"{}\"\n",
        BASE64_STANDARD.encode(authority)
    );
    for (host, endpoints) in mirrors {
        write!(
            text,
            "\n[[settings.container-registry.mirrors]]\nregistry = \"{host}\"\nendpoint = {endpoints:?}\n"
        )?;
    }
    Ok(text)
}

fn of_containerd(image: PulledImage, reference: &str) -> Pulled {
    let repository = reference.trim_end_matches(&format!(":{TAG}"));
    let digest = image
        .repo_digests
        .iter()
        .find_map(|name| name.strip_prefix(repository)?.strip_prefix('@'));
    Pulled {
        digest: digest.unwrap_or_default().to_owned(),
        config: image.id,
    }
}

fn in_a_word(outcome: &Outcome) -> String {
    match outcome {
        Ok(_) => "pulls it".to_owned(),
        Err(error) => {
            let name = error.split(':').next().unwrap_or_default();
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
            let is_ours = is_name && !["PullImage", "unpack"].contains(&name);
            if is_ours { name } else { "fails" }.to_owned()
        }
    }
}

/// Compares the table with the one in the documentation, or writes it.
fn check_table<'a>(
    environment: &Environment,
    versions: &[String],
    rows: impl Iterator<Item = &'a String>,
) -> Result<()> {
    let versions: String = versions.iter().fold(String::new(), |mut text, version| {
        let _ = write!(text, " containerd {version} |");
        text
    });
    let columns = versions.matches('|').count() + 2;
    let mut table = format!(
        "| the registry has | plan-build |{versions}\n|{}\n",
        " --- |".repeat(columns)
    );
    for row in rows {
        writeln!(table, "{row}")?;
    }
    let file = environment.repository.join(DOCUMENT);
    let text = fs::read_to_string(&file)?;
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("{DOCUMENT} has no line {BEGIN}"))?;
    let (known, after) = rest
        .split_once(END)
        .with_context(|| format!("{DOCUMENT} has no line {END}"))?;
    if known == table {
        return Ok(());
    }
    if env::var_os(WRITE).is_some() {
        fs::write(&file, format!("{before}{BEGIN}{table}{END}{after}"))?;
        return Ok(());
    }
    bail!(
        "the table in {DOCUMENT} differs from the verdicts. Run the suite with {WRITE}=1 to write it"
    )
}
