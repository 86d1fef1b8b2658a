//! The recording of the demo, docs/demo.svg: an animation of its terminal.

use std::fs;

use anyhow::{Result, ensure};

use crate::functions::Built;
use crate::run::{Step, repository, scratch};
use crate::setup::{self, Tools};

/// Width and height of the terminal in characters. The table of containers is the widest output.
const SIZE: &str = "126x34";

/// Minimum and maximum duration of a frame, in milliseconds. Shorter frames only make the file larger.
const FRAME: (&str, &str) = ("250", "2000");

/// Duration of the last frame, in milliseconds.
const LAST_FRAME: &str = "8000";

/// Maximum size of the file, in bytes.
const MAXIMUM_SIZE: usize = 300_000;

/// Runs the demo in a pseudo-terminal, so that `prepull` shows its progress bars, and draws the recording.
pub fn demo(tools: &Tools, built: &Built) -> Result<()> {
    let python = setup::virtual_environment(setup::RECORDING)?;
    let termtosvg = |command| Step::new("termtosvg", &python).args(["-m", "termtosvg", command]);
    let file = |name| Ok::<_, anyhow::Error>(scratch()?.join(name));
    let (recording, edited) = (file("demo.cast")?, file("demo-edited.cast")?);
    let (drawn, success) = (file("demo.svg")?, file("demo.success")?);
    if success.exists() {
        fs::remove_file(&success)?;
    }
    // termtosvg ignores the exit code of the command.
    let (demo, mark) = (built.binary("demo"), success.display());
    let command = format!("sh -c \"'{}' && touch '{mark}'\"", demo.display());
    termtosvg("record")
        .args([&recording])
        .args(["--screen-geometry", SIZE, "--command", &command])
        .envs(built.environment(tools))
        // Without UTF-8 the bars are drawn with question marks.
        .envs([("LC_ALL", "C.UTF-8"), ("TERM", "xterm-256color")])
        .run()?;
    ensure!(
        success.exists(),
        "the demo failed, or standard input was closed. Run this in a terminal"
    );

    let editor = repository().join("xtask/recording/edit.py");
    let text = Step::new("editing the recording", &python)
        .args([editor, recording])
        .output()?;
    fs::write(&edited, text)?;
    termtosvg("render")
        .args([&edited, &drawn])
        .args(["--template", "window_frame"])
        .args(["--min-frame-duration", FRAME.0])
        .args(["--max-frame-duration", FRAME.1])
        .args(["--loop-delay", LAST_FRAME])
        .quiet()?;
    // Keeps the columns aligned in renderers that do not know the CSS property `white-space`.
    let svg = fs::read_to_string(drawn)?.replacen("<svg ", "<svg xml:space=\"preserve\" ", 1);
    check(&svg)?;
    Ok(fs::write(repository().join("docs/demo.svg"), svg)?)
}

/// Fails if the drawing is too large or contains a path of this machine.
fn check(svg: &str) -> Result<()> {
    ensure!(
        svg.len() <= MAXIMUM_SIZE,
        "the recording has {} bytes, more than {MAXIMUM_SIZE}",
        svg.len()
    );
    for path in [repository(), scratch()?, std::env::temp_dir()] {
        let path = path.display().to_string();
        ensure!(!svg.contains(&path), "the recording contains {path}");
    }
    Ok(())
}
