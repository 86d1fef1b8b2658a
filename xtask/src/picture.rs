//! The picture of the state machine in README.md, drawn from its definition.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::run::repository;

const BEGIN: &str = "<!-- state machine: drawn by `cargo xtask picture` -->\n";
const END: &str = "<!-- end of state machine -->";

/// Draws the picture into README.md.
pub fn write() -> Result<()> {
    let (path, _, new) = readme()?;
    Ok(fs::write(path, new)?)
}

/// Fails where README.md's picture is not that of the definition.
pub fn check() -> Result<()> {
    let (_, old, new) = readme()?;
    ensure!(
        old == new,
        "README.md shows another state machine than statemachine/build.asl.json: run `cargo xtask picture`"
    );
    Ok(())
}

fn readme() -> Result<(std::path::PathBuf, String, String)> {
    let path = repository().join("README.md");
    let old = fs::read_to_string(&path)?;
    let (before, rest) = old
        .split_once(BEGIN)
        .context("README.md has no place for the state machine")?;
    let (_, after) = rest
        .split_once(END)
        .context("README.md has no end of the state machine's place")?;
    let new = format!("{before}{BEGIN}```mermaid\n{}```\n{END}{after}", draw()?);
    Ok((path, old, new))
}

fn draw() -> Result<String> {
    let definition: Value =
        serde_json::from_slice(&fs::read(repository().join("statemachine/build.asl.json"))?)?;
    let mut picture = "stateDiagram-v2\n".to_owned();
    machine(&definition, &mut picture, "  ")?;
    Ok(picture)
}

fn machine(definition: &Value, picture: &mut String, indent: &str) -> Result<()> {
    let states = definition["States"]
        .as_object()
        .context("a state machine has states")?;
    writeln!(picture, "{indent}[*] --> {}", text(&definition["StartAt"])?)?;
    for (name, state) in states {
        if let Some(iteration) = state.get("ItemProcessor") {
            writeln!(picture, "{indent}state {name} {{")?;
            machine(iteration, picture, &format!("{indent}  "))?;
            writeln!(picture, "{indent}}}")?;
        }
        transitions(name, state, picture, indent)?;
    }
    Ok(())
}

fn transitions(name: &str, state: &Value, picture: &mut String, indent: &str) -> Result<()> {
    if let Some(next) = state.get("Next") {
        writeln!(picture, "{indent}{name} --> {}", text(next)?)?;
    }
    for choice in each(state, "Choices") {
        writeln!(picture, "{indent}{name} --> {}", text(&choice["Next"])?)?;
    }
    if let Some(default) = state.get("Default") {
        writeln!(picture, "{indent}{name} --> {}", text(default)?)?;
    }
    for catch in each(state, "Catch") {
        // An error that leads where success leads too is drawn once.
        if state.get("Next") != catch.get("Next") {
            writeln!(
                picture,
                "{indent}{name} --> {} : any error",
                text(&catch["Next"])?
            )?;
        }
    }
    let ends =
        matches!(state["Type"].as_str(), Some("Succeed" | "Fail")) || state.get("End").is_some();
    if ends {
        writeln!(picture, "{indent}{name} --> [*]")?;
    }
    Ok(())
}

fn each<'a>(state: &'a Value, field: &str) -> impl Iterator<Item = &'a Map<String, Value>> {
    state
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("a state is named by a string")
}
