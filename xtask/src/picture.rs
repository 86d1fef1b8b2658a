//! The picture of the state machine in docs/architecture.md, drawn from its definition.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::run::repository;

const BEGIN: &str = "<!-- state machine: drawn by `cargo xtask picture` -->\n";
const END: &str = "<!-- end of state machine -->";

/// Path of the page with the picture.
const PAGE: &str = "docs/architecture.md";

/// Draws the picture into the page.
pub fn write() -> Result<()> {
    let (path, _, new) = page()?;
    Ok(fs::write(path, new)?)
}

/// Fails if the picture does not match the definition.
pub fn check() -> Result<()> {
    let (_, old, new) = page()?;
    ensure!(
        old == new,
        "{PAGE} is out of date: its picture does not match statemachine/build.asl.json. Run `cargo xtask picture`"
    );
    Ok(())
}

/// Returns the page's path, its text, and its text with a new picture.
fn page() -> Result<(std::path::PathBuf, String, String)> {
    let path = repository().join(PAGE);
    let old = fs::read_to_string(&path)?;
    let (before, rest) = old
        .split_once(BEGIN)
        .with_context(|| format!("{PAGE} has no line {BEGIN:?}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("{PAGE} has no line {END:?}"))?;
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
    for name in states.keys().filter(|name| id(name) != **name) {
        writeln!(picture, "{indent}state \"{name}\" as {}", id(name))?;
    }
    writeln!(picture, "{indent}[*] --> {}", text(&definition["StartAt"])?)?;
    for (name, state) in states {
        let name = &id(name);
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
        // If success and error lead to the same state, the arrow is drawn once.
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

/// Returns the Mermaid identifier of the state that `value` refers to.
fn text(value: &Value) -> Result<String> {
    value
        .as_str()
        .map(id)
        .context("a reference to a state is a string")
}

/// Returns `name` as a Mermaid identifier: its letters and digits, with `_` between words.
fn id(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("_")
}
