//! The dashboard: its queries find their fields in the log of a real build.
//!
//! The local cloud has no Logs Insights, so the test takes the words of a query that are not part of its language.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use prepull_aws::ec2::types::{ResourceType, Tag, TagSpecification};
use prepull_domain::names;
use serde_json::{Value, json};

use crate::fixture::{Fixture, ensure_succeeded};

/// Words of the query language in the dashboard's queries.
const LANGUAGE: &str =
    "as asc avg bin by count desc filter in latest max sort stats strcontains sum";

pub async fn queries_find_their_fields_in_real_logs(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    fixture.published(&cache).await?;
    orphan(&fixture, &cache).await?;
    let sweep = json!({"source": "sweep", "minimum_age_seconds": 0});
    world.invoke("clean-up", &sweep).await?;
    // The second build finds everything up to date.
    ensure_succeeded(&world.build(&cache).await?)?;

    let dashboard = world.deployment.dashboard()?;
    let queries: Vec<Query> = dashboard["widgets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|widget| widget["properties"]["query"].as_str())
        .map(Query::parse)
        .collect::<Result<_>>()?;
    ensure!(!queries.is_empty(), "the dashboard has no query");
    let mut violations = Vec::new();
    for query in &queries {
        let lines = world.cloud.log_lines(&query.log_group).await?;
        let lines: Vec<Value> = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        for message in &query.messages {
            let events: Vec<_> = lines
                .iter()
                .filter(|line| line["message"] == message.as_str())
                .collect();
            if events.is_empty() {
                violations.push(format!("{} has no line `{message}`", query.log_group));
            }
            for field in &query.fields {
                let pointer = format!("/{}", field.replace('.', "/"));
                if let Some(event) = events
                    .iter()
                    .find(|event| event.pointer(&pointer).is_none())
                {
                    violations.push(format!("`{field}` is missing in {event}"));
                }
            }
        }
    }
    ensure!(violations.is_empty(), "{violations:#?}");
    Ok(())
}

/// A query of the dashboard.
struct Query {
    log_group: String,
    /// Texts of the log lines that it counts.
    messages: Vec<String>,
    /// Fields of these lines. A dot leads into an object.
    fields: BTreeSet<String>,
}

impl Query {
    fn parse(text: &str) -> Result<Self> {
        let (source, rest) = text
            .strip_prefix("SOURCE '")
            .and_then(|text| text.split_once("' | "))
            .with_context(|| format!("no log group in {text}"))?;
        let (filter, rest) = rest
            .split_once(" | ")
            .with_context(|| format!("no filter in {text}"))?;
        let messages: Vec<_> = quoted(filter).map(str::to_owned).collect();
        ensure!(!messages.is_empty(), "no message in {text}");
        let outside: String = rest.split('"').step_by(2).collect();
        let words: Vec<_> = outside
            .split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '.'))
            .filter(|word| word.starts_with(|c: char| c.is_alphabetic()))
            .collect();
        let names: BTreeSet<_> = words
            .windows(2)
            .filter(|pair| pair[0] == "as")
            .map(|pair| pair[1])
            .collect();
        let fields = words
            .into_iter()
            .filter(|word| LANGUAGE.split(' ').all(|known| known != *word))
            .filter(|word| !names.contains(word))
            .map(str::to_owned)
            .collect();
        Ok(Self {
            log_group: source.to_owned(),
            messages,
            fields,
        })
    }
}

/// Returns the texts in double quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// Creates a volume that the sweep takes for an orphan.
async fn orphan(fixture: &Fixture, cache: &str) -> Result<()> {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::Volume)
        .tags(tag(names::TAG_CACHE, cache))
        .tags(tag(names::TAG_ARCHITECTURE, "x86_64"))
        .tags(tag(names::TAG_EXECUTION, "gone-1"))
        .build();
    fixture
        .world
        .clients
        .ec2
        .create_volume()
        .availability_zone("eu-west-1a")
        .size(1)
        .tag_specifications(tags)
        .send()
        .await?;
    Ok(())
}
