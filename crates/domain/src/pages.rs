//! Spreads a list of images over several SSM parameters, its pages.
//!
//! The first page is a JSON object with the field `images`, such as a manifest or a configuration. If not all images fit
//! into it, the field [`FIELD`] says where the further pages are. Each of them is a JSON array of images. A first page without
//! this field is complete, so parameters of earlier versions stay valid.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::names;

/// Maximum size of a page in bytes.
///
/// Source: Systems Manager user guide, "Managing parameter tiers": a standard parameter holds 4 KB and is free.
pub const MAX_PAGE_BYTES: usize = 4_096;

/// Field of a first page that says how many pages follow.
pub const FIELD: &str = "more_images";

/// The pages that follow a first page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoreImages {
    /// Number of further pages. Their numbers start with 2.
    pub pages: usize,
    /// Folder of the pages below the first page. A configuration has one for each list of images, because Terraform
    /// replaces the pages one after the other. Readers never see a mixture of two lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// A document whose pages do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PagesError {
    /// A further page does not exist.
    #[error("page {0} is missing")]
    Missing(String),
    /// A page is not JSON of the right form.
    #[error("page {page} is malformed: {problem}")]
    Malformed {
        /// Parameter of the page.
        page: String,
        /// The problem.
        problem: String,
    },
}

/// Returns the parameters of the pages that follow `json`, the value of the parameter `first`.
///
/// # Errors
/// If the field [`FIELD`] is malformed. Other malformed JSON has no further pages, and its own parser reports it.
pub fn following(first: &str, json: &str) -> Result<Vec<String>, PagesError> {
    let Ok(Value::Object(object)) = serde_json::from_str(json) else {
        return Ok(Vec::new());
    };
    let Some(more) = object.get(FIELD) else {
        return Ok(Vec::new());
    };
    let more: MoreImages = serde_json::from_value(more.clone()).map_err(|error| {
        let problem = format!("at `{FIELD}`: {error}");
        malformed(first, &problem)
    })?;
    let folder = match more.folder {
        Some(folder) => format!("{first}/{folder}"),
        None => first.to_owned(),
    };
    Ok((2..more.pages + 2)
        .map(|number| names::page_parameter(&folder, number))
        .collect())
}

/// Joins the pages of the document `json`, the value of the parameter `first`. `page` returns the value of a further page.
/// A document without further pages stays as it is.
///
/// # Errors
/// If a page is missing or malformed.
pub fn join(
    first: &str,
    json: String,
    page: impl Fn(&str) -> Option<String>,
) -> Result<String, PagesError> {
    let pages = following(first, &json)?;
    if pages.is_empty() {
        return Ok(json);
    }
    let mut document: Map<String, Value> =
        serde_json::from_str(&json).map_err(|error| malformed(first, &error))?;
    document.remove(FIELD);
    let Some(Value::Array(images)) = document.get_mut("images") else {
        return Err(malformed(first, &"it has no array `images`"));
    };
    for name in pages {
        let value = page(&name).ok_or_else(|| PagesError::Missing(name.clone()))?;
        let more: Vec<Value> =
            serde_json::from_str(&value).map_err(|error| malformed(&name, &error))?;
        images.extend(more);
    }
    Ok(Value::Object(document).to_string())
}

fn malformed(page: &str, problem: &impl ToString) -> PagesError {
    PagesError::Malformed {
        page: page.to_owned(),
        problem: problem.to_string(),
    }
}

/// Splits `images` so that the JSON arrays of the parts stay within a size: `first_bytes` for the first part, and
/// [`MAX_PAGE_BYTES`] for the others. The first part may be empty.
///
/// The parts depend on the images only. Repeated writes of the same images therefore never mix.
#[must_use]
pub fn split<T: Serialize>(images: &[T], first_bytes: usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut start, mut bytes, mut limit) = (0, EMPTY_ARRAY_BYTES, first_bytes);
    for (position, image) in images.iter().enumerate() {
        let length = json_bytes(image) + SEPARATOR_BYTES;
        if bytes + length > limit && (position > start || parts.is_empty()) {
            parts.push(&images[start..position]);
            (start, bytes, limit) = (position, EMPTY_ARRAY_BYTES, MAX_PAGE_BYTES);
        }
        bytes += length;
    }
    parts.push(&images[start..]);
    parts
}

const EMPTY_ARRAY_BYTES: usize = "[]".len();
const SEPARATOR_BYTES: usize = ",".len();

/// Returns the length of `value` as JSON.
///
/// # Panics
/// If `value` is not serializable. Strings, numbers and lists always are.
#[must_use]
pub fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value)
        .expect("strings, numbers and lists always serialize")
        .len()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const FIRST: &str = "/prepull/config/web";

    #[test]
    fn document_without_further_pages_stays_as_it_is() {
        for json in [r#"{"images": ["a"]}"#, "not JSON", "[]", ""] {
            assert_eq!(
                join(FIRST, json.to_owned(), |_| None),
                Ok(json.to_owned()),
                "{json}"
            );
        }
    }

    #[test]
    fn missing_or_malformed_page_is_named() {
        let first = json!({"images": [], "more_images": {"pages": 2, "folder": "f"}}).to_string();
        let problem = |pages: &[(&str, &str)]| {
            let pages: BTreeMap<_, _> = pages.iter().copied().collect();
            let page = |name: &str| pages.get(name).map(|value| (*value).to_owned());
            join(FIRST, first.clone(), page).unwrap_err().to_string()
        };
        let (second, third) = ("/prepull/config/web/f/2", "/prepull/config/web/f/3");
        assert_eq!(
            problem(&[(second, "[]")]),
            format!("page {third} is missing")
        );
        assert!(problem(&[(second, "{}"), (third, "[]")]).contains(second));
        let wrong = json!({"images": [], "more_images": 2}).to_string();
        assert!(following(FIRST, &wrong).is_err());
    }

    proptest! {
        #[test]
        fn split_images_fit_and_join_to_the_same_list(
            images in prop::collection::vec("[a-z]{1,255}", 0..250),
            first_bytes in 0_usize..4_096,
        ) {
            let parts = split(&images, first_bytes);
            for (position, part) in parts.iter().enumerate() {
                let limit = if position == 0 { first_bytes.max(2) } else { MAX_PAGE_BYTES };
                prop_assert!(json_bytes(part) <= limit);
            }
            let first = json!({"images": parts[0], "more_images": {"pages": parts.len() - 1}});
            let pages: BTreeMap<_, _> = (2..)
                .zip(&parts[1..])
                .map(|(number, part)| (names::page_parameter(FIRST, number), json!(part).to_string()))
                .collect();
            let joined = join(FIRST, first.to_string(), |name| pages.get(name).cloned()).unwrap();
            let joined: Value = serde_json::from_str(&joined).unwrap();
            prop_assert_eq!(&joined["images"], &json!(images));
        }
    }
}
