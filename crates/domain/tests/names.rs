//! A stage has the same name as a folder, in Terraform and in the state machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use prepull_domain::Stage;
use prepull_domain::node::Document;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn stages() -> BTreeSet<String> {
    Stage::ALL.iter().map(ToString::to_string).collect()
}

/// Returns the names of the files and folders in a folder of the repository.
fn entries(folder: &str) -> BTreeSet<String> {
    fs::read_dir(repository().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn every_stage_has_a_folder_with_its_name() {
    assert_eq!(entries("functions"), stages());
}

#[test]
fn every_document_has_a_file_with_its_name() {
    let documents = Document::ALL.iter();
    let files: BTreeSet<_> = documents
        .map(|document| format!("{document}.yaml"))
        .collect();
    assert_eq!(entries("infra/documents"), files);
}

#[test]
fn every_document_has_a_permission_in_terraform() {
    let terraform = fs::read_to_string(repository().join("infra/iam.tf")).unwrap();
    for document in Document::ALL {
        assert!(terraform.contains(&format!("\"{document}\"")), "{document}");
    }
}

#[test]
fn every_stage_has_a_function_in_terraform() {
    let terraform = fs::read_to_string(repository().join("infra/functions.tf")).unwrap();
    let (_, rest) = terraform.split_once("\n  stages = {\n").unwrap();
    let (block, _) = rest.split_once("\n  }\n").unwrap();
    let functions: BTreeSet<_> = block
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" = {"))
        .filter(|name| !name.starts_with(' '))
        .map(str::to_owned)
        .collect();
    assert_eq!(functions, stages());
}

#[test]
fn every_task_state_has_the_name_of_its_stage() {
    let definition = fs::read(repository().join("statemachine/build.asl.json")).unwrap();
    let definition: Value = serde_json::from_slice(&definition).unwrap();
    let mut tasks = BTreeSet::new();
    collect_tasks(&definition, &mut tasks);
    let mut expected = stages();
    // start-build starts the execution, so it has no state in it.
    expected.remove(Stage::StartBuild.as_str());
    assert_eq!(tasks, expected);
}

/// Adds the names of all Task states, and checks that each calls the function of the same name.
fn collect_tasks(machine: &Value, tasks: &mut BTreeSet<String>) {
    for (name, state) in machine["States"].as_object().unwrap() {
        if let Some(iteration) = state.get("ItemProcessor") {
            collect_tasks(iteration, tasks);
        }
        if state["Type"] == "Task" {
            // A stage that the state machine also calls before the debounce has a second state.
            let stage = name.strip_suffix(" (early)").unwrap_or(name);
            let function = format!("${{{}_arn}}", stage.replace('-', "_"));
            assert_eq!(state["Arguments"]["FunctionName"], function);
            tasks.insert(stage.to_owned());
        }
    }
}
