//! prepull's tags on EC2 resources.

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};
use prepull_domain::build::payload::Target;
use prepull_domain::names;

/// Tag whose value AWS's console shows as the name of a resource.
const NAME: &str = "Name";

/// Returns the tags of every resource of `target`: those of the cache's configuration and prepull's own. They are part of
/// the request that creates it, so no resource exists without them, and policies that demand tags admit the request.
///
/// A configured `Name` replaces prepull's, because EC2 refuses a key twice.
#[must_use]
pub fn tag_specification(resource: ResourceType, target: &Target) -> TagSpecification {
    let name = format!("prepull {} {}", target.cache, target.architecture);
    let configured = || target.tags.iter();
    let name = configured()
        .find_map(|(key, value)| (key == NAME).then_some(value))
        .unwrap_or(&name);
    let others = configured().filter(|(key, _)| *key != NAME);
    TagSpecification::builder()
        .resource_type(resource)
        .set_tags(Some(others.map(|(key, value)| tag(key, value)).collect()))
        .tags(tag(NAME, name))
        .tags(tag(names::TAG_CACHE, target.cache.as_str()))
        .tags(tag(names::TAG_ARCHITECTURE, target.architecture.as_str()))
        .tags(tag(names::TAG_EXECUTION, target.execution.as_str()))
        .build()
}

/// Returns the filters for the resources with the tags of [`tag_specification`].
#[must_use]
pub fn target_filters(target: &Target) -> Vec<Filter> {
    vec![
        tag_filter(names::TAG_CACHE, target.cache.as_str()),
        tag_filter(names::TAG_ARCHITECTURE, target.architecture.as_str()),
        tag_filter(names::TAG_EXECUTION, target.execution.as_str()),
    ]
}

/// A tag.
#[must_use]
pub fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

/// Maximum number of values in one filter of EC2.
///
/// Source: Amazon EC2 API reference, "Filter".
pub const MAX_FILTER_VALUES: usize = 200;

/// Returns a filter for resources whose tag `key` has `value`.
#[must_use]
pub fn tag_filter(key: &str, value: impl Into<String>) -> Filter {
    Filter::builder()
        .name(format!("tag:{key}"))
        .values(value)
        .build()
}

/// Returns a filter for resources with the tag `key`.
#[must_use]
pub fn tag_key_filter(key: &str) -> Filter {
    Filter::builder().name("tag-key").values(key).build()
}

/// Returns the value of the tag `key` in `tags`.
#[must_use]
pub fn tag_value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(key))?.value()
}
