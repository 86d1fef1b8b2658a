//! Label and field selectors of lists.
//!
//! Source: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors> and
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/>.

use serde_json::Value;

use crate::resources::Resource;
use crate::status::Status;

/// Returns whether an object matches a label selector: `key`, `!key`, `=`, `==`, `!=`, `in` and `notin`.
pub(crate) fn labels_match(selector: &str, object: &Value) -> bool {
    requirements(selector)
        .into_iter()
        .all(|requirement| label_matches(requirement.trim(), object))
}

/// Splits a selector at commas outside parentheses.
fn requirements(selector: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    selector
        .split(|character| {
            match character {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            character == ',' && depth == 0
        })
        .filter(|part| !part.trim().is_empty())
        .collect()
}

fn label_matches(requirement: &str, object: &Value) -> bool {
    let label = |key: &str| object["metadata"]["labels"].get(key.trim())?.as_str();
    if let Some((key, value)) = requirement.split_once("!=") {
        return label(key) != Some(value.trim());
    }
    if let Some((key, value)) = requirement.split_once('=') {
        return label(key) == Some(value.trim_start_matches('=').trim());
    }
    if let Some((head, values)) = requirement.trim_end_matches(')').split_once('(') {
        let listed = |value| values.split(',').any(|one| one.trim() == value);
        let head = head.trim();
        if let Some(key) = head.strip_suffix(" notin") {
            return !label(key).is_some_and(listed);
        }
        return head
            .strip_suffix(" in")
            .is_some_and(|key| label(key).is_some_and(listed));
    }
    match requirement.strip_prefix('!') {
        Some(key) => label(key).is_none(),
        None => label(requirement).is_some(),
    }
}

/// Returns whether an object matches a field selector.
///
/// # Errors
/// 400 if the resource does not support the field.
pub(crate) fn fields_match(
    selector: &str,
    resource: &Resource,
    object: &Value,
) -> Result<bool, Status> {
    for requirement in selector.split(',').filter(|part| !part.is_empty()) {
        let (key, wanted, equal) = if let Some((key, value)) = requirement.split_once("!=") {
            (key, value, false)
        } else if let Some((key, value)) = requirement.split_once('=') {
            (key, value.trim_start_matches('='), true)
        } else {
            return Err(Status::bad_request(format!(
                "invalid selector: '{requirement}'; can't understand '{requirement}'"
            )));
        };
        let always = key == "metadata.name" || (key == "metadata.namespace" && resource.namespaced);
        if !always && !resource.fields.contains(&key) {
            return Err(Status::bad_request(format!(
                "field label not supported: {key}"
            )));
        }
        let pointer = format!("/{}", key.replace('.', "/"));
        let value = match object.pointer(&pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(value)) => value.to_string(),
            // The field `source` of an event is an object, and its selector compares the component.
            // Source: `ToSelectableFields` in `pkg/registry/core/event/strategy.go` of kubernetes/kubernetes.
            Some(Value::Object(source)) if key == "source" => {
                let component = source.get("component").and_then(Value::as_str);
                component.unwrap_or_default().to_owned()
            }
            // A field that is unset has its zero value.
            _ if key == "spec.unschedulable" => "false".to_owned(),
            _ => String::new(),
        };
        if (value == wanted) != equal {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::RESOURCES;

    #[test]
    fn label_selector_matches_like_kubernetes() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        for (selector, matches) in [
            ("", true),
            ("app", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=web", false),
            ("zone!=a", true),
            ("!zone", true),
            ("!app", false),
            ("app in (web, api),tier", true),
            ("app notin (web)", false),
            ("zone notin (a)", true),
        ] {
            assert_eq!(labels_match(selector, &object), matches, "{selector}");
        }
    }

    #[test]
    fn source_of_an_event_is_its_component() {
        let events = RESOURCES.iter().find(|resource| resource.kind == "Event");
        let event = json!({"reason": "Pulled", "source": {"component": "kubelet", "host": "node"}});
        for (selector, matches) in [
            ("reason=Pulled,source=kubelet", true),
            ("source=scheduler", false),
        ] {
            let found = fields_match(selector, events.unwrap(), &event);
            assert_eq!(found.unwrap(), matches, "{selector}");
        }
    }

    #[test]
    fn field_selector_matches_only_known_fields() {
        let pod = RESOURCES[4];
        let object = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        assert_eq!(fields_match("spec.nodeName=n1", &pod, &object), Ok(true));
        assert_eq!(fields_match("spec.nodeName!=n1", &pod, &object), Ok(false));
        assert_eq!(fields_match("metadata.name==a", &pod, &object), Ok(true));
        assert_eq!(
            fields_match("spec.dnsPolicy=x", &pod, &object)
                .unwrap_err()
                .code,
            400
        );
        let class = RESOURCES[0];
        assert_eq!(
            fields_match("spec.role=x", &class, &object)
                .unwrap_err()
                .code,
            400
        );
    }
}
