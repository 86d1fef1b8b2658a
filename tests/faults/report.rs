//! A table of passed cases by kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;

use crate::matrix::Effect;

/// Results so far.
pub struct Report {
    start: Instant,
    results: Mutex<BTreeMap<String, Result<(), String>>>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            results: Mutex::default(),
        }
    }
}

impl Report {
    pub fn add(&self, case: &str, result: &Result<()>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => {
                // Reports the failure immediately, because the harness prints failures only at the end.
                eprintln!("{case}: {error:#}");
                Err(format!("{error:#}"))
            }
        };
        let mut results = self
            .results
            .lock()
            .expect("no thread panics while it holds the report");
        results.insert(case.to_owned(), result);
    }

    /// Prints the table, writes it with every case to a file, and prints the path of the file.
    pub fn finish(&self) -> Result<()> {
        let results = self
            .results
            .lock()
            .expect("no thread panics while it holds the report");
        let failed: Vec<_> = results
            .iter()
            .filter_map(|(case, result)| Some((case, result.as_ref().err()?)))
            .collect();
        let mut table = table(&results);
        writeln!(
            table,
            "\n{} cases, {} passed, in {:.0} s",
            results.len(),
            results.len() - failed.len(),
            self.start.elapsed().as_secs_f64()
        )?;
        println!("{table}");
        let mut file = format!("# Fault matrix\n\n{table}\n");
        for (case, error) in &failed {
            writeln!(file, "- FAILED `{case}`: {error}")?;
        }
        for case in results.iter().filter(|(_, result)| result.is_ok()) {
            writeln!(file, "- passed `{}`", case.0)?;
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fault-matrix.md");
        std::fs::write(&path, file)?;
        println!("every case: {}", path.display());
        Ok(())
    }
}

/// Returns the table: a row for each stage and a column for each effect. The domain faults have one column.
fn table(results: &BTreeMap<String, Result<(), String>>) -> String {
    let effects: Vec<_> = Effect::ALL.iter().map(ToString::to_string).collect();
    let mut rows: BTreeMap<&str, BTreeMap<&str, (usize, usize)>> = BTreeMap::new();
    for (case, result) in results {
        let stage = case.split('/').next().unwrap_or_default();
        let effect = case.rsplit('/').next().unwrap_or_default();
        let column = effects
            .iter()
            .find(|known| *known == effect)
            .map_or("other", String::as_str);
        let (passed, all) = rows.entry(stage).or_default().entry(column).or_default();
        *passed += usize::from(result.is_ok());
        *all += 1;
    }
    let columns: Vec<_> = effects
        .iter()
        .map(String::as_str)
        .chain(["other"])
        .collect();
    let mut table = format!(
        "| stage | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for (stage, row) in rows {
        let cells: Vec<_> = columns
            .iter()
            .map(|column| match row.get(column) {
                Some((passed, all)) => format!("{passed}/{all}"),
                None => String::new(),
            })
            .collect();
        let _ = writeln!(table, "| {stage} | {} |", cells.join(" | "));
    }
    table
}
