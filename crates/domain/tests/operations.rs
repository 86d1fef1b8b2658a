//! docs/operations.md has an entry for each error of a build, with the remedy of the event.

use std::collections::BTreeMap;

use prepull_domain::ErrorName;
use prepull_domain::build::failure::{ABORTED, ABORTED_REMEDY, FOREIGN_ERRORS};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// Returns the entries of a section by their headings.
fn entries(section: &str) -> BTreeMap<&'static str, &'static str> {
    let (_, rest) = OPERATIONS
        .split_once(&format!("\n## {section}\n"))
        .unwrap_or_else(|| panic!("docs/operations.md has no section {section}"));
    let section = rest.split("\n## ").next().unwrap_or_default();
    section
        .split("\n### ")
        .skip(1)
        .filter_map(|entry| entry.split_once('\n'))
        .collect()
}

fn assert_entries<'a>(section: &str, errors: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let (written, errors) = (entries(section), BTreeMap::from_iter(errors));
    assert!(
        written.keys().eq(errors.keys()),
        "{section}: docs/operations.md has {:?}, builds end with {:?}",
        written.keys(),
        errors.keys()
    );
    for (error, entry) in written {
        for part in ["**Means:** ", "**Already done:** ", "**Look at:** "] {
            assert!(entry.contains(part), "{error} lacks {part}");
        }
        let remedy = format!("**Do:** {}.\n", errors[error]);
        assert!(entry.contains(&remedy), "{error} lacks {remedy}");
    }
}

#[test]
fn operations_page_covers_exactly_the_stage_errors() {
    assert_entries(
        "Errors of a build",
        ErrorName::ALL
            .iter()
            .map(|name| ((*name).into(), name.remedy())),
    );
}

#[test]
fn operations_page_covers_exactly_the_foreign_errors() {
    let aborted = [(ABORTED, ABORTED_REMEDY)];
    assert_entries(
        "Other error names",
        FOREIGN_ERRORS.into_iter().chain(aborted),
    );
}
