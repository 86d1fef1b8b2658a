//! Terraform's plans and states as JSON: `terraform show -json`.

use std::collections::BTreeMap;

use super::template::Dialect;
use super::tree::Cursor;
use super::{InputError, Inputs, Object, documents};

/// A resource of a plan or state.
pub struct Resource<'a> {
    resource: Cursor<'a>,
    /// Marks of the values that are unknown until the apply. A state has none.
    after_unknown: Option<Cursor<'a>>,
}

/// Returns the resources of a plan or state, or `None` if the document is neither.
pub fn resources<'a>(document: &Cursor<'a>) -> Option<Vec<Resource<'a>>> {
    document.get("terraform_version")?;
    let values = document
        .get("planned_values")
        .or_else(|| document.get("values"));
    let mut found = Vec::new();
    if let Some(root) = values.and_then(|values| values.get("root_module")) {
        collect(&root, &mut found);
    }
    let changes = document.list("resource_changes");
    let marks: BTreeMap<_, _> = changes
        .iter()
        .filter_map(|change| {
            let marks = change.at(&["change", "after_unknown"])?;
            Some((change.text_of("address")?, marks))
        })
        .collect();
    let resources = found.into_iter().map(|resource| Resource {
        after_unknown: resource
            .text_of("address")
            .and_then(|address| marks.get(&address).cloned()),
        resource,
    });
    Some(resources.collect())
}

fn collect<'a>(module: &Cursor<'a>, found: &mut Vec<Cursor<'a>>) {
    found.extend(module.list("resources"));
    for child in module.list("child_modules") {
        collect(&child, found);
    }
}

/// Adds the objects of `resource` to `inputs`.
pub fn add(inputs: &mut Inputs, file: &str, resource: &Resource) -> Result<(), InputError> {
    let Resource {
        resource,
        after_unknown,
    } = resource;
    let kind = resource.text_of("type").unwrap_or_default();
    let address = resource.text_of("address").unwrap_or_default();
    let values = resource
        .get("values")
        .map(|values| values.with_unknown(after_unknown.as_ref()));
    let values = values.as_ref().map(Cursor::root);
    match (kind.as_str(), values) {
        // Without a body, the manifest depends on values that Terraform knows only after the apply.
        ("kubectl_manifest", Some(values)) => {
            if let Some(body) = values.text_at("yaml_body") {
                let place = format!("{file}, {address}");
                for mut document in documents(&place, &body.value)? {
                    document.set_line(body.place.line);
                    inputs.add(file, &Cursor::root(&document))?;
                }
            }
        }
        ("kubernetes_manifest", Some(values)) => {
            if let Some(manifest) = values.get("manifest") {
                inputs.add(file, &manifest.as_root())?;
            }
        }
        ("aws_launch_template", Some(values)) => {
            let fields = Dialect::Terraform.fields();
            if values
                .get(fields.mappings)
                .is_some_and(|list| list.is_unknown())
            {
                inputs.ignore("aws_launch_template with unknown volumes");
                return Ok(());
            }
            let object = Object {
                kind: "launch template".to_owned(),
                name: address,
                namespace: None,
                file: file.to_owned(),
                line: resource.place().line,
                status: None,
            };
            inputs.add_launch_template(&object, &values.as_root(), Dialect::Terraform)?;
        }
        _ => inputs.ignore(&kind),
    }
    Ok(())
}
