//! The SSM documents of an installation, or their scripts without one.

use prepull_domain::node::Document;

/// AWS's own document for shell scripts, which every account and Region has.
const RUN_SHELL_SCRIPT: &str = "AWS-RunShellScript";

/// The source of the documents.
#[derive(Debug, Clone, Copy)]
pub enum Documents<'a> {
    /// The documents of an installation, whose names start with this prefix.
    Installed(&'a str),
    /// The same scripts through `AWS-RunShellScript`. Only for callers that may run any script.
    Embedded,
}

/// The parameters of a command.
pub(crate) type Parameters = Vec<(&'static str, String)>;

impl Documents<'_> {
    /// Returns the name and the parameters of the document to send for `document`.
    pub(crate) fn command(
        self,
        document: Document,
        parameters: Parameters,
    ) -> (String, Parameters) {
        match self {
            Self::Installed(prefix) => (document.name(prefix), parameters),
            Self::Embedded => {
                let commands = script(document, &parameters);
                (RUN_SHELL_SCRIPT.to_owned(), vec![("commands", commands)])
            }
        }
    }
}

/// Returns the script of `document` with the values of its parameters.
///
/// The agent inserts the values as text, too. The documents' patterns allow no character with a meaning inside quotes, and
/// the types of the values are as strict.
fn script(document: Document, parameters: &[(&'static str, String)]) -> String {
    let (_, block) = content(document)
        .split_once("\n        - |\n")
        .expect("a document has one script, as a block of YAML");
    let mut script: String = block
        .lines()
        .map(|line| line.strip_prefix(INDENT).unwrap_or_default().to_owned() + "\n")
        .collect();
    for (name, value) in parameters {
        script = script.replace(&format!("{{{{ {name} }}}}"), value);
    }
    script
}

/// Returns the content of a document. Terraform stores it unchanged.
#[must_use]
pub fn content(document: Document) -> &'static str {
    match document {
        Document::AwaitReady => include_str!("../../../infra/documents/await-ready.yaml"),
        Document::Fingerprint => include_str!("../../../infra/documents/fingerprint.yaml"),
        Document::PowerOff => include_str!("../../../infra/documents/power-off.yaml"),
        Document::PullImages => include_str!("../../../infra/documents/pull-images.yaml"),
        Document::Verify => include_str!("../../../infra/documents/verify.yaml"),
    }
}

/// Indentation of a script in a document.
const INDENT: &str = "          ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_script_has_the_values_of_its_parameters() {
        let parameters = vec![
            ("Images", "docker.io/library/nginx@sha256:12:1".to_owned()),
            ("Level", "full".to_owned()),
            ("Trees", "none".to_owned()),
        ];
        let (name, commands) = Documents::Embedded.command(Document::Verify, parameters);
        assert_eq!(name, "AWS-RunShellScript");
        let (_, script) = &commands[0];
        assert!(script.starts_with("#!/bin/bash\n"), "{script}");
        let end = "bash 'full' 'none' <<<'docker.io/library/nginx@sha256:12:1'\n";
        assert!(script.ends_with(end), "{script}");
        assert!(!script.contains("{{"), "{script}");
    }

    #[test]
    fn every_document_has_a_script() {
        for document in Document::ALL {
            let script = script(*document, &[]);
            assert!(script.starts_with("#!/bin/bash\n"), "{document}");
        }
    }
}
