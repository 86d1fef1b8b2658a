//! The answer sheet: open questions about AWS and Bottlerocket, with the answers of this run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// A question with its answer.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The question, understandable without other documents.
    pub question: String,
    /// The API calls and commands that asked it.
    pub asked_with: String,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
    /// Observations behind the answer.
    pub evidence: Vec<String>,
}

/// An answer, or the reason for a missing one.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The answer.
    #[serde(rename = "answer")]
    Given(String),
    /// The reason why the suite does not ask.
    NotAsked(String),
    /// The error of the call that asked.
    Failed(String),
}

/// All entries so far.
#[derive(Debug, Default, Serialize)]
pub struct AnswerSheet(Vec<Entry>);

impl AnswerSheet {
    /// Adds an answered question.
    pub fn answer(
        &mut self,
        question: &str,
        asked_with: &str,
        answer: impl Into<String>,
        evidence: Vec<String>,
    ) {
        self.push(question, asked_with, Answer::Given(answer.into()), evidence);
    }

    /// Adds a question with its answer, or with the error of the call that asked. An error does not stop the suite.
    pub fn record(
        &mut self,
        question: &str,
        asked_with: &str,
        answer: Result<(String, Vec<String>)>,
    ) {
        match answer {
            Ok((answer, evidence)) => self.answer(question, asked_with, answer, evidence),
            Err(error) => self.push(
                question,
                asked_with,
                Answer::Failed(format!("{error:#}")),
                Vec::new(),
            ),
        }
    }

    /// Adds a question that the suite does not ask.
    pub fn not_asked(&mut self, question: &str, reason: &str) {
        self.push(question, "", Answer::NotAsked(reason.into()), Vec::new());
    }

    fn push(&mut self, question: &str, asked_with: &str, answer: Answer, evidence: Vec<String>) {
        self.0.push(Entry {
            question: question.into(),
            asked_with: asked_with.into(),
            answer,
            evidence,
        });
    }

    /// Returns the number of answered, failed and unasked questions.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Answer) -> bool| {
            self.0.iter().filter(|entry| wanted(&entry.answer)).count()
        };
        (
            count(|answer| matches!(answer, Answer::Given(_))),
            count(|answer| matches!(answer, Answer::Failed(_))),
            count(|answer| matches!(answer, Answer::NotAsked(_))),
        )
    }

    /// Writes the sheet into `folder` as `answers.md` and `answers.json`.
    ///
    /// # Errors
    /// Fails if the files cannot be written.
    pub fn write(&self, folder: &Path, heading: &str) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(
            folder.join("answers.json"),
            serde_json::to_vec_pretty(self)?,
        )?;
        Ok(std::fs::write(
            folder.join("answers.md"),
            self.markdown(heading)?,
        )?)
    }

    fn markdown(&self, heading: &str) -> Result<String> {
        let mut text = format!("# Answers\n\n{heading}\n");
        for entry in &self.0 {
            write!(text, "\n## {}\n\n", entry.question)?;
            if !entry.asked_with.is_empty() {
                writeln!(text, "Asked with: {}\n", entry.asked_with)?;
            }
            match &entry.answer {
                Answer::Given(answer) => writeln!(text, "**{answer}**")?,
                Answer::NotAsked(reason) => writeln!(text, "Not asked: {reason}")?,
                Answer::Failed(error) => writeln!(text, "The call failed: {error}")?,
            }
            if !entry.evidence.is_empty() {
                text.push('\n');
            }
            for line in &entry.evidence {
                writeln!(text, "- {line}")?;
            }
        }
        Ok(text)
    }
}
