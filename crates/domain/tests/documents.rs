//! Each SSM document has a file in `infra/documents`, and Terraform allows a stage to run it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use prepull_domain::node::Document;

fn infra() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra")
}

#[test]
fn every_document_has_a_file() {
    let files: BTreeSet<_> = fs::read_dir(infra().join("documents"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let documents: BTreeSet<_> = Document::ALL
        .iter()
        .map(|document| format!("{document}.yaml"))
        .collect();
    assert_eq!(files, documents);
}

#[test]
fn every_document_has_a_permission() {
    let terraform = fs::read_to_string(infra().join("iam.tf")).unwrap();
    for document in Document::ALL {
        assert!(terraform.contains(&format!("\"{document}\"")), "{document}");
    }
}
