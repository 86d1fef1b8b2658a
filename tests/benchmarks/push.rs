//! Measures the time from the start of an execution after a push to the published snapshot, with the default debounce. The
//! builder starts after the debounce, or during it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull_tests::World;
use prepull_tests::benchmark::{Section, Spread};
use serde::Serialize;
use serde_json::{Value, json};

use crate::images::Images;
use crate::options::Options;
use crate::{PATTERN, builds, declare, discard};

/// Default of `debounce_seconds` in the Terraform module.
const DEBOUNCE_SECONDS: u32 = 60;

/// The shortest debounce with an early launch.
const QUICK_DEBOUNCE_SECONDS: u32 = 20;

/// Maximum number of pushes with each launch. Most of their time is the debounce.
const MAX_PUSHES: u32 = 3;

/// Number of the first push, which no other part of the benchmark uses.
const FIRST_PUSH: u32 = 1_000;

/// The time of the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Launch {
    AfterDebounce,
    DuringDebounce,
}

impl Launch {
    /// Returns its label in tables.
    fn title(self) -> &'static str {
        match self {
            Self::AfterDebounce => "launch after the debounce",
            Self::DuringDebounce => "launch during the debounce",
        }
    }

    /// Returns the input of an execution. The state machine launches early only after a push, so another trigger stands for a
    /// version without an early launch.
    fn input(self, cache: &str, debounce: u32) -> Value {
        let source = match self {
            Self::AfterDebounce => "schedule",
            Self::DuringDebounce => "push",
        };
        json!({
            "cache": cache,
            "debounce_seconds": debounce,
            "trigger": {"source": source, "at": Timestamp::now()},
        })
    }
}

/// The measurements of one launch.
#[derive(Debug, Serialize)]
struct Pushes {
    launch: Launch,
    /// Seconds from the start of the execution until the snapshot is published.
    seconds: Spread,
    /// Lifetime of the builder in seconds.
    instance_seconds: Spread,
}

/// Refreshes a cache after pushes.
///
/// # Errors
/// Fails if a build does not publish a snapshot.
pub async fn section(world: &World, images: &Images, options: &Options) -> Result<Section> {
    let pushes = options.runs.min(MAX_PUSHES);
    let debounce = if options.quick {
        QUICK_DEBOUNCE_SECONDS
    } else {
        DEBOUNCE_SECONDS
    };
    let references = Images::for_builds(world);
    let cache = declare(world, &format!("{PATTERN}-push"), &references, "off").await?;
    let first = builds::measure(world, &cache).await?;
    let (mut base, _) = first
        .published
        .context("the first build published nothing")?;
    let mut measured = [Launch::AfterDebounce, Launch::DuringDebounce]
        .map(|launch| (launch, Vec::new(), Vec::new()));
    let mut push = FIRST_PUSH;
    for number in 1..=pushes {
        for (launch, seconds, instance_seconds) in &mut measured {
            images.push_change(world, push).await?;
            push += 1;
            let input = launch.input(&cache.name, debounce);
            let build = builds::measure_input(world, &cache, &input).await?;
            eprintln!(
                "push {number} of {pushes}, {}: {}",
                launch.title(),
                build.measurement
            );
            ensure!(
                build.measurement.instances == 1,
                "a push launched {} instances",
                build.measurement.instances
            );
            seconds.push(build.measurement.seconds);
            instance_seconds.push(build.measurement.instance_seconds);
            let (snapshot, _) = build.published.context("a push published nothing")?;
            discard(world, &base).await?;
            base = snapshot;
        }
    }
    discard(world, &base).await?;
    let measured: Vec<_> = measured
        .into_iter()
        .filter_map(|(launch, seconds, instance_seconds)| {
            Some(Pushes {
                launch,
                seconds: Spread::of(seconds)?,
                instance_seconds: Spread::of(instance_seconds)?,
            })
        })
        .collect();
    Ok(Section {
        name: "push",
        markdown: markdown(&measured, pushes, debounce),
        data: serde_json::to_value(&measured)?,
    })
}

fn markdown(measured: &[Pushes], pushes: u32, debounce: u32) -> String {
    let tenths = |value: f64| format!("{value:.1}");
    let mut text = format!(
        "A push changes one of the images, and the debounce is {debounce} s. The time starts with the execution. Each cell is \
         the median of {pushes}, with minimum and maximum in brackets. On AWS, a launch and a boot take longer than here, so an \
         early launch saves more.\n\n\
         | | seconds until published | instance seconds |\n|---|---:|---:|\n"
    );
    for Pushes {
        launch,
        seconds,
        instance_seconds,
    } in measured
    {
        writeln!(
            text,
            "| {} | {} | {} |",
            launch.title(),
            seconds.show(tenths),
            instance_seconds.show(tenths)
        )
        .expect("writing to a string cannot fail");
    }
    text
}
